"""What goes in and out, as the OpenAPI document describes it. Unknown members are refused, so a misspelt one is noticed."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from aladin.server import ids, uploads

MAX_TOP = 10_000


def whole(value: Any) -> Any:
    """What JSON writes as 3.0 is an integer there."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = BeforeValidator(whole)
ImageId = Annotated[str, StringConstraints(pattern=ids.PATTERN)]
UploadId = Annotated[str, StringConstraints(pattern=uploads.PATTERN)]
Text = Annotated[str, StringConstraints(min_length=1, max_length=20_000)]
Weight = Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]
Pixel = Annotated[int, Field(ge=0, le=1_000_000), Whole]
Length = Annotated[int, Field(ge=1, le=1_000_000), Whole]
Date = Annotated[str, StringConstraints(pattern=r"^(1[0-9]|20|21)[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])$")]
Limited = Annotated[str, StringConstraints(max_length=4000)]


class Strict(BaseModel):
    """A body: nothing is guessed and nothing is ignored."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class TextIn(Strict):
    """Images that a text describes."""

    text: Text
    weight: Weight = 1.0


class BoxOut(BaseModel):
    """A rectangle in px of the upright picture at its full size."""

    x: int
    y: int
    width: int
    height: int


class BoxIn(Strict):
    """A rectangle in px of the upright picture at its full size."""

    x: Pixel
    y: Pixel
    width: Length
    height: Length


class ImageIn(Strict):
    """Images like one of the collection (`id`) or one that was sent (`upload`), or like what the box cuts out of it."""

    id: ImageId | None = None
    upload: UploadId | None = None
    weight: Weight = 1.0
    box: BoxIn | None = None


class FilterIn(Strict):
    """Which images may be found at all."""

    folder: Limited | None = Field(default=None, description="In this folder or below it.")
    taken_from: Date | None = Field(default=None, description="On this day or later.")
    taken_to: Date | None = Field(default=None, description="On this day or earlier.")
    where: Limited | None = Field(
        default=None, description="A condition on what is known of the images, such as: camera LIKE 'Canon%' AND width > 4000."
    )


class QueryIn(Strict):
    """What is wanted, by texts and images with weights, and what is not."""

    text: Text | None = Field(default=None, description="Short for one text of weight 1.")
    texts: Annotated[list[TextIn], Field(max_length=16)] = []
    images: Annotated[list[ImageIn], Field(max_length=8)] = []
    without: Annotated[list[Text], Field(max_length=16)] = Field(default=[], description="Texts that images should not show.")
    filter: FilterIn = FilterIn()


class SearchIn(QueryIn):
    """A search."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"text": "a dog runs through snow", "top": 5, "why": True},
                {"texts": [{"text": "mountains"}, {"text": "snow", "weight": 0.5}], "without": ["people"]},
            ]
        }
    )
    top: Annotated[int, Field(ge=1, le=MAX_TOP), Whole] = 50
    rerank: Annotated[int, Field(ge=1, le=MAX_TOP), Whole] = Field(default=100, description="So many are ranked again.")
    min_probability: Annotated[float, Field(ge=0, le=1)] = 0.0
    why: bool = Field(default=False, description="With each hit: which region each word chose and what it added.")


class ShareOut(BaseModel):
    """What one word of the query, or one region of a query image, adds to the score."""

    part: str = Field(description="Which part of the query.")
    word: str | None
    query_box: BoxOut | None = Field(description="In the query image.")
    box: BoxOut = Field(description="In the image found.")
    region: int = Field(description="Of the image, in reading order.")
    similarity: float
    contribution: float


class ExplanationOut(BaseModel):
    """The shares, which add up to the score with what the picture adds as a whole."""

    score: float
    whole: float = Field(description="What no region adds by itself.")
    shares: list[ShareOut]


class ImageOut(BaseModel):
    """An image of the collection. The links lead to pictures made for viewing, without metadata."""

    id: str
    name: str = Field(description="The file's path below the collection's folder.")
    frame: int = Field(description="Which of the file's pictures, from 0.")
    width: int
    height: int
    taken: str | None = Field(description="Local time of the camera.")
    camera: str | None
    thumbnail: str
    preview: str


class HitOut(ImageOut):
    """An image found."""

    rank: int
    score: float
    matching_score: float
    alignment_score: float | None
    probability: float | None = Field(description="That the image shows what the texts say.")
    explanation: ExplanationOut | None = None


class SearchOut(BaseModel):
    """The hits, best first. `answered` is false when hardly any image shows what was asked; null where that cannot be told."""

    query: str
    hits: list[HitOut]
    nearest: list[HitOut] = Field(description="The best three when no hit is likely enough.")
    answered: bool | None
    searched: int
    truncated: bool = Field(description="The model did not read the end of a text.")
    took_ms: float
    stages_ms: dict[str, float]


class PageOut(BaseModel):
    """Images, the newest first; `next` is the cursor of the following page."""

    images: list[ImageOut]
    next: str | None


class FolderOut(BaseModel):
    """A folder and how many images are directly in it."""

    name: str
    images: int


class IndexingOut(BaseModel):
    """Where reading the folder stands."""

    state: Literal["idle", "running", "failed"]
    done: int
    total: int
    message: str | None = Field(description="Why it failed, or what to know of it.")


class StatusOut(BaseModel):
    """What is served."""

    name: str = Field(description="The folder's name.")
    images: dict[str, int] = Field(description="How many there are of each status.")
    model: str
    fingerprint: str
    generation: int | None
    folders: list[FolderOut]
    first_date: str | None
    last_date: str | None
    indexing: IndexingOut
    version: str
    may_write: bool


class UploadOut(BaseModel):
    """A picture that queries can name; boxes in it are in px of this size."""

    upload: str
    width: int
    height: int
    picture: str


class AddedOut(BaseModel):
    """An image that is now in the collection."""

    id: str
    status: str
    reason: str | None


class StateOut(BaseModel):
    """Whether the server is alive, or ready."""

    status: Literal["ok", "starting"]


class ProblemOut(BaseModel):
    """What went wrong (RFC 9457): `detail` says what was found, what was expected and what to do."""

    type: str
    title: str
    status: int
    detail: str
