"""What a segmentation network predicts, pixel by pixel, and how much of it is right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.classification import MulticlassJaccardIndex
from torchmetrics.functional.classification import multiclass_confusion_matrix

from dea.pairs import VOID
from faithfulness.core.checks import check_logits


def predicted_classes(model: Any, images: Float[Tensor, "b c h w"], *, chunk: int, name: str) -> Int[Tensor, "b h w"]:
    """The class of each pixel, at most `chunk` images at a time; InputError, with the name, for NaN logits."""
    with torch.no_grad():
        return torch.cat([check_logits(model(part), name).argmax(dim=1) for part in images.split(chunk)])


def confusion(predictions: Int[Tensor, "b h w"], labels: Int[Tensor, "b h w"], classes: int) -> Int[Tensor, "k k"]:
    """How many pixels of each label (rows) are predicted as each class; void ones are left out."""
    return multiclass_confusion_matrix(predictions, labels, classes, ignore_index=VOID)


def mean_iou(matrix: Tensor | NDArray[Any]) -> float:
    """The mean over classes of intersection over union, from a confusion matrix (K, K); absent classes are left out."""
    metric = MulticlassJaccardIndex(len(matrix), ignore_index=VOID, sync_on_compute=False)  # one process asks
    metric.update(torch.zeros(1, dtype=torch.int64), torch.tensor([VOID]))  # nothing; without it, compute warns
    metric.merge_state({"confmat": torch.as_tensor(matrix)})
    return float(metric.compute())


def asked_for(classes: Int[Tensor, " p"], wanted: Sequence[int] | None) -> Bool[Tensor, " p"]:
    """Which classes are among the wanted ones; all, if None are named."""
    if wanted is None:
        return torch.ones_like(classes, dtype=torch.bool)
    return torch.isin(classes, torch.tensor(wanted, device=classes.device))
