"""Methods over models: does a more accurate model get better explanations?"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from faithfulness.report.style import (
    LINE,
    PALE,
    SMALL,
    legend_below,
    method_styles,
    need,
    new_figure,
    plain_log,
    styled,
    text_inches,
    wrap_label,
)
from faithfulness.report.tables import short_labels


@styled
def accuracy_figure(
    lines: Mapping[str, Sequence[Sequence[float]]], models: Mapping[str, float], *, label: str, title: str = ""
) -> Figure:
    """A line per method over the accuracy of models, with the 95 % interval of each point.

    Args:
        lines: method -> (accuracy, mean, low, high) per model; points that aren't finite are left out.
        models: name -> accuracy; named along the top.
        label: of the vertical axis.
        title: data.
    """
    need(lines, "methods")
    names = [_shown(name) for name in models]
    rows = math.ceil(len(lines) / 5)
    figure = new_figure(7, 3.8 + 0.2 * rows + 0.7 * text_inches(names), title)
    axes = figure.subplots()
    handles: list[Any] = []
    looks, short = method_styles(lines), short_labels(lines)
    for method, points in lines.items():
        look = looks[method]
        kept = sorted(point for point in map(tuple, points) if all(map(math.isfinite, point[:2])))
        for accuracy, _, low, high in kept:
            axes.plot([accuracy] * 2, [low, high], color=look.color, linewidth=1, alpha=0.5)
        drawn = {"color": look.color, "marker": look.marker, "linestyle": look.linestyle, "markersize": 5}
        axes.plot([x for x, *_ in kept], [y for _, y, *_ in kept], linewidth=1, alpha=0.7, **drawn)
        handles.append(Line2D([], [], label=wrap_label(short[method], 24), **drawn))
    axes.axhline(0, color=PALE, linewidth=0.8, zorder=0)
    axes.set(xlabel="accuracy of the model", ylabel=label)
    axes.margins(0.06)
    _name_models(figure, axes, models)
    legend_below(figure, handles)
    return figure


@styled
def models_figure(
    panels: Mapping[str, Mapping[str, Sequence[Sequence[float]]]],
    models: Sequence[str],
    *,
    y_label: str,
    log_x: Collection[str] = (),
    title: str = "",
) -> Figure:
    """Methods between two measures on several models: a point per method and model, the models by their numbers.

    Args:
        panels: label of the horizontal axis -> method -> (place among the models, x, y, low, high) per model; points
            that aren't finite are left out.
        log_x: panels of costs; a cost of 0 sits at the left edge.
        title: data.
    """
    need(panels, "panels")
    methods = list(dict.fromkeys(method for panel in panels.values() for method in panel))
    need(methods, "methods")
    looks, short = method_styles(methods), short_labels(methods)
    rows = math.ceil(len(methods) / 5) + math.ceil(sum(map(len, models)) / 60)
    figure = new_figure(4.2 * len(panels), 3.9 + 0.2 * rows, title)
    for axes, (label, panel) in zip(
        figure.subplots(1, len(panels), squeeze=False, sharey=True)[0], panels.items(), strict=True
    ):
        edge = min((x for points in panel.values() for _, x, *_ in points if x > 0), default=1.0) / 3
        if label in log_x:
            plain_log(axes)
        for method, points in panel.items():
            kept = [point for point in map(tuple, points) if all(map(math.isfinite, point[:3]))]
            places = [(max(x, edge) if label in log_x else x, y) for _, x, y, *_ in kept]
            look = looks[method]
            for (number, _, _, low, high), (x, y) in zip(kept, places, strict=True):
                axes.plot([x, x], [low, high], color=look.color, linewidth=1, alpha=0.5)
                named = {"textcoords": "offset points", "fontsize": SMALL, "color": look.color, "va": "center"}
                axes.annotate(f"{int(number) + 1}", (x, y), (5, 0), **named)
            axes.plot(*zip(*places, strict=True) if places else ([], []), color=look.color, linewidth=0.8, alpha=0.35)
            axes.plot(*zip(*places, strict=True) if places else ([], []), look.marker, color=look.color, markersize=5.5)
        axes.set_xlabel(label)
        axes.margins(0.1)
        axes.grid()
    figure.axes[0].set_ylabel(y_label)
    handles = [
        Line2D([], [], color=looks[m].color, marker=looks[m].marker, label=wrap_label(short[m], 24)) for m in methods
    ]
    named = "; ".join(f"{place} {_shown(model)}" for place, model in enumerate(models, start=1))
    legend_below(figure, handles, f"numbers are models: {named}")
    return figure


def _shown(model: str) -> str:
    """A name of at most 40 letters."""
    return model if len(model) <= 40 else f"{model[:28]}…{model[-11:]}"


def _name_models(figure: Figure, axes: Axes, models: Mapping[str, float]) -> None:
    """Names along the top, each joined to its place; those that would cover one another stand side by side."""
    low, high = axes.get_xlim()
    gap = 1.6 * SMALL / 72 / (0.8 * figure.get_figwidth())
    shares = sorted(((value - low) / (high - low), name) for name, value in models.items() if math.isfinite(value))
    places: list[float] = []
    for number, (share, _) in enumerate(shares):
        least = places[-1] + gap if places else 0.0
        places.append(min(max(share, least), 1 - gap * (len(shares) - 1 - number)))
    for number in reversed(range(len(places) - 1)):
        places[number] = min(places[number], places[number + 1] - gap)
    for place, (share, name) in zip(places, shares, strict=True):
        axes.annotate(
            _shown(name),
            (share, 1),
            (place, 1.06),
            xycoords="axes fraction",
            textcoords="axes fraction",
            fontsize=SMALL,
            rotation=60,
            ha="left",
            va="bottom",
            rotation_mode="anchor",
            arrowprops={
                "arrowstyle": "-",
                "color": LINE,
                "linewidth": 0.5,
                "shrinkA": 0,
                "shrinkB": 0,
                "relpos": (0, 0),
            },
        )
