"""One order everywhere: rounding tells nothing apart, ties favor no place, flat maps stay flat."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from torch.nn.functional import interpolate

from dea import pixel_order
from faithfulness.core import InputError, PatchGrid
from faithfulness.core.ranking import (
    PIXEL_PRECISION,
    PRECISION,
    is_constant,
    keyed_permutation,
    quantize_rows,
    ranked_positions,
)
from faithfulness.core.resize import resize_exactly, resize_weights, sum_cells
from faithfulness.core.statistics import spearman_rows
from idsds import drop_scale, drops_of, rank_correlation

MODES = ("bilinear", "nearest", "area")
GRID = PatchGrid()


def noise(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("have", [(1, 1), (3, 5), (14, 14), (30, 9)])
def test_resizing_exactly_equals_torch_in_float64(have, mode):
    maps = noise(3, 2, *have)
    size = (28, 20)
    wanted = interpolate(maps, size=size, mode=mode, **({"align_corners": False} if mode == "bilinear" else {}))
    np.testing.assert_allclose(resize_exactly(maps, size, mode), wanted, rtol=0, atol=1e-12)
    rows, cols = (resize_weights(a, b, mode) for a, b in zip(have, size, strict=True))
    np.testing.assert_allclose(rows @ maps @ cols.T, wanted, rtol=0, atol=1e-12)
    by_hand = wanted.sum(dim=1).unflatten(2, (4, 5)).unflatten(1, (4, 7)).sum(dim=(2, 4)).flatten(1)
    np.testing.assert_allclose(sum_cells(maps, 4, 4, size, mode), by_hand, rtol=0, atol=1e-11)
    with pytest.raises(InputError, match="unknown resize mode"):
        sum_cells(maps, 4, 4, size, "lanczos")


@settings(max_examples=60, deadline=None)
@given(st.floats(-1e3, 1e3, width=32), st.integers(1, 9), st.integers(1, 9), st.sampled_from(["bilinear", "nearest"]))
def test_a_flat_map_is_flat_to_the_last_bit_and_ranks_nothing(value, height, width, mode):
    maps = torch.full((1, 1, height, width), value)
    fine = resize_exactly(maps, (64, 64), mode)
    assert (fine == maps[..., :1, :1].double()).all()
    order = pixel_order(maps, (64, 64), mode).argsort(dim=1)[0]
    assert torch.equal(order, keyed_permutation(64 * 64))
    sums = GRID.sum(maps, (64, 64), mode)
    assert rank_correlation(torch.arange(16.0)[None], sums).isnan().all()


def test_no_flat_map_counts_as_defined():
    values = noise(500, 1, 1, 1, dtype=torch.float32)
    rho = rank_correlation(noise(500, 16, seed=1), GRID.sum(values, (64, 64)))
    assert int(rho.isnan().sum()) == 500


def test_equal_corner_cells_tie_and_count_as_scipy_counts_ties():
    maps = noise(500, 1, 4, 4, dtype=torch.float32)
    maps[:, :, 3, 3] = maps[:, :, 0, 0]
    for a, b in (((0, 1), (3, 2)), ((1, 0), (2, 3)), ((1, 1), (2, 2))):  # what bilinear corners see
        maps[:, :, b[0], b[1]] = maps[:, :, a[0], a[1]]
    drops = noise(500, 16, seed=1)
    quantized = quantize_rows(GRID.sum(maps, (64, 64)))
    assert torch.equal(quantized[:, 0], quantized[:, 15])
    rho = rank_correlation(drops, GRID.sum(maps, (64, 64)))
    wanted = [spearmanr(d, s).statistic for d, s in zip(drops.numpy(), quantized.numpy(), strict=True)]
    np.testing.assert_allclose(rho, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("descending", [False, True])
def test_positions_are_sorted_by_quantized_value_then_by_key(descending):
    values = torch.randint(-3, 4, (3, 200), generator=torch.Generator().manual_seed(0)).double()
    key = keyed_permutation(200).argsort().tolist()
    for row, found in zip(values.tolist(), ranked_positions(values, descending=descending).tolist(), strict=True):
        sign = -1 if descending else 1
        assert found == sorted(range(200), key=lambda i, row=row: (sign * row[i], key[i]))


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e20])
def test_the_last_digits_change_no_order(scale):
    """Values with many ties, each changed by what another processor changes."""
    values = torch.randint(-20, 20, (4, 4096), generator=torch.Generator().manual_seed(0)).double() * scale / 7
    other = values * (1 + 1e-13 * noise(4, 4096)) + 1e-13 * scale * noise(4, 4096, seed=1)
    for descending in (False, True):
        assert torch.equal(
            ranked_positions(values, descending=descending), ranked_positions(other, descending=descending)
        )
    drops = noise(4, 4096, seed=2)
    assert torch.equal(spearman_rows(drops, values), spearman_rows(drops * (1 - 1e-14), other))


def test_ties_favor_no_part_of_the_image():
    order = keyed_permutation(64 * 64)
    assert torch.equal(order.sort().values, torch.arange(64 * 64))
    rows, cols = order[: 64 * 16] // 64, order[: 64 * 16] % 64
    for coordinate in (rows, cols):
        counts = torch.bincount(coordinate // 16, minlength=4)
        assert ((counts - 256).abs() < 60).all()  # σ 12; reading order gives 1024, 0, 0, 0


def test_quantized_values_are_whole_units_of_the_largest():
    values = torch.tensor([[4.0, -1.0, 1.0 + 1e-7, 0.0], [0.0, 0.0, 0.0, 0.0], [1.0, float("inf"), 0.0, 0.0]])
    quantized = quantize_rows(values)
    assert quantized[0].tolist() == [1 / PRECISION, -0.25 / PRECISION, 0.25 / PRECISION, 0]
    assert quantized[1].tolist() == [0, 0, 0, 0]
    assert not quantized[2].isfinite().all()
    assert is_constant(values).tolist() == [False, True, False]
    assert quantize_rows(values[:1], torch.tensor([4e6])).tolist() == [[1, 0, 0, 0]]
    assert PIXEL_PRECISION < PRECISION < 1e-6


def test_drops_within_the_rounding_of_their_logits_are_equal():
    """Logits near 1000 whose float32 digits are 6e-5: drops that small rank nothing."""
    whole, targets = torch.tensor([[0.0, 1000.0]]), torch.tensor([1])
    deleted = torch.tensor([[[0.0, 1000.0]]]).repeat(1, 16, 1)
    deleted[0, :, 1] += torch.randint(-2, 3, (16,), generator=torch.Generator().manual_seed(0)) * 6.1e-5
    drops, scale = drops_of(whole, deleted, targets), drop_scale(whole, deleted, targets)
    assert (drops != drops[:, :1]).any()
    assert is_constant(drops, scale).all()
    assert rank_correlation(drops, noise(1, 16), scale).isnan().all()
    assert scale.tolist() == [pytest.approx(1000)]
    deleted[0, 3, 1] = 1.0
    clearer = drops_of(whole, deleted, targets)
    assert not is_constant(clearer, scale).any()
    wanted = spearmanr(np.arange(16) == 3, noise(1, 16)[0]).statistic
    assert float(rank_correlation(clearer, noise(1, 16), scale)) == pytest.approx(wanted)
