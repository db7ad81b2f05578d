from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aladin.datasets import Dataset, Example, FileOnDisk
from aladin.errors import DataError
from aladin.measures.protocols import PROTOCOLS, Protocol, chosen, digest, folds


def dataset(images: int, captions: int = 5) -> Dataset:
    def example(number: int) -> Example:
        texts = tuple(f"caption {k} of {number}" for k in range(captions))
        return Example(f"{number}.jpg", texts, "test", FileOnDisk(Path(f"{number}.jpg")))

    return Dataset(tuple(example(number) for number in range(images)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "images", "used"),
    [
        ("full", 7, 7),
        ("coco-5k", 5000, 5000),
        ("coco-1k", 5000, 1000),
        ("coco-1k", 1000, 1000),
        ("coco-1k-5fold", 5000, 5000),
        ("flickr30k", 1000, 1000),
        ("flickr8k", 1000, 1000),
    ],
)
def test_a_protocol_takes_the_first_images_of_data_of_its_size(name: str, images: int, used: int) -> None:
    data = dataset(images)
    assert chosen(data, PROTOCOLS[name]).examples == data.examples[:used]


@pytest.mark.parametrize("name", [name for name in PROTOCOLS if name != "full"])
def test_data_of_another_size_are_refused(name: str) -> None:
    with pytest.raises(DataError, match=rf"the data have 1,014 images where the protocol {name} expects [15],000"):
        chosen(dataset(1014), PROTOCOLS[name])


def test_five_captions_of_each_image_are_taken_and_fewer_are_refused() -> None:
    data = dataset(1000, captions=6)
    assert {example.captions[-1][:9] for example in chosen(data, PROTOCOLS["flickr8k"]).examples} == {"caption 4"}
    assert chosen(data, PROTOCOLS["full"]) == data
    with pytest.raises(DataError, match=r"image '0.jpg' has 4 captions where the protocol flickr8k expects 5 of each"):
        chosen(dataset(1000, captions=4), PROTOCOLS["flickr8k"])


@given(counts=st.lists(st.integers(1, 4), min_size=5, max_size=5), number=st.sampled_from([1, 5]))
def test_folds_are_consecutive_and_hold_the_captions_of_their_images(counts: list[int], number: int) -> None:
    owners = np.repeat(np.arange(5), counts)
    found = folds(counts, Protocol("of five images", None, None, (), number))
    assert [fold.images for fold in found] == [slice(k, k + 5 // number) for k in range(0, 5, 5 // number)]
    for fold in found:
        assert set(owners[fold.captions]) == set(range(5)[fold.images])
    assert sum(len(owners[fold.captions]) for fold in found) == len(owners)


def test_the_folds_of_coco_are_five_of_a_thousand_images() -> None:
    found = folds([5] * 5000, PROTOCOLS["coco-1k-5fold"])
    assert [fold.images.start for fold in found] == [0, 1000, 2000, 3000, 4000]
    assert found[4].captions == slice(20000, 25000)


def test_the_digest_tells_other_captions_images_and_orders_apart() -> None:
    data = dataset(3)
    others = [dataset(2), dataset(3, captions=4), Dataset(data.examples[::-1])]
    assert digest(data) == digest(dataset(3))
    assert len({digest(data), *map(digest, others)}) == 4
