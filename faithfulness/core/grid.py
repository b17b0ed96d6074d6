"""The patch grid: the cells that are deleted, and over which attribution is summed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from faithfulness.core.checks import check_tensor
from faithfulness.core.errors import InputError
from faithfulness.core.resize import sum_cells

LARGEST = 2**31


@dataclass(frozen=True)
class PatchGrid:
    """`rows` × `cols` equal cells of an image, numbered row by row from the upper left.

    >>> import torch
    >>> from faithfulness import PatchGrid
    >>> grid = PatchGrid(2, 3)
    >>> grid.cells
    6
    >>> grid.mask(torch.tensor([4]), height=2, width=6).int()
    tensor([[[[0, 0, 0, 0, 0, 0],
              [0, 0, 1, 1, 0, 0]]]], dtype=torch.int32)
    """

    rows: int = 4
    cols: int = 4

    def __post_init__(self) -> None:
        if any(isinstance(side, bool) or not isinstance(side, Integral) for side in (self.rows, self.cols)):
            raise InputError(f"a grid needs whole numbers of rows and columns, got {self.rows!r} and {self.cols!r}")
        if not (1 <= self.rows < LARGEST and 1 <= self.cols < LARGEST):
            raise InputError(
                f"a grid needs at least one row and one column, and fewer than {LARGEST}, got {self.rows}×{self.cols}"
            )

    @classmethod
    def of(cls, sides: int | Sequence[int]) -> PatchGrid:
        """A grid from rows and columns, or from one number for both, as flags have it."""
        sides = [sides] if isinstance(sides, int) else sides
        if isinstance(sides, str) or not isinstance(sides, Sequence):
            raise InputError(f"a grid is rows and columns, or one number for both, got {sides!r}")
        if len(sides) not in (1, 2):
            raise InputError(f"--grid takes rows and columns, got {list(sides)}")
        return cls(sides[0], sides[-1])

    @property
    def cells(self) -> int:
        """Number of cells."""
        return self.rows * self.cols

    def check(self, height: int, width: int) -> None:
        """Raise unless the cells divide an image of `height` × `width` pixels."""
        if height % self.rows or width % self.cols or not height or not width:
            raise InputError(
                f"a {self.rows}×{self.cols} grid does not divide {height}×{width} pixels; "
                f"choose a size whose height is a multiple of {self.rows} and width of {self.cols}"
            )

    def sum(
        self, maps: Float[Tensor, "b c h w"], size: tuple[int, int] | None = None, upsample: str = "bilinear"
    ) -> Float[Tensor, "b k"]:
        """Sum over channels and over each cell: (B, C, h, w) -> (B, rows·cols), row-major, signed, float64.

        Args:
            size: height and width of the image, which a coarser map is brought to first; the map's own by default.
            upsample: how it is brought there: bilinear, nearest or area.
        Raises:
            InputError: maps that aren't (B, C, h, w), a grid that does not divide the size.

        >>> import torch
        >>> from faithfulness import PatchGrid
        >>> maps = torch.arange(16.0).view(1, 1, 4, 4)
        >>> PatchGrid(2, 2).sum(maps)
        tensor([[10., 18., 42., 50.]], dtype=torch.float64)
        """
        check_tensor("maps", maps, "(B, C, H, W)", 4)
        if size is not None and (not isinstance(size, Sequence) or len(size) != 2):
            raise InputError(f"size is height and width, got {size!r}")
        self.check(*(size or maps.shape[-2:]))
        return sum_cells(maps, self.rows, self.cols, size, upsample)

    def mask(self, cells: Int[Tensor, " b"], height: int, width: int) -> Bool[Tensor, "b 1 h w"]:
        """True inside cell `cells[i]` of image i; a cell of -1 marks nothing."""
        self.check(height, width)
        rows = torch.arange(height, device=cells.device) // (height // self.rows)
        cols = torch.arange(width, device=cells.device) // (width // self.cols)
        index = rows[:, None] * self.cols + cols
        return (index == cells[:, None, None]).unsqueeze(1)
