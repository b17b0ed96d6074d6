"""Transforms to uint8 (3, H, W): for evaluation timm's own, for training those of the recipe."""

from __future__ import annotations

from typing import Any

from timm.data.transforms_factory import create_transform
from torchvision.transforms import InterpolationMode, v2


def evaluation_transform(data_config: dict[str, Any]) -> Any:
    """timm's own evaluation transform of a model, to uint8 (3, H, W)."""
    return create_transform(**data_config, is_training=False, normalize=False)


def crop_and_flip(data_config: dict[str, Any]) -> Any:
    """RandomResizedCrop and horizontal flip, as in the published recipe, to uint8 (3, H, W)."""
    size = list(data_config["input_size"][1:])
    interpolation = InterpolationMode(data_config["interpolation"].replace("random", "bilinear"))
    return v2.Compose(
        [v2.RandomResizedCrop(size, interpolation=interpolation), v2.RandomHorizontalFlip(), v2.PILToTensor()]
    )
