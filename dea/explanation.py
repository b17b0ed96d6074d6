"""What is explained and how, by the names of the paper: the Dual-Evidence method, and its segmentation target."""

from faithfulness.attribution.dual_evidence import DualEvidence
from faithfulness.backbones.segmentation_target import SegmentationTarget

__all__ = ["DualEvidence", "SegmentationTarget"]
