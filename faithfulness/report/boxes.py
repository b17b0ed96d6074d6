"""How the values of single images spread: boxes over the values themselves."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from numpy.typing import NDArray

from faithfulness.report.style import (
    INK,
    LINE,
    as_array,
    method_style,
    name_rows,
    need,
    new_figure,
    row_labels,
    styled,
    text_inches,
)
from faithfulness.report.tables import metric_name

KEY = "box: quartiles and median; whiskers: 5 to 95 %; mark: mean; dots: single values"
MOST_DOTS = 2000
"""Of more values than that, so many are drawn as dots; the box is of all of them."""


@styled
def distributions(
    columns: Mapping[str, NDArray[np.floating]],
    metric: str,
    title: str = "",
    *,
    higher_is_better: bool | None = None,
) -> Figure:
    """The values of single images, a row per method.

    Args:
        columns: method -> (images,); NaN is left out.
        title: model and data.
    """
    need(columns, "methods")
    names = row_labels(columns)
    figure = new_figure(5.2 + text_inches(names), 1.0 + 0.3 * len(columns), title)
    axes = figure.subplots()
    for row, (label, values) in enumerate(columns.items()):
        _draw_row(axes, row, label, values)
    axes.axvline(0, color=INK, linewidth=0.8)
    name_rows(axes, names)
    axes.set_xlabel(f"{metric_name(metric, higher_is_better)}, per image\n{KEY}")
    return figure


@styled
def box_figure(
    scores: Mapping[str, Mapping[str, NDArray[np.floating]]],
    chance: float | Mapping[str, float] | None = None,
    title: str = "",
    label: str = "localization",
    *,
    higher_is_better: bool | None = None,
) -> Figure:
    """A panel per layer (or setting) of scores in [0, 1], a row per method.

    Args:
        scores: panel -> method -> scores; NaN is left out.
        chance: the score of a uniform map, drawn as a line; by panel where it differs.
        label: the metric.
    """
    need(scores, "panels")
    methods = list(dict.fromkeys(method for panel in scores.values() for method in panel))
    need(methods, "methods")
    names = row_labels(methods)
    lines = dict(chance) if isinstance(chance, Mapping) else {} if chance is None else dict.fromkeys(scores, chance)
    width = max(2.4 * len(scores), 4.5) + text_inches(names)
    figure = new_figure(width, 1.3 + 0.28 * len(methods), title)
    for axes, (name, panel) in zip(
        figure.subplots(1, len(scores), squeeze=False, sharey=True)[0], scores.items(), strict=True
    ):
        for row, method in enumerate(methods):
            _draw_row(axes, row, method, panel.get(method, np.empty(0)))
        if name in lines:
            axes.axvline(lines[name], color=LINE, linestyle="--", linewidth=1)
        if not any(len(panel.get(method, ())) for method in methods):
            axes.text(0.5, 0.5, "no values", transform=axes.transAxes, ha="center", va="center", color=LINE)
        axes.set_title(
            name if len(set(lines.values())) < 2 or name not in lines else f"{name}\n(chance {lines[name]:.3g})"
        )
        axes.set_xlim(-0.03, 1.03)
        axes.grid(axis="x")
    name_rows(axes, names)
    shared = f", {next(iter(lines.values())):.3g}" if len(set(lines.values())) == 1 else ""
    note = f"; dashed: a uniform map (chance){shared}" if lines else ""
    figure.supxlabel(f"{metric_name(label, higher_is_better)}{note}\n{KEY}", fontsize="medium")
    return figure


def _draw_row(axes: Axes, row: int, label: str, values: NDArray[np.floating]) -> None:
    """One method's values: dots, and over them the box."""
    values = as_array(values).astype(float)
    values = values[~np.isnan(values)]
    if not len(values):
        return
    look = method_style(label)
    noise = np.random.default_rng(0)
    dots = values if len(values) <= MOST_DOTS else noise.choice(values, MOST_DOTS, replace=False)
    heights = row + noise.uniform(-0.3, 0.3, len(dots))
    alpha = float(np.clip(40 / len(dots), 0.08, 0.6))
    axes.plot(
        dots, heights, ".", color=look.color, alpha=alpha, markersize=3, markeredgewidth=0, rasterized=True, zorder=1
    )
    lowest, low, middle, high, highest = np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95])
    axes.plot([lowest, low], [row, row], color=INK, linewidth=0.9, zorder=2)
    axes.plot([high, highest], [row, row], color=INK, linewidth=0.9, zorder=2)
    axes.barh(
        row, high - low, 0.52, left=low, facecolor=to_rgba(look.color, 0.35), edgecolor=INK, linewidth=0.8, zorder=2
    )
    axes.plot([middle, middle], [row - 0.26, row + 0.26], color=INK, linewidth=1.8, solid_capstyle="butt", zorder=3)
    mark = {"marker": look.marker, "color": look.color, "markeredgecolor": "white", "markeredgewidth": 0.5}
    axes.plot(values.mean(), row, markersize=6.5, zorder=4, **mark)
