"""Checks of what users pass in: every refusal says what was expected and what came."""

from __future__ import annotations

from numbers import Integral

import torch
from torch import Tensor

from faithfulness.core.errors import InputError


def kind_of(value: object) -> str:
    """What came, in words: type and shape of a tensor, type of anything else."""
    if isinstance(value, Tensor):
        layout = "" if value.layout is torch.strided else f"{str(value.layout).removeprefix('torch.')} "
        return f"{layout}{value.dtype} {tuple(value.shape)}"
    shape = getattr(value, "shape", None)
    kind = "None" if value is None else type(value).__name__
    return kind if shape is None else f"{kind} {tuple(shape)}"


def check_count(name: str, value: object, most: int = 2**31 - 1, least: int = 1) -> int:
    """A number of something: whole, from `least` to `most`."""
    if not isinstance(value, Integral) or isinstance(value, bool) or not least <= int(value) <= most:
        raise InputError(f"{name} must be a whole number in {least} … {most}, got {value!r}")
    return int(value)


def check_tensor(name: str, value: object, shape: str, dimensions: int) -> Tensor:
    """A tensor of real numbers with so many dimensions; `shape` tells them in words."""
    if not isinstance(value, Tensor) or value.dim() != dimensions or value.is_complex():
        raise InputError(f"expected {name} {shape}, got {kind_of(value)}")
    return value


def check_images(images: object, targets: object = None) -> None:
    """Images must be float (B, C, H, W); targets int64 (B,)."""
    if not isinstance(images, Tensor) or images.dim() != 4 or not images.is_floating_point():
        raise InputError(f"expected float images (B, C, H, W), got {kind_of(images)}")
    if targets is not None:
        check_labels(images, targets)


def check_labels(images: Tensor, targets: object) -> None:
    """Targets must be int64 (B,), where the images are."""
    if not isinstance(targets, Tensor) or targets.shape != images.shape[:1] or targets.dtype != torch.int64:
        raise InputError(f"expected int64 targets ({len(images)},), got {kind_of(targets)}")
    if targets.device != images.device:
        raise InputError(f"expected images and targets on one device, got {images.device} and {targets.device}")


def check_targets(targets: Tensor, classes: int) -> None:
    """Targets must be class indices of the model."""
    if targets.numel() and not (int(targets.min()) >= 0 and int(targets.max()) < classes):
        raise InputError(f"targets must lie in 0 … {classes - 1}, got {int(targets.min())} … {int(targets.max())}")


def check_maps(maps: object, images: Tensor, source: str = "the attribution") -> Tensor:
    """Maps must be finite floats (B, C, h, w), one per image."""
    fits = isinstance(maps, Tensor) and maps.dim() == 4 and len(maps) == len(images) and maps.is_floating_point()
    if not isinstance(maps, Tensor) or not fits or maps.layout is not torch.strided or 0 in maps.shape[1:]:
        raise InputError(f"{source} returned {kind_of(maps)}, expected float maps ({len(images)}, C, h, w)")
    if maps.device != images.device:
        raise InputError(f"{source} returned maps on {maps.device}, expected them on {images.device}")
    broken = int((~torch.isfinite(maps)).flatten(1).any(dim=1).sum())
    if broken:
        raise InputError(f"{source} returned NaN or infinite values in {broken} of {len(maps)} maps")
    return maps.detach()


def check_outputs(logits: object, images: Tensor, dimensions: int = 2) -> Tensor:
    """What a model gives for images must be a tensor of logits, one row for each of them; any values."""
    if not isinstance(logits, Tensor) or logits.dim() != dimensions or len(logits) != len(images):
        shape = "classes" if dimensions == 2 else "classes, height, width"
        raise InputError(f"the model gives {kind_of(logits)}, expected logits ({len(images)}, {shape})")
    return logits


def check_logits(logits: Tensor, name: str) -> Tensor:
    """Logits (B, ...) of a model must be finite; the message names the model."""
    if not isinstance(logits, Tensor):
        raise InputError(f"{name} gives {kind_of(logits)}, expected logits")
    broken = int((~torch.isfinite(logits)).flatten(1).any(dim=1).sum())
    if broken:
        raise InputError(f"{name} gives NaN or infinite logits for {broken} of {len(logits)} images")
    return logits
