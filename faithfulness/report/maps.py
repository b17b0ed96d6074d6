"""The one way to draw an image, a map over it, a region and a cell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray

from faithfulness.core.errors import InputError
from faithfulness.report.style import MAPS, SIGNED, as_array, bare, legend_below, method_family

FRAME = "#35C8FF"
OUTLINE = "#00CC00"
LUMINANCE = np.array([0.299, 0.587, 0.114])
"""Of red, green and blue in a gray picture (ITU-R BT.601)."""
COVER = 0.85
"""How much of the image the most attributed places hide."""
PERCENTILE = 99.5
"""Where a map's color scale ends, so that one bright pixel doesn't hide the rest."""


def visible(image: Any, data_config: Mapping[str, Any]) -> NDArray[np.float64]:
    """A normalized image (3, H, W) as it looks, in [0, 1]; `data_config` holds its mean and std per channel."""
    mean, std = (np.asarray(data_config[key], dtype=float).reshape(-1, 1, 1) for key in ("mean", "std"))
    return np.clip(as_array(image) * std + mean, 0, 1)


def show_image(axes: Axes, image: Any) -> None:
    """Draw an image (3 or 1, H, W); one that isn't in [0, 1] is stretched to it."""
    values = _pixels(image)
    axes.imshow(values if values.shape[-1] == 3 else values[..., 0], cmap="gray", vmin=0, vmax=1)
    bare(axes)


def _pixels(image: Any) -> NDArray[np.floating]:
    """An image as (H, W, 3 or 1) in [0, 1]."""
    values = as_array(image).astype(float)
    if values.ndim != 3 or not values.size:
        raise InputError(f"expected an image (channels, height, width), got {values.shape}")
    low, high = values.min(), values.max()
    if low < 0 or high > 1:
        values = (values - low) / max(high - low, 1e-9)
    return np.moveaxis(values[:3], 0, -1)


def is_signed(maps: Iterable[Any]) -> bool:
    """Whether any of a method's maps is negative somewhere, by more than rounding."""
    return any(
        bool((values < -1e-6 * np.abs(values).max(initial=0, where=np.isfinite(values))).any())
        for values in map(as_array, maps)
    )


def show_map(axes: Axes, values: Any, signed: bool, *, over: Any = None, top: float = 0) -> None:
    """Draw a map (h, w) in its own pixels: red for and blue against where signed, else from dark to bright.

    Args:
        signed: of all maps of the method (`is_signed`), so that they share the colors.
        over: the image (3 or 1, H, W) that the map lies over: pale below a signed map, whose "none" is white, dark
            below another one, and hidden the more a place is attributed; none by default.
        top: end of the color scale; by default a high percentile of the map's own magnitude.
    """
    values = as_array(values).astype(float)
    height, width = values.shape
    top = top or upper_end(np.abs(values))
    alpha = None
    if over is not None:
        pixels = _pixels(over)
        gray = pixels @ LUMINANCE if pixels.shape[-1] == 3 else pixels[..., 0]
        height, width = gray.shape
        axes.imshow(0.6 + 0.4 * gray if signed else 0.5 * gray, cmap="gray", vmin=0, vmax=1)
        alpha = COVER * np.nan_to_num(np.clip(np.abs(values) / top, 0, 1)) ** 0.6
    axes.imshow(
        np.ma.masked_invalid(values),
        cmap=SIGNED if signed else MAPS,
        norm=Normalize(-top if signed else 0, top, clip=True),
        extent=(-0.5, width - 0.5, height - 0.5, -0.5),
        alpha=alpha,
    )
    bare(axes)


def upper_end(values: NDArray[np.floating]) -> float:
    """The upper end of a color scale that begins at 0: a high percentile of the defined values, 1 where all are 0."""
    values = values[np.isfinite(values)]
    if not values.size or values.max() <= 0:
        return 1.0
    return float(np.percentile(values, PERCENTILE)) or float(values.max())


def map_key(figure: Figure, signed: Iterable[bool], labels: Iterable[str], *notes: str) -> None:
    """What the colors of a sheet's maps mean, below it; of controls among the methods, that they mean no class."""
    kinds = set(signed)
    controls = [label for label in labels if method_family(label) == "controls"]
    handles: list[Any] = []
    if True in kinds:
        colors = mpl.colormaps[SIGNED]
        handles += [
            Patch(color=colors(0.9), label="red: for the class"),
            Patch(color=colors(0.1), label="blue: against"),
        ]
    if False in kinds:
        colors = mpl.colormaps[MAPS]
        parts = tuple(Patch(color=colors(place), label="dark to bright: for the class") for place in (0.1, 0.5, 0.8))
        handles.append(parts)
    apart = f"controls, which never see the model, so that theirs is of no class: {', '.join(controls)}"
    legend_below(figure, handles, *notes, apart * bool(controls))


def frame_region(axes: Axes, region: Any) -> None:
    """Draw the outline of a region (H, W) along its pixels' edges."""
    mask = np.pad(as_array(region).astype(bool), 1)
    below = np.argwhere(mask[1:] != mask[:-1])
    right = np.argwhere(mask[:, 1:] != mask[:, :-1])
    lines = [[(x - 1.5, y - 0.5), (x - 0.5, y - 0.5)] for y, x in below]
    lines += [[(x - 0.5, y - 1.5), (x - 0.5, y - 0.5)] for y, x in right]
    axes.add_collection(LineCollection(lines, colors="white", linewidths=2.2))
    axes.add_collection(LineCollection(lines, colors=OUTLINE, linewidths=1.2))


def frame_cell(axes: Axes, shape: tuple[int, ...], cell: int, scale: int) -> None:
    """A frame around a cell of a scale × scale grid, and thin lines between the cells."""
    if scale < 1 or not 0 <= cell < scale**2:
        raise InputError(f"cell of a {scale}×{scale} grid must lie in 0 … {scale**2 - 1}, got {cell}")
    row, col = divmod(cell, scale)
    height, width = shape[0] / scale, shape[1] / scale
    for line in range(1, scale):
        axes.axhline(line * height - 0.5, color="white", alpha=0.35, linewidth=0.6)
        axes.axvline(line * width - 0.5, color="white", alpha=0.35, linewidth=0.6)
    corner = (col * width - 0.5, row * height - 0.5)
    axes.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=FRAME, linewidth=2.2, clip_on=False))
