"""What is known of the fine-tuned weights of Hesse et al. 2024: their deletion, normalization and classes.

A file is theirs if the arguments of their training script lie beside its weights. Facts are those of their script:
with probability 0.5 exactly one cell of a grid is filled; images are resized to 256, cropped to 224, and normalized.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.data.imagenet_info import ImageNetInfo

from checkpoints.format import Checkpoint, is_known
from checkpoints.values import shown
from faithfulness.core.deletion import DeletionSpec
from faithfulness.core.errors import InputError
from faithfulness.core.grid import PatchGrid

PROBABILITY = 0.5
FILLS = {"zeros": "zeros", "random": "random", "blur": "blur-published"}
"""Their word for a fill -> this suite's."""
_OF_SCRIPT = {"model", "store_path", "checkpoint_prefix"}
_NORMALIZATION = {
    "vit_base_patch16_224": ((0.5,) * 3, (0.5,) * 3),
    "bcos": ((0.0,) * 3, (1.0,) * 3),
}
_LARGEST_GRID = 256
_LONGEST, _LARGEST = 200, 2**63
_PLACE = re.compile(r"(^|_)(dir|path|ckpt|checkpoint|file|folder|root|resume|prefix)$")
"""Arguments whose values are places on somebody's disk, however they are spelled."""


def is_published(arguments: Mapping[str, Any] | None) -> bool:
    """Whether a file holds the arguments of their training script."""
    return arguments is not None and ("grid_rows_and_cols" in arguments or arguments.keys() >= _OF_SCRIPT)


def as_published(checkpoint: Checkpoint[Any], arguments: Mapping[str, Any] | None) -> Checkpoint[Any]:
    """A classifier with the deletion, the images and the classes of their script, if a file holds its arguments."""
    if arguments is None or not is_published(arguments):
        return checkpoint
    if checkpoint.architecture == "bcos_resnet18":
        raise InputError(
            "their script trains bcos_resnet18 on [x, 1 - x] of normalized images, which this suite's doesn't take"
        )
    if is_known(checkpoint.model) or not getattr(checkpoint.model, "normalization_told", True):
        checkpoint.model.data_config |= published_images(checkpoint.architecture)
    classes = published_classes(checkpoint.model.num_classes)
    return replace(checkpoint, deletion=published_deletion(arguments), classes=classes)


def published_deletion(arguments: Mapping[str, Any]) -> DeletionSpec:
    """The deletion that their script trained with; InputError for arguments that it doesn't take."""
    side, baseline = arguments.get("grid_rows_and_cols", 4), arguments.get("baseline", "zeros")
    if type(side) is not int or not 1 <= side <= _LARGEST_GRID:
        raise InputError(f"expected 1 … {_LARGEST_GRID} as grid_rows_and_cols in the file's args, got {shown(side)}")
    if not isinstance(baseline, str) or baseline not in FILLS:
        raise InputError(f"expected one of {', '.join(FILLS)} as baseline in the file's args, got {shown(baseline)}")
    return DeletionSpec(PatchGrid(side, side), FILLS[baseline], PROBABILITY)


def published_images(architecture: str) -> dict[str, Any]:
    """How their script shows images to an architecture, as timm says it."""
    family = "bcos" if architecture.startswith("bcos_") else architecture
    mean, std = _NORMALIZATION.get(family, (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    return {"mean": mean, "std": std, "interpolation": "bilinear", "crop_pct": 0.875, "crop_mode": "center"}


def published_classes(count: int) -> list[str] | None:
    """Names of the folders of ImageNet in their order; None for another count of classes."""
    return list(ImageNetInfo().label_names()) if count == 1000 else None


def without_places(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that are plain values and name no place on a disk."""
    return {
        name: value
        for name, value in arguments.items()
        if name.isidentifier() and not _PLACE.search(name) and all(map(_is_harmless, _items(value)))
    }


def _items(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _is_harmless(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= _LONGEST and value.isprintable() and not any(mark in value for mark in "/\\~")
    if isinstance(value, int):
        return abs(value) <= _LARGEST
    return value is None or (isinstance(value, float) and math.isfinite(value))
