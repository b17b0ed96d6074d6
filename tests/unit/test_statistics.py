import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from faithfulness.core.results import summarize_scores
from faithfulness.core.statistics import (
    average_ranks,
    compare_with_control,
    holm,
    mean_interval,
    pair_winners,
    paired_tests,
    signed_rank_test,
    spearman_rows,
)

ties = arrays(np.float64, (3, 16), elements=st.integers(-3, 3).map(float))


@settings(max_examples=60, deadline=None)
@given(ties)
def test_ranks_equal_scipy(values):
    np.testing.assert_array_equal(average_ranks(torch.from_numpy(values)).numpy(), stats.rankdata(values, axis=1))


@settings(max_examples=60, deadline=None)
@given(ties, ties)
def test_spearman_equals_scipy_and_is_nan_where_undefined(a, b):
    found = spearman_rows(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    for row in range(len(a)):
        if np.ptp(a[row]) == 0 or np.ptp(b[row]) == 0:
            assert np.isnan(found[row])
        else:
            assert found[row] == pytest.approx(stats.spearmanr(a[row], b[row]).statistic, abs=1e-12)


def test_spearman_ignores_monotone_change_and_refuses_nan():
    a, b = torch.randn(5, 16), torch.randn(5, 16)
    torch.testing.assert_close(spearman_rows(a.exp() * 7, b), spearman_rows(a, b), rtol=0, atol=1e-12)
    a[2, 3] = torch.nan
    assert spearman_rows(a, b).isnan().tolist() == [False, False, True, False, False]


def test_random_maps_have_the_null_distribution():
    torch.manual_seed(0)
    rho = spearman_rows(torch.randn(20000, 16), torch.randn(20000, 16))
    assert abs(rho.mean()) < 0.01
    assert rho.std() == pytest.approx(15**-0.5, abs=0.005)


def test_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = sum(
        low <= 0.3 <= high for low, high in (mean_interval(rng.normal(0.3, 1, 80), resamples=500) for _ in range(200))
    )
    assert 180 <= covered <= 199


def test_interval_of_degenerate_samples():
    assert mean_interval(np.array([2.0])) == (2.0, 2.0)
    assert mean_interval(np.full(9, 0.5)) == (0.5, 0.5)
    assert np.isnan(mean_interval(np.array([]))).all()


def test_an_interval_of_many_values_takes_no_more_memory_and_is_what_it_was():
    """Against scipy, which holds as many resamples at once as it is told: 40 of 200 000 values take 128 MB."""
    values = np.random.default_rng(0).uniform(-1, 1, 200_000)
    tracemalloc.start()
    found = mean_interval(values, resamples=40)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    plain = stats.bootstrap(
        (values,), np.mean, n_resamples=40, batch=40, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    assert peak < 16e6
    assert found == (plain.low, plain.high)


def test_holm_by_hand():
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, np.nan])), [0.03, 0.06, 0.06, np.nan])
    np.testing.assert_allclose(holm(np.array([0.5, 0.9])), [1.0, 1.0])


def test_paired_tests_tell_better_from_equal():
    rng = np.random.default_rng(1)
    base = rng.normal(size=200)
    names, p = paired_tests({"a": base, "b": base + 0.3 + 0.1 * rng.normal(size=200), "c": base.copy()})
    assert names == ["a", "b", "c"]
    assert p[0, 1] < 1e-10
    assert p[0, 2] == 1
    np.testing.assert_array_equal(p, p.T)
    expected = stats.wilcoxon(base - base * 0.9).pvalue
    assert paired_tests({"x": base, "y": base * 0.9})[1][0, 1] == pytest.approx(expected)


def test_undefined_images_count_as_zero_in_the_mean_alone():
    score = summarize_scores(
        np.array([0.5, np.nan, 0.25]), attribution="a", layer="input", metric="idsds", higher_is_better=True, seed=0
    )
    assert (score.mean, score.mean_defined, score.n, score.n_undefined) == (0.25, 0.375, 3, 1)
    assert score.ci95[0] <= score.mean <= score.ci95[1]


def test_signed_ranks_are_scipys_after_pratt():
    """Few differences: all signs, as scipy's exact and permutation tests; many: its normal approximation."""
    rng = np.random.default_rng(0)
    few = rng.normal(0.3, 1, 9)
    assert signed_rank_test(few)[0] == pytest.approx(stats.wilcoxon(few, method="exact").pvalue)
    zeros = np.array([0, 0, 0, 0.5, -0.2, 0.7, 0.5, 0.9])
    permuted = stats.wilcoxon(zeros, zero_method="pratt", method=stats.PermutationMethod(n_resamples=np.inf))
    assert signed_rank_test(zeros)[0] == pytest.approx(permuted.pvalue)
    many = np.where(rng.random(300) < 0.7, 0, rng.normal(0.2, 1, 300).round(1))
    assert signed_rank_test(many)[0] == pytest.approx(stats.wilcoxon(many, zero_method="pratt").pvalue)
    assert signed_rank_test(np.array([0.0, np.nan])) == (1.0, 0.0)
    assert signed_rank_test(np.array([1.0, 2.0, np.nan, 3.0]))[1] == 1


def test_most_pairs_tied_hides_no_difference():
    """20 gains and no loss among 500 pairs: a sign test has p = 2e-6; splitting the zeros hides it."""
    differences = np.zeros(500)
    differences[:20] = np.linspace(0.1, 0.5, 20)
    sign_test = stats.binomtest(20, 20).pvalue
    assert sign_test < 1e-5
    assert signed_rank_test(differences)[0] < 1e-4
    assert stats.wilcoxon(differences, zero_method="zsplit").pvalue > 0.05


@pytest.mark.parametrize("share", [0.0, 0.9, 0.97])
def test_signed_ranks_reject_as_often_as_they_say(share):
    """Symmetric differences of 200 pairs, of which most may be zero: at most 5 % (and 1 %) fall below .05 (.01)."""
    rng = np.random.default_rng(2)
    draws = np.where(rng.random((1500, 200)) < share, 0, rng.normal(size=(1500, 200)))
    p = np.array([signed_rank_test(row)[0] for row in draws])
    assert 0.015 < (p < 0.05).mean() < 0.07
    assert (p < 0.01).mean() < 0.02


def test_a_control_is_compared_pair_by_pair():
    """Wide, overlapping intervals may hide a difference that every image shows, and the other way round."""
    rng = np.random.default_rng(3)
    edge = rng.normal(0.3, 0.5, 40)
    scores = {"edge": edge, "always": edge + rng.uniform(0.01, 0.1, 40), "below": edge - 0.1, "same": edge.copy()}
    found = compare_with_control("edge", scores)
    assert {name: entry["above"] for name, entry in found.items()} == {"always": True, "below": False, "same": False}
    assert mean_interval(scores["always"])[0] < mean_interval(edge)[1]
    assert found["below"]["p"] < 0.001
    lower = compare_with_control("edge", scores, higher_is_better=False)
    assert {name for name, entry in lower.items() if entry["above"]} == {"below"}
    assert compare_with_control("contours", scores) == {}
    far = np.where(np.arange(40) < 2, 100.0, edge - 0.05)  # two images alone lift the mean
    assert not compare_with_control("edge", {"edge": edge, "far": far})["far"]["above"]


def test_differences_of_rounding_are_none():
    """Scores that differ by a unit in the last place are the same scores, whatever their differences' own size."""
    scores = np.linspace(0.1, 0.9, 30)
    _, matrix = paired_tests({"a": scores, "b": np.nextafter(scores, 1)})
    assert matrix[0, 1] == 1
    assert not compare_with_control("a", {"a": scores, "b": np.nextafter(scores, 1)})["b"]["above"]


@pytest.mark.parametrize("higher", [True, False])
def test_winners_are_those_of_the_means_where_a_difference_is_shown(higher):
    rng = np.random.default_rng(0)
    common = rng.normal(size=60)
    scores = {name: common + shift + 0.3 * rng.normal(size=60) for name, shift in (("a", 0), ("b", 1), ("c", 1.001))}
    names, p = paired_tests(scores)
    found = pair_winners(scores, p, higher)
    for i, a in enumerate(names):
        for j, b in enumerate(names):
            gain = (1 if higher else -1) * (scores[a].mean() - scores[b].mean())
            assert found[i, j] == (np.sign(gain) if i != j and p[i, j] < 0.05 else 0)
    assert found[0, 1] == (-1 if higher else 1)
    assert found[1, 2] == 0


def test_no_winner_where_mean_and_ranks_disagree():
    """Many small gains, a few big losses."""
    a = np.concatenate([np.full(40, 1.0), np.full(4, -100.0)])
    scores = {"a": a + 0.001 * np.arange(44), "b": np.zeros(44)}
    p = paired_tests(scores)[1]
    assert p[0, 1] < 0.05
    assert not pair_winners(scores, p).any()


def test_known_tests_are_taken_for_the_control():
    rng = np.random.default_rng(3)
    scores = {name: rng.normal(size=20) + shift for name, shift in (("a", 0), ("edge", 0.2), ("b", 2))}
    assert compare_with_control("edge", scores, tested=paired_tests(scores)[1]) == compare_with_control("edge", scores)
    shown = compare_with_control("edge", scores, tested=np.full((3, 3), 0.25))
    assert {entry["p"] for entry in shown.values()} == {0.25}
