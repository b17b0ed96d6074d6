"""Two results on the same images: paired differences, what a sample can find, and how two orders agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import optimize, stats

from faithfulness.core.ranking import quantize_rows
from faithfulness.core.statistics import signed_rank_test, spearman_rows

Floats = NDArray[np.floating]
RESAMPLES = 4000
_ENTRIES = 2**22
"""Weights of resampled images that are held at once."""
_FLAT = 1e-12
"""A spread below this share of the values is rounding."""


@dataclass(frozen=True)
class PairedDifference:
    """What a − b comes to on shared images.

    Attributes:
        mean_a, mean_b, difference: over the pairs that are defined in both; NaN where there are none.
        ci95: percentile bootstrap over images; NaN for fewer than two.
        p: two-sided Wilcoxon signed-rank test, zeros after Pratt, of the images' mean differences; NaN as above.
        rank_sum: the signed ranks' sum in [-1, 1].
        detectable: the smallest true difference that a paired t-test at α = .05 finds with 80 % power at this
            spread; NaN where nothing spreads.
        n: images with a defined pair.
        n_pairs: defined pairs.
    """

    mean_a: float
    mean_b: float
    difference: float
    ci95: tuple[float, float]
    p: float
    rank_sum: float
    detectable: float
    n: int
    n_pairs: int


def paired_differences(
    a: Floats, b: Floats, images: NDArray[np.integer], *, equal: bool = False, seed: int = 0, resamples: int = RESAMPLES
) -> list[PairedDifference]:
    """Row by row, the mean of a − b over pairs, with all that says how sure it is.

    Pairs of one image aren't independent: images are resampled, never pairs (cluster bootstrap; Davison and Hinkley
    1997, section 3.8). The same images are drawn for every row; which depends on `seed` and their number alone.

    Args:
        a, b: (rows, pairs); NaN is left out on both sides.
        images: (pairs,) which image a pair is of.
        equal: every image counts alike, however many pairs it has; else every pair does.
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    numbers, places = np.unique(images, return_inverse=True)
    defined = ~(np.isnan(a) | np.isnan(b))
    total = _per_image(defined, places, len(numbers))
    counts = (total > 0).astype(np.float64) if equal else total
    sums = [_per_image(np.where(defined, values, 0), places, len(numbers)) for values in (a, b, a - b)]
    if equal:
        sums = [each / np.maximum(total, 1) for each in sums]
    means = [_ratio(each.sum(axis=1), counts.sum(axis=1)) for each in sums]
    drawn = resampled_means(sums[2], counts, seed, resamples)
    found = []
    for row in range(len(a)):
        known = total[row] > 0
        scale = float(np.abs(np.concatenate([a[row][defined[row]], b[row][defined[row]]])).max(initial=0))
        per_image = sums[2][row][known] / counts[row][known]
        enough = int(known.sum()) > 1
        p, rank_sum = signed_rank_test(per_image, scale) if enough else (np.nan, np.nan)
        spread = _spread(sums[2][row][known], counts[row][known], float(means[2][row]))
        found.append(
            PairedDifference(
                *(float(mean[row]) for mean in means),
                ci95=interval_of(drawn[:, row]) if enough else (np.nan, np.nan),
                p=p,
                rank_sum=rank_sum,
                detectable=detectable_difference(spread if spread > _FLAT * scale else 0.0, int(known.sum())),
                n=int(known.sum()),
                n_pairs=int(total[row].sum()),
            )
        )
    return found


def _per_image(values: NDArray[np.generic], places: NDArray[np.intp], count: int) -> Floats:
    """Sums (rows, images) of (rows, pairs)."""
    rows = [np.bincount(places, weights=row.astype(np.float64), minlength=count) for row in values]
    return np.array(rows, dtype=np.float64).reshape(len(rows), count)


def _ratio(sums: Floats, counts: Floats) -> Floats:
    """NaN where nothing is counted."""
    return np.divide(sums, counts, out=np.full(np.shape(sums), np.nan), where=np.asarray(counts) > 0)


def _spread(sums: Floats, counts: Floats, mean: float) -> float:
    """Standard deviation of an image's share in a mean over pairs; NaN for fewer than two images."""
    if len(sums) < 2:
        return float("nan")
    residuals = (sums - mean * counts) / counts.mean()
    return float(np.sqrt((residuals**2).sum() / (len(sums) - 1)))


def resampled_means(sums: Floats, counts: Floats, seed: int = 0, resamples: int = RESAMPLES) -> Floats:
    """Means of images drawn with replacement, (resamples, rows); NaN where a draw has none of a row's.

    Args:
        sums, counts: (rows, images): an image's sum, and of how many values it is one; 0 where it has none.
    """
    images = sums.shape[1]
    if not images:
        return np.full((resamples, len(sums)), np.nan)
    generator, found = np.random.default_rng(seed), []
    at_once = max(1, _ENTRIES // images)
    for start in range(0, resamples, at_once):
        draws = (generator.integers(images, size=images) for _ in range(min(at_once, resamples - start)))
        weights = np.stack([np.bincount(draw, minlength=images) for draw in draws]).astype(np.float64)
        found.append(_ratio(weights @ sums.T, weights @ counts.T))
    return np.concatenate(found)


def interval_of(draws: Floats) -> tuple[float, float]:
    """2.5 and 97.5 % quantile of what is defined."""
    draws = draws[~np.isnan(draws)]
    if not len(draws):
        return (float("nan"), float("nan"))
    low, high = np.quantile(draws, [0.025, 0.975])
    return (float(low), float(high))


def detectable_difference(spread: float, count: int, *, power: float = 0.8, alpha: float = 0.05) -> float:
    """The smallest mean difference that a two-sided paired t-test finds with `power` (exact, by the noncentral F).

    Args:
        spread: standard deviation of the differences.
        count: how many there are.
    Returns:
        NaN for fewer than two, and without spread: such a sample doesn't say how far differences spread.

    >>> round(detectable_difference(0.25, 500), 4)  # near (1.96 + 0.84) · 0.25 / √500
    0.0314
    """
    if count < 2 or not spread > 0:
        return float("nan")
    edge = stats.f.ppf(1 - alpha, 1, count - 1)  # t² is F(1, n - 1), and noncentral where the mean isn't 0

    def surplus(shift: float) -> float:
        return float(stats.ncf.sf(edge, 1, count - 1, shift**2)) - power

    high = 3.0
    while surplus(high) < 0:
        high *= 1.2
    shift: Any = optimize.brentq(surplus, 1e-3, high)
    return float(shift) * spread / count**0.5


def kendall_rows(a: Floats, b: Floats) -> Floats:
    """Kendall's τ-b of each pair of rows (rows, n); NaN where a row is constant or not finite.

    Values that rounding alone tells apart are equal, see `quantize_rows`.
    """
    a, b = (quantize_rows(torch.from_numpy(np.array(values, dtype=np.float64))).numpy() for values in (a, b))
    upper = np.triu_indices(a.shape[1], 1)
    a, b = (np.sign(values[:, upper[0]] - values[:, upper[1]]) for values in (a, b))
    return _ratio((a * b).sum(axis=1), np.sqrt((a != 0).sum(axis=1) * (b != 0).sum(axis=1) * 1.0))


@dataclass(frozen=True)
class Agreement:
    """How two orders of the same n things agree: 1 the same, -1 reversed, NaN where one of them is no order.

    `spearman_ci95` and `kendall_ci95` are percentile intervals over images, the things being these; NaN without draws.
    All is NaN for fewer than three things: two are always ordered alike or the other way round.
    """

    spearman: float
    kendall: float
    spearman_ci95: tuple[float, float]
    kendall_ci95: tuple[float, float]
    n: int


def agreement(a: Floats, b: Floats, draws_a: Floats | None = None, draws_b: Floats | None = None) -> Agreement:
    """Spearman's and Kendall's correlation of two scores of the same things.

    Args:
        a, b: (n,) means.
        draws_a, draws_b: (resamples, n) means of resampled images.
    """
    nothing = (float("nan"), float("nan"))
    if len(a) < 3:
        return Agreement(*nothing, nothing, nothing, n=len(a))
    spearman, kendall = (float(correlate(a[None], b[None])[0]) for correlate in (_spearman, kendall_rows))
    intervals = [nothing, nothing]
    if draws_a is not None and draws_b is not None:
        intervals = [interval_of(correlate(draws_a, draws_b)) for correlate in (_spearman, kendall_rows)]
    return Agreement(spearman, kendall, intervals[0], intervals[1], n=len(a))


def _spearman(a: Floats, b: Floats) -> Floats:
    return spearman_rows(*(torch.from_numpy(np.array(values, dtype=np.float64)) for values in (a, b))).numpy()


MOST_GROUPS = 52
"""More groups than letters say nothing to a reader."""


def joined_groups(separated: NDArray[np.bool_]) -> list[tuple[int, ...]] | None:
    """The largest groups in which no two things are told apart: two things share a group only if they aren't.

    Insert and absorb (Piepho 2004, "An algorithm for a letter-based representation of all-pairwise comparisons").

    Args:
        separated: (n, n) symmetric, whether two things are told apart.
    Returns:
        Groups as places in ascending order, by their first ones; None if there are more than `MOST_GROUPS`.

    >>> joined_groups(np.array([[0, 0, 1], [0, 0, 0], [1, 0, 0]], dtype=bool))
    [(0, 1), (1, 2)]
    """
    groups = {frozenset(range(len(separated)))} if len(separated) else set()
    for a, b in np.argwhere(np.triu(separated, 1)).tolist():
        split = {group for group in groups if a in group and b in group}
        parts = {group - {each} for group in split for each in (a, b)}
        groups = (groups - split) | parts
        groups = {group for group in groups if not any(group < other for other in groups)}
        if len(groups) > 8 * MOST_GROUPS:
            return None
    found = sorted(tuple(sorted(group)) for group in groups)
    return found if len(found) <= MOST_GROUPS else None


def ranks_of(means: Floats, higher_is_better: bool) -> Floats:
    """Rank 1 for the best of some means (n,), the same for equal ones (the best place of them); NaN has none."""
    means = np.asarray(means, dtype=np.float64)
    ranks = np.full(len(means), np.nan)
    defined = np.isfinite(means)
    ranks[defined] = stats.rankdata(-means[defined] if higher_is_better else means[defined], method="min")
    return ranks


def mean_of_defined(values: Floats) -> float:
    """The mean of what isn't NaN; NaN where nothing is left."""
    values = np.asarray(values, dtype=np.float64)
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")
