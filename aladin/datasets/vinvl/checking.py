"""A look at everything in a feature folder; what is wrong is listed, not raised, so that one run finds it all."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from aladin.datasets.bad_rows import BadRow
from aladin.datasets.vinvl.detections import BOX_NUMBERS, GeometryOrder, geometry_order, image_of, read_boxes, read_objects
from aladin.datasets.vinvl.detector_output import FEATURE, detector_output, read_output_row
from aladin.datasets.vinvl.folder import FEATURES, PREDICTIONS, ROWS, read_row_numbers
from aladin.datasets.vinvl.precomputed import parts_of, precomputed_problems
from aladin.datasets.vinvl.problems import Problem, mixed_orders
from aladin.datasets.vinvl.shard_checking import shard_problems
from aladin.datasets.vinvl.shards import is_shard_folder
from aladin.datasets.vinvl.tables import columns_of, read_offsets
from aladin.errors import DataError
from aladin.progress import SILENT, Progress

NEEDLESS = "delete it, it is not needed"


def check_folder(
    path: Path, numbers: int = BOX_NUMBERS, progress: Progress = SILENT, orders: Counter[GeometryOrder] | None = None
) -> Iterator[Problem]:
    """All problems of a folder whose boxes should have `numbers` numbers each, by file, in the order of the lines.

    It may be a folder of shards too, or of features in SCAN's form (precomputed), whose `numbers` are their own; or a
    detector's own output (detector_output), whose first problem is that it is not converted.
    `progress` counts the bytes of both tables, `orders` the images by the order of width and height in their boxes. DataError
    when there is no folder, or it cannot be read.
    """
    orders = Counter() if orders is None else orders
    if is_shard_folder(path):
        yield from shard_problems(path, numbers, progress, orders)
        return
    if output := detector_output(path):
        yield from _output_problems(output, numbers, progress, orders)
        return
    if not (path / FEATURES).exists() and parts_of(path):
        yield from precomputed_problems(path, progress)
        return
    if not path.is_dir():
        raise DataError(f"there is no folder {path}; give one with {FEATURES} and {PREDICTIONS}")
    sizes = [(path / name).stat().st_size if (path / name).is_file() else 0 for name in (FEATURES, PREDICTIONS)]
    total = sum(sizes)
    features, predictions = _Reading(path / FEATURES), _Reading(path / PREDICTIONS)

    def check_boxes(columns: list[bytes]) -> None:
        orders[geometry_order(read_boxes(columns, numbers))] += 1

    def check_objects(columns: list[bytes]) -> None:
        read_objects(columns)

    yield from features.problems(check_boxes, lambda done: progress(done, total))
    yield from mixed_orders(orders, FEATURES)
    yield from predictions.problems(check_objects, lambda done: progress(sizes[0] + done, total))
    yield from _wrong_row_numbers(path / ROWS, features.lines)
    if features.lines and predictions.lines:
        yield from _missing(features, predictions)
        yield from _missing(predictions, features)


def _output_problems(table: Path, numbers: int, progress: Progress, orders: Counter[GeometryOrder]) -> Iterator[Problem]:
    """What is wrong with a detector's own output; first of all, that models do not read it as it is."""
    found, expected = f"no such file, but {FEATURE!r} in the objects of {table.name}", "one row an image"
    remedy = f"`aladin features convert {table} DIR` writes a folder with one"
    yield Problem(FEATURES, None, None, "missing file", found, expected, remedy)
    total = table.stat().st_size

    def check(columns: list[bytes]) -> None:
        orders[geometry_order(read_output_row(columns, numbers).boxes)] += 1

    yield from _Reading(table).problems(check, lambda done: progress(done, total))


class _Reading:
    """One table, read from its start to its end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: dict[str, int] = {}  # image -> its first line, from 1
        self._offsets: list[int] = []

    def problems(self, check: Callable[[list[bytes]], None], progress: Callable[[int], None]) -> Iterator[Problem]:
        """What `check` minds in each line, and what is wrong with ids and with the index."""
        if not self.path.is_file():
            yield Problem(self.path.name, None, None, "missing file", "no such file", "one row an image", "copy or write it")
            return
        for number, line in enumerate(self._read_lines(), start=1):
            yield from self._line_problems(columns_of(line), number, check)
            progress(self._offsets[-1] + len(line))
        yield from self._wrong_offsets()

    def _read_lines(self) -> Iterator[bytes]:
        offset = 0
        try:
            with self.path.open("rb") as file:
                for line in file:
                    self._offsets.append(offset)
                    yield line
                    offset += len(line)
        except OSError as error:
            raise DataError(f"{self.path} cannot be read: {error.strerror}; check the disk and its permissions") from None

    def _line_problems(self, columns: list[bytes], number: int, check: Callable[[list[bytes]], None]) -> Iterator[Problem]:
        image: str | None = None
        try:
            image = image_of(columns)
            if self.lines.setdefault(image, number) != number:
                found = f"the image of line {self.lines[image]} again"
                yield self._problem(number, image, BadRow("duplicate image", found, "remove one of the two", "each image once"))
            check(columns)
        except BadRow as bad:
            yield self._problem(number, image, bad)

    def _wrong_offsets(self) -> Iterator[Problem]:
        index = self.path.with_suffix(".lineidx")
        if not index.is_file():
            return
        try:
            stated = read_offsets(index).tolist()
        except DataError:
            expected = "one decimal offset a line"
            yield Problem(index.name, None, None, "wrong offset", "something else than whole numbers", expected, NEEDLESS)
            return
        if len(stated) != len(self._offsets):
            found, expected = f"{len(stated)} offsets", f"one for each of {len(self._offsets)} rows of {self.path.name}"
            yield Problem(index.name, None, None, "wrong offset", found, expected, NEEDLESS)
        pairs = zip(stated, self._offsets, strict=False)
        wrong = [(line, one, other) for line, (one, other) in enumerate(pairs, start=1) if one != other]
        if wrong:
            line, one, other = wrong[0]
            found = f"{one}, and {len(wrong) - 1} more that are off"
            yield Problem(index.name, line, None, "wrong offset", found, f"{other}, where the row starts", NEEDLESS)

    def _problem(self, line: int, image: str | None, bad: BadRow) -> Problem:
        return Problem.of(bad, self.path.name, line, image)


def _wrong_row_numbers(path: Path, lines: dict[str, int]) -> Iterator[Problem]:
    """What imageid2idx.json says otherwise than features.tsv does."""
    if not path.is_file():
        return
    try:
        stated = read_row_numbers(path)
    except DataError:
        expected = "JSON with a row number for each image id"
        yield Problem(path.name, None, None, "not JSON", "something else", expected, NEEDLESS)
        return
    for image, number in stated.items():
        if image not in lines:
            yield Problem(path.name, None, image, "unknown image", f"row {number}", f"an image of {FEATURES}", NEEDLESS)
        elif number != lines[image] - 1:
            expected = f"{lines[image] - 1}, which is line {lines[image]}"
            yield Problem(path.name, None, image, "wrong row", f"row {number}", expected, NEEDLESS)
    for image, line in lines.items():
        if image not in stated:
            yield Problem(path.name, None, image, "missing image", "no row number", str(line - 1), NEEDLESS)


def _missing(there: _Reading, here: _Reading) -> Iterator[Problem]:
    for image in there.lines:
        if image not in here.lines:
            expected = f"one, as {there.path.name} has in line {there.lines[image]}"
            yield Problem(here.path.name, None, image, "missing image", "no row", expected, "add it or remove the other")
