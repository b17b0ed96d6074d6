"""Paired differences and agreement, against plain restatements, scipy, and simulation."""

import numpy as np
import pytest
from scipy import stats

import idsds
from faithfulness.core.comparison import (
    agreement,
    detectable_difference,
    kendall_rows,
    paired_differences,
    resampled_means,
)
from tests.reference.comparison_slow import slow_difference, slow_draws, slow_kendall


def sample(seed=0, pairs=30):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, 3, pairs))
    a[0, 4] = b[1, 7] = np.nan
    a[2] = np.nan
    images = np.sort(rng.integers(12, size=pairs)) * 10
    return a, b, images


@pytest.mark.parametrize("equal", [False, True])
def test_differences_are_those_of_the_slow_restatement(equal):
    a, b, images = sample()
    found = paired_differences(a, b, images, equal=equal, seed=3, resamples=200)
    for row in range(2):
        one = found[row]
        np.testing.assert_allclose(
            (one.mean_a, one.mean_b, one.difference), slow_difference(a[row], b[row], images, equal), atol=1e-12
        )
        assert one.difference == pytest.approx(one.mean_a - one.mean_b, abs=1e-12)
        draws = slow_draws(a[row], b[row], images, 3, 200, equal)
        np.testing.assert_allclose(one.ci95, np.quantile(draws, [0.025, 0.975]), atol=1e-12)
        assert (one.n, one.n_pairs) == (len(np.unique(images[~np.isnan(a[row] - b[row])])), 29)
    assert found[2].n == found[2].n_pairs == 0
    assert np.isnan([found[2].difference, found[2].p, found[2].detectable, *found[2].ci95]).all()


def test_with_one_pair_per_image_it_is_scipys_paired_bootstrap_and_wilcoxon():
    rng = np.random.default_rng(1)
    a, b = rng.normal(0.1, 1, size=(2, 1, 60))
    (found,) = paired_differences(a, b, np.arange(60))
    theirs = stats.bootstrap((a[0] - b[0],), np.mean, method="percentile", rng=np.random.default_rng(0))
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    np.testing.assert_allclose(found.ci95, theirs.confidence_interval, atol=0.05 * width)  # other draws: 3 σ of an end
    assert found.p == pytest.approx(stats.wilcoxon(a[0], b[0], zero_method="pratt").pvalue)
    assert found.detectable == pytest.approx(detectable_difference(np.std(a[0] - b[0], ddof=1), 60))


def test_pairs_of_one_image_are_no_independent_evidence():
    """Every pair ten times: interval, p and what is detectable stay as they were."""
    a, b = np.random.default_rng(0).normal(size=(2, 1, 25))
    once = paired_differences(a, b, np.arange(25))[0]
    tenfold = paired_differences(*(np.repeat(x, 10, axis=1) for x in (a, b)), np.repeat(np.arange(25), 10))[0]
    np.testing.assert_allclose(tenfold.ci95, once.ci95, atol=1e-12)
    assert (tenfold.p, tenfold.n, tenfold.n_pairs) == (pytest.approx(once.p), 25, 250)
    assert tenfold.detectable == pytest.approx(once.detectable)


def test_the_interval_covers_as_often_as_it_says_when_images_have_several_pairs():
    rng, covered = np.random.default_rng(0), 0
    images = np.repeat(np.arange(60), 4)
    for trial in range(200):
        a = (rng.normal(0.3, 1, 60)[:, None] + 0.2 * rng.normal(size=(60, 4))).reshape(1, -1)
        low, high = paired_differences(a, np.zeros_like(a), images, seed=trial, resamples=300)[0].ci95
        covered += low <= 0.3 <= high
    assert 178 <= covered <= 199  # 95 % of 200 is 190, σ 3; pairs drawn by themselves cover 68 %


@pytest.mark.parametrize("count", [2, 3, 8, 30, 500])
def test_a_t_test_finds_the_detectable_difference_four_times_in_five(count):
    rng, trials = np.random.default_rng(count), 20_000
    effect = detectable_difference(2.0, count)
    p = stats.ttest_1samp(rng.normal(effect, 2.0, (trials, count)), 0, axis=1).pvalue
    assert (p < 0.05).mean() == pytest.approx(0.8, abs=4 * (0.8 * 0.2 / trials) ** 0.5)


def test_detectable_differences_of_other_samples():
    normal = (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) / 100
    assert detectable_difference(1.0, 10_000) == pytest.approx(normal, rel=1e-3)
    assert detectable_difference(1.0, 50_000) < detectable_difference(1.0, 100) < detectable_difference(1.0, 5)
    assert np.isnan(
        [detectable_difference(1.0, 1), detectable_difference(0.0, 9), detectable_difference(np.nan, 9)]
    ).all()
    same = paired_differences(np.ones((1, 9)), np.ones((1, 9)), np.arange(9))[0]
    assert (same.difference, same.ci95, same.p) == (0, (0, 0), 1)
    assert np.isnan(same.detectable)


def test_draws_depend_on_seed_and_number_of_images_alone(monkeypatch):
    sums = np.random.default_rng(0).normal(size=(3, 50))
    whole = resampled_means(sums, np.ones_like(sums), seed=1, resamples=40)
    np.testing.assert_allclose(resampled_means(sums[1:2], np.ones((1, 50)), 1, 40)[:, 0], whole[:, 1], atol=1e-15)
    monkeypatch.setattr("faithfulness.core.comparison._ENTRIES", 150)
    np.testing.assert_allclose(resampled_means(sums, np.ones_like(sums), 1, 40), whole, atol=1e-15)
    assert not np.allclose(resampled_means(sums, np.ones_like(sums), 2, 40), whole)


def test_kendall_is_scipys_and_the_slow_restatement():
    rng = np.random.default_rng(0)
    a, b = rng.integers(-3, 4, size=(2, 20, 9)).astype(float)
    b[3] = 1.0
    for x, y, found in zip(a, b, kendall_rows(a, b), strict=True):
        np.testing.assert_allclose(found, slow_kendall(x, y), atol=1e-12)
        np.testing.assert_allclose(found, stats.kendalltau(x, y).statistic, atol=1e-12)


def test_agreement_and_its_intervals():
    a = np.array([0.1, 0.2, 0.3, 0.5])
    same = agreement(a, np.exp(a), np.tile(a, (9, 1)), np.tile(a, (9, 1)))
    assert (same.spearman, same.kendall, same.spearman_ci95, same.n) == (1, 1, (1, 1), 4)
    assert agreement(a, -a).spearman == -1
    assert np.isnan(agreement(a, -a).kendall_ci95).all()
    assert np.isnan(agreement(a, np.ones(4)).spearman)
    assert np.isnan(agreement(a[:2], a[:2]).kendall)


def test_published_scores_are_of_architectures_and_methods_that_there_are():
    from faithfulness.attribution import list_attributions

    assert idsds.PUBLISHED_NAMES.keys() == idsds.PUBLISHED_SCORES.keys()
    methods = {name for scores in idsds.PUBLISHED_SCORES.values() for name, _ in scores}
    assert methods <= set(list_attributions())
    for scores in idsds.PUBLISHED_SCORES.values():
        assert all(-0.01 < value < 1 for value in scores.values())
    assert idsds.published_scores("resnet50.a1_in1k")["ig-u", "input"] == 0.255
    assert idsds.published_scores("resnet10t") == {}
    missing = sum(8 - len(scores) for scores in list(idsds.PUBLISHED_SCORES.values())[:9])
    assert missing == 2 + 3  # IxG of two networks, and all CAMs of the transformer
