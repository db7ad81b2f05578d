"""Making a damaged collection whole: what checksums confirm is kept, what they do not is read again by the next `index`.

Where single rows are damaged they are mended in place. Where pages do not hang together any more, every row that can still be
read goes into a new file, and the damaged one stays beside it.
"""

from pathlib import Path

from aladin.collection.damaged_rows import take_again, values_of
from aladin.collection.database import any_text
from aladin.collection.salvage import Repair, salvage
from aladin.collection.schema import BLOBS
from aladin.collection.verify import Verification, verify
from aladin.collection.writer import CollectionWriter
from aladin.encoder.folder import ModelFolder
from aladin.errors import DataError, IndexMismatch


def repair(path: Path, root: Path, model: ModelFolder) -> Repair:
    """Make the collection at `path`, of the images below `root` by `model`, whole again.

    DataError when the file is not a collection, or nothing in it can be read any more; it is then left as it is.
    CollectionLocked when somebody else is writing it.
    """
    try:
        found = verify(path)
    except IndexMismatch:
        raise
    except DataError:
        if not path.is_file():
            raise
        return salvage(path, root, model)  # where not even the first page is left
    if found.structure:
        return salvage(path, root, model)
    if not found.damage:
        return Repair(found.rows, 0, 0, None)
    with CollectionWriter.create(path, root) as collection:
        return _mend(collection, found)


def _mend(collection: CollectionWriter, found: Verification) -> Repair:
    damaged = sorted({damage.id for damage in found.damage})
    connection, lost = collection.database.connection, 0
    with collection.transaction():
        for image_id in damaged:
            for table in BLOBS:
                collection.database.execute(f"DELETE FROM {table} WHERE id = ?", (image_id,))
            with any_text(connection):
                row = values_of(connection, image_id)
            collection.database.execute("DELETE FROM images WHERE id = ?", (image_id,))
            if row is None or not take_again(connection, row | {"generation": collection.generation}):
                lost += 1
    return Repair(found.rows - len(damaged), len(damaged) - lost, lost, None)
