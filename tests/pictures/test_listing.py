"""Which files of a folder are looked at, whatever they are called and however they are linked."""

import os
import shutil
import socket
import stat
import subprocess
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aladin.cli.remove import _ids_of
from aladin.collection.indexing import index_folder
from aladin.collection.settings import IndexConfig
from aladin.collection.sqlite import Collection
from aladin.collection.store import default_file
from aladin.collection.writer import CollectionWriter
from aladin.encoder.encoder import Encoder
from aladin.errors import DataError
from aladin.pictures.boxes import Box
from aladin.pictures.listing import FileState, Unlisted, list_images
from aladin.search.duplicates import find_duplicates
from aladin.search.encoding import encode_query
from aladin.search.explain import explain_file
from aladin.search.query import ImagePart, Query, TextPart
from aladin.search.search import Searcher
from aladin.server.files import read_below
from tests.conftest import paint


def image_name(raw: bytes) -> bytes:
    """A name as a file system takes it, which ends like an image's, of any bytes."""
    return raw.replace(b"\0", b"0").replace(b"/", b"_").lstrip(b".")[:200] + b"x.png"


def listed(root: Path, follow: bool = False) -> set[str]:
    found = list(list_images(root, follow))
    paths = [item.path for item in found if isinstance(item, FileState)]
    assert len(paths) == len(set(paths))
    return set(paths)


@pytest.mark.slow
@given(raw=st.lists(st.binary(min_size=1, max_size=120).map(image_name), min_size=1, max_size=25, unique=True))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_any_name_is_listed_stored_found_and_removed(raw: list[bytes], tmp_path: Path, encoder: Encoder) -> None:
    names_are_kept(raw, tmp_path, encoder)


def names_are_kept(raw: list[bytes], scratch: Path, encoder: Encoder) -> None:
    """Files of these names are indexed under them, found by them and removed by them."""
    root = scratch / "names"
    shutil.rmtree(root, ignore_errors=True)
    picture = paint(scratch / "red.png", "red").read_bytes()
    root.mkdir()
    for number, name in enumerate(raw):
        (root / os.fsdecode(name)).write_bytes(picture + number.to_bytes(2))
    with CollectionWriter.create(default_file(root), root) as collection:
        assert index_folder(collection, encoder).added == len(raw)
        assert {os.fsencode(row.path) for row in collection.images("ok")} == set(raw)
        for name in raw:
            assert len(collection.ids_below(os.fsdecode(name))) == 1
        with collection.transaction():
            collection.remove(collection.ids_below(os.fsdecode(raw[0])))
        assert len(collection) == len(raw) - 1


@pytest.mark.slow
def test_an_image_at_a_path_longer_than_the_system_takes_is_as_good_as_any(tmp_path: Path, encoder: Encoder) -> None:
    """Found, asked by, explained by its copy, compared, gone, back, and removed; its sidecar is read."""
    root, picture = tmp_path / "deep", paint(tmp_path / "red.png", "red").read_bytes()
    root.mkdir()
    paint(root / "blue.png", "blue")
    path = "/".join(["d" * 250] * 20) + "/red.png"  # 5,027 bytes
    above = make_deep(root, path, {"red.png": picture, "red.png.json": b'{"place": "sea"}'})
    place = default_file(root)
    with CollectionWriter.create(place, root) as collection:
        assert index_folder(collection, encoder).added == 2
        assert index_folder(collection, encoder).unchanged == 2
        row = collection.row_at(path)
        assert row is not None
        assert (row.status, row.metadata) == ("ok", {"sidecar": {"place": "sea"}})
        searcher = Searcher(collection, encoder)
        assert [hit.path for hit in searcher.search(Query((TextPart("red"),))).hits] == [path, "blue.png"]
        assert [hit.path for hit in searcher.search(Query((ImagePart(root / path),))).hits] == ["blue.png"]
        assert searcher.search(Query((ImagePart(row.id, box=Box(0, 0, 9, 9)),))).searched == 1
        assert read_below(root, path) == picture  # as the server reads it
        again = explain_file(encode_query(Query((TextPart("red"),)), encoder), root / path, encoder)
        assert again == searcher.explain(Query((TextPart("red"),)), row.id)
        os.close(make_deep(root, path, {"copy.png": picture}))
        index_folder(collection, encoder)
        assert [[found.path for found in group.images] for group in find_duplicates(collection).groups] == [
            [path, path.replace("red", "copy")]
        ]
        assert _ids_of(collection, root, root / path) == _ids_of(collection, root, Path(path)) == [row.id]
        os.unlink("red.png", dir_fd=above)
        assert index_folder(collection, encoder, IndexConfig(confirm_deletes=True)).forgotten == 1
    os.close(above)
    assert [item for item in list_images(root) if isinstance(item, Unlisted)] == []
    subprocess.run(["rm", "-rf", root], check=True)


def test_a_moved_folder_is_known_by_an_image_at_a_long_path(tmp_path: Path, encoder: Encoder) -> None:
    root, place = tmp_path / "deep", tmp_path / "c.sqlite"
    path = "/".join(["d" * 250] * 20) + "/red.png"
    root.mkdir()
    os.close(make_deep(root, path, {"red.png": paint(tmp_path / "red.png", "red").read_bytes()}))
    with CollectionWriter.create(place, root) as collection:
        index_folder(collection, encoder)
    root.rename(tmp_path / "moved")
    with CollectionWriter.create(place, tmp_path / "moved") as collection:
        assert index_folder(collection, encoder).unchanged == 1
    subprocess.run(["rm", "-rf", tmp_path / "moved"], check=True)


def make_deep(root: Path, path: str, contents: dict[str, bytes]) -> int:
    """Files in the folder of a path too long to be named at once; a descriptor of that folder."""
    here = os.open(root, os.O_RDONLY)
    for name in path.split("/")[:-1]:
        with suppress(FileExistsError):
            os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    for name, content in contents.items():
        with os.fdopen(os.open(name, os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=here), "wb") as file:
            file.write(content)
    return here


# F2: links and things that are no files.


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """A folder with every kind of link, and what they lead to."""
    root, outside = tmp_path / "root", tmp_path / "outside"
    paint(root / "a.png", "red")
    paint(root / "sub" / "b.png", "blue")
    paint(outside / "secret.png", "green")
    paint(outside / "deep" / "c.png", "pink")
    (root / "loop").symlink_to(root)
    (root / "sub" / "up").symlink_to("..")
    (root / "self.png").symlink_to("self.png")
    (root / "dangling.png").symlink_to("nowhere.png")
    (root / "file out.png").symlink_to(outside / "secret.png")
    (root / "folder out").symlink_to(outside)
    (root / "again.png").symlink_to("a.png")
    os.link(root / "a.png", root / "hard.png")
    os.mkfifo(root / "pipe.png")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(root / "socket.png"))
    return root


def test_without_following_nothing_outside_is_listed_and_each_file_once(linked: Path) -> None:
    assert listed(linked) == {"a.png", "sub/b.png"}


def test_following_lists_what_links_lead_to_each_folder_once(linked: Path) -> None:
    paths = listed(linked, follow=True)
    assert {"a.png", "sub/b.png", "file out.png", "folder out/secret.png", "folder out/deep/c.png"} <= paths
    assert not any(path.startswith(("loop", "sub/up")) for path in paths)


def test_what_is_passed_over_is_told_by_kind(linked: Path) -> None:
    told: Counter[str] = Counter()
    list(list_images(linked, ignored=lambda kind: told.update([kind])))
    assert told == {"link": 7, "the same file as another": 1, "pipe, socket or device": 2}


def test_a_device_is_passed_over(tmp_path: Path) -> None:
    try:
        os.mknod(tmp_path / "null.png", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("devices cannot be made here")
    assert listed(tmp_path) == set()


def test_a_folder_mounted_into_itself_is_listed_once(tmp_path: Path) -> None:
    root = tmp_path / "root"
    paint(root / "a.png", "red")
    (root / "inside").mkdir()
    if subprocess.run(["mount", "--bind", root, root / "inside"], capture_output=True, check=False).returncode:
        pytest.skip("folders cannot be mounted here")
    try:
        assert listed(root) == listed(root, follow=True) == {"a.png"}
    finally:
        subprocess.run(["umount", "-l", root / "inside"], check=True)


def test_hard_links_are_one_image_and_the_other_takes_over(linked: Path, encoder: Encoder) -> None:
    place = default_file(linked)
    with CollectionWriter.create(place, linked) as collection:
        index_folder(collection, encoder)
        number = collection.ids_below("a.png")
        (linked / "a.png").unlink()
        report = index_folder(collection, encoder)
        assert (report.moved, report.added) == (1, 0)
        assert collection.ids_below("hard.png") == number


def test_a_folder_that_cannot_be_listed_makes_nothing_offline(
    linked: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, scandir = default_file(linked), os.scandir

    def refused(path: str) -> object:
        if path.endswith("sub"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    with CollectionWriter.create(place, linked) as collection:
        index_folder(collection, encoder)
        monkeypatch.setattr("aladin.pictures.listing.os.scandir", refused)
        report = index_folder(collection, encoder)
        assert report.skipped == {"cannot be listed": 1}
        assert (report.offline, len(collection)) == (0, 2)


def test_a_sidecar_s_time_counts_as_its_image_s(tmp_path: Path, encoder: Encoder) -> None:
    paint(tmp_path / "a.png", "red")
    with CollectionWriter.create(default_file(tmp_path), tmp_path) as collection:
        index_folder(collection, encoder)
        (tmp_path / "a.png.json").write_text('{"place": "sea"}')
        assert index_folder(collection, encoder).unchanged == 1
        with Collection.open(default_file(tmp_path)) as reader:
            assert next(reader.images()).metadata == {"sidecar": {"place": "sea"}}
        (tmp_path / "a.png.json").unlink()
        index_folder(collection, encoder)
        assert next(collection.images()).metadata == {}


def test_a_file_for_a_folder_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read: Not a directory"):
        list(list_images(paint(tmp_path / "a.png", "red")))
