"""Requests to queries, and results to answers as JSON: what a searching process does for the one that answers clients."""

from dataclasses import asdict

from aladin.collection.filters import parsed, quoted, within_folder
from aladin.collection.store import ImageRow, Position, Span
from aladin.pictures.boxes import Box
from aladin.search.explain import Explanation
from aladin.search.query import ImagePart, Part, Query, TextPart
from aladin.search.search import Hit, SearchConfig
from aladin.search.timing import Seconds
from aladin.server.browsing import shown, version
from aladin.server.cursors import cursor_of
from aladin.server.engine import Engine
from aladin.server.ids import PublicIds
from aladin.server.rendering import Picture
from aladin.server.schemas import (
    BoxIn,
    BoxOut,
    ExplanationOut,
    FilterIn,
    HitOut,
    ImageIn,
    ImageOut,
    PageOut,
    QueryIn,
    SearchIn,
    SearchOut,
    ShareOut,
)

Pictures = tuple[Picture | None, ...]  # for each image of a query: the picture sent, or cut out of; None where none is needed


def query_of(engine: Engine, body: QueryIn, pictures: Pictures) -> tuple[Query, frozenset[int]]:
    """The query that a body states, and the images of the collection that it cuts something out of: these are no hits."""
    wanted: list[Part] = [TextPart(body.text)] if body.text is not None else []
    wanted += [TextPart(text.text, text.weight) for text in body.texts]
    cut: set[int] = set()
    for image, picture in zip(body.images, pictures, strict=True):
        part, image_id = _image_part(engine, image, picture)
        wanted.append(part)
        if image_id is not None:
            cut.add(image_id)
    return Query(tuple(wanted), tuple(body.without), condition_of(body.filter)), frozenset(cut)


def condition_of(wanted: FilterIn) -> str | None:
    """One condition from all parts of a filter; None for one that lets everything through."""
    conditions = []
    if wanted.where is not None and wanted.where.strip():
        parsed(wanted.where)  # alone, so that no bracket of it closes one of ours
        conditions.append(f"({wanted.where})")
    if wanted.folder is not None and wanted.folder.strip("/"):
        conditions.append(within_folder(wanted.folder))
    if wanted.taken_from:
        conditions.append(f"date >= {quoted(wanted.taken_from)}")
    if wanted.taken_to:
        conditions.append(f"substr(date, 1, 10) <= {quoted(wanted.taken_to)}")
    return " AND ".join(conditions) or None


def answer(engine: Engine, body: SearchIn, pictures: Pictures) -> tuple[bytes, Seconds]:
    """A `SearchOut`, and where the time went."""
    query, cut = query_of(engine, body, pictures)
    config = SearchConfig(body.top + len(cut), max(body.rerank, body.top), body.min_probability, body.why)
    results = engine.searcher.search(query, config)
    rows = {row.id: row for row in engine.collection.rows([hit.id for hit in (*results.hits, *results.nearest)])}
    found = SearchOut(
        query=str(query),
        hits=_hits(results.hits, rows, cut, engine.ids)[: body.top],
        nearest=_hits(results.nearest, rows, cut, engine.ids),
        answered=results.answered,
        searched=results.searched,
        truncated=results.truncated,
        took_ms=round(1000 * sum(asdict(results.seconds).values()), 3),
        stages_ms={stage: round(1000 * seconds, 3) for stage, seconds in asdict(results.seconds).items()},
    )
    return found.model_dump_json().encode(), results.seconds


def image_facts(engine: Engine, image: str) -> bytes:
    """An `ImageOut`."""
    return image_out(engine.row(image), engine.ids).model_dump_json().encode()


def page(engine: Engine, after: Position | None, limit: int, wanted: FilterIn) -> bytes:
    """A `PageOut` of the images after that position."""
    condition = condition_of(wanted.model_copy(update={"taken_from": None, "taken_to": None}))
    span = Span(wanted.taken_from, wanted.taken_to)
    with engine.collection.snapshot():
        found = engine.collection.page(after, limit, span, None if condition is None else parsed(condition))
    following = None if found.next is None else cursor_of(found.next)
    return PageOut(images=[image_out(row, engine.ids) for row in found.rows], next=following).model_dump_json().encode()


def image_out(row: ImageRow, ids: PublicIds) -> ImageOut:
    """An image as clients see it."""
    public_id = ids.of(row.id)
    camera = row.metadata.get("camera")
    link = f"/v1/images/{public_id}/{{}}?v={version(row)}"
    return ImageOut(
        id=public_id,
        name=shown(row.path),
        frame=row.frame,
        width=row.width or 0,
        height=row.height or 0,
        taken=row.taken,
        camera=camera if isinstance(camera, str) else None,
        thumbnail=link.format("thumbnail"),
        preview=link.format("preview"),
    )


def explanation_out(found: Explanation) -> ExplanationOut:
    """An explanation as clients see it."""
    return ExplanationOut(
        score=found.score,
        whole=found.whole,
        shares=[
            ShareOut(
                part=share.part,
                word=share.word,
                query_box=None if share.query_box is None else _box_out(share.query_box),
                box=_box_out(share.box),
                region=share.region,
                similarity=share.similarity,
                contribution=share.contribution,
            )
            for share in found.shares
        ],
    )


def _hits(hits: tuple[Hit, ...], rows: dict[int, ImageRow], cut: frozenset[int], ids: PublicIds) -> list[HitOut]:
    kept = [hit for hit in hits if hit.id not in cut]
    return [
        HitOut(
            **image_out(rows[hit.id], ids).model_dump(),
            rank=rank,
            score=hit.score,
            matching_score=hit.matching_score,
            alignment_score=hit.alignment_score,
            probability=hit.probability,
            explanation=None if hit.explanation is None else explanation_out(hit.explanation),
        )
        for rank, hit in enumerate(kept, 1)
    ]


def _image_part(engine: Engine, image: ImageIn, picture: Picture | None) -> tuple[ImagePart, int | None]:
    """The part of a query, and the stored id of the image that it cuts something out of, if it does."""
    if image.id is None:
        assert picture is not None, "what was sent comes with the query"
        return ImagePart(picture.jpeg, image.weight, _box(image.box)), None
    row = engine.row(image.id)
    if image.box is None:
        return ImagePart(row.id, image.weight), None
    assert picture is not None, "what is cut out of comes with the query"
    # The box is in px of the photograph, and what is cut is a smaller picture of it.
    scale = picture.width / max(row.width or picture.original_width, 1)
    whole = Box(0, 0, row.width or 1, row.height or 1)
    box = Box(image.box.x, image.box.y, image.box.width, image.box.height).within(whole.width, whole.height)
    scaled = Box(
        min(int(box.x * scale), picture.width - 1),
        min(int(box.y * scale), picture.height - 1),
        max(round(box.width * scale), 1),
        max(round(box.height * scale), 1),
    )
    return ImagePart(picture.jpeg, image.weight, scaled), row.id


def _box(box: BoxIn | None) -> Box | None:
    return None if box is None else Box(box.x, box.y, box.width, box.height)


def _box_out(box: Box) -> BoxOut:
    return BoxOut(x=box.x, y=box.y, width=box.width, height=box.height)
