"""The JSON of Karpathy or COCO, told apart by their lists."""

from pathlib import Path

from aladin.datasets.bad_rows import BadRow
from aladin.datasets.coco import read_coco
from aladin.datasets.karpathy import read_karpathy
from aladin.datasets.rows import Gathering, json_object
from aladin.errors import DataError


def read_document(path: Path, gathering: Gathering) -> None:
    """Adds every image of the document with its captions."""
    try:
        document = json_object(path.read_bytes())
    except BadRow as bad:
        raise DataError(f"{path}: {bad.found}; expected the JSON of Karpathy or COCO") from None
    images, annotations = document.get("images"), document.get("annotations")
    if isinstance(images, list) and isinstance(annotations, list):
        read_coco(images, annotations, path, gathering)
    elif isinstance(images, list) and "annotations" not in document:
        read_karpathy(images, path, gathering)
    else:
        raise DataError(f'{path} lacks the list "images", with "sentences" (Karpathy) or beside the list "annotations" (COCO)')


READERS = {".json": read_document}
