"""Class activation maps: feature maps weighted by what they mean for the target."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from attribution.base import Attribution, Passes, gradient, register_attribution


@register_attribution("gradcam", aliases=("Grad-CAM", "GradCam"))
class GradCAM(Attribution):
    """Grad-CAM (Selvaraju et al. 2017): feature maps weighted by their mean gradient, then ReLU.

    Not scaled to [0, 1], so that maps can be compared; `relu=False` keeps evidence against.
    """

    default_layer = "final"
    needs = "gradients, a feature map"

    def __init__(self, model: nn.Module, layer: str | None = None, *, relu: bool = True, **common: Any):
        super().__init__(model, layer, **common)
        self.relu = relu

    def attribute(self, images: Tensor, activations: Tensor, targets: Tensor) -> Tensor:
        gradients = self.split.to_map(gradient(self.split.rest, activations, targets))
        weights = gradients.mean(dim=(2, 3), keepdim=True)
        cam = (weights * self.split.to_map(activations)).sum(dim=1, keepdim=True)
        return cam.relu() if self.relu else cam

    @property
    def passes(self) -> Passes:
        return Passes(1, 1)
