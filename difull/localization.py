"""How much of a map lies in the cell that the explained head sees.

Cell sums weigh every map pixel by the area that it shares with the cell. They are exact at the
map's own resolution, also where the map's side is no multiple of the scale.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from difull.cells import check_cell, check_scale
from faithfulness.core.checks import check_images, check_maps
from faithfulness.core.errors import InputError
from faithfulness.core.resize import area_weights, resize_exactly, sum_cells


def localization_score(
    maps: Float[Tensor, "b c h w"],
    cell: int | Int[Tensor, " b"],
    scale: int,
    upsample: str | None = None,
    size: tuple[int, int] | None = None,
    undefined: float = 0.0,
) -> Float[Tensor, " b"]:
    """Positive attribution inside the cell / in all cells: (B, C, h, w) -> (B,) float64 in [0, 1].

    Args:
        maps: signed maps; channels are summed first.
        cell: the scored cell, one for all maps or one per map.
        scale: cells per side.
        upsample: None scores at the map's own resolution. "bilinear" first upsamples to `size`, then
            drops negative values, as published: that smears a coarse map over the cell's border.
        size: height and width of the grid image in pixels, for `upsample`.
        undefined: the score of a map without positive attribution; NaN to see which they are.
    Raises:
        InputError: maps that aren't finite (B, C, h, w), a cell outside the grid, no size to upsample to.
    Source: Rao et al. 2022, section 3 (there bilinear); exact scoring is this suite's own.

    >>> import torch
    >>> from difull import localization_score
    >>> maps = torch.tensor([[[[1.0, 1.0], [2.0, -3.0]]], [[[0.0, -1.0], [0.0, 0.0]]]])
    >>> localization_score(maps, cell=0, scale=2)
    tensor([0.2500, 0.0000], dtype=torch.float64)
    """
    if upsample is not None:
        maps = resize_exactly(_summed(maps), _check_size(size, upsample), upsample)
    check_scale(scale)
    sums = sum_cells(_summed(maps).clamp(min=0), scale, scale)
    return _share(sums.gather(1, _cells(cell, sums)).squeeze(1), sums.sum(dim=1), undefined)


def impossible_attribution(
    maps: Float[Tensor, "b c h w"],
    cell: int | Int[Tensor, " b"],
    scale: int,
    possible: Bool[Tensor, "y x"] | None = None,
    undefined: float = 0.0,
) -> Float[Tensor, " b"]:
    """Share of absolute attribution that lies where it cannot matter: (B, C, h, w) -> (B,) in [0, 1].

    Args:
        maps, cell, scale: as for `localization_score`.
        possible: what can matter to the head, at any resolution, from `influence_map` at the map's
            layer; only the cell itself if None (DiFull).
        undefined: the score of a map that is zero everywhere; NaN to see which they are.
    Raises:
        InputError: as `localization_score`; `possible` isn't a bool map.

    >>> import torch
    >>> from difull import impossible_attribution
    >>> maps = torch.tensor([[[[1.0, 1.0], [1.0, -2.0]]]])
    >>> impossible_attribution(maps, cell=0, scale=2)
    tensor([0.8000], dtype=torch.float64)
    >>> possible = torch.tensor([[True, True], [False, False]])
    >>> impossible_attribution(maps, cell=0, scale=2, possible=possible)
    tensor([0.6000], dtype=torch.float64)
    """
    mass = _summed(maps).abs()
    if possible is None:
        check_scale(scale)
        sums = sum_cells(mass, scale, scale)
        return _share(sums.scatter(1, _cells(cell, sums), 0).sum(dim=1), sums.sum(dim=1), undefined)
    if possible.dim() != 2 or possible.dtype != torch.bool:
        raise InputError(f"expected possible as bool (h, w), got {possible.dtype} {tuple(possible.shape)}")
    mass = mass.squeeze(1).double()
    outside = _area_mean((~possible).double().to(mass.device), (mass.shape[1], mass.shape[2]))
    return _share((mass * outside).sum(dim=(1, 2)), mass.sum(dim=(1, 2)), undefined)


def _area_mean(values: Tensor, size: tuple[int, int]) -> Tensor:
    """Values (y, x) averaged over the pixels of another resolution, by area."""
    rows, cols = (area_weights(have, want).to(values) for have, want in zip(values.shape, size, strict=True))
    return (rows / rows.sum(dim=1, keepdim=True)) @ values @ (cols / cols.sum(dim=1, keepdim=True)).T


def _summed(maps: Tensor) -> Tensor:
    """Maps with their channels summed; refused unless finite (B, C, h, w)."""
    if isinstance(maps, Tensor) and maps.dim() != 4:
        check_images(maps)
    return check_maps(maps, maps, "the attribution").sum(dim=1, keepdim=True)


def _check_size(size: tuple[int, int] | None, upsample: str) -> tuple[int, int]:
    if not isinstance(size, tuple | list) or len(size) != 2:
        raise InputError(f"upsample={upsample!r} needs size=(height, width) of the grid image, got {size!r}")
    return (int(size[0]), int(size[1]))


def _cells(cell: int | Tensor, sums: Tensor) -> Tensor:
    """The cell of each map as an index (B, 1)."""
    scale = round(sums.shape[1] ** 0.5)
    if not isinstance(cell, Tensor):
        return torch.full((len(sums), 1), check_cell(cell, scale), device=sums.device)
    if cell.dim() and cell.shape != sums.shape[:1]:
        raise InputError(f"expected one cell, or a cell for each of {len(sums)} maps, got {tuple(cell.shape)}")
    if cell.numel() and not (int(cell.min()) >= 0 and int(cell.max()) < sums.shape[1]):
        raise InputError(f"cells must lie in 0 … {sums.shape[1] - 1}, got {int(cell.min())} … {int(cell.max())}")
    return cell.to(sums.device, torch.int64).expand(len(sums))[:, None]


def _share(part: Tensor, whole: Tensor, undefined: float) -> Tensor:
    return torch.where(whole > 0, part / whole, undefined)
