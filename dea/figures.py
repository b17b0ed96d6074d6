"""Figures of the segmentation benchmark, written as PNG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path

import matplotlib as mpl
import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from core.errors import InputError
from core.resize import resize_maps
from core.results import atomic_file

DPI = 150
MARKERS = "os^vDP*X<>"
Values = NDArray[np.floating]


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG, whole or not at all."""
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI, bbox_inches="tight")
    return path


def plot_curves(
    curves: Mapping[str, Values], fractions: Sequence[float], path: Path, *, label: str, title: str = ""
) -> Path:
    """A curve per attribution over the share of pixels: mean over the pairs and its 95 % band.

    Args:
        curves: attribution -> values (pairs, fractions); NaN is left out. The band is normal theory.
        fractions: shares in [0, 1].
        label: of the vertical axis.
    """
    figure = Figure(figsize=(6, 4))
    axes = figure.subplots()
    percent = 100 * np.asarray(fractions)
    for color, (name, values) in zip(_colors(len(curves)), curves.items(), strict=True):
        values = np.asarray(values, dtype=float)
        if values.ndim != 2 or values.shape[1] != len(percent):
            raise InputError(f"expected curves of {name} (pairs, {len(percent)}), got {values.shape}")
        count = (~np.isnan(values)).sum(axis=0)
        if not count.all():
            continue
        mean = np.nanmean(values, axis=0)
        half = 1.96 * np.nanstd(values, axis=0, ddof=1) / np.sqrt(count) if count.min() > 1 else 0 * mean
        axes.plot(percent, mean, color=color, marker="o", markersize=3, label=name)
        axes.fill_between(percent, mean - half, mean + half, color=color, alpha=0.15, linewidth=0)
    axes.set(xlabel="pixels, most attributed first (%)", ylabel=label, title=title)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return save(figure, path)


def plot_scatter(
    points: Mapping[str, tuple[float, float]],
    path: Path,
    *,
    x_label: str,
    y_label: str = "target deletion drop",
    log_x: bool = False,
    intervals: Mapping[str, tuple[float, float]] | None = None,
    title: str = "",
) -> Path:
    """One named point per attribution: faithfulness against stability or against cost.

    Args:
        points: attribution -> (x, y); a point that isn't finite is left out and named in the title.
        log_x: for costs; a cost of 0 (a control that never looks at the model) sits at the left edge.
        intervals: attribution -> bounds of y.
    """
    figure = Figure(figsize=(6, 4))
    axes = figure.subplots()
    shown = {name: xy for name, xy in points.items() if np.isfinite(xy).all()}
    positive = [x for x, _ in shown.values() if x > 0]
    edge = min(positive, default=1) / 3
    for color, marker, (name, (x, y)) in zip(_colors(len(shown)), cycle(MARKERS), shown.items(), strict=False):
        free = log_x and x <= 0
        x = edge if free else x
        if intervals and name in intervals:
            axes.plot([x, x], intervals[name], color=color, linewidth=1)
        axes.plot(x, y, marker, color=color, markersize=7, linestyle="none", label=f"{name} (0)" if free else name)
    if log_x:
        axes.set_xscale("log")
    axes.margins(0.15)
    missing = [name for name in points if name not in shown]
    note = f"undefined: {', '.join(missing)}" if missing else ""
    axes.set(xlabel=x_label, ylabel=y_label, title="\n".join(filter(None, [title, note])))
    axes.grid(alpha=0.3)
    if shown:
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return save(figure, path)


def plot_examples(
    images: Float[Tensor, "n c height width"],
    regions: Bool[Tensor, "n height width"],
    maps: Mapping[str, Tensor],
    path: Path,
    *,
    names: Sequence[str] | None = None,
) -> Path:
    """A sheet: a row per pair, the image with its region framed, then each attribution's map.

    Args:
        images: (n, 3 or 1, H, W) as they should look, in [0, 1].
        regions: (n, H, W).
        maps: attribution -> (n, 1, h, w); each map has its own symmetric colour scale, red for,
            blue against.
        names: of the rows.
    """
    rows, columns = len(images), len(maps) + 1
    if not rows:
        raise InputError("no examples to show")
    size = (images.shape[-2], images.shape[-1])
    figure = Figure(figsize=(1.6 * columns, 1.6 * rows + 0.3))
    grid = figure.subplots(rows, columns, squeeze=False, gridspec_kw={"wspace": 0.04, "hspace": 0.04})
    for row in range(rows):
        shown = [
            ("image", None),
            *((name, resize_maps(m[row : row + 1].float(), size)[0, 0]) for name, m in maps.items()),
        ]
        for axes, (name, values) in zip(grid[row], shown, strict=True):
            if values is None:
                picture = images[row].clamp(0, 1).movedim(0, -1).cpu().numpy()
                axes.imshow(picture if picture.shape[-1] == 3 else picture[..., 0], cmap="gray", vmin=0, vmax=1)
            else:
                top = float(values.abs().max()) or 1.0
                axes.imshow(values.cpu().numpy(), cmap="RdBu_r", vmin=-top, vmax=top)
            frame_region(axes, regions[row])
            axes.set(xticks=[], yticks=[])
            if row == 0:
                axes.set_title(name, fontsize=8)
        if names is not None:
            grid[row, 0].set_ylabel(names[row], fontsize=7)
    return save(figure, path)


def frame_region(axes: Axes, region: Bool[Tensor, "height width"]) -> None:
    """Draw the outline of a region along its pixels' edges."""
    mask = np.pad(region.cpu().numpy(), 1)
    below = np.argwhere(mask[1:] != mask[:-1])
    right = np.argwhere(mask[:, 1:] != mask[:, :-1])
    lines = [[(x - 1.5, y - 0.5), (x - 0.5, y - 0.5)] for y, x in below]
    lines += [[(x - 0.5, y - 1.5), (x - 0.5, y - 0.5)] for y, x in right]
    axes.add_collection(LineCollection(lines, colors="#0a0", linewidths=1.2))


def _colors(count: int) -> list[tuple[float, ...]]:
    """Distinct colours in a fixed order."""
    palette = mpl.colormaps["tab10" if count <= 10 else "turbo"]
    return [palette(i) if count <= 10 else palette(i / math.ceil(count - 1)) for i in range(count)]
