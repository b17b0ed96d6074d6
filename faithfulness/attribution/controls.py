"""Controls that never look at the model: what a faithful method has to beat."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from faithfulness.attribution.base import Attribution, Passes, register_attribution
from faithfulness.core.keyed import content_keys, keyed_uniform, make_keys
from faithfulness.core.precision import ieee
from faithfulness.core.resize import resize_maps


class ModelFree(Attribution):
    """A control: a map of the image alone, shrunk to the layer it is compared at."""

    needs = "nothing"

    def attribute(self, images: Tensor, activations: Tensor, targets: Tensor) -> Tensor:
        maps = self.draw(images)
        if self.layer == "input":
            return maps
        height, width = self.split.to_map(activations).shape[-2:]
        return resize_maps(maps, (height, width), "area")

    def draw(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) -> maps (B, 1, H, W)."""
        raise NotImplementedError

    @property
    def passes(self) -> Passes:
        return Passes(0, 0)


@register_attribution("random")
class Random(ModelFree):
    """Uniform noise in [-1, 1), drawn anew for each image and the same each time for one image."""

    paper = "none: a control"

    def __init__(self, *args, seed: int = 0, **common):
        super().__init__(*args, **common)
        self.seed = seed

    def draw(self, images: Tensor) -> Tensor:
        keys = make_keys(self.seed, content_keys(images))
        return 2 * keyed_uniform(keys, (1, *images.shape[-2:])) - 1


@register_attribution("edge", aliases=("sobel",))
class Edge(ModelFree):
    """Magnitude of the Sobel gradient of the image's gray value: contours, whatever the model does."""

    paper = "none: a control (Sobel filter)"

    def draw(self, images: Tensor) -> Tensor:
        across = images.new_tensor([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 8
        kernels = torch.stack([across, across.T]).unsqueeze(1)
        gray = pad(images.mean(dim=1, keepdim=True), (1, 1, 1, 1), mode="replicate")
        with torch.autocast(images.device.type, enabled=False), ieee():  # a control is the same in any precision
            return conv2d(gray, kernels).square().sum(dim=1, keepdim=True).sqrt()
