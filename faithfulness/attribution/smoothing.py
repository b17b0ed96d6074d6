"""Smoothing of maps: the modifier `+smooth(K)`, and the methods S-IxG and S-IG that stand for it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms.v2.functional import gaussian_blur

from faithfulness.attribution.base import Attribution, register_attribution
from faithfulness.attribution.gradients import InputXGradient, IntegratedGradients
from faithfulness.core.errors import InputError

PUBLISHED_KERNEL, PUBLISHED_SIDE = 129, 448


def smooth(maps: Tensor, kernel: int) -> Tensor:
    """Gaussian smoothing of maps (B, 1, h, w), σ = K/4, reflected at the border (Rao et al., TPAMI).

    Raises InputError unless the kernel is odd and less than twice the map's shorter side.
    """
    check_kernel(kernel)
    largest = 2 * min(maps.shape[-2:]) - 1
    if kernel > largest:
        raise InputError(
            f"a smoothing kernel of {kernel} is too large for maps {tuple(maps.shape[-2:])}; at most {largest}"
        )
    with torch.autocast(maps.device.type, enabled=False):
        return gaussian_blur(maps, [kernel, kernel], [kernel / 4, kernel / 4])


def check_kernel(kernel: int) -> int:
    """The kernel itself; InputError unless it is an odd whole number."""
    if not isinstance(kernel, int) or kernel < 1 or kernel % 2 == 0:
        raise InputError(f"the smoothing kernel must be odd, got {kernel!r}")
    return kernel


def scaled_kernel(side: int) -> int:
    """The odd number nearest to 129/448 of a map's side: K = 129 at 448 px, 65 at 224 px, 19 at 64 px."""
    return max(1, 2 * round((PUBLISHED_KERNEL / PUBLISHED_SIDE * side - 1) / 2) + 1)


class SmoothedMap(Attribution):
    """A method's map after Gaussian smoothing.

    Args:
        kernel: K, odd, in pixels of the map; σ = K/4. By default the published 129 px at 448 px,
            scaled to the map's shorter side.
    """

    def __init__(self, model: nn.Module, layer: str | None = None, *, kernel: int | None = None, **common: Any):
        super().__init__(model, layer, **common)
        self.kernel = None if kernel is None else check_kernel(kernel)

    def attribute(self, images: Tensor, activations: Tensor, targets: Tensor) -> Tensor:
        maps = super().attribute(images, activations, targets)  # type: ignore[safe-super]
        return smooth(maps, self.kernel or scaled_kernel(min(maps.shape[-2:])))


@register_attribution("s-ixg", aliases=("S-IxG",))
class SmoothedInputXGradient(SmoothedMap, InputXGradient):
    """S-IxG (Rao et al., TPAMI version): input × gradient, smoothed over the map."""

    paper = "Rao et al. 2023"


@register_attribution("s-ig", aliases=("S-IG",))
class SmoothedIntegratedGradients(SmoothedMap, IntegratedGradients):
    """S-IG (Rao et al., TPAMI version): integrated gradients, smoothed over the map."""

    paper = "Rao et al. 2023"
