"""Networks that can be cut at named layers: any timm model, and the user's own.

A new family of networks is a new file in this folder that registers itself with timm.
"""

from backbones.backbone import Backbone, Explainable, PlainModel, as_explainable, device_of
from backbones.segmentation import FcnSegmenter, Segmenter, TorchvisionSegmenter, create_segmenter
from backbones.segmentation_target import SegmentationTarget, check_pairs
from backbones.split import Layout, Split, Step, cut
from backbones.timm_models import TimmBackbone, check_model_name, create_backbone, register_layout
from core.registry import import_submodules

import_submodules(__name__, __path__)

__all__ = [
    "Backbone",
    "Explainable",
    "FcnSegmenter",
    "Layout",
    "PlainModel",
    "SegmentationTarget",
    "Segmenter",
    "Split",
    "Step",
    "TimmBackbone",
    "TorchvisionSegmenter",
    "as_explainable",
    "check_model_name",
    "check_pairs",
    "create_backbone",
    "create_segmenter",
    "cut",
    "device_of",
    "register_layout",
]
