"""AggAtt's sorting, bins and means."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from difull import aggregate
from difull.aggregation import EDGES, cut_bins, sort_by_score
from faithfulness.core import InputError


def maps_and_scores(count=100, side=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 1, side, side, generator=generator), torch.rand(count, generator=generator)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 500))
def test_every_map_is_in_exactly_one_bin(count):
    bins = cut_bins(count)
    assert [i for part in bins for i in range(part.start, part.stop)] == list(range(count))
    for part, (low, high) in zip(bins, pairwise(EDGES), strict=True):
        assert abs((part.stop - part.start) - (high - low) * count) <= 1


def test_ties_put_more_attribution_inside_first():
    scores = np.array([0.5, 1.0, 0.5, 1.0, 0.5])
    inside = np.array([1.0, 2.0, 3.0, 4.0, 3.0])
    assert sort_by_score(scores, inside).tolist() == [3, 1, 2, 4, 0]
    assert sort_by_score(scores).tolist() == [1, 3, 0, 2, 4]
    by_hand = sorted(range(5), key=lambda i: (-scores[i], -inside[i], i))
    assert sort_by_score(torch.from_numpy(scores), torch.from_numpy(inside)).tolist() == by_hand


def test_bins_average_the_positive_parts_of_their_own_maps():
    maps, scores = maps_and_scores(60)
    result = aggregate(maps, scores, examples=2)
    ranked = sorted(range(60), key=lambda i: -scores[i])
    start = 0
    for mean, count, examples in zip(result.means, result.counts, result.examples, strict=True):
        chosen = ranked[start : start + count]
        assert torch.allclose(mean, maps[chosen].clamp(min=0).mean(dim=0))
        assert set(examples) <= set(chosen)
        if count > 10:
            assert all(abs(chosen.index(index) - count / 2) <= 2 for index in examples)
        start += count
    assert start == 60


def test_an_empty_bin_has_no_mean():
    result = aggregate(*maps_and_scores(10))
    assert result.counts == (0, 1, 4, 5, 0, 0)
    assert result.means[0].isnan().all()
    assert result.means[1:4].isfinite().all()
    assert result.examples[0] == ()


def test_aggregate_refusals():
    maps, scores = maps_and_scores(5)
    with pytest.raises(InputError, match="expected as many scores as maps"):
        aggregate(maps, scores[:4].numpy())
    with pytest.raises(InputError, match=r"without NaN, got .* with 1 NaN"):
        aggregate(maps, torch.tensor([0.1, torch.nan, 0, 0, 0]))
    with pytest.raises(InputError, match="must rise from 0 to 1"):
        aggregate(maps, scores, edges=(0.0, 0.5, 0.4, 1.0))
    with pytest.raises(InputError, match="as many inside sums"):
        aggregate(maps, scores, scores[:2].numpy())
