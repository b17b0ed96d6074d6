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
from faithfulness.report.grids import LOCALIZATION, bin_name
from faithfulness.report.maps import (
    PERCENTILE,
    frame_cell,
    frame_region,
    is_signed,
    map_key,
    show_image,
    show_map,
    upper_end,
)
from faithfulness.report.style import INK, LINE, SMALL, as_array, bare, need, new_figure, styled, wrap_label
from faithfulness.report.tables import short_labels

LETTERS = 18
"""Of a line of a method's label above its maps."""
ACROSS = 10
"""Of more methods than that, the maps stand in several blocks, one below the other."""
MOST_ROWS = 18
"""Where methods stand in blocks, only so many images are shown as fit into so many rows, at least one."""
WRONG = "#B30000"


@styled
def examples(
    kept: Sequence[Mapping[str, Any]], labels: Sequence[str], grid: PatchGrid, title: str = "", note: str = ""
) -> Figure:
    """IDSDS: an image and its true drops, then for each method its map and its cell sums below.

    Args:
        kept: an entry per image and method: index, method, image (3, H, W), map (h, w), sums and drops (rows·cols);
            where they are known, label (of the class), predicted and explained (labels too), and name, which stands
            for the index. Every image has the same methods.
        labels: the methods to show, in order; those of which nothing was kept are left out.
        title: model and data.
        note: a sentence more, below.
    """
    by_key = {(entry["index"], entry["method"]): entry for entry in kept}
    indices = sorted({index for index, _ in by_key})
    need(indices, "examples")
    shown = [label for label in labels if (indices[0], label) in by_key]
    need(shown, "methods that examples were kept of")
    fit = images_that_fit(len(shown), 2, len(indices))
    cut = f"the first {fit} of {len(indices)} images; with at most {ACROSS} methods all are shown"
    indices, notes = indices[:fit], [cut] * (fit < len(indices))
    figure, blocks = _sheet(shown, 2 * len(indices), title)
    signed = {label: is_signed(by_key[i, label][what] for i in indices for what in ("map", "sums")) for label in shown}
    for labels, table in blocks:
        for row, index in enumerate(indices):
            above, below = table[2 * row : 2 * row + 2]
            first = by_key[index, shown[0]]
            show_image(above[0], first["image"])
            _name_image(above[0], first)
            _show_cells(below[0], first["drops"], grid, True, "true drops")
            for axes, cells, label in zip(above[1:], below[1:], labels, strict=False):
                entry = by_key[index, label]
                show_map(axes, entry["map"], signed[label], over=first["image"])
                rank = f"ρ = {_spearman(as_array(entry['sums']), as_array(entry['drops'])):.2f}"
                _show_cells(cells, entry["sums"], grid, signed[label], rank.replace("nan", "–"))
    about = "above: the map over the image; below: its sums over the cells, and their rank correlation ρ with the true "
    about += (
        "drops, by which the output falls when a cell is deleted; a method's maps and sums have the same colors, and "
    )
    about += f"each a scale of its own, up to its largest magnitude (of a map, the {PERCENTILE:g}th percentile)"
    map_key(figure, [True, *signed.values()], shown, about, note, *notes)
    return figure


def images_that_fit(methods: int, rows: int, images: int) -> int:
    """How many images a sheet shows, each of which takes `rows` rows in every block of methods: all if there is one."""
    blocks = -(-methods // ACROSS)
    return images if blocks <= 1 else max(1, min(images, MOST_ROWS // (rows * blocks)))


def _name_image(axes: Axes, entry: Mapping[str, Any]) -> None:
    """An image's number, its class, and what the model takes it for."""
    label, predicted, explained = (entry.get(name) for name in ("label", "predicted", "explained"))
    wrong = None not in (label, predicted) and label != predicted
    lines = [entry.get("name") or f"#{entry['index']}"]
    lines += [] if label is None else [f"class {label}"]
    lines += [] if predicted is None else [f"predicted {predicted}{' ✗' if wrong else ''}"]
    lines += [f"explained: {explained}"] if explained not in (None, label or predicted) else []
    text = "\n".join(wrap_label(line, LETTERS) for line in lines)
    axes.set_ylabel(text, fontsize=SMALL, color=WRONG if wrong else INK)


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
    fit = images_that_fit(len(maps), 1, rows)
    cut = f"the first {fit} of {rows} pairs; with at most {ACROSS} methods all are shown"
    notes, rows = [cut] * (fit < rows), fit
    figure, blocks = _sheet(list(maps), rows, title)
    signed = {label: is_signed(values) for label, values in maps.items()}
    for labels, table in blocks:
        for row, line in enumerate(table):
            show_image(line[0], images[row])
            for axes, label in zip(line[1:], labels, strict=False):
                show_map(axes, maps[label][row, 0], signed[label], over=images[row])
            for axes in line[: len(labels) + 1]:
                frame_region(axes, regions[row])
            if names is not None:
                line[0].set_ylabel(wrap_label(names[row], LETTERS), fontsize=SMALL)
    note = "green outline: the explained region of the class; each map on its own color scale"
    map_key(figure, signed.values(), maps, note, *notes)
    return figure


def _sheet(labels: Sequence[str], rows: int, title: str) -> tuple[Figure, list[tuple[list[str], NDArray[Any]]]]:
    """Blocks of methods, each a table of axes: a column for the image, and one for each method, its label on top."""
    count = max(1, -(-len(labels) // ACROSS))
    across = -(-len(labels) // count)
    parts = [list(labels[start : start + across]) for start in range(0, len(labels), across)] if labels else [[]]
    short = short_labels(labels)
    heads = [[wrap_label(short[label], LETTERS) for label in part] for part in parts]
    lines = sum(max((head.count("\n") for head in part), default=0) for part in heads)
    figure = new_figure(
        max(1.2 * (across + 1) + 0.5, 3.4), 1.3 * rows * count + 1.0 + 0.2 * count + 0.13 * lines, title
    )
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.01, hspace=0.01)  # type: ignore[union-attr]
    table = figure.subplots(rows * count, across + 1, squeeze=False)
    blocks = []
    for place, (part, names) in enumerate(zip(parts, heads, strict=True)):
        block = table[rows * place : rows * (place + 1)]
        for axes, head in zip(block[0], ["image", *names], strict=False):
            axes.set_title(head, fontsize=SMALL)
        for axes in block[:, len(part) + 1 :].flat:
            bare(axes)
        blocks.append((part, block))
    return figure, blocks


@styled
def examples_figure(
    result: Any,
    images: Mapping[int, Any],
    maps: Mapping[int, Any],
    cell: int,
    scale: int,
    title: str = "",
    numbers: Mapping[int, int] | None = None,
    classes: Mapping[int, str] | None = None,
) -> Figure:
    """AggAtt: for each bin, grids from its middle, each with its map beside it; the scored cell is framed.

    Args:
        result: as in `aggregate_figure`; its examples, edges and scores are shown.
        images: example's index -> (3, H, W) in [0, 1]; all of `result.examples`.
        maps: example's index -> (1, h, w) signed; shown by their positive part, each on its own scale.
        numbers: example's index -> the number that its grid goes by, where some grids were left out.
        classes: example's index -> the class of the framed cell, which then stands below it instead of the number.
        title: method, layer, setting, model and data.
    """
    widest = max((len(part) for part in result.examples), default=0)
    need(range(widest), "examples")
    heights = [1.0 if part else 0.2 for part in result.examples]
    figure = new_figure(2.7 * widest + 0.8, 1.5 * sum(heights) + 0.9, title)
    table = figure.subplots(len(heights), 2 * widest, squeeze=False, height_ratios=heights)
    for axes in table.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    for row, (line, part) in enumerate(zip(table, result.examples, strict=True)):
        for left, right, index in zip(line[::2], line[1::2], part, strict=False):
            values = as_array(maps[index]).astype(float).sum(axis=0).clip(min=0)
            show_image(left, images[index])
            show_map(right, values, False, over=images[index], top=upper_end(values))
            for axes in (left, right):
                frame_cell(axes, tuple(images[index].shape[-2:]), cell, scale)
            name = f"grid {index if numbers is None else numbers[index]}"
            left.set_xlabel(name if classes is None else f"class {classes[index]}", fontsize=SMALL, labelpad=2)
            right.set_xlabel(f"L = {result.scores[index]:.2f}", fontsize=SMALL, labelpad=2)
        line[0].set_ylabel(bin_name(result.edges, row))
        if not part:
            line[0].text(0.5, 0.5, "no map", ha="center", va="center", color=LINE, transform=line[0].transAxes)
    note = "the positive part of each map, on its own color scale"
    map_key(figure, [False], [], f"{note}; {LOCALIZATION}; best maps first")
    return figure
