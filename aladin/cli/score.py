"""`aladin score`: Say how well texts fit an image."""

import json
from dataclasses import asdict
from pathlib import Path

import click

from aladin.cli.terminal import print_line, print_lines, printable
from aladin.cli.values import DEVICE, MODEL_PATH, PATH


@click.command
@click.argument("model", type=MODEL_PATH)
@click.argument("image")
@click.argument("texts", metavar="TEXT...", nargs=-1, required=True)
@click.option("--features", type=PATH, help="Folder of a detector's features; IMAGE is then an id there.")
@DEVICE
@click.option("--json", "as_json", is_flag=True, help="A list of objects, one a text.")
def score(model: Path, image: str, texts: tuple[str, ...], features: Path | None, device: str, as_json: bool) -> None:
    """Print how well each TEXT fits IMAGE by the model folder MODEL, trained or exported: by both of its heads.

    \b
    aladin score runs/both/best dog.jpg "a dog runs" "two people"
    aladin score paper --features features 391895 "a man on a motorcycle"
    """
    from aladin.evaluation.vectors import score as scored

    pairs = scored(model, image, texts, features=features, device=device)
    if as_json:
        print_lines(json.dumps([asdict(pair) for pair in pairs], indent=2, ensure_ascii=False))
        return
    print_line("matching  alignment  text")
    for pair in pairs:
        print_line(f"{pair.matching:8.4f}  {pair.alignment:9.4f}  {printable(pair.text)}")
