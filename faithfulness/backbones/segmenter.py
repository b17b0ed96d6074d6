"""What a segmentation network is here, and a user's own as one."""

from __future__ import annotations

from copy import copy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from faithfulness.backbones.backbone import (
    Explainable,
    Size,
    check_logits,
    check_module,
    count_logits,
    device_of,
    evaluating,
    name_of,
    own_data_config,
    refuses_size,
    shape_of,
    told_config,
)
from faithfulness.backbones.split import Split, identity
from faithfulness.core.errors import InputError
from faithfulness.core.resize import resize_maps


class Segmenter(Explainable):
    """A network with logits (B, K, H, W) for images (B, C, H, W).

    Attributes:
        data_config: input size, mean, std and interpolation, as timm spells them.
        num_classes: K, the background included.
        architecture, arguments: what `create_segmenter` was given, to build it again.
    """

    data_config: dict[str, Any]
    num_classes: int
    architecture: str = ""

    def __init__(self) -> None:
        super().__init__()
        self.arguments: dict[str, Any] = {}

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width in pixels of the images it was made for; it takes others too."""
        return tuple(self.data_config["input_size"][1:])  # type: ignore[return-value]

    def set_input_size(self, side: int) -> None:
        """Have square images of `side` pixels from now on; InputError if the network can't take them."""
        if self.input_size == (side, side):
            return
        self.data_config["input_size"] = (3, side, side)
        with refuses_size(self.name, side), evaluating(self):
            self.coarse(torch.zeros(1, 3, side, side, device=device_of(self)))

    def coarse(self, images: Float[Tensor, "b c height width"]) -> Float[Tensor, "b k h w"]:
        """Logits at the head's own resolution."""
        layout = self.layout
        if layout is None:
            raise InputError(f"{self.name} has no layout")
        return layout.head(layout.features(images))

    def forward(self, images: Float[Tensor, "b c height width"]) -> Float[Tensor, "b k height width"]:
        """Logits of every pixel of normalized images: (B, C, H, W) -> (B, K, H, W)."""
        return resize_maps(self.coarse(images), (images.shape[-2], images.shape[-1]))

    def split(self, layer: str = "input") -> Split:
        """Cut at `layer`; `rest` gives the coarse logits (B, K, h, w). "final" lies before the head."""
        return Split("input", identity, self.coarse) if layer == "input" else super().split(layer)


class OwnSegmenter(Segmenter):
    """Any module with logits (B, K, H, W), or torchvision's dict with them as "out", explained at its input only."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.name = self.architecture = name_of(model)
        told = told_config(model)
        self.data_config, self.size_told = own_data_config(told), bool(told.get("input_size"))
        self.normalization_told = {"mean", "std"} <= told.keys()

    @property
    def num_classes(self) -> int:  # type: ignore[override]
        """Logits per pixel, by one forward pass."""
        return count_logits(self, self.data_config["input_size"], 4)

    def coarse(self, images: Tensor) -> Tensor:
        """What the module gives, at its own resolution."""
        given = self.model(images)
        return given["out"] if isinstance(given, dict) else given

    def forward(self, images: Tensor) -> Tensor:
        """Logits of every pixel: (B, C, H, W) -> (B, K, H, W)."""
        dense = self.coarse(images)
        shaped = isinstance(dense, Tensor) and dense.dim() == 4
        return resize_maps(dense, (images.shape[-2], images.shape[-1])) if shaped else dense


def adopt_segmenter(model: Any, input_size: Size | None = None, default_size: int | None = None) -> Segmenter:
    """A user's segmentation network as a `Segmenter`; arguments and errors as `adopt_classifier`."""
    check_module(model)
    adopted: Any = copy(model) if isinstance(model, Segmenter) else OwnSegmenter(model)
    side = input_size or (None if getattr(adopted, "size_told", True) else default_size)
    adopted.data_config = {**adopted.data_config, **({"input_size": shape_of(side)} if side else {})}
    check_logits(adopted, 4)
    return adopted
