"""`aladin calibrate`: Learn what a model's scores mean as probabilities."""

import json
from pathlib import Path

import click

from aladin.cli.captioned import SKIP_BAD, read_captioned
from aladin.cli.progress import TerminalSteps
from aladin.cli.terminal import print_lines
from aladin.cli.values import DEVICE, MODEL_PATH, PATH


@click.command
@click.argument("model", type=MODEL_PATH)
@click.argument("data", type=PATH)
@click.option("--split", help="Split of the data to use, where it names splits.")
@click.option("--images", type=PATH, help="Folder or zip of the images, if not beside their captions.")
@click.option("--json", "as_json", is_flag=True, help="The constants and how they fare, as one JSON object.")
@click.option("--dry-run", is_flag=True, help="Do not write to MODEL.")
@DEVICE
@SKIP_BAD
def calibrate(
    model: Path,
    data: Path,
    split: str | None,
    images: Path | None,
    as_json: bool,
    dry_run: bool,
    device: str,
    skip_bad: bool,
) -> None:
    """Learn on DATA, images with captions, how likely a hit of MODEL is right, and write that to MODEL/model.toml.

    MODEL is a folder that `aladin export` wrote. Run it after every export. Half of the queries judge constants learned
    from the other half; the constants that are written are learned from all. Of a public encoder that was added, the share
    of regions in its scores is chosen first, from 0 to 0.5, by the rsum of alignment on DATA.

    \b
    aladin calibrate my-model flickr8k.zip --split val
    """
    from dataclasses import asdict

    from aladin.search.search import LIKELY
    from aladin.training.calibrate import calibrate as learn

    dataset = read_captioned(data, split, images, skip_bad)
    found = learn(model, dataset, write=not dry_run, device=device, progress=TerminalSteps())
    if found.share is not None and not as_json:
        rsums = ", ".join(f"{share:g}: {value:.1f}" for share, value in found.shares.items())
        print_lines(f"share of regions {found.share:g}, of the best rsum ({rsums}; 0 is the encoder's own cosine)\n")
    if as_json:
        report = {kind: asdict(value) | {"answered": found.answered[kind]} for kind, value in found.reliability.items()}
        shares = {} if found.share is None else {"share": found.share, "rsum_by_share": found.shares}
        print_lines(json.dumps({"calibration": asdict(found.calibration), "other_half": report} | shares, indent=2))
        return
    for kind, value in found.reliability.items():
        with_answer, without = found.answered[kind]
        print_lines(f"{kind}, the half that was not learned from:\n{value}")
        print_lines(f"best hit at {LIKELY} or more: {with_answer:.2f} of queries, {without:.2f} when nothing right is left\n")
