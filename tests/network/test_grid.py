from pathlib import Path

import numpy as np
import pytest
import torch
from efficientnet_lite_pytorch import EfficientNet
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from aladin.network.grid import NETWORKS, GridNetwork, cell_geometry, cell_pooling, class_names, cut, grid_network, top_classes
from aladin.pictures.fitting import Fitting
from aladin.pictures.pixels import open_image, to_pixels
from tests.tiny_learning import SIZE, picture, revive

PHOTOS = Path(__file__).parents[2] / "examples" / "photos"


NAMES = tuple(NETWORKS)


def library_network(name: str) -> nn.Module:
    """The library's network with random weights, and batch norms that have seen something."""
    torch.manual_seed(NAMES.index(name))
    network = EfficientNet.from_name(name, image_size=SIZE)
    revive(network)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return network.eval()


@pytest.fixture(scope="module")
def network() -> GridNetwork:
    """All networks, one beside the other."""
    return GridNetwork(NAMES, [cut(library_network(name), NETWORKS[name].trunk_blocks) for name in NAMES])


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    return torch.from_numpy(np.stack([picture(0), picture(7)]))


@torch.no_grad()
def test_folded_batch_norms_leave_features_and_logits_as_the_library_computes_them(
    network: GridNetwork, pixels: torch.Tensor
) -> None:
    normalised = (pixels.permute(0, 3, 1, 2).float() - 127) / 128
    maps = network.maps(pixels)
    actual = network.regions(maps)
    assert actual.shape == (2, 4, len(NAMES) * 1280)
    for name, part in zip(NAMES, actual.split(1280, dim=2), strict=True):
        expected = library_network(name).extract_features(normalised)
        scale = expected.std().item()
        assert scale > 0.01
        for row, column in np.ndindex(2, 2):  # regions stand in reading order
            assert_close(part[:, 2 * row + column], expected[:, :, row, column], atol=1e-3 * scale, rtol=1e-3)
    logits = library_network(NAMES[-1])(normalised)
    assert_close(network.class_logits(maps), logits, atol=1e-3 * logits.std().item(), rtol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_a_network_alone_gives_its_own_features(name: str, network: GridNetwork, pixels: torch.Tensor) -> None:
    alone = GridNetwork([name], [cut(library_network(name), NETWORKS[name].trunk_blocks)])
    maps = alone.maps(pixels)
    assert maps.shape == (2, alone.map_channels, SIZE // 16, SIZE // 16)
    own = slice(1280 * NAMES.index(name), 1280 * (NAMES.index(name) + 1))
    assert_close(alone.regions(maps), network.regions(network.maps(pixels))[:, :, own])


def test_no_batch_norm_is_left_to_learn_from_the_batch(network: GridNetwork) -> None:
    assert not [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


def test_only_the_tail_of_the_regions_learns(network: GridNetwork, pixels: torch.Tensor) -> None:
    before = {name: weight.clone() for name, weight in network.state_dict().items()}
    network.zero_grad()
    maps = network.maps(pixels)
    loss = network.regions(maps).square().mean()
    loss.backward()
    learners = {name for name, weight in network.named_parameters() if weight.requires_grad}
    assert learners
    assert all(name.startswith("region_tails.") for name in learners)
    assert all(weight.grad is not None for name, weight in network.named_parameters() if name in learners)
    logits = network.class_logits(maps)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if name in learners:
                weight += 0.01
    assert not torch.allclose(network.regions(maps).square().mean(), loss)
    assert torch.equal(network.class_logits(maps), logits)  # tags come from a tail of their own
    network.load_state_dict(before)


def test_the_cells_of_a_grid_have_the_geometry_that_a_ruler_gives() -> None:
    expected = [
        # x1, y1, x2, y2, width, height: left to right, then down
        [0.0, 0.0, 0.5, 0.5, 0.5, 0.5],
        [0.5, 0.0, 1.0, 0.5, 0.5, 0.5],
        [0.0, 0.5, 0.5, 1.0, 0.5, 0.5],
        [0.5, 0.5, 1.0, 1.0, 0.5, 0.5],
    ]
    assert cell_geometry(2).tolist() == expected
    assert_close(cell_geometry(7)[7 * 3 + 5], torch.tensor([5 / 7, 3 / 7, 6 / 7, 4 / 7, 1 / 7, 1 / 7]))


@given(cells=st.integers(1, 12), grid=st.integers(1, 12))
def test_pooling_weighs_each_cell_by_the_area_that_it_shares_with_the_region(cells: int, grid: int) -> None:
    fine = cells * grid  # a raster in which every cell and every region is made of whole points
    points = torch.arange(fine)
    of_cell, of_region = points // grid, points // cells
    expected = torch.zeros(grid, cells)
    expected.index_put_((of_region, of_cell), torch.tensor(1 / cells), accumulate=True)
    assert_close(cell_pooling(cells, grid), torch.kron(expected, expected))


def test_there_is_a_name_for_each_of_the_1000_classes() -> None:
    names = class_names()
    assert len(names) == 1000
    assert all(name and name == name.strip() for name in names)
    assert (names[0], names[1], names[207], names[999]) == ("tench", "goldfish", "golden retriever", "toilet tissue")


def test_the_top_classes_are_the_most_likely_ones_best_first() -> None:
    logits = torch.tensor([[0.1, 5.0, 3.0, -1.0], [9.0, 1.0, 2.0, 8.0]])
    assert top_classes(logits, 2).tolist() == [[1, 2], [0, 3]]
    assert top_classes(logits, 0).shape == (2, 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("photo", "sensible"),
    [
        ("photo-013.jpg", {"triumphal arch", "palace", "castle", "viaduct", "dome", "monastery"}),  # the Colosseum
        ("photo-014.jpg", {"ox"}),  # a cow
        ("photo-022.jpg", {"macaw"}),
        ("photo-037.jpg", {"espresso", "cup", "coffee mug"}),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_a_photograph_gets_a_sensible_class_first(photo: str, sensible: set[str], name: str) -> None:
    pixels = torch.tensor(to_pixels(open_image(PHOTOS / photo), Fitting(224)))[None]
    network = grid_network([name])
    with torch.no_grad():
        best = top_classes(network.class_logits(network.maps(pixels)), 1)
    assert class_names()[best.item()] in sensible
