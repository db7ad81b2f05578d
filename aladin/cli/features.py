"""`aladin features`: Check and convert a detector's region features."""

import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, get_args

import click

from aladin.cli.progress import progress_shown
from aladin.cli.terminal import print_line, print_lines
from aladin.cli.values import PATH
from aladin.datasets.bad_rows import Reason
from aladin.datasets.vinvl import (
    BOX_NUMBERS,
    SHARD_BYTES,
    Detections,
    FeatureWriter,
    GeometryOrder,
    Problem,
    ShardFolder,
    ShardWriter,
    check_folder,
    detector_output,
    is_feature_folder,
    npz_detections,
    open_features,
    output_detections,
    read_keys,
    write_npz,
)
from aladin.datasets.vinvl.npz import npz_files
from aladin.errors import ConfigError, DataError
from aladin.files import write_whole
from aladin.progress import Progress

Form = Literal["tables", "npz", "shards"]
FORMS = get_args(Form)
MEGABYTE = 1_000_000
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
    """Read all of DIR, features.tsv and what stands beside it or shards or SCAN's *_ims.npy, and list every problem.

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
@click.option("--to", type=click.Choice(FORMS), help="Form of OUT, where SOURCE is no captions.  [default: as in the list]")
@click.option("--half", is_flag=True, help="Shards in float16: half the room, and features to three digits.")
@click.option(
    "--shard-size",
    type=click.IntRange(1),
    metavar="MB",
    help=f"Of a shard, at least.  [default: {SHARD_BYTES // MEGABYTE}]",
)
@click.option("--keys", type=PATH, help="File of image ids: only these images, in this order (captions only).")
@click.option(
    "--numbers", type=click.IntRange(7), help="Of a box, with 6 of geometry (a predictions.tsv with features of other sizes)."
)
def convert_features(
    source: Path, out: Path, to: Form | None, half: bool, shard_size: int | None, keys: Path | None, numbers: int | None
) -> None:
    """Write SOURCE in another form to OUT.

    \b
    A folder of .npz files, one an image   -> a folder in the layout of VinVL (tables)
    a predictions.tsv whose objects carry  -> a folder in the layout of VinVL (tables)
      "feature", or its folder
    a folder in the layout of VinVL        -> a folder of .npz files
    a folder of shards                     -> a folder in the layout of VinVL (tables)
    each of these, with --to shards        -> a folder of shards: what training reads fastest
    a {split}_captions.pt, or a folder     -> captions.jsonl in the folder OUT,
      of them                                 or the file OUT if it ends in .jsonl

    Shards that were stopped go on by the same command. Of a folder with minival_captions.pt, val_captions.pt is left out: the
    original validates on minival alone.

    docs/official.md says what the .npz files and the shards hold.
    """
    files = _caption_files(source)
    if keys is not None and not files:
        raise ConfigError("--keys chooses among captions, and SOURCE is none; leave it out")
    if files:
        if to is not None:
            raise ConfigError(f"--to {to} is a form of features, and SOURCE holds captions; leave it out")
        _write_captions(files, out if out.suffix == ".jsonl" else out / CAPTIONS, keys)
        return
    source_form = _form_of(source)
    form: Form = to or ("npz" if source_form == "tables" else "tables")
    if form != "shards" and (half or shard_size is not None):
        raise ConfigError("--half and --shard-size are of shards; give --to shards, or leave them out")
    with progress_shown("bytes read" if source_form == "output" else "images", quiet=False) as progress:
        if form == "shards":
            count = _write_shards(source, out, half, shard_size, numbers, progress)
        elif form == "tables":
            with FeatureWriter(out) as writer:
                count = _added(writer.add, _detections(source, numbers, progress))
        else:
            count = _added(lambda image: write_npz(image, out), _detections(source, numbers, progress))
    print_line(f"{out}: {count:,} images{_in_shards(out) if form == 'shards' else ''}")


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


def _form_of(source: Path) -> Literal["tables", "shards", "output", "npz"]:
    if is_feature_folder(source):
        return "shards" if isinstance(open_features(source), ShardFolder) else "tables"
    if detector_output(source):
        return "output"
    if npz_files(source):
        return "npz"
    raise DataError(f"{source} holds no features.tsv, no .npz and no _captions.pt; give a folder or file with one of them")


def _detections(source: Path, numbers: int | None, progress: Progress, begun: Sequence[str] = ()) -> Iterator[Detections]:
    """The detections of SOURCE after those of the images `begun`. DataError if SOURCE does not begin with these."""
    if is_feature_folder(source):
        folder = open_features(source)
        images = folder.images()
        _check_begun(images[: len(begun)], begun, source)
        for number, image in enumerate(images[len(begun) :], start=len(begun) + 1):
            row = folder.of_id(image)
            assert row is not None, "the folder itself named it"
            yield row.detections(numbers)
            progress(number, len(images))
        return
    if table := detector_output(source):
        found = output_detections(table, numbers, progress)
    else:
        found = _counted(npz_detections(source), len(npz_files(source)), progress)
    _check_begun([image.image for image in itertools.islice(found, len(begun))], begun, source)
    yield from found


def _counted(found: Iterator[Detections], total: int, progress: Progress) -> Iterator[Detections]:
    for number, image in enumerate(found, start=1):
        yield image
        progress(number, total)


def _check_begun(images: Sequence[str], begun: Sequence[str], source: Path) -> None:
    for number, (image, before) in enumerate(itertools.zip_longest(images, begun), start=1):
        if image != before:
            raise DataError(
                f"OUT was begun from other features: its image {number} is {before}, that of {source} is {image}; give another "
                "OUT or delete it"
            )


def _added(add: Callable[[Detections], None], found: Iterator[Detections]) -> int:
    count = 0
    for image in found:
        add(image)
        count += 1
    return count


def _in_shards(out: Path) -> str:
    count = len(ShardFolder.open(out).shards)
    return f" in {count:,} shard{'' if count == 1 else 's'}"


def _write_shards(source: Path, out: Path, half: bool, megabytes: int | None, numbers: int | None, progress: Progress) -> int:
    size = SHARD_BYTES if megabytes is None else megabytes * MEGABYTE
    with ShardWriter(out, half, size) as writer:
        begun = writer.begun
        if begun:
            print_line(f"{out}: {len(begun):,} images are there already", err=True)
            writer.check_last(next(_detections(source, numbers, progress, begun[:-1]), None))
        return len(begun) + _added(writer.add, _detections(source, numbers, progress, begun))
