"""Words that every protocol shares: grid, deletion, keyed randomness, checks, results, statistics."""

from core.deletion import FILLS, LEAKING_FILLS, WHOLE, DeletionSpec, delete_cells, fill_pixels
from core.errors import InputError
from core.grid import PatchGrid
from core.resize import resize_maps

__all__ = [
    "FILLS",
    "LEAKING_FILLS",
    "WHOLE",
    "DeletionSpec",
    "InputError",
    "PatchGrid",
    "delete_cells",
    "fill_pixels",
    "resize_maps",
]
