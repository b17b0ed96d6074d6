"""Cell sums, localization, impossible attribution, and the metric over them."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from difull import impossible_attribution, localization_score
from faithfulness.core import InputError
from faithfulness.core.resize import area_weights, sum_cells
from tests.reference.grids import slow_cell_shares


def random_maps(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(0, 99))
def test_scores_are_area_exact_at_any_resolution(height, width, scale, seed):
    maps = random_maps(3, 1, height, width, seed=seed)
    for cell in range(scale**2):
        for value, score in zip(maps[:, 0].numpy(), localization_score(maps, cell, scale).tolist(), strict=True):
            shares = slow_cell_shares(value, scale)
            expected = shares[cell] / shares.sum() if shares.sum() > 0 else 0
            assert math.isclose(score, expected, rel_tol=1e-9, abs_tol=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 30), st.integers(1, 12))
def test_area_weights_share_out_every_pixel(pixels, bins):
    weights = area_weights(pixels, bins)
    assert torch.allclose(weights.sum(dim=0), torch.ones(pixels, dtype=torch.float64))
    assert torch.allclose(weights.sum(dim=1), torch.full((bins,), pixels / bins, dtype=torch.float64))
    if pixels % bins == 0:
        assert set(weights.unique().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("scale", [1, 2, 3])
@pytest.mark.parametrize("side", [6, 7, 12])
def test_a_uniform_map_scores_one_over_the_number_of_cells(scale, side):
    scores = localization_score(torch.full((2, 1, side, side), 0.3), 0, scale)
    assert torch.allclose(scores, torch.full((2,), 1 / scale**2, dtype=torch.float64))


def test_a_local_map_scores_exactly_one_but_not_once_it_is_upsampled():
    maps = torch.zeros(1, 1, 6, 6)
    maps[..., 3:, 3:] = random_maps(1, 1, 3, 3).float().abs() * 1e-30
    assert localization_score(maps, 3, 2).item() == 1.0
    smeared = localization_score(maps, 3, 2, upsample="bilinear", size=(48, 48)).item()
    assert 0.8 < smeared < 1
    assert localization_score(maps, 3, 2, upsample="nearest", size=(48, 48)).item() == 1.0
    assert localization_score(maps * 1e30, 3, 2, "bilinear", (48, 48)).item() == pytest.approx(smeared, rel=1e-5)


def test_negative_attribution_counts_after_the_channel_sum_only():
    maps = torch.tensor([[[[2.0, 1.0], [-3.0, 0.0]], [[-1.0, 0.0], [1.0, 0.0]]]])
    assert localization_score(maps, 0, 2).item() == 0.5
    assert localization_score(maps, 2, 2).item() == 0
    assert impossible_attribution(maps, 0, 2).item() == pytest.approx(3 / 4)


def test_a_cell_for_each_map():
    maps = random_maps(5, 1, 6, 6)
    cells = torch.tensor([0, 3, 1, 1, 2])
    for score in (localization_score, impossible_attribution):
        each = [score(maps[i : i + 1], int(cell), 2).item() for i, cell in enumerate(cells)]
        assert score(maps, cells, 2).tolist() == each


def test_maps_without_positive_attribution_score_zero_or_as_asked():
    maps = torch.stack([torch.zeros(1, 4, 4), -torch.ones(1, 4, 4), torch.ones(1, 4, 4)])
    assert localization_score(maps, 0, 2).tolist() == [0, 0, 0.25]
    assert localization_score(maps, 0, 2, undefined=math.nan).isnan().tolist() == [True, True, False]
    assert impossible_attribution(maps, 0, 2).tolist() == [0, 0.75, 0.75]
    assert impossible_attribution(maps, 0, 2, undefined=math.nan).isnan().tolist() == [True, False, False]


def test_impossible_attribution_is_what_the_cell_leaves():
    maps = random_maps(4, 2, 9, 9)
    absolute = maps.sum(dim=1, keepdim=True).abs()
    for cell in range(9):
        rest = 1 - localization_score(absolute, cell, 3)
        assert torch.allclose(impossible_attribution(maps, cell, 3), rest, rtol=1e-12)


def test_impossible_attribution_by_a_measured_region():
    maps = random_maps(3, 1, 8, 8)
    cell = torch.zeros(4, 4, dtype=torch.bool)
    cell[:2, 2:] = True
    assert torch.allclose(impossible_attribution(maps, 0, 2, possible=cell), impossible_attribution(maps, 1, 2))
    everything = torch.ones(4, 4, dtype=torch.bool)
    assert impossible_attribution(maps, 0, 2, possible=everything).tolist() == [0, 0, 0]
    fine = torch.rand(24, 24, generator=torch.Generator().manual_seed(0)) < 0.4
    outside = (~fine).double().view(8, 3, 8, 3).mean(dim=(1, 3))
    expected = (maps[:, 0].abs() * outside).sum(dim=(1, 2)) / maps[:, 0].abs().sum(dim=(1, 2))
    assert torch.allclose(impossible_attribution(maps, 0, 2, possible=fine), expected)


def test_cell_sums_keep_signs_and_mass():
    maps = random_maps(3, 2, 5, 7)
    assert torch.allclose(sum_cells(maps, 3, 3).sum(dim=1), maps.sum(dim=(1, 2, 3)))
    assert torch.allclose(sum_cells(-maps, 3, 3), -sum_cells(maps, 3, 3))


def test_refusals():
    maps = torch.ones(2, 1, 4, 4)
    with pytest.raises(InputError, match=r"needs size=\(height, width\)"):
        localization_score(maps, 0, 2, upsample="bilinear")
    with pytest.raises(InputError, match="unknown resize mode"):
        localization_score(maps, 0, 2, upsample="lanczos", size=(8, 8))
    with pytest.raises(InputError, match="must lie in 0 … 3, got 4"):
        localization_score(maps, 4, 2)
    with pytest.raises(InputError, match="cells must lie in 0 … 3"):
        localization_score(maps, torch.tensor([0, -1]), 2)
    with pytest.raises(InputError, match="NaN or infinite values in 1 of 2"):
        localization_score(torch.stack([maps[0], maps[0] * math.inf]), 0, 2)
