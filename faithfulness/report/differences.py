"""Paired differences of results: how far apart, how sure, and what would have gone unseen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from faithfulness.report.style import (
    INK,
    PALE,
    family_handles,
    legend_below,
    method_style,
    name_rows,
    need,
    new_figure,
    row_labels,
    styled,
    text_inches,
)
from faithfulness.report.tables import method_label, metric_name


@styled
def difference_figure(panels: Mapping[str, Sequence[Mapping[str, Any]]], title: str = "") -> Figure:
    """Mean paired differences with 95 % intervals, a panel per comparison, a row per method.

    A filled mark is a difference that stays after Holm's correction; the pale band is what the sample could not have
    found with 80 % power.

    Args:
        panels: name -> rows of one metric: attribution, layer, metric, difference, ci95, detectable, better, n,
            higher_is_better. None or NaN where there is none.
    """
    rows = [row for panel in panels.values() for row in panel]
    need(rows, "differences")
    labels = list(dict.fromkeys(method_label(row["attribution"], row["layer"]) for row in rows))
    names = row_labels(labels)
    metric = metric_name(rows[0]["metric"], rows[0]["higher_is_better"])
    width = max(4.2, 3.6 * len(panels)) + text_inches(names)
    figure = new_figure(width, 2.1 + 0.26 * len(labels), title)
    for axes, (name, panel) in zip(
        figure.subplots(1, len(panels), squeeze=False, sharex=True, sharey=True)[0], panels.items(), strict=True
    ):
        axes.axvline(0, color=INK, linewidth=0.8)
        for row in panel:
            _draw_row(axes, labels.index(method_label(row["attribution"], row["layer"])), row)
        axes.set_title(name)
        axes.set_xlabel(f"difference in {metric}\nmean, 95 % interval, n = {_counts(panel)}")
        axes.tick_params(axis="y", length=0)
        axes.margins(x=0.08)
        axes.grid(axis="x")
    name_rows(axes, names)
    legend_below(figure, [*family_handles(labels), *_key()])
    return figure


def _draw_row(axes: Any, place: int, row: Mapping[str, Any]) -> None:
    """One method's difference."""
    values = [row["difference"], *row["ci95"], row["detectable"]]
    mean, low, high, detectable = (math.nan if value is None else float(value) for value in values)
    if math.isnan(mean):
        axes.text(0.5, place, "undefined", transform=axes.get_yaxis_transform(), ha="center", va="center", color=INK)
        return
    look = method_style(method_label(row["attribution"], row["layer"]))
    if not math.isnan(detectable):
        axes.barh(place, 2 * detectable, 0.8, left=-detectable, color=PALE, alpha=0.5, linewidth=0, zorder=0)
    axes.plot([low, high], [place, place], color=look.color, linewidth=1.6)
    face = look.color if row["better"] else "white"
    axes.plot(mean, place, marker=look.marker, color=look.color, markerfacecolor=face, markersize=5.5)


def _counts(rows: Sequence[Mapping[str, Any]]) -> str:
    """Of how many images."""
    counts = {row["n"] for row in rows}
    return f"{min(counts)}" if len(counts) == 1 else f"{min(counts)} to {max(counts)}"


def _key() -> list[Any]:
    mark: dict[str, Any] = {"color": INK, "marker": "o", "linestyle": "none"}
    return [
        Line2D([], [], label="differs (Holm, 5 %)", **mark),
        Line2D([], [], markerfacecolor="white", label="no difference shown", **mark),
        Patch(color=PALE, alpha=0.5, label="too small to find with 80 % power"),
    ]
