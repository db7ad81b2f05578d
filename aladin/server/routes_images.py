"""Routes for images: their facts and pictures, leafing through them, uploads to search with, adding and removing."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response
from starlette.requests import ClientDisconnect

from aladin.server import ids, uploads
from aladin.server.answering import image_facts, page
from aladin.server.changing import add, remove
from aladin.server.cursors import position_of
from aladin.server.problems import Problem, no_image
from aladin.server.rendering import Picture
from aladin.server.responses import REFUSALS, problems, reply
from aladin.server.schemas import AddedOut, Date, FilterIn, ImageOut, PageOut, UploadOut
from aladin.server.security import allowed
from aladin.server.service import (
    PREVIEW_QUALITY,
    PREVIEW_SIDE,
    QUERY_QUALITY,
    THUMBNAIL_QUALITY,
    THUMBNAIL_SIDE,
    Served,
)

router = APIRouter(prefix="/v1", responses=REFUSALS, tags=["images"])
PublicId = Annotated[str, Path(pattern=ids.PATTERN, description="An image's id, as searches give it.")]
UploadId = Annotated[str, Path(pattern=uploads.PATTERN)]
Version = Annotated[str | None, Query(max_length=64, description="The content's version: with it the picture can be kept.")]
JPEG: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A JPEG without metadata.",
        "content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}},
    },
    304: {"description": "As it was."},
}
PICTURE_BODY = {
    "requestBody": {
        "required": True,
        "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}},
        "description": "The file's bytes, as `curl --data-binary @photo.jpg -H 'Content-Type: image/jpeg'` sends them.",
    }
}
FOR_EVER, NOT_LONG = "private, max-age=31536000, immutable", "private, max-age=60"


@router.get("/images", response_model=PageOut, dependencies=[allowed("search")])
async def images(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[str | None, Query(max_length=200, description="The `next` of the page before.")] = None,
    folder: Annotated[str | None, Query(max_length=4000)] = None,
    taken_from: Annotated[Date | None, Query()] = None,
    taken_to: Annotated[Date | None, Query()] = None,
) -> Response:
    """All images, the newest first."""
    served: Served = request.app.state.served
    wanted = FilterIn(folder=folder, taken_from=taken_from, taken_to=taken_to)
    after = None if cursor is None else position_of(cursor)
    return reply(await served.searches.run(page, after, limit, wanted))


@router.get("/images/{image}", response_model=ImageOut, dependencies=[allowed("search")])
async def image(image: PublicId, request: Request) -> Response:
    """What is known of an image."""
    served: Served = request.app.state.served
    return reply(await served.searches.run(image_facts, image))


@router.get("/images/{image}/thumbnail", responses=JPEG, response_class=Response, dependencies=[allowed("search")])
async def thumbnail(image: PublicId, request: Request, v: Version = None) -> Response:
    """The image at no more than 640 px a side."""
    return await _picture(image, request, v, THUMBNAIL_SIDE, THUMBNAIL_QUALITY)


@router.get("/images/{image}/preview", responses=JPEG, response_class=Response, dependencies=[allowed("search")])
async def preview(image: PublicId, request: Request, v: Version = None) -> Response:
    """The image at no more than 1600 px a side."""
    return await _picture(image, request, v, PREVIEW_SIDE, PREVIEW_QUALITY)


@router.post(
    "/uploads", status_code=201, response_model=UploadOut, openapi_extra=PICTURE_BODY, responses=problems(415),
    dependencies=[allowed("search")],
)  # fmt: skip
async def upload(request: Request) -> Response:
    """Send a picture to search with. It is kept in memory, re-encoded, for an hour at most."""
    served: Served = request.app.state.served
    data = await _image_body(request)
    picture = await served.rendered(lambda: served.renderer.render(data, PREVIEW_SIDE, QUERY_QUALITY))
    name = served.uploads.keep(picture)
    body = UploadOut(upload=name, width=picture.width, height=picture.height, picture=f"/v1/uploads/{name}")
    return reply(body, {"Location": body.picture}, 201)


@router.get("/uploads/{upload}", responses=JPEG, response_class=Response, dependencies=[allowed("search")])
async def uploaded(upload: UploadId, request: Request) -> Response:
    """A picture that was sent to search with, re-encoded."""
    return _jpeg(request.app.state.served.uploads.get(upload), NOT_LONG)


@router.post(
    "/images", status_code=201, response_model=AddedOut, openapi_extra=PICTURE_BODY, responses=problems(409, 415),
    dependencies=[allowed("write")],
)  # fmt: skip
async def add_image(request: Request) -> Response:
    """Put a picture into the folder "added" of the collection's. The same content twice is one image."""
    served: Served = request.app.state.served
    data = await _image_body(request)
    row = await asyncio.to_thread(add, served, data)
    public_id = served.ids.of(row.id)
    return reply(AddedOut(id=public_id, status=row.status, reason=row.reason), {"Location": f"/v1/images/{public_id}"}, 201)


@router.delete(
    "/images/{image}", status_code=204, response_class=Response, responses=problems(409), dependencies=[allowed("write")]
)
async def remove_image(image: PublicId, request: Request) -> Response:
    """Take an image out of the collection. Its file stays, and is not read again."""
    served: Served = request.app.state.served
    if served.ids.stored(image) is None or not served.config.file.is_file():
        raise no_image(image)
    await asyncio.to_thread(remove, served, image)
    served.pictures.forget(served.stored_id(image))
    return Response(status_code=204)


async def _picture(image: str, request: Request, v: str | None, side: int, quality: int) -> Response:
    served: Served = request.app.state.served
    image_id = served.stored_id(image)
    kept = served.pictures.get((image_id, v, side, quality))
    if kept is not None and v is not None:
        picture, version = kept, v
    else:
        found: list[str] = []

        def work() -> Picture:
            made, current = served.picture_of(image, side, quality)
            found.append(current)
            return made

        picture = await served.rendered(work)
        version = found[0]
    tag = f'"{version}-{side}"'
    cache = FOR_EVER if v == version else NOT_LONG
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers={"ETag": tag, "Cache-Control": cache})
    return _jpeg(picture, cache, tag)


def _jpeg(picture: Picture, cache: str, tag: str | None = None) -> Response:
    headers = {"Cache-Control": cache, "Content-Disposition": "inline; filename=picture.jpg"}
    return Response(picture.jpeg, 200, headers | ({"ETag": tag} if tag else {}), "image/jpeg")


async def _image_body(request: Request) -> bytes:
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if not (kind.startswith("image/") or kind == "application/octet-stream"):
        raise Problem(415, f"the body is {kind[:60] or 'of no type'}; send an image's bytes, with Content-Type: image/jpeg")
    try:
        data = await request.body()
    except ClientDisconnect:
        raise Problem(400, "the client left before its image had arrived") from None
    if not data:
        raise Problem(422, "the body is empty; send an image's bytes")
    return data
