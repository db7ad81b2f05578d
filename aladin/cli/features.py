"""`aladin features`: Check and convert a detector's region features."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import click

from aladin.cli.progress import progress_shown
from aladin.cli.terminal import print_line, print_lines
from aladin.cli.values import PATH
from aladin.datasets.bad_rows import Reason
from aladin.datasets.vinvl import (
    BOX_NUMBERS,
    FeatureFolder,
    FeatureWriter,
    GeometryOrder,
    Problem,
    check_folder,
    detector_output,
    is_feature_folder,
    npz_detections,
    output_detections,
    read_keys,
    write_npz,
)
from aladin.datasets.vinvl.npz import npz_files
from aladin.errors import ConfigError, DataError
from aladin.files import write_whole

CAPTIONS = "captions.jsonl"
VAL, MINIVAL = "val_captions.pt", "minival_captions.pt"


@click.group()
def features() -> None:
    """Check and convert a detector's region features, in the layout of VinVL."""


@features.command()
@click.argument("folder", metavar="DIR", type=PATH)
@click.option(
    "--numbers", default=BOX_NUMBERS, show_default=True, type=click.IntRange(7), help="Of a box, the last 6 its geometry."
)
@click.option("--json", "as_json", is_flag=True, help="Counts and problems as one JSON object.")
def check(folder: Path, numbers: int, as_json: bool) -> int:
    """Read all of DIR, features.tsv and what stands beside it, and list every problem.

    DIR may also be a detector's own output, a predictions.tsv whose objects carry their features, or its folder.

    It also says in which order width and height stand in the boxes, since public converters write both. Exits with 1 if there
    are problems.
    """
    orders: Counter[GeometryOrder] = Counter()
    with progress_shown("bytes checked", quiet=False) as progress:
        problems = list(check_folder(folder, numbers, progress, orders))
    counts = Counter(problem.kind for problem in problems)
    if as_json:
        found = {"folder": str(folder), "counts": counts, "geometry": orders, "problems": [vars(p) for p in problems]}
        print_lines(json.dumps(found, indent=2))
    else:
        for order, count in orders.most_common():
            print_line(f"{folder}: boxes end in {order if order != 'either' else 'equal width and height'} in {count:,} images")
        _print(problems, counts, folder)
    return 1 if problems else 0


@features.command("convert")
@click.argument("source", type=PATH)
@click.argument("out", type=PATH)
@click.option("--keys", type=PATH, help="File of image ids: only these images, in this order (captions only).")
@click.option(
    "--numbers", type=click.IntRange(7), help="Of a box, with 6 of geometry (a predictions.tsv with features of other sizes)."
)
def convert_features(source: Path, out: Path, keys: Path | None, numbers: int | None) -> None:
    """Write SOURCE in another form to OUT.

    \b
    A folder of .npz files, one an image   -> a folder in the layout of VinVL
    a predictions.tsv whose objects carry  -> a folder in the layout of VinVL
      "feature", or its folder
    a folder in the layout of VinVL        -> a folder of .npz files
    a {split}_captions.pt, or a folder     -> captions.jsonl in the folder OUT,
      of them                                 or the file OUT if it ends in .jsonl

    Of a folder with minival_captions.pt, val_captions.pt is left out: the original validates on minival alone.

    docs/official.md says what the .npz files hold.
    """
    if keys is not None and not _caption_files(source):
        raise ConfigError("--keys chooses among captions, and SOURCE is none; leave it out")
    if _caption_files(source):
        _write_captions(_caption_files(source), out if out.suffix == ".jsonl" else out / CAPTIONS, keys)
    elif is_feature_folder(source):
        _write_npz(source, out)
    elif table := detector_output(source):
        _write_output(table, out, numbers)
    elif npz_files(source):
        _write_features(source, out)
    else:
        raise DataError(f"{source} holds no features.tsv, no .npz and no _captions.pt; give a folder or file with one of them")


def _print(problems: Sequence[Problem], counts: Counter[Reason], folder: Path) -> None:
    for problem in problems:
        print_line(str(problem))
    by_kind = ", ".join(f"{kind} ({count:,})" for kind, count in counts.most_common())
    print_line(f"{folder}: {len(problems):,} problems: {by_kind}" if problems else f"{folder}: no problems")


def _caption_files(source: Path) -> list[Path]:
    if source.is_dir():
        return sorted(source.glob("*_captions.pt"))
    return [source] if source.suffix == ".pt" else []


def _write_captions(files: Sequence[Path], out: Path, keys: Path | None) -> None:
    from aladin.exporting.conversion import caption_lines

    if out.exists():
        raise DataError(f"{out} exists; give another name or delete it")
    # The images of minival are among those of val, and the original validates on them alone.
    sources = [file for file in files if file.name != VAL or file.with_name(MINIVAL) not in files]
    chosen = None if keys is None else read_keys(keys)
    if chosen is not None and len(sources) > 1:
        raise ConfigError(
            f"--keys chooses among the captions of one split, and there are {len(sources)}; name one of the files"
        )
    lines = [line for source in sources for line in caption_lines(source, chosen)]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, "".join(f"{line}\n" for line in lines))
    except OSError as error:
        raise DataError(f"{out} cannot be written: {error.strerror}; give another name") from None
    for file in set(files) - set(sources):
        print_line(f"{file} is left out, since {MINIVAL} is there")
    print_line(f"{out}: {len(lines):,} images")


def _write_npz(source: Path, out: Path) -> None:
    folder = FeatureFolder.open(source)
    with progress_shown("images", quiet=False) as progress:
        for number, image in enumerate(folder.images(), start=1):
            row = folder.find(image)
            assert row is not None, "the folder itself named it"
            write_npz(row.detections(), out)
            progress(number, len(folder))
    print_line(f"{out}: {len(folder):,} images")


def _write_features(source: Path, out: Path) -> None:
    total = len(npz_files(source))
    with progress_shown("images", quiet=False) as progress, FeatureWriter(out) as writer:
        for number, detections in enumerate(npz_detections(source), start=1):
            writer.add(detections)
            progress(number, total)
    print_line(f"{out}: {total:,} images")


def _write_output(table: Path, out: Path, numbers: int | None) -> None:
    with progress_shown("bytes read", quiet=False) as progress, FeatureWriter(out) as writer:
        count = 0
        for detections in output_detections(table, numbers, progress):
            writer.add(detections)
            count += 1
    print_line(f"{out}: {count:,} images")
