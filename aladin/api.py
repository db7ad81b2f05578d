"""The short way in: a folder of photographs to search, and the model itself. Nothing here needs PyTorch.

>>> import aladin
>>> photos = aladin.Collection.open("examples/photos", collection=scratch / "photos.sqlite")
>>> photos.index().added
48
>>> results = photos.search("flowers", top=3, why=True)
>>> results.searched
48
>>> [share.word for share in results.hits[0].explanation.shares]
['flowers']
>>> photos.path(results.hits[0]).is_file()
True
>>> larger = photos.search("flowers", without="people", where="width > height")
>>> larger.searched < results.searched
True
>>> json.dumps(aladin.as_json(results))[:17]
'{"hits": [{"rank"'
>>> photos.close()
"""

from pathlib import Path

import numpy as np
from jaxtyping import Float32
from PIL import Image

from aladin.collection.indexing import IndexReport, index_folder
from aladin.collection.opening import open_store
from aladin.collection.settings import IndexConfig
from aladin.collection.store import default_file
from aladin.collection.writer import CollectionWriter
from aladin.encoder.encoder import Encoder
from aladin.encoder.folder import shipped_model
from aladin.encoder.registry import model_at
from aladin.errors import DataError
from aladin.pictures.opening import bitmap
from aladin.progress import SILENT, Progress
from aladin.search.encoding import encode_query
from aladin.search.explain import Explanation, explain_content, explain_file
from aladin.search.image_files import picture_at
from aladin.search.query import ImagePart, Query, TextPart
from aladin.search.search import Hit, Results, SearchConfig, Searcher

Picture = Path | bytes | Image.Image  # an image file, what one contains, or an open image
Asked = str | Picture | Query  # a text, an image, or both with more


class Collection:
    """A folder of photographs and what is known of them. Use it in one thread; close it, or use `with`."""

    def __init__(self, folder: Path, place: Path, encoder: Encoder) -> None:
        """`Collection.open` is shorter."""
        self.folder = folder
        self.place = place
        self.encoder = encoder
        self._searcher: Searcher | None = None

    @classmethod
    def open(cls, folder: str | Path, *, model: str | Path | None = None, collection: str | Path | None = None) -> "Collection":
        """The photographs of `folder`, with the model that comes with aladin or that of another folder.

        What is known of them stands in `collection`, which is `folder`/.aladin/collection.sqlite when left out. Nothing is read
        or written before it is asked for.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise DataError(f"{folder} is no folder; expected one of images")
        place = Path(collection) if collection is not None else default_file(folder)
        return cls(folder, place, Encoder.load(model_at(model) if model is not None else shipped_model()))

    def index(self, config: IndexConfig | None = None, progress: Progress = SILENT) -> IndexReport:
        """Read what is new or changed in the folder. Interrupted, it goes on the next time. `progress` counts files."""
        with CollectionWriter.create(self.place, self.folder) as writer:
            return index_folder(writer, self.encoder, config, progress)

    def search(
        self,
        query: Asked,
        *,
        top: int = 10,
        rerank: int = 100,
        without: str | tuple[str, ...] = (),
        where: str | None = None,
        min_probability: float = 0.0,
        why: bool = False,
    ) -> Results:
        """The images that answer a text, an image or a whole `Query` best; it must have been indexed before.

        `without` names what should not be seen, `where` is a condition such as "taken >= '2024' AND width > height"; both join
        what a `Query` says itself. With `why` every hit has its explanation.
        """
        asked = _query(query)
        unwanted = (without,) if isinstance(without, str) else without
        conditions = [condition for condition in (asked.where, where) if condition is not None]
        joined = conditions[0] if len(conditions) == 1 else " AND ".join(f"({condition})" for condition in conditions) or None
        whole = Query(asked.wanted, (*asked.without, *unwanted), joined)
        return self._opened().search(whole, SearchConfig(top, rerank, min_probability, why))

    def explain(self, query: Asked, image: Hit | int) -> Explanation:
        """Why an image, a hit or the id of one, has its alignment score for a query."""
        return self._opened().explain(_query(query), image.id if isinstance(image, Hit) else image)

    def path(self, hit: Hit) -> Path:
        """Where the file of a hit is."""
        return self.folder / hit.path

    def __len__(self) -> int:
        """How many images can be found."""
        return len(self._opened().collection)

    def close(self) -> None:
        if self._searcher is not None:
            self._searcher.collection.close()
            self._searcher = None

    def __enter__(self) -> "Collection":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _opened(self) -> Searcher:
        if self._searcher is None:
            stored = open_store(self.place)
            try:
                stored.check_root(self.folder)
                self._searcher = Searcher(stored, self.encoder)
            except BaseException:
                stored.close()
                raise
        return self._searcher


class Aladin:
    """The model, ready to compare images with texts. (The network that learns is `aladin.network.model.Aladin`.)

    >>> model = aladin.Aladin.load()
    >>> cat, horse = "examples/photos/photo-009.jpg", "examples/photos/photo-047.jpg"
    >>> model.score(cat, "a cat") > model.score(horse, "a cat")
    True
    >>> [share.word for share in model.explain(cat, "a sleeping cat").shares]
    ['a', 'sleeping', 'cat']
    """

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder

    @classmethod
    def load(cls, model: str | Path | None = None) -> "Aladin":
        """The model of a folder, or the one that comes with aladin."""
        return cls(Encoder.load(model_at(model) if model is not None else shipped_model()))

    def score(self, image: str | Picture, text: str) -> float:
        """How well the image, a file's path or an image as such, shows the text, by alignment: a search's score."""
        return self.explain(image, text).score

    def explain(self, image: str | Picture, query: Asked) -> Explanation:
        """What each word adds to that score, and the region that it chose."""
        source, encoded = _source(image), encode_query(_query(query), self.encoder)
        if isinstance(source, bytes):
            return explain_content(encoded, source, "the given image", self.encoder)
        path, frame = picture_at(source)
        return explain_file(encoded, path, self.encoder, frame)

    def text_vector(self, text: str) -> Float32[np.ndarray, " dim"]:
        """The vector of a text, of length 1; its product with an image's is the matching score."""
        return encode_query(Query((TextPart(text),)), self.encoder).vector

    def image_vector(self, image: str | Picture) -> Float32[np.ndarray, " dim"]:
        """The vector of an image, of length 1."""
        return encode_query(Query((ImagePart(_source(image)),)), self.encoder).vector


def _query(asked: Asked) -> Query:
    if isinstance(asked, Query):
        return asked
    return Query((TextPart(asked) if isinstance(asked, str) else ImagePart(_source(asked)),))


def _source(image: str | Picture) -> Path | bytes:
    """The image as a part of a query takes it; DataError for what is none."""
    if isinstance(image, Image.Image):
        return bitmap(image)
    if isinstance(image, str | Path | bytes):
        return Path(image) if isinstance(image, str) else image
    raise DataError(f"{type(image).__name__} is no kind of image; give a path, the bytes of a file or an image of Pillow's")
