"""How each smoothed method's localization correlates with the reference's."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from faithfulness.core.statistics import spearman_rows

if TYPE_CHECKING:
    from eval.frame.grids import Case

RESAMPLES = 400
ABOUT_KERNELS = "K: kernel of the Gaussian that smooths the maps first (σ = K/4), in pixels of a grid of 448 px"
ABOUT_BEST = (
    "smoothed best: the kernel K with the highest correlation of all that were tried, unsmoothed (K = 1) among them; "
    "it is chosen on the same grids, which flatters it. A kernel is a Gaussian, σ = K/4, K in pixels of a 448 px grid"
)
Reference = tuple[str, str]
"""Attribution and layer."""


def correlate(smoothed: pd.DataFrame, reference: Reference, seed: int) -> list[dict[str, Any]]:
    """Spearman correlation over (grid, cell) of each smoothed method's localization with the unsmoothed reference's.

    The 95% interval is a percentile bootstrap over grids. NaN where one of the two is constant.
    """
    found = []
    for (setting, scale), own in smoothed.groupby(["setting", "scale"], sort=False):
        is_reference = (own.attribution == reference[0]) & (own.layer == reference[1]) & (own.kernel == 1)
        rows = own[is_reference].sort_values(["index", "cell"])
        grids, positions = np.unique(rows["index"].to_numpy(), return_inverse=True)
        each = np.argsort(positions, kind="stable").reshape(len(grids), -1)
        draws = np.random.default_rng(seed).integers(len(grids), size=(RESAMPLES, len(grids)))
        samples = torch.from_numpy(each[draws].reshape(RESAMPLES, -1))
        target = torch.from_numpy(rows["localization"].to_numpy().copy())
        for (name, layer, _), part in own.groupby(["attribution", "layer", "kernel"], sort=False):
            found.append(
                {"setting": setting, "scale": int(scale), "attribution": name, "layer": layer}  # type: ignore[arg-type]
                | _correlation(part, target, samples)
            )
    return found


def _correlation(part: pd.DataFrame, target: torch.Tensor, samples: torch.Tensor) -> dict[str, Any]:
    """One method at one kernel; `samples` are the resampled rows."""
    values = torch.from_numpy(part.sort_values(["index", "cell"])["localization"].to_numpy().copy())
    resampled = spearman_rows(values[samples], target[samples]).numpy()
    resampled = resampled[~np.isnan(resampled)]
    return {
        "kernel": int(part["kernel"].iloc[0]),
        "kernel_of_map": int(part["kernel_of_map"].iloc[0]),
        "spearman": float(spearman_rows(values[None], target[None])),
        "ci95": np.quantile(resampled, [0.025, 0.975]).tolist() if len(resampled) else [np.nan, np.nan],
        "localization": float(values.mean()),
        "n": len(values),
    }


def correlation_pictures(
    correlations: list[dict[str, Any]], reference: Reference, cases: Iterable[Case], title: str
) -> dict[str, Callable[[], Any]]:
    """A heat map per setting: methods and layers in rows, kernels in columns."""
    from faithfulness import report

    found: dict[str, Callable[[], Any]] = {}
    for case in cases:
        own = [row for row in correlations if (row["setting"], row["scale"]) == (case.name, case.scale)]
        names = list(dict.fromkeys(f"{row['attribution']}@{row['layer']}" for row in own))
        kernels = list(dict.fromkeys(row["kernel"] for row in own))
        values = np.full((len(names), len(kernels)), np.nan)
        for row in own:
            values[names.index(f"{row['attribution']}@{row['layer']}"), kernels.index(row["kernel"])] = row["spearman"]
        columns = [(case.title, "none" if kernel == 1 else f"K = {kernel}") for kernel in kernels]
        head = f"Correlation of localization scores with those of {reference[0]} at {reference[1]}: {title}"
        found[f"correlation-{case.stem}"] = lambda given=(values, names, columns), head=head: report.heat_map_figure(
            *given, title=head, label="Spearman correlation", limits=(-1.0, 1.0), note=ABOUT_KERNELS
        )
    return found


def report_correlations(correlations: list[dict[str, Any]], reference: Reference) -> str:
    """Each method's correlation unsmoothed, and at the kernel that helps it most."""
    from faithfulness.core.tables import WIDTH, format_table, wrap
    from faithfulness.report import number

    rows = []
    keys = list(dict.fromkeys((r["setting"], r["scale"], r["attribution"], r["layer"]) for r in correlations))
    for key in keys:
        own = [r for r in correlations if (r["setting"], r["scale"], r["attribution"], r["layer"]) == key]
        plain = next(r for r in own if r["kernel"] == 1)
        best = max(own, key=lambda r: -2 if r["spearman"] is None else r["spearman"])
        shown = [
            f"{number(r['spearman'], 2)} [{number(r['ci95'][0], 2)}, {number(r['ci95'][1], 2)}]" for r in (plain, best)
        ]
        rows.append((f"{key[0]} {key[1]}×{key[1]}", key[2], key[3], *shown, str(best["kernel"])))
    table = format_table(("setting", "attribution", "layer", "unsmoothed", "smoothed best", "K"), rows, "<<<>>>")
    head = f"Spearman correlation of localization with {reference[0]} at {reference[1]}"
    return f"\n{head}\n{table}\n{wrap(ABOUT_BEST, WIDTH)}"
