"""Segmentation: does deleting what a map highlights change the target region, and only it?"""

from attribution.dual_evidence import DualEvidence
from backbones.segmentation_target import SegmentationTarget
from dea.metric import DeletionDrops, InsertionScore, OffTargetMass, Stability
from dea.metrics import (
    FRACTIONS,
    DeletionCurves,
    deletion_curves,
    deletion_drops,
    insertion_scores,
    mean_stability,
    off_target_mass,
    pixel_order,
    stability,
)
from dea.pairs import Pairs, select_pairs
from dea.perturbations import PERTURBATIONS

__all__ = [
    "FRACTIONS",
    "PERTURBATIONS",
    "DeletionCurves",
    "DeletionDrops",
    "DualEvidence",
    "InsertionScore",
    "OffTargetMass",
    "Pairs",
    "SegmentationTarget",
    "Stability",
    "deletion_curves",
    "deletion_drops",
    "insertion_scores",
    "mean_stability",
    "off_target_mass",
    "pixel_order",
    "select_pairs",
    "stability",
]
