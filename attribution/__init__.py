"""Attribution methods: `(images, targets) → maps`, batched, signed, at any layer.

A new method is a new file in this folder that calls `register_attribution`.
"""

from attribution.base import (
    ATTRIBUTIONS,
    Attribution,
    Passes,
    gradient,
    register_attribution,
    select_logits,
    undisturbed,
)
from attribution.describe import AttributionRow, describe_attributions, expand_attributions
from attribution.guard import Guarded
from attribution.spec import AttributionSpec, create_attribution, list_attributions, parse_attribution
from core.registry import import_submodules

import_submodules(__name__, __path__)

__all__ = [
    "ATTRIBUTIONS",
    "Attribution",
    "AttributionRow",
    "AttributionSpec",
    "Guarded",
    "Passes",
    "create_attribution",
    "describe_attributions",
    "expand_attributions",
    "gradient",
    "list_attributions",
    "parse_attribution",
    "register_attribution",
    "select_logits",
    "undisturbed",
]
