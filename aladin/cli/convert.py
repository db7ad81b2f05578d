"""`aladin convert`: Turn the paper's released checkpoint into a model folder."""

from pathlib import Path

import click

from aladin.cli.terminal import print_line
from aladin.cli.values import PATH


@click.command()
@click.argument("checkpoint", type=PATH)
@click.argument("vinvl", metavar="VINVL_DIR", type=PATH)
@click.argument("out", type=PATH)
def convert(checkpoint: Path, vinvl: Path, out: Path) -> None:
    """Turn the original's CHECKPOINT into the model folder OUT.

    VINVL_DIR is the folder of the VinVL checkpoint that it was trained from, with config.json and vocab.txt. The original's
    four quirks are on and stand in OUT/model.toml. VINVL_DIR/pytorch_model.bin as CHECKPOINT makes a start for training of
    one's own: a fresh matching head and no quirks. Nothing in the files is run.

    \b
    aladin convert model_best_rsum.pth.tar checkpoint-0132780 paper
    aladin evaluate paper captions.jsonl --images features
    """
    from aladin.exporting.conversion import convert_checkpoint

    config = convert_checkpoint(checkpoint, vinvl, out)
    backbone, heads, quirks = config.backbone, config.heads, config.quirks
    kind = (
        "ALADIN's, with the original's quirks" if quirks.region_as_cls else "VinVL's, with a fresh matching head and no quirks"
    )
    print_line(
        f"{out}: {kind}; {backbone.layers} layers of {backbone.dim}, {heads.matching_layers} in the matching head, "
        f"regions of {backbone.region_features} + {backbone.region_geometry} numbers, pooling {heads.pooling}"
    )
