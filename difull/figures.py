"""Figures of the grid protocols: AggAtt's bins, examples, heat map and box plots. All return a Figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from torch import Tensor

from core.errors import InputError
from core.results import atomic_file
from difull.aggregate import Aggregate
from difull.cells import check_cell, check_scale

MAP_COLOURS = "inferno"
SCORE_COLOURS = "viridis"
FRAME = "#35c8ff"


def save_figure(figure: Figure, path: str | Path, dpi: int = 120) -> None:
    """Write a PNG, whole or not at all."""
    with atomic_file(Path(path)) as temporary:
        figure.savefig(temporary, format="png", dpi=dpi)


def aggregate_figure(rows: Mapping[str, Aggregate], cell: int, scale: int, title: str = "") -> Figure:
    """AggAtt: a row per method, a column per bin, best bin first; the scored cell is framed.

    One colour scale over the bins of a method, from 0 to the 99.5th percentile of all their pixels, so
    that a single bright pixel doesn't hide the rest. The score range stands under each map.
    """
    _need(rows, "methods")
    bins = len(next(iter(rows.values())).counts)
    figure = _figure(1.6 * bins + 2.4, 1.85 * len(rows) + 0.9)
    axes = figure.subplots(len(rows), bins, squeeze=False)
    for line, (name, result) in zip(axes, rows.items(), strict=True):
        means = result.means[:, 0].float().cpu().numpy()
        scale_of_row = Normalize(0, _upper_end(means, 99.5), clip=True)
        for column, (axis, mean, count) in enumerate(zip(line, means, result.counts, strict=True)):
            _show_map(axis, mean, scale_of_row)
            _frame(axis, mean.shape, cell, scale)
            axis.set_xlabel(_score_range(result, column) if count else "no map", fontsize=7, labelpad=3)
            if axis is axes[0][column]:
                axis.set_title(_bin_name(result.edges, column), fontsize=9)
        line[0].set_ylabel(name, fontsize=9)
        bar = figure.colorbar(
            ScalarMappable(scale_of_row, MAP_COLOURS), ax=list(line), shrink=0.85, pad=0.01, extend="max"
        )
        bar.ax.tick_params(labelsize=6)
        bar.formatter.set_powerlimits((-2, 3))  # type: ignore[attr-defined]
        bar.ax.yaxis.get_offset_text().set_fontsize(6)
    figure.suptitle(title or "Mean positive attribution by localisation, best maps first", fontsize=10)
    return figure


def examples_figure(
    result: Aggregate,
    images: Mapping[int, Tensor],
    maps: Mapping[int, Tensor],
    cell: int,
    scale: int,
    title: str = "",
    numbers: Mapping[int, int] | None = None,
) -> Figure:
    """The sheet of examples: for each bin, grids from its middle, each with its map beside it.

    Args:
        images: example's index -> (3, H, W) in [0, 1]; all of `result.examples`.
        maps: example's index -> (1, h, w) signed; shown by their positive part, each on its own scale.
        numbers: example's index -> the number that its grid goes by, where some grids were left out.
    """
    widest = max((len(part) for part in result.examples), default=0)
    _need(range(widest), "examples")
    figure = _figure(2.9 * widest + 0.8, 1.6 * len(result.examples) + 0.8)
    axes = figure.subplots(len(result.examples), 2 * widest, squeeze=False)
    for row, (line, part) in enumerate(zip(axes, result.examples, strict=True)):
        for place in range(widest):
            left, right = line[2 * place : 2 * place + 2]
            if place >= len(part):
                left.axis("off")
                right.axis("off")
                continue
            index = part[place]
            image = images[index].detach().float().cpu().clamp(0, 1).permute(1, 2, 0).numpy()
            values = maps[index].detach().float().cpu().sum(dim=0).clamp(min=0).numpy()
            left.imshow(image, interpolation="nearest")
            _show_map(right, values, Normalize(0, _upper_end(values)))
            _frame(left, image.shape[:2], cell, scale)
            _frame(right, values.shape, cell, scale)
            _bare(left)
            left.set_xlabel(f"grid {index if numbers is None else numbers[index]}", fontsize=7, labelpad=2)
            right.set_xlabel(f"L = {result.scores[index]:.2f}", fontsize=7, labelpad=2)
        line[0].set_ylabel(_bin_name(result.edges, row), fontsize=8)
        if not part:
            line[0].axis("on")
            _bare(line[0])
    figure.suptitle(title or "Examples from the middle of each bin", fontsize=10)
    return figure


def heat_map_figure(
    values: NDArray[np.floating],
    methods: Sequence[str],
    columns: Sequence[tuple[str, str]],
    title: str = "",
    label: str = "localisation",
    limits: tuple[float, float] = (0.0, 1.0),
) -> Figure:
    """ML-Att: a row per method, a column per (setting, layer), the mean score in each field.

    Args:
        values: (methods, columns); NaN where a method wasn't run.
        columns: (setting, layer); columns of one setting stand side by side under its name.
    """
    values = np.asarray(values, dtype=float)
    if values.shape != (len(methods), len(columns)) or not values.size:
        raise InputError(f"expected values ({len(methods)}, {len(columns)}), not empty, got {values.shape}")
    figure = _figure(0.72 * len(columns) + 2.8, 0.34 * len(methods) + 1.7)
    axis = figure.subplots()
    picture = axis.imshow(np.ma.masked_invalid(values), cmap=SCORE_COLOURS, norm=Normalize(*limits), aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        text = "–" if np.isnan(value) else f"{value:.2f}"
        dark = not np.isnan(value) and value < limits[0] + 0.6 * (limits[1] - limits[0])
        axis.text(column, row, text, ha="center", va="center", fontsize=7, color="white" if dark else "black")
    axis.set_yticks(range(len(methods)), methods, fontsize=8)
    axis.set_xticks(range(len(columns)), [layer for _, layer in columns], fontsize=8, rotation=35, ha="right")
    settings = [setting for setting, _ in columns]
    for start in [i for i, name in enumerate(settings) if i == 0 or name != settings[i - 1]]:
        end = next((i for i in range(start, len(settings)) if settings[i] != settings[start]), len(settings))
        axis.text((start + end - 1) / 2, -0.65, settings[start], ha="center", va="bottom", fontsize=9)
        if start:
            axis.axvline(start - 0.5, color="white", linewidth=2.5)
    figure.colorbar(picture, ax=axis, label=label, pad=0.02)
    figure.suptitle(title or f"{label[0].upper()}{label[1:]} of each method at each layer", fontsize=10)
    return figure


def box_figure(
    scores: Mapping[str, Mapping[str, NDArray[np.floating]]],
    chance: float | None = None,
    title: str = "",
    label: str = "localisation",
) -> Figure:
    """Box plots: a panel per layer (or setting), a box per method.

    Args:
        scores: panel -> method -> per-image scores; NaN are left out.
        chance: the score of a uniform map, 1/scale², drawn as a line.

    Whiskers reach to 1.5 times the interquartile range, the diamond is the mean.
    """
    _need(scores, "panels")
    methods = list(dict.fromkeys(method for panel in scores.values() for method in panel))
    _need(methods, "methods")
    figure = _figure(max(2.4, 0.42 * len(methods) + 0.8) * len(scores) + 0.6, 3.6)
    axes = figure.subplots(1, len(scores), squeeze=False, sharey=True)[0]
    for axis, (name, panel) in zip(axes, scores.items(), strict=True):
        boxes = [_defined(panel.get(method, np.empty(0))) for method in methods]
        axis.boxplot(
            boxes,
            widths=0.6,
            showmeans=True,
            patch_artist=True,
            boxprops={"facecolor": "#b9d7ea", "edgecolor": "#24506b"},
            medianprops={"color": "#24506b", "linewidth": 1.8},
            meanprops={"marker": "D", "markersize": 4, "markerfacecolor": "#d1495b", "markeredgecolor": "none"},
            flierprops={"marker": ".", "markersize": 3, "markerfacecolor": "#777777", "markeredgecolor": "none"},
        )
        if chance is not None:
            axis.axhline(chance, color="#777777", linestyle="--", linewidth=1)
        axis.set_xticks(range(1, len(methods) + 1), methods, rotation=45, ha="right", fontsize=8)
        axis.set_title(name, fontsize=9)
        axis.set_ylim(-0.03, 1.03)
        axis.grid(axis="y", alpha=0.3)
    axes[0].set_ylabel(label)
    note = "" if chance is None else f" (dashed: a uniform map, {chance:.3g})"
    figure.suptitle((title or "Localisation per image") + note, fontsize=10)
    return figure


def influence_figure(maps: Mapping[str, NDArray[np.bool_]], cell: int, scale: int, title: str = "") -> Figure:
    """Which blocks can reach a head, a panel per setting; the head's cell is framed."""
    _need(maps, "influence maps")
    figure = _figure(2.4 * len(maps) + 0.4, 3.4)
    for axis, (name, values) in zip(figure.subplots(1, len(maps), squeeze=False)[0], maps.items(), strict=True):
        values = np.asarray(values)
        axis.imshow(values, cmap="Greys_r", vmin=0, vmax=1, interpolation="nearest")
        _frame(axis, values.shape, cell, scale)
        _bare(axis)
        axis.set_title(name, fontsize=9)
        axis.set_xlabel(f"{100 * values.mean():.1f} % can matter", fontsize=8)
    figure.suptitle(title or f"Can reach the head of cell {cell} (white)", fontsize=10)
    return figure


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _need(items: object, what: str) -> None:
    if not len(items):  # type: ignore[arg-type]
        raise InputError(f"a figure needs {what}, got none")


def _defined(values: NDArray[np.floating]) -> NDArray[np.floating]:
    values = np.asarray(values, dtype=float)
    return values[~np.isnan(values)]


def _upper_end(values: NDArray[np.floating], percentile: float = 100) -> float:
    """The upper end of a colour scale: a percentile of the defined values, 1 where all is 0."""
    values = values[np.isfinite(values)]
    if not values.size or values.max() <= 0:
        return 1.0
    return float(np.percentile(values, percentile)) or float(values.max())


def _show_map(axis: Axes, values: NDArray[np.floating], norm: Normalize) -> None:
    axis.imshow(np.ma.masked_invalid(values), cmap=MAP_COLOURS, norm=norm, interpolation="nearest")
    _bare(axis)


def _bare(axis: Axes) -> None:
    axis.set_xticks([])
    axis.set_yticks([])


def _frame(axis: Axes, shape: tuple[int, ...], cell: int, scale: int) -> None:
    """A frame around the scored cell, and thin lines between the cells."""
    row, col = divmod(check_cell(cell, check_scale(scale)), scale)
    height, width = shape[0] / scale, shape[1] / scale
    for line in range(1, scale):
        axis.axhline(line * height - 0.5, color="white", alpha=0.35, linewidth=0.6)
        axis.axvline(line * width - 0.5, color="white", alpha=0.35, linewidth=0.6)
    corner = (col * width - 0.5, row * height - 0.5)
    axis.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=FRAME, linewidth=2.2, clip_on=False))


def _bin_name(edges: Sequence[float], column: int) -> str:
    return f"{100 * edges[column]:g}–{100 * edges[column + 1]:g} %"


def _score_range(result: Aggregate, column: int) -> str:
    start = sum(result.counts[:column])
    scores = result.scores[result.order[start : start + result.counts[column]]]
    return f"L {scores.max():.2f}–{scores.min():.2f}, n = {len(scores)}"
