"""What all routes share: one folder's collection, the processes that search it, and the pictures made from it."""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, TypeVar

from aladin.collection.indexing import index_folder
from aladin.collection.opening import open_store
from aladin.collection.store import Facets
from aladin.collection.writer import CollectionWriter
from aladin.encoder.encoder import Encoder
from aladin.errors import AladinError
from aladin.server.browsing import version
from aladin.server.engine import named_row
from aladin.server.files import read_below
from aladin.server.ids import PublicIds
from aladin.server.metrics import Metrics
from aladin.server.problems import Busy, NoCollection, Problem, no_image
from aladin.server.rendering import Picture, Renderer
from aladin.server.schemas import ImageIn
from aladin.server.searching import SearchPool
from aladin.server.settings import ServeConfig
from aladin.server.uploads import PictureCache, Uploads

Result = TypeVar("Result")
THUMBNAIL_SIDE, PREVIEW_SIDE = 640, 1600  # px
COUNTING_SHARE = 0.1  # of one core, while a collection changes all the time
THUMBNAIL_QUALITY, PREVIEW_QUALITY, QUERY_QUALITY = 80, 86, 95


@dataclass(frozen=True)
class Indexing:
    """Where reading the folder stands."""

    state: Literal["idle", "running", "failed"] = "idle"
    done: int = 0
    total: int = 0
    message: str | None = None


@dataclass(frozen=True)
class Counts:
    """What the collection holds, or held when it was last counted."""

    images: dict[str, int]
    reasons: dict[str, int]
    generation: int
    facets: Facets
    until: float  # by the monotonic clock: it is not counted again before, so that counting takes no more than its share


class Served:
    """One server's state."""

    def __init__(self, config: ServeConfig) -> None:
        self.config = config
        self.encoder = Encoder.load(config.model)
        self.searches = SearchPool(config)
        self.renderer = Renderer(config.limits)
        self.uploads = Uploads(config.limits)
        self.pictures = PictureCache(config.limits)
        self.ids = PublicIds(config.file)
        self.metrics = Metrics()
        self.metrics.queue.set_function(lambda: self.searches.taken)
        self.ready = False
        self.indexing = Indexing()
        self._rendering = 0
        self._aside = ThreadPoolExecutor(1, thread_name_prefix="status")
        self._counts: Counts | None = None
        self._indexing_lock = threading.Lock()

    def warm_up(self) -> None:
        """Load what the first search would wait for."""
        self.searches.warm_up()
        self.ready = True

    def close(self) -> None:
        self.searches.close()
        self.renderer.close()
        self._aside.shutdown(cancel_futures=True)

    def stored_id(self, public_id: str) -> int:
        """The stored id of a public one; Problem 404 for one that was never given out."""
        found = self.ids.stored(public_id)
        if found is None:
            raise no_image(public_id)
        return found

    async def aside(self, work: Callable[[], Result]) -> Result:
        """Small questions to the collection, answered also while all searching processes are busy."""
        return await asyncio.get_running_loop().run_in_executor(self._aside, work)

    def counts(self) -> Counts:
        """What the collection holds; NoCollection when there is none. Call it `aside`."""
        if not self.config.file.is_file():
            raise NoCollection
        with open_store(self.config.file) as collection, collection.snapshot():
            now, known = time.monotonic(), self._counts
            if known is None or (known.generation != collection.generation and now >= known.until):
                images, reasons, facets = collection.counts(), collection.failure_counts(), collection.facets()
                ended = time.monotonic()
                self._counts = Counts(images, reasons, collection.generation, facets, ended + (ended - now) / COUNTING_SHARE)
            assert self._counts is not None
            return self._counts

    async def rendered(self, work: Callable[[], Picture]) -> Picture:
        """A picture, made in one of the threads for that; Busy when too many wait."""
        if self._rendering >= self.config.limits.renderings_waiting:
            raise Busy
        self._rendering += 1
        started = time.perf_counter()
        try:
            return await asyncio.get_running_loop().run_in_executor(self.renderer.threads, work)
        finally:
            self._rendering -= 1
            self.metrics.stage("render", time.perf_counter() - started)

    async def query_pictures(self, images: Sequence[ImageIn]) -> tuple[Picture | None, ...]:
        """For each image of a query the picture that was sent, or that a box cuts something out of; None where none is needed.

        Problem 404 where there is no such picture, 422 where an image is named twice or not at all.
        """
        return tuple([await self._query_picture(image) for image in images])

    async def _query_picture(self, image: ImageIn) -> Picture | None:
        public_id = image.id
        if (public_id is None) == (image.upload is None):
            raise Problem(422, "an image of the query is named by its id or by its upload; give one of the two")
        if public_id is None:
            assert image.upload is not None
            return self.uploads.get(image.upload)
        if image.box is None:
            return None
        return await self.rendered(lambda: self.picture_of(public_id, PREVIEW_SIDE, QUERY_QUALITY)[0])

    def picture_of(self, public_id: str, side: int, quality: int) -> tuple[Picture, str]:
        """An image of the collection re-encoded, and the version of its content. Call it in `renderer.threads`."""
        if not self.config.file.is_file():
            raise NoCollection
        with open_store(self.config.file) as collection:
            row, root = named_row(collection, self.ids, public_id), collection.root
        key = (row.id, version(row), side, quality)
        picture = self.pictures.get(key)
        if picture is None:
            picture = self.renderer.render(read_below(root, row.path), side, quality, row.frame)
            self.pictures.put(key, picture)
        return picture, version(row)

    def start_indexing(self) -> None:
        """Read the folder in a thread of its own; Problem 409 while one does so already."""
        if not self._indexing_lock.acquire(blocking=False):
            raise Problem(409, "the folder is being read already; wait until that is done", {"Retry-After": "5"})
        self.indexing = Indexing("running")
        threading.Thread(target=self._index, name="index", daemon=True).start()

    def _index(self) -> None:
        try:
            if not self.config.folder.is_dir():
                self.indexing = Indexing("failed", message="the folder is not there now; its images are kept")
                return
            with CollectionWriter.create(self.config.file, self.config.folder) as collection:
                report = index_folder(collection, self.encoder, None, self._progress)
            skipped = sum(report.skipped.values())
            note = f"{skipped:,} {'file' if skipped == 1 else 'files'} could not be read" if skipped else None
            self.indexing = Indexing(message=report.warning or note)
        except AladinError as error:
            self.indexing = Indexing("failed", message=str(error))
        finally:
            self._indexing_lock.release()

    def _progress(self, done: int, total: int) -> None:
        self.indexing = Indexing("running", done, total)
