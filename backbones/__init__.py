"""Networks that can be cut at named layers: any timm model, and the user's own."""

from backbones.backbone import Backbone, Explainable, PlainModel, as_explainable, device_of
from backbones.split import Layout, Split, Step
from backbones.timm_models import TimmBackbone, check_model_name, create_backbone, register_layout

__all__ = [
    "Backbone",
    "Explainable",
    "Layout",
    "PlainModel",
    "Split",
    "Step",
    "TimmBackbone",
    "as_explainable",
    "check_model_name",
    "create_backbone",
    "device_of",
    "register_layout",
]
