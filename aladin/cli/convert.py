"""`aladin convert`: Turn the paper's released checkpoint into a model folder."""

from pathlib import Path
from typing import Literal

import click

from aladin.cli.terminal import print_line
from aladin.cli.values import PATH


@click.command()
@click.argument("checkpoint", type=PATH)
@click.argument("vinvl", metavar="VINVL_DIR", type=PATH)
@click.argument("out", type=PATH)
@click.option(
    "--for",
    "purpose",
    type=click.Choice(["aladin", "own"]),
    default="aladin",
    show_default=True,
    help="What VinVL's weights are to become: the paper's model, with the original's quirks, or your own, without them.",
)
def convert(checkpoint: Path, vinvl: Path, out: Path, purpose: Literal["aladin", "own"]) -> None:
    """Turn the original's CHECKPOINT into the model folder OUT.

    VINVL_DIR is the folder of the VinVL checkpoint that it was trained from, with config.json and vocab.txt. The original's
    quirks are on and stand in OUT/model.toml. VINVL_DIR/pytorch_model.bin as CHECKPOINT makes a start for training, with a
    fresh matching head: for the paper's recipes, or by --for own without quirks. Nothing in the files is run.

    \b
    aladin convert model_best_rsum.pth.tar checkpoint-0132780 paper
    aladin evaluate paper captions.jsonl --images features
    """
    from aladin.exporting.conversion import convert_checkpoint

    config = convert_checkpoint(checkpoint, vinvl, out, purpose)
    backbone, heads = config.backbone, config.heads
    quirks = "the original's quirks" if config.quirks.region_as_cls else "no quirks"
    print_line(
        f"{out}: {quirks}; {backbone.layers} layers of {backbone.dim}, {heads.matching_layers} in the matching head, "
        f"regions of {backbone.region_features} + {backbone.region_geometry} numbers, pooling {heads.pooling}"
    )
