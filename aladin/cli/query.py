"""The options that say what is looked for, and the query that they make."""

import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import click

from aladin.cli.values import PATH, PATH_AS_TYPED, FiniteRange
from aladin.collection.filters import parsed, quoted, within_folder
from aladin.errors import ConfigError
from aladin.pictures.boxes import Box
from aladin.search.query import ImagePart, Part, Query, TextPart

DATE = re.compile(r"(\d{4})(?:-(\d\d)(?:-(\d\d)(?:[T ](\d\d)(?::(\d\d)(?::(\d\d))?)?)?)?)?", re.ASCII)


def box(text: str) -> Box:
    """The box that "x,y,width,height" names."""
    try:
        return Box.parse(text)
    except ConfigError as error:
        raise click.BadParameter(str(error)) from None


def condition(text: str) -> str:
    """A condition that makes sense alone, so that no bracket of it closes one of ours."""
    try:
        parsed(text)
    except ConfigError as error:
        raise click.BadParameter(str(error)) from None
    return text


def date(text: str) -> str:
    """A date that may lack its end, with a T before the time."""
    found = DATE.fullmatch(text)
    if not found:
        raise click.BadParameter(f"{text!r} is no date; write 2024, 2024-05, 2024-05-01 or 2024-05-01T12:30")
    given = [int(part) for part in found.groups() if part]
    year, month, day, hour, minute, second = (*given, *[0, 1, 1, 0, 0, 0][len(given) :])
    try:
        datetime(year, month, day, hour, minute, second)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not in the calendar ({error}); give a date that is") from None
    return text.replace(" ", "T")


PARTS = (
    click.option("--and", "texts", multiple=True, metavar="TEXT", help="Another text that the images should answer."),
    click.option("--image", "images", multiple=True, type=PATH, help="An image that they should be like."),
    click.option("--box", "boxes", multiple=True, type=box, metavar="X,Y,W,H", help="Of that image only this part, in px."),
    click.option(
        "--weight",
        "weights",
        multiple=True,
        type=FiniteRange(min=0, min_open=True),
        help="How much each of these counts: of the text first, then of each --and, then of each --image.  [default: 1]",
    ),
    click.option("--without", multiple=True, metavar="TEXT", help="What the images should not show."),
)
CONDITIONS = (
    click.option("--after", type=date, metavar="DATE", help="Taken then or later; by the file's date if the camera gave none."),
    click.option("--before", type=date, metavar="DATE", help="Taken earlier."),
    click.option(
        "--in",
        "folders",
        multiple=True,
        type=PATH_AS_TYPED,
        metavar="FOLDER",
        help="Only in this folder below FOLDER, or in that.",
    ),
    click.option("--camera", help="Only by cameras with this in their name."),
    click.option(
        "--where",
        type=condition,
        metavar="TEXT",
        help="Only images that meet a condition in SQL's words, such as \"width > height\".",
    ),
)  # fmt: skip


@dataclass(frozen=True)
class QueryOptions:
    """The values of the options above."""

    texts: tuple[str, ...] = ()
    images: tuple[Path, ...] = ()
    boxes: tuple[Box, ...] = ()
    weights: tuple[float, ...] = ()
    without: tuple[str, ...] = ()
    after: str | None = None
    before: str | None = None
    folders: tuple[str, ...] = ()
    camera: str | None = None
    where: str | None = None

    def query(self, text: str | None = None, image: Path | None = None, root: Path | None = None) -> Query:
        """The query for these options and the command's own argument; UsageError when they do not fit together.

        `root` is the collection's folder, for folders that are named from where the user is.
        """
        texts = self.texts if text is None else (text, *self.texts)
        images = self.images if image is None else (image, *self.images)
        if not texts and not images:
            raise click.UsageError("nothing is looked for; give a TEXT, or an image with --image")
        if len(self.boxes) > len(images):
            raise click.UsageError("there are more boxes than images; give each --box its --image")
        if len(self.weights) > len(texts) + len(images):
            raise click.UsageError("there are more weights than texts and images; leave out the last ones")
        weights = [*self.weights, *[1.0] * (len(texts) + len(images) - len(self.weights))]
        boxes = [*self.boxes, *[None] * (len(images) - len(self.boxes))]
        parts: list[Part] = [TextPart(text, weight) for text, weight in zip(texts, weights, strict=False)]
        of_images = weights[len(texts) :]
        parts += [ImagePart(path, weight, box) for path, weight, box in zip(images, of_images, boxes, strict=True)]
        return Query(tuple(parts), self.without, self._condition(root))

    def folders_below(self, root: Path | None) -> list[str]:
        """The folders as the collection of the folder `root` names them."""
        return [_below(folder, root) for folder in self.folders]

    def _condition(self, root: Path | None) -> str | None:
        conditions = []
        if self.after:
            conditions.append(f"date >= {quoted(self.after)}")
        if self.before:
            conditions.append(f"date < {quoted(self.before)}")
        if self.folders:
            within = " OR ".join(within_folder(folder) for folder in self.folders_below(root))
            conditions.append(f"({within})")
        if self.camera:
            conditions.append(f"instr(lower(camera), {quoted(self.camera.lower())}) > 0")
        if self.where is not None:
            conditions.append(f"({self.where})" if conditions else self.where)
        return " AND ".join(conditions) if conditions else None


def _below(folder: str, root: Path | None) -> str:
    """The folder as the collection names it: from its root, even if the user has named it from elsewhere."""
    if root is None or ((root / folder).is_dir() and not Path(folder).is_absolute()):
        return folder
    real = Path(folder).resolve()
    return real.relative_to(root.resolve()).as_posix() if real.is_relative_to(root.resolve()) else folder
