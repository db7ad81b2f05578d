"""Which files of a folder are looked at, whatever they are called and however they are linked."""

import os
import shutil
import socket
import stat
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aladin.collection import Collection, default_place
from aladin.collection_writer import CollectionWriter
from aladin.encode import Encoder
from aladin.errors import DataError
from aladin.indexing import index_folder
from aladin.listing import FileState, Unlisted, list_images
from tests.conftest import paint

# Any bytes that a file system takes, in which a name ends like an image's.
names = st.binary(min_size=1, max_size=120).map(
    lambda raw: raw.replace(b"\0", b"0").replace(b"/", b"_").lstrip(b".")[:200] + b"x.png"
)


def listed(root: Path, follow: bool = False) -> set[str]:
    found = list(list_images(root, follow))
    paths = [item.path for item in found if isinstance(item, FileState)]
    assert len(paths) == len(set(paths))
    return set(paths)


@given(raw=st.lists(names, min_size=1, max_size=25, unique=True))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_any_name_is_listed_stored_found_and_removed(raw: list[bytes], tmp_path: Path, encoder: Encoder) -> None:
    root = tmp_path / "names"
    shutil.rmtree(root, ignore_errors=True)
    picture = paint(tmp_path / "red.png", "red").read_bytes()
    root.mkdir()
    for number, name in enumerate(raw):
        (root / os.fsdecode(name)).write_bytes(picture + bytes([number]))
    with CollectionWriter.create(default_place(root), root) as collection:
        assert index_folder(collection, encoder).added == len(raw)
        assert {os.fsencode(row.path) for row in collection.images("ok")} == set(raw)
        for name in raw:
            assert len(collection.ids_below(os.fsdecode(name))) == 1
        with collection.transaction():
            collection.remove(collection.ids_below(os.fsdecode(raw[0])))
        assert len(collection) == len(raw) - 1


def test_long_nested_paths_are_read_and_those_too_long_for_the_system_are_said(tmp_path: Path, encoder: Encoder) -> None:
    root = tmp_path / "deep"
    root.mkdir()
    here = os.open(root, os.O_RDONLY)
    for _ in range(20):  # 20 x 251 bytes: beyond what one path may have
        os.mkdir("d" * 250, dir_fd=here)
        below = os.open("d" * 250, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    paint(root / ("d" * 250) / ("d" * 250) / "a.png", "red")
    found = list(list_images(root))
    assert [item.path.count("/") for item in found if isinstance(item, FileState)] == [2]
    assert [item.reason for item in found if isinstance(item, Unlisted)] == ["cannot be listed (File name too long)"]
    subprocess.run(["rm", "-rf", root], check=True)


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
    place = default_place(linked)
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
    place, scandir = default_place(linked), os.scandir

    def refused(path: str) -> object:
        if path.endswith("sub"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    with CollectionWriter.create(place, linked) as collection:
        index_folder(collection, encoder)
        monkeypatch.setattr("aladin.listing.os.scandir", refused)
        report = index_folder(collection, encoder)
        assert report.skipped == {"cannot be listed": 1}
        assert (report.offline, len(collection)) == (0, 2)


def test_a_sidecar_s_time_counts_as_its_image_s(tmp_path: Path, encoder: Encoder) -> None:
    paint(tmp_path / "a.png", "red")
    with CollectionWriter.create(default_place(tmp_path), tmp_path) as collection:
        index_folder(collection, encoder)
        (tmp_path / "a.png.json").write_text('{"place": "sea"}')
        assert index_folder(collection, encoder).unchanged == 1
        with Collection.open(default_place(tmp_path)) as reader:
            assert next(reader.images()).metadata == {"sidecar": {"place": "sea"}}
        (tmp_path / "a.png.json").unlink()
        index_folder(collection, encoder)
        assert next(collection.images()).metadata == {}


def test_a_file_for_a_folder_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read: Not a directory"):
        list(list_images(paint(tmp_path / "a.png", "red")))
