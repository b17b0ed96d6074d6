"""Ranks, correlations, intervals and paired tests, row by row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from faithfulness.core.ranking import quantize_rows

_ENTRIES = 2**18
"""Values of resampled images that are held at once: all of them would take more memory than whatever was scored."""


def average_ranks(values: Float[Tensor, "b n"]) -> Float[Tensor, "b n"]:
    """Ranks 1 … n along the last axis in float64, ties share the mean of their ranks."""
    ordered = values.sort(dim=-1).values
    values = values.contiguous()
    below = torch.searchsorted(ordered, values, right=False)
    upto = torch.searchsorted(ordered, values, right=True)
    return (below + upto + 1).double() / 2


def pearson_rows(a: Float[Tensor, "b n"], b: Float[Tensor, "b n"]) -> Float[Tensor, " b"]:
    """Pearson correlation of each pair of rows, float64; NaN where a row is constant."""
    a, b = a.double(), b.double()
    constant = (a == a[:, :1]).all(dim=1) | (b == b[:, :1]).all(dim=1)
    a, b = a - a.mean(dim=1, keepdim=True), b - b.mean(dim=1, keepdim=True)
    correlation = (a * b).sum(dim=1) / torch.sqrt((a * a).sum(dim=1) * (b * b).sum(dim=1))
    return correlation.clamp(-1, 1).masked_fill(constant, torch.nan)


def spearman_rows(
    a: Float[Tensor, "b n"], b: Float[Tensor, "b n"], scale: Float[Tensor, " b"] | None = None
) -> Float[Tensor, " b"]:
    """Spearman correlation of each pair of rows with average ranks, float64; NaN where undefined.

    Values that rounding alone tells apart are equal, see `quantize_rows`; `scale` (B,) is that of `a`.
    """
    undefined = ~(torch.isfinite(a).all(dim=1) & torch.isfinite(b).all(dim=1))
    ranks = (average_ranks(quantize_rows(a, scale)), average_ranks(quantize_rows(b)))
    return pearson_rows(*ranks).masked_fill(undefined, torch.nan)


def mean_interval(values: NDArray[np.floating], seed: int = 0, resamples: int = 4000) -> tuple[float, float]:
    """95% bootstrap interval (percentile) of the mean of 1-D values; NaN for none, a point for one."""
    values = np.asarray(values, dtype=np.float64)
    if len(values) == 0:
        return (float("nan"), float("nan"))
    if len(values) == 1 or np.ptp(values) == 0:
        return (float(values[0]), float(values[0]))
    batch, rng = max(1, min(500, _ENTRIES // len(values))), np.random.default_rng(seed)
    result = stats.bootstrap((values,), np.mean, n_resamples=resamples, batch=batch, method="percentile", rng=rng)
    return (float(result.confidence_interval.low), float(result.confidence_interval.high))


def holm(p_values: NDArray[np.floating]) -> NDArray[np.floating]:
    """Holm's step-down correction of a flat array of p-values (Holm 1979); NaN stays NaN."""
    p_values = np.asarray(p_values, dtype=np.float64)
    defined = np.flatnonzero(~np.isnan(p_values))
    order = defined[np.argsort(p_values[defined], kind="stable")]
    corrected = np.full_like(p_values, np.nan)
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(p_values[order] * factors), 1.0)
    return corrected


EXACT = 12
"""Up to so many differences that aren't zero, a signed-rank test goes through all signs."""


def signed_rank_test(differences: NDArray[np.floating], scale: float | None = None) -> tuple[float, float]:
    """Wilcoxon's signed-rank test of paired differences, zeros after Pratt: two-sided p, and the rank sum in [-1, 1].

    Zeros take part in the ranking and are then left out (Pratt 1959). Splitting their ranks between
    the signs instead (scipy's `zsplit`) lets them speak for "no difference": where most pairs tie, as
    maps that are exactly local do, 20 gains without a loss among 500 pairs read p = .09 and not 2e-6. With few
    differences left the p-value is that of all their signs; the normal approximation would be too small.
    NaN is left out; p is 1 where nothing differs. Differences that rounding alone tells apart are equal; it is
    relative to `scale`, the largest of the values that were subtracted, or else to the largest difference.
    """
    differences = np.asarray(differences, dtype=np.float64)
    kept = torch.from_numpy(differences[~np.isnan(differences)])[None]
    differences = quantize_rows(kept, None if scale is None else torch.tensor([scale]))[0].numpy()
    ranks = stats.rankdata(np.abs(differences))[differences != 0]
    signs = np.sign(differences[differences != 0])
    if not len(ranks):
        return 1.0, 0.0
    if len(ranks) > EXACT:
        test: Any = stats.wilcoxon(differences, zero_method="pratt")
        return float(test.pvalue), float(signs @ ranks / ranks.sum())
    all_signs = 1 - 2 * (np.arange(2 ** len(ranks))[:, None] >> np.arange(len(ranks)) & 1)
    sums = np.abs(all_signs @ ranks)
    return float((sums >= abs(signs @ ranks) - 1e-9).mean()), float(signs @ ranks / ranks.sum())


def paired_tests(scores: Mapping[str, NDArray[np.floating]]) -> tuple[list[str], NDArray[np.floating]]:
    """Wilcoxon signed-rank tests between all pairs of methods on the same images, Holm-corrected.

    Returns the names and a symmetric matrix of p-values (diagonal NaN; 1 where all pairs tie).
    Images where either score is NaN are left out of that pair.
    """
    names = list(scores)
    matrix = np.full((len(names), len(names)), np.nan)
    upper = list(zip(*np.triu_indices(len(names), 1), strict=True))
    p_values = [_compare(scores[names[i]], scores[names[j]])[0] for i, j in upper]
    for (i, j), p in zip(upper, holm(np.array(p_values)), strict=True):
        matrix[i, j] = matrix[j, i] = p
    return names, matrix


def pair_winners(
    scores: Mapping[str, NDArray[np.floating]],
    p_values: NDArray[np.floating],
    higher_is_better: bool = True,
    level: float = 0.05,
) -> NDArray[np.int64]:
    """Which of each pair of methods is the better one: 1 the row's, -1 the column's, 0 where that isn't shown.

    Shown means a corrected p (methods, methods), as of `paired_tests`, below `level`, and the same winner by the mean
    of the paired differences and by their ranks.
    """
    names, sign = list(scores), 1 if higher_is_better else -1
    found = np.zeros((len(names), len(names)), dtype=np.int64)
    for i, j in zip(*np.triu_indices(len(names), 1), strict=True):
        if p_values[i, j] < level:
            a, b = (np.asarray(scores[names[k]], dtype=np.float64) for k in (i, j))
            mean, ranks = np.sign(np.nanmean(a - b)), np.sign(_compare(a, b)[1])
            found[i, j] = sign * mean if mean == ranks else 0
            found[j, i] = -found[i, j]
    return found


def _compare(a: NDArray[np.floating], b: NDArray[np.floating]) -> tuple[float, float]:
    """`signed_rank_test` of a − b."""
    a, b = (np.asarray(values, dtype=np.float64) for values in (a, b))
    known = np.abs(np.concatenate([a, b]))
    return signed_rank_test(a - b, float(np.max(known[~np.isnan(known)], initial=0)))


def compare_with_control(
    control: str,
    scores: Mapping[str, NDArray[np.floating]],
    higher_is_better: bool = True,
    level: float = 0.05,
    tested: NDArray[np.floating] | None = None,
) -> dict[str, dict[str, Any]]:
    """For each other method: its mean paired `difference` from the control, Holm-corrected `p` and `above`.

    `above` holds where p (of all pairs of methods, as in `paired_tests`) is below `level` and the
    method is the better one, by its mean and by its ranks. Empty where the control wasn't run. `tested` are the
    p-values of `paired_tests`, where they are known already.
    """
    if control not in scores:
        return {}
    names, matrix = list(scores), paired_tests(scores)[1] if tested is None else tested
    found = {}
    for row, name in enumerate(names):
        if name == control:
            continue
        differences = np.asarray(scores[name], dtype=np.float64) - np.asarray(scores[control], dtype=np.float64)
        differences = differences[~np.isnan(differences)]
        mean = float(differences.mean()) if len(differences) else float("nan")
        sign = 1 if higher_is_better else -1
        p = float(matrix[row, names.index(control)])
        better = sign * mean > 0 and sign * _compare(scores[name], scores[control])[1] > 0
        found[name] = {"difference": mean, "p": p, "above": bool(better and p < level)}
    return found
