"""Which pixels may matter to a head: as measured, and by construction."""

import pytest
import torch
from torch import nn

from difull import DiFull, DiPart, GridPG, impossible_attribution, influence_map, receptive_region
from difull.direct_convolutions import direct_convolutions
from difull.locality import measure_extent
from faithfulness.attribution import create_attribution
from faithfulness.core import InputError
from tests.reference.grids import MODELS, SIDE, grid_side, plain_cnn, random_grids, receptive_field_1d, tiny_vit
from tests.reference.leaky_settings import SqueezeExcite, SwallowsNaN

KERNELS = [(3, 1, 1), (5, 2, 2), (3, 1, 1)]


def region_by_hand(cell, side=SIDE, kernels=KERNELS):
    """The receptive field of a 2×2 grid's cell as a bool map."""
    part = side // 4
    spans = [receptive_field_1d(i * part, (i + 1) * part - 1, side, kernels) for i in divmod(cell, 2)]
    region = torch.zeros(side, side, dtype=torch.bool)
    region[spans[0][0] : spans[0][1] + 1, spans[1][0] : spans[1][1] + 1] = True
    return region


@pytest.mark.parametrize("cell", range(4))
@pytest.mark.parametrize("block", [1, 4])
def test_influence_in_dipart_is_the_receptive_field_by_hand(cell, block):
    found = influence_map(DiPart(plain_cnn(), 2), random_grids(1), cell, block)
    by_hand = region_by_hand(cell).unflatten(0, (-1, block)).unflatten(2, (-1, block)).any(dim=3).any(dim=1)
    assert torch.equal(found, by_hand)


@pytest.mark.parametrize("name", MODELS)
def test_influence_in_difull_is_the_cell(name):
    side = grid_side(name)
    found = influence_map(DiFull(MODELS[name](), 2), random_grids(1, side), 2, block=side // 4)
    expected = torch.zeros(4, 4, dtype=torch.bool)
    expected[2:, :2] = True
    assert torch.equal(found, expected)


@pytest.mark.parametrize("setting", [GridPG, DiPart])
def test_influence_of_a_transformer_is_everything(setting):
    assert influence_map(setting(tiny_vit(depth=2), 2), random_grids(1, 128), 1, block=32).all()


def test_influence_at_a_layer_and_on_tokens():
    part = influence_map(DiPart(plain_cnn(), 2), random_grids(1), 0, block=1, layer="middle")
    expected = torch.zeros(16, 16, dtype=torch.bool)
    expected[:9, :9] = True  # the part's 8 and what the last 3×3 kernel adds
    assert torch.equal(part, expected)
    tokens = influence_map(DiFull(tiny_vit(), 2), random_grids(1, 128), 3, block=2, layer="middle")
    assert tokens.shape == (4, 4)
    assert tokens.nonzero().tolist() == [[2, 2], [2, 3], [3, 2], [3, 3]]


def test_influence_sees_what_swallows_nan():
    swallow = influence_map(DiPart(plain_cnn(SwallowsNaN()), 2), random_grids(1), 0, block=8)
    assert swallow.all()
    assert not influence_map(DiPart(plain_cnn(), 2), random_grids(1), 0, block=8).all()


def test_influence_in_training_mode_keeps_the_blocks_apart():
    backbone = plain_cnn(nn.BatchNorm2d(8)).train()
    assert influence_map(DiPart(backbone, 2), random_grids(1), 0, block=8).all()
    expected = torch.zeros(4, 4, dtype=torch.bool)
    expected[:2, :2] = True
    assert torch.equal(influence_map(DiFull(backbone, 2), random_grids(1), 0, block=8), expected)


def test_influence_refuses_blocks_that_dont_fit():
    with pytest.raises(InputError, match="blocks of 5 don't divide the 32×32 map"):
        influence_map(DiPart(plain_cnn(), 2), random_grids(1), block=5)


@pytest.mark.parametrize("cell", range(4))
def test_receptive_region_is_the_receptive_field_by_hand(cell):
    region, found = receptive_region(DiPart(plain_cnn(), 2), random_grids(), cell)
    assert torch.equal(region, region_by_hand(cell))
    assert not found


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.Conv2d(2, 2, 3, padding=1), (1, 1, 1)),
        (nn.Conv2d(2, 2, 3, 2, 1), (2, 1, 1)),
        (nn.Conv2d(2, 2, 7, 4, 3), (4, 3, 3)),
        (nn.Conv2d(2, 2, 3, padding=4, dilation=4), (1, 4, 4)),
        (nn.Conv2d(2, 2, 4, 4), (4, 0, 3)),
        (nn.Conv2d(2, 2, 5), (1, 0, 4)),
        (nn.Conv2d(2, 2, 31, padding=15), (1, 15, 15)),
        (nn.Conv2d(2, 2, 5, padding=60, dilation=30), (1, 60, 60)),
        (nn.MaxPool2d(3, 2, 1), (2, 1, 1)),
        (nn.ReLU(), (1, 0, 0)),
        (nn.BatchNorm2d(2).eval(), (1, 0, 0)),
        (nn.Upsample(scale_factor=2), (0.5, 0, 0)),
        (nn.Sequential(nn.MaxPool2d(2), nn.Upsample(scale_factor=2)), (1, 1, 1)),
        (nn.Sequential(nn.MaxPool2d(4), nn.Upsample(scale_factor=2)), (2, 2, 3)),
    ],
)
@pytest.mark.parametrize("size", [9, 12])
def test_extent_of_a_step(module, expected, size):
    with direct_convolutions(module):
        extents = measure_extent(module, torch.randn(1, 2, size, size))
    for extent in extents:
        assert (extent.stride, extent.before, extent.after) == expected


class RunningSum(nn.Module):
    """Each column reads all to its left, or all to its right."""

    def __init__(self, backwards):
        super().__init__()
        self.backwards = backwards

    def forward(self, x):
        return x.flip(3).cumsum(3).flip(3) if self.backwards else x.cumsum(3)


@pytest.mark.parametrize(
    "module",
    [
        SqueezeExcite(2),
        nn.GroupNorm(1, 2),
        nn.BatchNorm2d(2),
        nn.AdaptiveAvgPool2d(1),
        RunningSum(False),
        RunningSum(True),
        SwallowsNaN(),
    ],
)
def test_what_is_not_local_reaches_across_every_canvas(module):
    with direct_convolutions(module):
        assert measure_extent(module, torch.randn(1, 2, 9, 9)) is None


def test_measured_influence_and_gradient_attribution_agree():
    setting = DiPart(plain_cnn(), 2)
    possible = influence_map(setting, random_grids(1), 3, block=1)
    maps = create_attribution("ixg", setting, cell=3)(random_grids(), torch.tensor([0, 1]))
    assert impossible_attribution(maps, 3, 2, possible=possible).tolist() == [0, 0]
    assert (impossible_attribution(maps, 3, 2) > 0.01).all()
