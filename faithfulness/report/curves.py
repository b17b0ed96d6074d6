"""Curves over the deleted share, and methods as points between two measures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Annotation
from numpy.typing import NDArray

from faithfulness.core.errors import InputError
from faithfulness.report.style import (
    LINE,
    PALE,
    SMALL,
    Style,
    as_array,
    method_styles,
    need,
    new_figure,
    plain_log,
    styled,
    text_inches,
    wrap_label,
)
from faithfulness.report.tables import short_labels

MOST_BANDS = 10
"""With more curves than that, their bands would hide them."""
Point = tuple[float | int, float | int]


@styled
def plot_curves(
    curves: Mapping[str, Any],
    fractions: Sequence[float],
    *,
    label: str,
    title: str = "",
    x_label: str = "pixels deleted, most attributed first (%)",
    scored: tuple[float, float] | None = None,
) -> Figure:
    """A curve per method over the share of pixels: mean over the pairs and, for up to ten curves, its 95 % band.

    Curves that are equal are drawn once, and named together.

    Args:
        curves: method -> values (pairs, fractions); NaN is left out. The band is normal theory.
        fractions: shares in [0, 1].
        label: of the vertical axis.
        title: model and data.
        scored: the range of shares that the score is the mean of, where more are shown.
    """
    need(curves, "curves")
    groups: list[tuple[list[str], NDArray[np.floating]]] = []
    for name, values in curves.items():
        array = as_array(values).astype(float)
        if array.ndim != 2 or array.shape[1] != len(fractions):
            raise InputError(f"expected curves of {name} (pairs, {len(fractions)}), got {array.shape}")
        same = next((names for names, other in groups if np.array_equal(array, other, equal_nan=True)), None)
        if same is not None:
            same.append(name)
        else:
            groups.append(([name], array))
    short, looks = short_labels(curves), method_styles(group[0] for group, _ in groups)
    names = [
        _name_together((short[name] for name in group), bool(np.isfinite(values).any())) for group, values in groups
    ]
    lines = sum(name.count("\n") + 1 for name in names)
    figure = new_figure(5 + text_inches(names), max(3.6, 0.172 * lines + 0.3), title)
    axes = figure.subplots()
    percent = 100 * np.asarray(fractions)
    few = len(groups) <= MOST_BANDS
    handles = [_draw_curve(axes, percent, looks[group[0]], values, few) for group, values in groups]
    if scored is not None:
        axes.axvspan(100 * scored[0], 100 * scored[1], color=PALE, alpha=0.35, linewidth=0, zorder=0)
        x_label += "\nshaded: the shares that the score is the mean over"
    axes.set(xlabel=x_label, ylabel=label)
    axes.grid()
    axes.legend(handles, names, loc="upper left", bbox_to_anchor=(1.02, 1), borderaxespad=0, handlelength=3.5)
    return figure


def _name_together(names: Iterable[str], defined: bool) -> str:
    return wrap_label(" = ".join(names) + ("" if defined else ": undefined"), 30)


def _draw_curve(
    axes: Axes, percent: NDArray[np.floating], look: Style, values: NDArray[np.floating], band: bool
) -> Line2D:
    """Draw what is defined of a curve; the line for the legend."""
    count = (~np.isnan(values)).sum(axis=0)
    known = count > 0
    if not known.any():
        return Line2D([], [], linestyle="none")
    mean = np.nanmean(values[:, known], axis=0)
    drawn = {"color": look.color, "marker": look.marker, "markersize": 4.5, "linestyle": look.linestyle}
    (line,) = axes.plot(percent[known], mean, **drawn)
    if band and count[known].min() > 1:
        half = 1.96 * np.nanstd(values[:, known], axis=0, ddof=1) / np.sqrt(count[known])
        axes.fill_between(percent[known], mean - half, mean + half, color=look.color, alpha=0.12, linewidth=0)
    return line


@styled
def plot_scatter(
    points: Mapping[str, Sequence[float | int | None]],
    *,
    x_label: str,
    y_label: str = "target deletion drop",
    log_x: bool = False,
    intervals: Mapping[str, Sequence[float | int | None]] | None = None,
    title: str = "",
) -> Figure:
    """One named point per method: faithfulness against stability or against cost; equal points are named together.

    Args:
        points: method -> (x, y); a point that isn't finite, or None, is left out and named below.
        log_x: for costs; a cost of 0 (a control that never looks at the model) sits at the left edge.
        intervals: method -> bounds of y.
        title: model and data.
    """
    numbers = {name: tuple(np.asarray(place, dtype=float).tolist()) for name, place in points.items()}  # None is NaN
    shown = {name: place for name, place in numbers.items() if np.isfinite(place).all()}
    figure = new_figure(6.5, 4.2 if len(shown) <= 12 else 6.0, title)
    axes = figure.subplots()
    edge = min((x for x, _ in shown.values() if x > 0), default=1) / 3
    if log_x:
        plain_log(axes)
    same: dict[Point, list[str]] = {}
    rim: dict[str, Any] = {"markeredgecolor": "white", "markeredgewidth": 0.5}
    looks, short = method_styles(points), short_labels(points)
    for name, (x, y) in shown.items():
        look, free = looks[name], log_x and x <= 0
        place = (edge if free else x, y)
        if intervals and name in intervals:
            axes.plot(
                [place[0]] * 2, np.asarray(intervals[name], dtype=float), color=look.color, linewidth=1, alpha=0.6
            )
        axes.plot(*place, marker=look.marker, color=look.color, markersize=8, linestyle="none", **rim)
        same.setdefault(place, []).append(short[name] + " (0)" * free)
    texts = {wrap_label(" = ".join(names), 24): place for place, names in same.items()}
    axes.margins(0.15)
    missing = [short[name] for name in points if name not in shown]
    note = wrap_label(f"undefined: {', '.join(missing)}", 90) if missing else ""
    axes.set(xlabel="\n".join(filter(None, [x_label, note])), ylabel=y_label)
    axes.grid()
    _name_points(figure, axes, texts)
    return figure


def _name_points(figure: Figure, axes: Axes, texts: Mapping[str, Point]) -> None:
    """Put each name beside its point, where it covers neither another name nor a point, else where it covers least."""
    figure.draw_without_rendering()  # the places in pixels are known after the layout
    pixel = figure.dpi / 72
    centers = {text: axes.transData.transform(place) for text, place in texts.items()}
    taken = [np.concatenate([center - 5 * pixel, center + 5 * pixel]) for center in centers.values()]
    inside = np.atleast_2d(axes.get_window_extent().extents)
    for text, place in sorted(texts.items(), key=lambda item: -centers[item[0]][1]):
        note = axes.annotate(
            text,
            place,
            (0, 0),
            textcoords="offset points",
            fontsize=SMALL,
            ha="center",
            va="center",
            arrowprops={"arrowstyle": "-", "color": LINE, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3},
        )
        note.set_in_layout(False)
        size = _text_size(note, figure)
        offsets = _offsets(size / pixel)
        boxes = (centers[text] + pixel * offsets)[:, [0, 1, 0, 1]] + np.concatenate([-size, size]) / 2
        covered = _common(boxes, np.stack(taken)) + size.prod() - _common(boxes, inside)
        best = np.lexsort((np.hypot(*offsets.T), covered.round(3)))[0]
        note.set_position((float(offsets[best, 0]), float(offsets[best, 1])))
        taken.append(boxes[best])


def _text_size(note: Annotation, figure: Figure) -> NDArray[np.floating]:
    """Width and height in pixels of a text without its line."""
    note.arrow_patch.set_visible(False)  # type: ignore[union-attr]
    box = note.get_window_extent(figure.canvas.get_renderer())  # type: ignore[attr-defined]
    note.arrow_patch.set_visible(True)  # type: ignore[union-attr]
    return np.array([box.width, box.height])


def _offsets(size: NDArray[np.floating]) -> NDArray[np.floating]:
    """Where the middle of a name may stand about its point, (n, 2) in points: close by, then farther away."""
    angles = np.arange(16) * math.pi / 8
    around = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return np.concatenate([around * (size / 2 + gap) for gap in (8, 16, 28, 44, 64, 90)])


def _common(boxes: NDArray[np.floating], others: NDArray[np.floating]) -> NDArray[np.floating]:
    """The area that each of some boxes (n, 4: left, bottom, right, top) shares with others, summed over these."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    return (high - low).clip(min=0).prod(axis=-1).sum(axis=1)
