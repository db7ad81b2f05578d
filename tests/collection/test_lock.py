"""One writer at a time."""

from pathlib import Path

import pytest

from aladin.collection.lock import WriterLock, holder_of
from aladin.errors import CollectionLocked


def test_a_second_writer_learns_who_is_the_first_and_comes_in_after_it(tmp_path: Path) -> None:
    place = tmp_path / "collection.sqlite"
    assert holder_of(place) is None
    first = WriterLock(place)
    with pytest.raises(CollectionLocked, match="is being written by process"):
        WriterLock(place)
    assert "since" in (holder_of(place) or "")
    first.release()
    assert holder_of(place) is None
    WriterLock(place).release()
