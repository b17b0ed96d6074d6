"""Pictures of the grid protocols: AggAtt's bins, the heat map of all means, what can reach a head."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from faithfulness.core.errors import InputError
from faithfulness.report.maps import FRAME, PERCENTILE, frame_cell, show_map, upper_end
from faithfulness.report.style import (
    FAULTS,
    INK,
    MAPS,
    NORMAL,
    SCORES,
    SIGNED,
    SMALL,
    as_array,
    bare,
    legend_below,
    method_family,
    need,
    new_figure,
    note_below,
    row_labels,
    styled,
    text_color,
    text_inches,
    wrap_label,
    wrap_lines,
)
from faithfulness.report.tables import metric_name, short_labels

CHANCE = "a uniform map (chance)"
REACH = ListedColormap(["#404040", "white"])
LOCALIZATION = "L, localization score: positive attribution inside the framed cell / in the whole grid"
CAMS_AT_INPUT = (
    "CAMs are close to 0 at the input: they weigh each color by the mean of its gradient over all places, which nearly "
    "cancels there; they are made for the last layer (--layers final)"
)


@styled
def aggregate_figure(rows: Mapping[str, Any], cell: int, scale: int, title: str = "", layer: str = "") -> Figure:
    """AggAtt: a row per method, a column per bin, best bin first; the scored cell is framed.

    One color scale over the bins of a method, from 0 to a high percentile of all their pixels. The
    range of scores stands under each map.

    Args:
        rows: method -> `difull.Aggregate`, or anything with its attributes: means (bins, 1, h, w), NaN where
            a bin is empty; counts of the bins; order (N,), indices best first; scores (N,); edges of the bins.
        title: layer, setting, model and data.
        layer: at which the maps were made, for what is to be said of it.
    """
    need(rows, "methods")
    first = next(iter(rows.values()))
    bins = len(first.counts)
    figure = new_figure(1.45 * bins + 1.6, 1.75 * len(rows) + 0.7, title)
    table = figure.subplots(len(rows), bins, squeeze=False)
    short = short_labels(rows)
    for line, (label, result) in zip(table, rows.items(), strict=True):
        means = as_array(result.means)[:, 0].astype(float)
        top = upper_end(means)
        for column, (axes, mean, count) in enumerate(zip(line, means, result.counts, strict=True)):
            show_map(axes, mean, False, top=top)
            if count:
                frame_cell(axes, mean.shape, cell, scale)
            axes.set_xlabel(_score_range(result, column) if count else "no map", fontsize=SMALL, labelpad=3)
            if axes is table[0][column]:
                axes.set_title(bin_name(result.edges, column))
        line[0].set_ylabel(wrap_label(short[label], 20))
        colors = ScalarMappable(Normalize(0, top), MAPS)
        bar = figure.colorbar(colors, ax=list(line), shrink=0.8, pad=0.01, extend="max")
        bar.set_label("mean positive\nattribution", fontsize=SMALL)
        bar.ax.tick_params(labelsize=SMALL - 1)
        bar.formatter.set_powerlimits((-2, 3))  # type: ignore[attr-defined]
        bar.ax.yaxis.get_offset_text().set_fontsize(SMALL - 1)
    cams = layer == "input" and any(method_family(label) == "CAMs" for label in rows)
    note_below(
        figure,
        f"{LOCALIZATION}; 1 is best, a uniform map has {1 / scale**2:.3g}; best maps first",
        f"one color scale per method, over all its bins, from 0 to the {PERCENTILE:g}th percentile of their pixels",
        _empty_bins(rows.values(), first.edges),
        CAMS_AT_INPUT if cams else "",
    )
    return figure


def _empty_bins(results: Iterable[Any], edges: Sequence[float]) -> str:
    """Which columns hold no map, and how many grids it would take."""
    counts = [result.counts for result in results]
    empty = [place for place in range(len(edges) - 1) if not any(each[place] for each in counts)]
    if not empty:
        return ""
    grids, narrowest = max(map(sum, counts)), min(edges[place + 1] - edges[place] for place in empty)
    named = ", ".join(bin_name(edges, place) for place in empty)
    return f"no map in {named}: of {grids} grids that is less than one; with {math.ceil(1 / narrowest)} each holds some"


def bin_name(edges: Sequence[float], place: int) -> str:
    """The share of the data set that a bin holds."""
    return f"{100 * edges[place]:g}–{100 * edges[place + 1]:g} %"


def _score_range(result: Any, column: int) -> str:
    start = sum(result.counts[:column])
    scores = result.scores[result.order[start : start + result.counts[column]]]
    best, worst = f"{scores.max():.2f}", f"{scores.min():.2f}"
    return f"L {best}{'' if best == worst else f'–{worst}'}, n = {len(scores)}"


@styled
def heat_map_figure(
    values: NDArray[np.floating],
    methods: Sequence[str],
    columns: Sequence[tuple[str, str]],
    title: str = "",
    label: str = "localization",
    limits: tuple[float, float] = (0.0, 1.0),
    *,
    higher_is_better: bool = True,
    chance: Sequence[float | None] | None = None,
    note: str = "",
) -> Figure:
    """ML-Att: a row per method, a column per (setting, layer), the mean score in each field.

    The colors say what a score means: where more is better, bright is good; where less is better
    (impossible attribution), another map, in which bright is bad; where `limits` reach below 0
    (correlations), a diverging one about 0.

    Args:
        values: (methods, columns); NaN where a method wasn't run.
        columns: (setting, layer); columns of one setting stand side by side under its name.
        label: of the values.
        limits: of the color scale.
        title: model and data.
        chance: the score of a uniform map in each column, a line of its own below the methods.
        note: a sentence below.
    """
    values = np.asarray(values, dtype=float)
    if values.shape != (len(methods), len(columns)) or not values.size:
        raise InputError(f"expected values ({len(methods)}, {len(columns)}), not empty, got {values.shape}")
    labels = row_labels(methods)
    if chance is not None:
        values = np.vstack([values, np.array(chance, dtype=float)])
        labels = [*labels, CHANCE]
    foot = 0.5 * text_inches(layer for _, layer in columns)
    width = 0.62 * len(columns) + text_inches(labels) + 1.4
    figure = new_figure(max(width, 3.6), 0.26 * len(labels) + 1.1 + foot + 0.3 * bool(note), title)
    axes = figure.subplots()
    diverging = limits[0] < 0
    name = SIGNED if diverging else SCORES if higher_is_better else FAULTS
    colors, norm = mpl.colormaps[name], Normalize(*limits, clip=True)
    picture = axes.imshow(np.ma.masked_invalid(values), cmap=colors, norm=norm, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        color = "black" if np.isnan(value) else text_color(colors(norm(value)))
        text = "–" if np.isnan(value) else f"{value:.2f}"
        axes.text(column, row, text, ha="center", va="center", fontsize=SMALL, color=color)
    if chance is not None:
        axes.axhline(len(methods) - 0.5, color="white", linewidth=2.5)
    axes.set_yticks(range(len(labels)), labels, linespacing=1)
    axes.set_xticks(
        range(len(columns)), [layer for _, layer in columns], rotation=35, ha="right", rotation_mode="anchor"
    )
    axes.spines[:].set_visible(False)
    axes.tick_params(length=2)
    _name_settings(axes, [setting for setting, _ in columns])
    shown = label if diverging else metric_name(label, higher_is_better)
    figure.colorbar(picture, ax=axes, pad=0.02, fraction=0.05, aspect=30)
    shown = shown if diverging or higher_is_better else f"{shown}: dark is good, bright is bad"
    figure.supxlabel(wrap_lines(figure, [shown, note], NORMAL), fontsize=NORMAL)
    return figure


def _name_settings(axes: Axes, settings: Sequence[str]) -> None:
    """The name of each setting over its columns, and a gap between one and the next."""
    for start in [i for i, name in enumerate(settings) if i == 0 or name != settings[i - 1]]:
        end = next((i for i in range(start, len(settings)) if settings[i] != settings[start]), len(settings))
        text = wrap_label(settings[start], max(6, 9 * (end - start)))
        axes.text((start + end - 1) / 2, -0.65, text, ha="center", va="bottom", fontsize="large")
        if start:
            axes.axvline(start - 0.5, color="white", linewidth=2.5)


@styled
def influence_figure(maps: Mapping[str, Any], cell: int, scale: int, title: str = "") -> Figure:
    """Which blocks can reach a head, a panel per setting; the head's cell is framed.

    Args:
        maps: setting -> (rows, columns) bool.
    """
    need(maps, "influence maps")
    figure = new_figure(max(2.3 * len(maps) + 0.4, 3.4), 3.3, title)
    for axes, (name, values) in zip(figure.subplots(1, len(maps), squeeze=False)[0], maps.items(), strict=True):
        values = as_array(values)
        axes.imshow(values, cmap=REACH, vmin=0, vmax=1)
        bare(axes)
        frame_cell(axes, values.shape, cell, scale)
        axes.spines[:].set_visible(True)  # an all-white panel has no other edge
        axes.set_title(name)
        axes.set_xlabel(f"{100 * values.mean():.1f} % can matter")
    legend_below(
        figure,
        [
            Patch(facecolor=REACH(1.0), edgecolor=INK, label="can reach the head"),
            Patch(facecolor=REACH(0.0), edgecolor=INK, label="can't, whatever is there"),
            Patch(facecolor="none", edgecolor=FRAME, linewidth=2.2, label="the head's cell"),
        ],
    )
    return figure
