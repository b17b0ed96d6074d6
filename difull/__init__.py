"""Controlled grids: GridPG, DiFull, DiPart, what lies where it can't matter, and the proof of it."""

from difull.aggregate import Aggregate, aggregate
from difull.cells import compose_grid, cut_cells
from difull.compositions import Compositions, choose_confident, make_compositions
from difull.localization import cell_sums, impossible_attribution, localization_score
from difull.settings import DiFull, DiPart, GridPG, GridSetting

__all__ = [
    "Aggregate",
    "Compositions",
    "DiFull",
    "DiPart",
    "GridPG",
    "GridSetting",
    "aggregate",
    "cell_sums",
    "choose_confident",
    "compose_grid",
    "cut_cells",
    "impossible_attribution",
    "localization_score",
    "make_compositions",
]
