"""The images of validation as a network takes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor


def inputs_of(model: Any, dtype: torch.dtype, count: int | None = None) -> tuple[Tensor, Tensor]:
    """The first `count` images (N, C, H, W), normalized, and their classes (N,); all if None."""
    from checkpoints import CLASSIFICATION
    from faithfulness.data.loading import normalize

    data = CLASSIFICATION.open_data("digits", "val", count=count)
    samples = CLASSIFICATION.samples(data.at_size(model.input_size[0]), model.data_config, training=False)
    batch = [samples[0, index] for index in range(len(data))]
    images = normalize(torch.stack([sample["image"] for sample in batch]), model.data_config, dtype)
    return images, torch.tensor([int(sample["label"]) for sample in batch])
