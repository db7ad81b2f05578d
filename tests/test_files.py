"""A file is the old one or the new one, never a part of one."""

import hashlib
import os
from pathlib import Path

import pytest

from aladin.errors import DataError
from aladin.files import check_replaceable, replacing, sha256_of, write_whole


def test_the_new_content_takes_the_place_of_the_old(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    for text in ("old", "new, ü"):
        write_whole(path, text)
        assert path.read_bytes() == text.encode()
    assert list(tmp_path.iterdir()) == [path]


def test_after_an_error_the_old_content_stands_and_no_draft_is_left(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_whole(path, "old")

    def interrupted() -> None:
        with replacing(path) as draft:
            draft.write_text("half")
            assert path.read_text() == "old"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_draft_that_a_killed_run_left_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    (tmp_path / "a.txt.partial").write_text("a long draft of before")
    with replacing(path) as draft, draft.open("a") as file:
        file.write("new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_was_not_written_is_an_error_and_the_old_one_stands(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_whole(path, "old")
    with pytest.raises(FileNotFoundError), replacing(path):
        pass
    assert path.read_text() == "old"


def test_the_hash_is_that_of_the_bytes(tmp_path: Path) -> None:
    content = os.urandom(3_000_000)
    (tmp_path / "a").write_bytes(content)
    assert sha256_of(tmp_path / "a") == hashlib.sha256(content).hexdigest()


def test_only_files_with_the_mark_or_without_content_may_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.html"
    check_replaceable(path, b"ours")
    path.touch()
    check_replaceable(path, b"ours")
    path.write_text("<!-- ours -->")
    check_replaceable(path, b"ours")
    path.write_text("<!-- another's -->")
    with pytest.raises(DataError, match="was not written by this command"):
        check_replaceable(path, b"ours")
    with pytest.raises(DataError, match="is a folder"):
        check_replaceable(tmp_path, b"ours")
