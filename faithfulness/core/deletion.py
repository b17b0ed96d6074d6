"""What "deleted" means: one definition, read by training and by scoring, carried by checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import conv2d
from torchvision.transforms.v2.functional import gaussian_blur

from faithfulness.core.checks import kind_of
from faithfulness.core.errors import InputError
from faithfulness.core.grid import PatchGrid
from faithfulness.core.keyed import content_keys, keyed_integers, keyed_uniform, make_keys
from faithfulness.core.registry import Registry

BLUR_KERNEL, BLUR_SIGMA = 51, 41.0
WHOLE = -1
"""The cell index that leaves an image whole."""

Fill = Callable[[Tensor, Tensor, Tensor], Tensor]
FILLS: Registry[Fill] = Registry("fill")
"""fill(images (B, C, H, W), mask (B, 1, H, W), keys (B,)) -> replacement, broadcastable to images."""

_WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
LEAKING_FILLS = frozenset({"blur", "blur-published"})
"""Fills whose replacement is computed from the deleted pixels."""


@FILLS.decorator("zeros")
def _zeros(images: Tensor, mask: Tensor, keys: Tensor) -> Tensor:
    return images.new_zeros(())


@FILLS.decorator("mean")
def _mean_of_kept(images: Tensor, mask: Tensor, keys: Tensor) -> Tensor:
    kept = (~mask).sum(dim=(2, 3), keepdim=True).clamp(min=1)
    return images.masked_fill(mask, 0).sum(dim=(2, 3), keepdim=True) / kept


@FILLS.decorator("random")
def _uniform_noise(images: Tensor, mask: Tensor, keys: Tensor) -> Tensor:
    return (keyed_uniform(keys, tuple(images.shape[1:])) * 2 - 1).to(images.dtype)


@FILLS.decorator("blur")
def _gaussian_blur(images: Tensor, mask: Tensor, keys: Tensor) -> Tensor:
    if min(images.shape[-2:]) <= BLUR_KERNEL // 2:
        raise InputError(f"the blur fill needs images over {BLUR_KERNEL // 2} px, got {tuple(images.shape[-2:])}")
    return gaussian_blur(images, [BLUR_KERNEL, BLUR_KERNEL], [BLUR_SIGMA, BLUR_SIGMA])


@FILLS.decorator("blur-published")
def _published_blur(images: Tensor, mask: Tensor, keys: Tensor) -> Tensor:
    """The blur of the published code: exp(−(x/2σ)²), an effective σ of √2·41 = 58, zeros beyond the border."""
    distance = torch.arange(BLUR_KERNEL, device=images.device, dtype=images.dtype) - BLUR_KERNEL // 2
    weights = torch.exp(-((distance / (2 * BLUR_SIGMA)) ** 2))
    rows = (weights / weights.sum()).expand(images.shape[1], 1, 1, -1)
    radius, channels = BLUR_KERNEL // 2, images.shape[1]
    across = conv2d(images, rows, padding=(0, radius), groups=channels)
    return conv2d(across, rows.transpose(2, 3), padding=(radius, 0), groups=channels)


def fill_pixels(images: Tensor, mask: Tensor, fill: str = "zeros", keys: Tensor | None = None) -> Tensor:
    """Replace the masked pixels: images (B, C, H, W), mask bool (B, 1, H, W) -> (B, C, H, W).

    `keys` (B,) seed the random fill; by default they come from the image's own kept pixels.
    """
    if keys is None:
        keys = content_keys(images.masked_fill(mask, 0)) if FILLS.resolve(fill) == "random" else mask.new_empty(0)
    return torch.where(mask, FILLS[fill](images, mask, keys), images)


def delete_cells(
    images: Float[Tensor, "b c h w"],
    cells: Int[Tensor, " b"],
    grid: PatchGrid,
    fill: str = "zeros",
    keys: Int[Tensor, " b"] | None = None,
) -> Float[Tensor, "b c h w"]:
    """Delete one cell of each image: (B, C, H, W) normalized images, (B,) cell indices -> same shape.

    Args:
        cells: 0 … grid.cells - 1, or -1 (`WHOLE`) for an image that stays whole.
        fill: `zeros` (the mean color of the model's normalization: black for B-cos networks, whose
            mean is 0), `mean` (of the kept pixels), `random` (uniform in [-1, 1]), `blur` (kernel 51, σ 41)
            or `blur-published` (its kernel in the published code, of an effective σ of 58, with zero
            padding); both blurs leak the deleted pixels.
        keys: (B,) int64 seeds of the random fill; the image's own kept pixels and the cell by default.
    Raises:
        InputError: shapes that don't fit, a cell outside the grid, an unknown fill.
    Source: Hesse et al. 2024, section 3 and appendix; fill `mean` is this suite's own.

    >>> import torch
    >>> from faithfulness import PatchGrid, delete_cells
    >>> images = torch.ones(2, 1, 2, 4)
    >>> delete_cells(images, torch.tensor([1, -1]), PatchGrid(1, 2))
    tensor([[[[1., 1., 0., 0.],
              [1., 1., 0., 0.]]],
    <BLANKLINE>
    <BLANKLINE>
            [[[1., 1., 1., 1.],
              [1., 1., 1., 1.]]]])
    """
    fits = isinstance(images, Tensor) and isinstance(cells, Tensor) and cells.shape == images.shape[:1]
    if not fits or images.dim() != 4 or cells.dtype not in _WHOLE:
        raise InputError(
            f"expected images (B, C, H, W) and whole numbers (B,) as cells, got {kind_of(images)} and {kind_of(cells)}"
        )
    if not isinstance(grid, PatchGrid):
        raise InputError(f"expected a PatchGrid, got {grid!r}")
    if keys is not None and (not isinstance(keys, Tensor) or keys.shape != cells.shape):
        raise InputError(f"expected keys ({len(cells)},), got {kind_of(keys)}")
    if cells.numel() and not (int(cells.min()) >= WHOLE and int(cells.max()) < grid.cells):
        raise InputError(f"cells must lie in -1 … {grid.cells - 1}, got {int(cells.min())} … {int(cells.max())}")
    mask = grid.mask(cells, *images.shape[-2:])
    if keys is None and FILLS.resolve(fill) == "random":
        keys = make_keys(content_keys(images.masked_fill(mask, 0)), cells)
    return fill_pixels(images, mask, fill, keys)


@dataclass(frozen=True)
class DeletionSpec:
    """How a model saw deletion in training: the grid, the fill, and the share of deleted images.

    >>> import torch
    >>> from faithfulness import DeletionSpec, PatchGrid
    >>> spec = DeletionSpec(PatchGrid(4, 4), fill="mean", probability=0.5)
    >>> spec.to_dict()
    {'grid': [4, 4], 'fill': 'mean', 'probability': 0.5}
    >>> spec.sample_cells(seed=0, epoch=3, indices=torch.arange(6))
    tensor([ 1,  8, -1,  4, -1,  0])
    """

    grid: PatchGrid = field(default_factory=PatchGrid)
    fill: str = "zeros"
    probability: float = 0.5

    def __post_init__(self) -> None:
        if not isinstance(self.grid, PatchGrid):
            raise InputError(f"expected a PatchGrid, got {self.grid!r}")
        object.__setattr__(self, "fill", FILLS.resolve(self.fill))
        if not isinstance(self.probability, Real) or not 0 <= self.probability <= 1:
            raise InputError(f"the deletion probability must lie in [0, 1], got {self.probability!r}")

    def sample_cells(self, seed: int, epoch: int | Int[Tensor, " b"], indices: Int[Tensor, " b"]) -> Int[Tensor, " b"]:
        """The cell deleted from each sample of an epoch: (B,) in -1 … cells - 1, -1 = whole.

        Takes the sample's index, never its image or its label, so the choice cannot leak either.
        """
        keys = make_keys(seed, epoch, indices)
        cells = keyed_integers(make_keys(keys, 1), self.grid.cells)
        return torch.where(keyed_uniform(keys) < self.probability, cells, WHOLE)

    def to_dict(self) -> dict[str, Any]:
        """As written to `config.json` and `summary.json`."""
        return {"grid": [self.grid.rows, self.grid.cols], "fill": self.fill, "probability": self.probability}

    def delete(self, images: Tensor, cells: Tensor, keys: Tensor) -> Tensor:
        """`delete_cells` for cells of `sample_cells`, which need no check: no waiting for the device."""
        return fill_pixels(images, self.grid.mask(cells, *images.shape[-2:]), self.fill, keys)

    @classmethod
    def from_dict(cls, spec: dict[str, Any]) -> DeletionSpec:
        """The inverse of `to_dict`; raises InputError on anything else."""
        try:
            rows, cols = spec["grid"]
            return cls(PatchGrid(int(rows), int(cols)), spec["fill"], float(spec["probability"]))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"not a deletion spec: {spec!r} ({error})") from error
