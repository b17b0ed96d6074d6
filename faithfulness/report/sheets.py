"""Sheets of examples: images beside the maps of every method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from faithfulness.core.errors import InputError
from faithfulness.core.grid import PatchGrid
from faithfulness.report.grids import bin_name
from faithfulness.report.maps import frame_cell, frame_region, is_signed, map_key, show_image, show_map, upper_end
from faithfulness.report.style import LINE, SMALL, as_array, need, new_figure, styled, wrap_label

LETTERS = 18
"""Of a line of a method's label above its maps."""


@styled
def examples(kept: Sequence[Mapping[str, Any]], labels: Sequence[str], grid: PatchGrid, title: str = "") -> Figure:
    """IDSDS: an image and its true drops, then for each method its map and its cell sums below.

    Args:
        kept: an entry per image and method: index, label (of the class), method, image (3, H, W), map (h, w),
            sums and drops (rows·cols). Every image has the same methods.
        labels: the methods to show, in order; those of which nothing was kept are left out.
        title: model and data.
    """
    by_key = {(entry["index"], entry["method"]): entry for entry in kept}
    indices = sorted({index for index, _ in by_key})
    need(indices, "examples")
    shown = [label for label in labels if (indices[0], label) in by_key]
    need(shown, "methods that examples were kept of")
    figure, table = _sheet(shown, 2 * len(indices), title)
    signed = {
        label: (
            is_signed(by_key[i, label]["map"] for i in indices),
            is_signed(by_key[i, label]["sums"] for i in indices),
        )
        for label in shown
    }
    for row, index in enumerate(indices):
        above, below = table[2 * row], table[2 * row + 1]
        first = by_key[index, shown[0]]
        show_image(above[0], first["image"])
        above[0].set_ylabel(f"#{index}\n{first['label']}", fontsize=SMALL)
        _show_cells(below[0], first["drops"], grid, True, "true drops")
        for axes, cells, label in zip(above[1:], below[1:], shown, strict=True):
            entry = by_key[index, label]
            show_map(axes, entry["map"], signed[label][0], size=first["image"].shape[-2:])
            rank = f"ρ = {_spearman(as_array(entry['sums']), as_array(entry['drops'])):.2f}"
            _show_cells(cells, entry["sums"], grid, signed[label][1], rank.replace("nan", "–"))
    map_key(figure, [True, *(each for pair in signed.values() for each in pair)])
    return figure


def _show_cells(axes: Axes, values: Any, grid: PatchGrid, signed: bool, text: str) -> None:
    values = as_array(values).astype(float)
    show_map(axes, values.reshape(grid.rows, grid.cols), signed, top=float(np.abs(values).max()))
    axes.set_xlabel(text, fontsize=SMALL, labelpad=2)


def _spearman(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    from scipy.stats import rankdata

    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])


@styled
def plot_examples(
    images: Any, regions: Any, maps: Mapping[str, Any], *, names: Sequence[str] | None = None, title: str = ""
) -> Figure:
    """DEA: a row per pair, the image with its region framed, then each method's map.

    Args:
        images: (n, 3 or 1, H, W) as they should look, in [0, 1].
        regions: (n, H, W).
        maps: method -> (n, 1, h, w); drawn in their own pixels.
        names: of the rows.
        title: model and data.
    """
    rows = len(images)
    if not rows:
        raise InputError("no examples to show")
    size = images.shape[-2:]
    figure, table = _sheet(list(maps), rows, title)
    signed = {label: is_signed(values) for label, values in maps.items()}
    for row, line in enumerate(table):
        show_image(line[0], images[row])
        for axes, (label, values) in zip(line[1:], maps.items(), strict=True):
            show_map(axes, values[row, 0], signed[label], size=size)
        for axes in line:
            frame_region(axes, regions[row])
        if names is not None:
            line[0].set_ylabel(wrap_label(names[row], LETTERS), fontsize=SMALL)
    map_key(figure, signed.values())
    return figure


def _sheet(labels: Sequence[str], rows: int, title: str) -> tuple[Figure, NDArray[Any]]:
    """A table of axes: a column for the image, and one for each method, with its label on top."""
    heads = [wrap_label(label, LETTERS) for label in labels]
    lines = max(head.count("\n") for head in heads) if heads else 0
    width = 1.2 * (len(labels) + 1) + 0.4
    figure = new_figure(max(width, 3.4), 1.3 * rows + 0.8 + 0.13 * lines, title)
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.01, hspace=0.01)  # type: ignore[union-attr]
    table = figure.subplots(rows, len(labels) + 1, squeeze=False)
    for axes, head in zip(table[0], ["image", *heads], strict=True):
        axes.set_title(head, fontsize=SMALL)
    return figure, table


@styled
def examples_figure(
    result: Any,
    images: Mapping[int, Any],
    maps: Mapping[int, Any],
    cell: int,
    scale: int,
    title: str = "",
    numbers: Mapping[int, int] | None = None,
) -> Figure:
    """AggAtt: for each bin, grids from its middle, each with its map beside it; the scored cell is framed.

    Args:
        result: as in `aggregate_figure`; its examples, edges and scores are shown.
        images: example's index -> (3, H, W) in [0, 1]; all of `result.examples`.
        maps: example's index -> (1, h, w) signed; shown by their positive part, each on its own scale.
        numbers: example's index -> the number that its grid goes by, where some grids were left out.
        title: method, layer, setting, model.
    """
    widest = max((len(part) for part in result.examples), default=0)
    need(range(widest), "examples")
    figure = new_figure(2.7 * widest + 0.8, 1.5 * len(result.examples) + 0.3, title)
    table = figure.subplots(len(result.examples), 2 * widest, squeeze=False)
    for axes in table.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    for row, (line, part) in enumerate(zip(table, result.examples, strict=True)):
        for left, right, index in zip(line[::2], line[1::2], part, strict=False):
            values = as_array(maps[index]).astype(float).sum(axis=0).clip(min=0)
            show_image(left, images[index])
            show_map(right, values, False, top=upper_end(values))
            frame_cell(left, tuple(images[index].shape[-2:]), cell, scale)
            frame_cell(right, values.shape, cell, scale)
            left.set_xlabel(f"grid {index if numbers is None else numbers[index]}", fontsize=SMALL, labelpad=2)
            right.set_xlabel(f"L = {result.scores[index]:.2f}", fontsize=SMALL, labelpad=2)
        line[0].set_ylabel(bin_name(result.edges, row))
        if not part:
            line[0].text(0.5, 0.5, "no map", ha="center", va="center", color=LINE, transform=line[0].transAxes)
    map_key(figure, [False], "positive part, each on its own scale")
    return figure
