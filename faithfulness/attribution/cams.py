"""Class activation maps by gradients: feature maps weighted by what they mean for the target.

None is scaled to [0, 1], so that maps of different images can be compared. With tokens, the map is
that of the patch tokens. `relu=False` keeps evidence against.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from faithfulness.attribution.base import Attribution, Passes, register_attribution, upcast
from faithfulness.attribution.chunks import point_chunks
from faithfulness.attribution.gradients import fixed_noise
from faithfulness.core.errors import InputError
from faithfulness.core.keyed import keyed_normal


class CAM(Attribution):
    """Σ over channels of weight × feature map, then ReLU.

    Args:
        relu: keep only evidence for the target, as published.
    """

    default_layer = "final"
    needs = "gradients, a feature map"

    def __init__(self, model: nn.Module, layer: str | None = None, *, relu: bool = True, **common: Any):
        super().__init__(model, layer, **common)
        self.relu = relu

    @abstractmethod
    def weights(self, images: Tensor, activations: Tensor, targets: Tensor, maps: Tensor) -> Tensor:
        """Weights (B, C, 1, 1) or (B, C, h, w) of the feature maps (B, C, h, w)."""

    def attribute(self, images: Tensor, activations: Tensor, targets: Tensor) -> Tensor:
        maps = upcast(self.split.to_map(activations))
        cam = (self.weights(images, activations, targets, maps) * maps).sum(dim=1, keepdim=True)
        return cam.relu() if self.relu else cam

    def map_gradients(self, activations: Tensor, targets: Tensor) -> Tensor:
        """Gradients with respect to the feature maps, (B, C, h, w)."""
        return self.split.to_map(self.gradients(activations, targets))

    @property
    def passes(self) -> Passes:
        return Passes(1, 1)


@register_attribution("gradcam", aliases=("Grad-CAM", "GradCam"))
class GradCAM(CAM):
    """Grad-CAM (Selvaraju et al. 2017): the weight is the channel's mean gradient."""

    paper = "Selvaraju et al. 2017"
    plain_gradients = True

    def weights(self, images: Tensor, activations: Tensor, targets: Tensor, maps: Tensor) -> Tensor:
        return self.map_gradients(activations, targets).mean(dim=(2, 3), keepdim=True)


@register_attribution("gradcampp", aliases=("Grad-CAM++", "GradCamPlusPlus"))
class GradCAMPlusPlus(CAM):
    """Grad-CAM++ (Chattopadhay et al. 2018): positive gradients weighted by α.

    α = g² / (2g² + g³ ΣA), written as 1 / (2 + g ΣA), which doesn't underflow for small gradients.
    The paper's factor exp(logit), one positive number per image that overflows for logits above 88,
    is left out.

    Args:
        variant: `paper`, or `torchcam`: α = g², since torchcam (0.3, 0.4) divides a copy of it. The published
            IDSDS numbers are of that.
    """

    paper = "Chattopadhay et al. 2018"
    plain_gradients = True

    def __init__(self, model: nn.Module, layer: str | None = None, *, variant: str = "paper", **common: Any):
        super().__init__(model, layer, **common)
        self.variant = check_variant(variant)

    def weights(self, images: Tensor, activations: Tensor, targets: Tensor, maps: Tensor) -> Tensor:
        gradients = self.map_gradients(activations, targets)
        if self.variant == "torchcam":
            return gradients.relu().pow(3).sum(dim=(2, 3), keepdim=True)
        alpha = reciprocal(2 + gradients * maps.sum(dim=(2, 3), keepdim=True))
        return (alpha * gradients.relu()).sum(dim=(2, 3), keepdim=True)


@register_attribution("sg-campp", aliases=("SG-CAM++", "SmoothGradCAM++"))
class SmoothGradCAMPlusPlus(CAM):
    """Smooth Grad-CAM++ (Omeiza et al. 2019): Grad-CAM++ with derivatives averaged over noisy images.

    Args:
        samples: noisy copies per image; all images of a run see the same noise.
        noise: standard deviation in normalized space.
        variant: `paper`, or `torchcam`, which IDSDS uses: the weights take the last sample's first derivative,
            not the mean, and α has Σ(g³·A) below, not g³·ΣA, and an ε of 1e-8.
    """

    paper = "Omeiza et al. 2019"
    from_images = True

    def __init__(
        self,
        model: nn.Module,
        layer: str | None = None,
        *,
        samples: int = 4,
        noise: float = 0.3,
        seed: int = 0,
        variant: str = "paper",
        **common: Any,
    ):
        super().__init__(model, layer, **common)
        self.variant = check_variant(variant)
        if samples < 1 or noise < 0:
            raise InputError(f"samples must be at least 1 and noise at least 0, got {samples} and {noise}")
        self.samples, self.noise, self.seed = samples, noise, seed

    def weights(self, images: Tensor, activations: Tensor, targets: Tensor, maps: Tensor) -> Tensor:
        powers = [torch.zeros_like(maps) for _ in range(3)]
        last = torch.zeros_like(maps)
        for image, sample in point_chunks(len(images), self.samples, self.chunk, images.device):
            noisy = images[image]
            noisy += self.noise * fixed_noise(keyed_normal, self.seed, sample, images)
            with torch.no_grad():
                noisy = self.split.stem(noisy)
            gradients = self.map_gradients(noisy, targets[image])
            for power, total in enumerate(powers, 1):
                total.index_add_(0, image, gradients**power / self.samples)
            if self.variant == "torchcam":
                final = sample.each == self.samples - 1
                last[image[final]] = gradients[final].to(last.dtype)
        first, second, third = powers
        if self.variant == "torchcam":
            below = 2 * second + (third * maps).sum(dim=(2, 3), keepdim=True) + 1e-8
            return (second / below * last.relu()).sum(dim=(2, 3), keepdim=True)
        alpha = second * reciprocal(2 * second + third * maps.sum(dim=(2, 3), keepdim=True))
        return (alpha * first.relu()).sum(dim=(2, 3), keepdim=True)

    @property
    def passes(self) -> Passes:
        return Passes(self.samples, self.samples)


@register_attribution("xgradcam", aliases=("XGrad-CAM",))
class XGradCAM(CAM):
    """XGrad-CAM (Fu et al. 2020): a channel's mean gradient, weighted by its activations.

    The weight is Σ g·A / ΣA; it was made for activations after a ReLU, and grows without bound where
    signed ones cancel. A channel that sums to 0 gets the weight 0.
    """

    paper = "Fu et al. 2020"
    plain_gradients = True

    def weights(self, images: Tensor, activations: Tensor, targets: Tensor, maps: Tensor) -> Tensor:
        gradients = self.map_gradients(activations, targets)
        return (gradients * maps).sum(dim=(2, 3), keepdim=True) * reciprocal(maps.sum(dim=(2, 3), keepdim=True))


@register_attribution("layercam", aliases=("Layer-CAM",))
class LayerCAM(CAM):
    """Layer-CAM (Jiang et al. 2021): each position weighted by its positive gradient."""

    paper = "Jiang et al. 2021"
    plain_gradients = True

    def weights(self, images: Tensor, activations: Tensor, targets: Tensor, maps: Tensor) -> Tensor:
        return self.map_gradients(activations, targets).relu()


def check_variant(variant: str) -> str:
    """The variant itself; InputError for one that doesn't exist."""
    if variant not in ("paper", "torchcam"):
        raise InputError(f"unknown variant {variant!r}; known: paper, torchcam")
    return variant


def reciprocal(x: Tensor) -> Tensor:
    """1/x, and 0 where x is 0."""
    return torch.where(x == 0, 0, 1 / x)
