"""A measured quantity with all that says how sure it is, as the record keeps it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmarks.findings.family import FEWEST_NETWORKS, FEWEST_SEEDS
from faithfulness.core.comparison import PairedDifference, paired_differences
from faithfulness.core.statistics import mean_interval

FEW = 20
"""Of fewer images or grids, no interval can be trusted."""
Floats = NDArray[np.floating]
Quantities = dict[str, dict[str, Any]]
WILCOXON = "Wilcoxon signed-rank (zeros after Pratt), bootstrap interval"
BOOTSTRAP = "bootstrap interval in the range"
WELCH = "Welch's t"
ROUNDING = 1e-12
"""A spread below this share of the values is none."""


def quantity(
    effect: float,
    ci95: Sequence[float],
    n: int,
    unit: str,
    models: Sequence[str],
    *,
    p: float | None = None,
    sd: float | None = None,
    test: str = BOOTSTRAP,
    least: int = FEW,
) -> dict[str, Any]:
    """An entry of the record: `n` of what `unit` says, at least how many decide, and the networks that it is of."""
    return {
        "effect": float(effect),
        "ci95": [float(end) for end in ci95],
        "p": None if p is None else float(p),
        "sd": None if sd is None else float(sd),
        "n": int(n),
        "least": least,
        "unit": unit,
        "test": test,
        "models": list(models),
    }


def paired(a: Floats, b: Floats, images: NDArray[np.integer], unit: str, models: Sequence[str]) -> dict[str, Any]:
    """The mean of a − b; pairs of one image (grid) count as one."""
    found: PairedDifference = paired_differences(a[None], b[None], images, equal=True)[0]
    places = np.unique(images, return_inverse=True)[1]
    per_image = np.bincount(places, weights=a - b) / np.bincount(places)
    spread = float(np.std(per_image, ddof=1)) if len(per_image) > 1 else None
    return quantity(found.difference, found.ci95, found.n, unit, models, p=found.p, sd=spread, test=WILCOXON)


def equivalent(values: Floats, unit: str, models: Sequence[str]) -> dict[str, Any]:
    """A mean whose whole interval has to lie in a range."""
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return quantity(values.mean(), mean_interval(values), len(values), unit, models, sd=deviation)


def largest(values: Floats, unit: str, models: Sequence[str]) -> dict[str, Any]:
    """The largest of values that are exact: no sample stands for more than itself."""
    return quantity(
        values.max(), [values.max()] * 2, len(values), unit, models, test="exact, the largest of all", least=1
    )


def unpaired(a: Floats, b: Floats, unit: str, models: Sequence[str]) -> dict[str, Any]:
    """The difference of the means of two independent samples (Welch)."""
    n, difference = min(len(a), len(b)), float(a.mean() - b.mean())
    if n < 2:
        return quantity(difference, (math.nan, math.nan), n, unit, models, test=WELCH)
    shares = [float(np.var(values, ddof=1)) / len(values) for values in (a, b)]
    error = sum(shares) ** 0.5
    if error <= ROUNDING * max(np.abs(a).max(), np.abs(b).max()):  # both constant: the difference is exact
        return quantity(difference, (difference, difference), n, unit, models, p=float(difference == 0), test=WELCH)
    free = error**4 / sum(share**2 / (len(values) - 1) for share, values in zip(shares, (a, b), strict=True))
    half = float(stats.t.ppf(0.975, free)) * error
    p = 2 * float(stats.t.sf(abs(difference) / error, free))
    return quantity(difference, (difference - half, difference + half), n, unit, models, p=p, test=WELCH)


def by_seeds(difference: float, seeds: Floats, shares: float, models: Sequence[str]) -> dict[str, Any]:
    """A difference between networks of one seed each, or one and the mean of the seeds, by the spread over seeds.

    The interval is Student's, with the standard deviation of the base's seeds for every network's.

    Args:
        seeds: scores of the seeds of the base. shares: variances of a single network that the difference has.
    """
    deviation, free = float(np.std(seeds, ddof=1)), len(seeds) - 1
    error = deviation * shares**0.5
    half = float(stats.t.ppf(0.975, free)) * error
    p = 2 * float(stats.t.sf(abs(difference) / error, free)) if error else float(difference == 0)
    ends = (difference - half, difference + half)
    test = f"Student's t by the spread of {len(seeds)} seeds"
    return quantity(difference, ends, len(seeds), "seeds of the base", models, p=p, sd=deviation, test=test, least=3)


def over_networks(a: Floats, b: Floats, models: Sequence[str]) -> dict[str, Any]:
    """Spearman correlation over networks, with Fisher's interval of the ranks' correlation."""
    test = "Spearman, Fisher's interval"
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return quantity(math.nan, (math.nan, math.nan), len(a), "networks", models, test=test)
    ranks: Any = stats.pearsonr(stats.rankdata(a), stats.rankdata(b))
    ends = ranks.confidence_interval()
    p = float(stats.spearmanr(a, b).pvalue)  # type: ignore[attr-defined]
    return quantity(
        ranks.statistic, (ends.low, ends.high), len(a), "networks", models, p=p, test=test, least=FEWEST_NETWORKS
    )


def mean_over_networks(each: Mapping[str, float]) -> dict[str, Any]:
    """The mean of a difference that is known of several networks, by its spread over them (Student's t)."""
    values, names, test = np.array(list(each.values())), list(each), "Student's t over networks"
    known: dict[str, Any] = {"test": test, "least": FEWEST_NETWORKS}
    mean, count = float(values.mean()), len(values)
    if count < 2:
        return quantity(mean, (math.nan, math.nan), count, "networks", names, **known) | {"by_network": dict(each)}
    deviation = float(np.std(values, ddof=1))
    error = deviation / count**0.5
    half = float(stats.t.ppf(0.975, count - 1)) * error
    p = 2 * float(stats.t.sf(abs(mean) / error, count - 1)) if error else float(mean == 0)
    ends = (mean - half, mean + half)
    return quantity(mean, ends, count, "networks", names, p=p, sd=deviation, **known) | {"by_network": dict(each)}


def spread(methods: Mapping[str, Floats], unit: str, models: Sequence[str]) -> dict[str, Any]:
    """The largest standard deviation of a method's mean over networks; those of all methods beside it.

    The interval is that of a standard deviation (χ²). Its lower end is corrected for being the largest of many
    (Bonferroni); the upper end is the largest of all upper ends, and needs no correction.
    """
    each = {name: float(np.std(values, ddof=1)) for name, values in methods.items()}
    of = max(each, key=lambda name: each[name])
    count, free = len(methods[of]), len(methods[of]) - 1
    low, high = (each[of] * (free / float(stats.chi2.ppf(at, free))) ** 0.5 for at in (1 - 0.025 / len(each), 0.025))
    known = quantity(each[of], (low, high), count, unit, models, test="χ² interval of the largest", least=FEWEST_SEEDS)
    return known | {"of": of, "by_method": each}


def resampled(
    statistic: Callable[[NDArray[np.integer]], Floats], count: int, unit: str, models: Sequence[str], seed: int = 0
) -> dict[str, Any]:
    """A statistic of `count` samples, as of `statistic(rows of sample numbers)`, with its bootstrap interval."""
    draws = np.random.default_rng(seed).integers(count, size=(1000, count))
    low, high = np.nanquantile(statistic(draws), [0.025, 0.975])
    return quantity(statistic(np.arange(count)[None])[0], (low, high), count, unit, models)


def rounded(record: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers to six digits, which keeps the record small; NaN as null."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(key): plain(entry) for key, entry in value.items()}
        if isinstance(value, list | tuple):
            return [plain(entry) for entry in value]
        if isinstance(value, float | np.floating):
            return float(f"{value:.6g}") if np.isfinite(value) else None
        return value

    return plain(record)
