"""Tars whose entries hold a detector's regions, and the order in which tars are read."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from aladin.datasets import read_dataset
from aladin.datasets.sources import TarDetections, TarMember
from aladin.errors import DataError
from aladin.training.learning_set import shards_of

NUMBERS = 9


def npz(**arrays: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


def boxes(seed: int, count: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, NUMBERS)).astype(np.float32)


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for shard in range(3):
        members = {}
        for number in range(2):
            regions = npz(regions=boxes(10 * shard + number), classes=np.array(["dog", "red ball"]))
            members |= {f"{number}.npz": regions, f"{number}.txt": f"a dog {shard}{number}".encode()}
        write_tar(tmp_path / f"{shard}.tar", members)
    return tmp_path


def test_an_entrys_npz_is_a_detectors_regions(folder: Path) -> None:
    dataset = read_dataset(folder)
    assert dataset.captions == ("a dog 00", "a dog 01", "a dog 10", "a dog 11", "a dog 20", "a dog 21")
    for example, seed in zip(dataset.examples, (0, 1, 10, 11, 20, 21), strict=True):
        assert isinstance(example.source, TarDetections)
        found = example.source.detections(NUMBERS)
        assert np.array_equal(found.boxes, boxes(seed))
        assert np.array_equal(example.source.detections(NUMBERS, 2).boxes, boxes(seed)[:2])
        assert found.objects.names == ("dog", "red ball")
    numbers = shards_of(dataset)
    assert numbers is not None
    assert numbers.tolist() == [0, 0, 1, 1, 2, 2]


def test_a_photograph_beside_it_counts(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", {"0.npz": npz(regions=boxes(0)), "0.jpg": b"photograph", "0.txt": b"a"})
    (example,) = read_dataset(tmp_path / "0.tar").examples
    assert isinstance(example.source, TarMember)
    assert (example.id, example.source.read()) == ("0.jpg", b"photograph")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            npz(regions=boxes(0)[:0]),
            r"'0.npz' in .*0.tar has 0 boxes of 9 numbers, all finite; expected at least one of 12 finite",
        ),
        (npz(regions=boxes(0)), r"'0.npz' in .*0.tar has 3 boxes of 9 numbers, all finite; expected at least one of 12 finite"),
        (npz(regions=boxes(0) * np.nan), r"has 3 boxes of 9 numbers, not all finite"),
        (npz(other=boxes(0)), r"'0.npz' in .*0.tar holds other, but no features"),
        (b"no zip", r"'0.npz' in .*0.tar cannot be read as .npz"),
    ],
)
def test_an_npz_that_holds_something_else_is_named_with_its_tar(tmp_path: Path, content: bytes, message: str) -> None:
    write_tar(tmp_path / "0.tar", {"0.npz": content, "0.txt": b"a"})
    (example,) = read_dataset(tmp_path / "0.tar").examples
    assert isinstance(example.source, TarDetections)
    with pytest.raises(DataError, match=message):
        example.source.detections(12)


def test_photographs_of_tars_come_in_the_order_in_which_they_stand_there(tmp_path: Path) -> None:
    for shard in (1, 0, 2):
        members = {f"{number}.{kind}": b"x" for number in (3, 0, 2, 1) for kind in ("txt", "jpg")}
        write_tar(tmp_path / f"{shard}.tar", members)
    sources = [example.source for example in read_dataset(tmp_path).examples]
    places = [(source.path.name, source.offset) for source in sources if isinstance(source, TarMember)]
    assert len(places) == 12
    assert places == sorted(places)  # so features are computed tar by tar, each from its beginning to its end
