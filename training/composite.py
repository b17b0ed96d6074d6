"""Composite fine-tuning: part of each batch is composed into grids, so that grids are in-domain as well."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from difull.cells import check_scale, compose_grid
from difull.settings import DiPart
from faithfulness.core.errors import InputError
from faithfulness.core.keyed import keyed_uniform, make_keys

_COMPOSITE = 14
"""What the random numbers are for: which images of a batch go into grids, and where."""


@dataclass(frozen=True)
class CompositeSpec:
    """How a model saw grids in training: the share of the images, and cells per side.

    Raises InputError for a probability outside [0, 1] and a scale below 2.
    """

    probability: float
    scale: int = 2

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise InputError(f"the composite probability must lie in [0, 1], got {self.probability}")
        if check_scale(self.scale) < 2:
            raise InputError(f"the composite scale must be at least 2, got {self.scale}")

    def to_dict(self) -> dict[str, Any]:
        """As written to `config.json`."""
        return {"probability": self.probability, "scale": self.scale, "setting": "dipart"}

    def grids(self, images: int) -> int:
        """How many whole grids the share of a batch makes."""
        return int(self.probability * images + 1e-9) // self.scale**2

    def check(self, batch: int) -> None:
        """Raise InputError if a batch of that many images makes no grid."""
        if not self.grids(batch):
            raise InputError(
                f"a share of {self.probability:g} of {batch} images at once on each device makes no {self.scale}×"
                f"{self.scale} grid; raise --composite-prob or --batch-size, or lower --accumulate"
            )


class Composite:
    """Logits of a batch of which some images stand in grids, each seen by its own cell's DiPart head."""

    def __init__(self, spec: CompositeSpec, backbone: Any):
        self.spec = spec
        self.setting = DiPart(backbone, spec.scale)
        self.setting.split("input", 0)  # refuses a network that has no cell's part

    def logits(
        self, run: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, keys: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Logits (B, classes) and labels (B,), single images first, then the cells of the grids.

        Args:
            run: the network on single images.
            keys: (B,) of (seed, epoch, sample index): they alone choose images and places.
        """
        order = keyed_uniform(make_keys(keys, _COMPOSITE)).argsort(stable=True)
        inside = self.spec.grids(len(images)) * self.spec.scale**2
        single, composed = order[inside:], order[:inside]
        pieces = [run(images[single])] if len(single) else []
        if inside:
            pieces.append(self.grid_logits(images[composed]))
        return torch.cat(pieces), labels[torch.cat([single, composed])]

    def grid_logits(self, images: Tensor) -> Tensor:
        """(B, C, h, w), a whole number of grids in succession -> the logits (B, classes) of their cells' heads."""
        return self.setting.heads(compose_grid(images, self.spec.scale)).flatten(0, 1)
