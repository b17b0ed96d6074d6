"""Checks of what users pass in: every refusal says what was expected and what came."""

from __future__ import annotations

import torch
from torch import Tensor

from faithfulness.core.errors import InputError


def check_images(images: Tensor, targets: Tensor | None = None) -> None:
    """Images must be float (B, C, H, W); targets int64 (B,)."""
    if images.dim() != 4 or not images.is_floating_point():
        raise InputError(f"expected float images (B, C, H, W), got {images.dtype} {tuple(images.shape)}")
    if targets is not None and (targets.shape != images.shape[:1] or targets.dtype != torch.int64):
        raise InputError(f"expected int64 targets ({len(images)},), got {targets.dtype} {tuple(targets.shape)}")


def check_targets(targets: Tensor, classes: int) -> None:
    """Targets must be class indices of the model."""
    if targets.numel() and not (int(targets.min()) >= 0 and int(targets.max()) < classes):
        raise InputError(f"targets must lie in 0 … {classes - 1}, got {int(targets.min())} … {int(targets.max())}")


def check_maps(maps: object, images: Tensor, source: str = "the attribution") -> Tensor:
    """Maps must be finite floats (B, C, h, w), one per image."""
    if not isinstance(maps, Tensor):
        raise InputError(f"{source} returned {type(maps).__name__}, expected a tensor (B, C, h, w)")
    if maps.dim() != 4 or len(maps) != len(images) or not maps.is_floating_point():
        raise InputError(
            f"{source} returned {maps.dtype} {tuple(maps.shape)}, expected float maps ({len(images)}, C, h, w)"
        )
    broken = int((~torch.isfinite(maps)).flatten(1).any(dim=1).sum())
    if broken:
        raise InputError(f"{source} returned NaN or infinite values in {broken} of {len(maps)} maps")
    return maps.detach()


def check_logits(logits: Tensor, name: str) -> Tensor:
    """Logits (B, ...) of a model must be finite; the message names the model."""
    broken = int((~torch.isfinite(logits)).flatten(1).any(dim=1).sum())
    if broken:
        raise InputError(f"{name} gives NaN or infinite logits for {broken} of {len(logits)} images")
    return logits
