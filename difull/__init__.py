"""Controlled grids: GridPG, DiFull, DiPart, what lies where it can't matter, and the proof of it."""

from core.deletion_leakage import MaskLeakage, deletion_leakage, mask_leakage
from core.leakage import LeakageProof
from difull.aggregate import Aggregate, aggregate
from difull.cells import compose_grid, cut_cells
from difull.compositions import Compositions, choose_confident, make_compositions
from difull.influence import influence_map, possible_region
from difull.leakage import leakage_proof, leakage_proofs
from difull.localization import cell_sums, impossible_attribution, localization_score
from difull.metric import Localization
from difull.settings import DiFull, DiPart, GridPG, GridSetting

__all__ = [
    "Aggregate",
    "Compositions",
    "DiFull",
    "DiPart",
    "GridPG",
    "GridSetting",
    "LeakageProof",
    "Localization",
    "MaskLeakage",
    "aggregate",
    "cell_sums",
    "choose_confident",
    "compose_grid",
    "cut_cells",
    "deletion_leakage",
    "impossible_attribution",
    "influence_map",
    "leakage_proof",
    "leakage_proofs",
    "localization_score",
    "make_compositions",
    "mask_leakage",
    "possible_region",
]
