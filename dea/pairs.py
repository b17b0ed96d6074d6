"""Which (image, class) pairs are worth asking about: stated filters, and a reason for each that goes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from faithfulness.core.errors import InputError

BACKGROUND, VOID = 0, 255
REASONS = ("no target in the image", "class not predicted", "IoU too low", "area too small", "area too large")


@dataclass(frozen=True)
class Dropped:
    """A pair that was left out. An image without any target is dropped with `class_index` None."""

    image: int
    class_index: int | None
    reason: str


@dataclass(frozen=True)
class Pairs:
    """(image, class) pairs that pass the filters, ordered by image, then class.

    Attributes:
        image: int64 (P,), index into the batch.
        classes: int64 (P,).
        regions: bool (P, H, W).
        area: (P,) share of the image that the region covers.
        iou: (P,) intersection over union of the class's predicted and annotated pixels.
        dropped: what was left out, and why; `reason` is one of `REASONS`.
    """

    image: Tensor
    classes: Tensor
    regions: Tensor
    area: Tensor
    iou: Tensor
    dropped: tuple[Dropped, ...]

    def __len__(self) -> int:
        return len(self.image)

    @property
    def counts(self) -> dict[str, int]:
        """Kept pairs and dropped ones by reason, as `summary.json` reports them."""
        found = Counter(pair.reason for pair in self.dropped)
        return {"kept": len(self)} | {reason: found[reason] for reason in REASONS}


def select_pairs(
    annotations: Int[Tensor, "b height width"],
    predictions: Int[Tensor, "b height width"],
    *,
    min_area: float = 0.01,
    max_area: float = 0.9,
    min_iou: float = 0.5,
    region: str = "predicted",
    background: int | None = BACKGROUND,
    void: int | None = VOID,
) -> Pairs:
    """The annotated classes of each image that the model sees, as pairs with their regions.

    Args:
        annotations, predictions: class of each pixel, (B, H, W).
        min_area, max_area: share of the image that the region may cover.
        min_iou: of the class's predicted and annotated pixels; void pixels count for neither.
        region: `predicted` or `annotated` pixels of the class; without the void pixels if annotated.
        background, void: labels that are no class to explain; None if there is none.
    Raises:
        InputError: shapes or dtypes that don't fit, thresholds outside [0, 1].
    The filters and their defaults are this suite's own.
    """
    _check(annotations, predictions, (min_area, max_area, min_iou), region)
    kept: list[tuple[int, int, Tensor, float, float]] = []
    dropped: list[Dropped] = []
    for i, (truth, guess) in enumerate(zip(annotations, predictions, strict=True)):
        present = [c for c in truth.unique().tolist() if c not in (background, void)]
        if not present:
            dropped.append(Dropped(i, None, REASONS[0]))
        counted = torch.ones_like(truth, dtype=torch.bool) if void is None else truth != void
        for c in present:
            annotated, predicted = truth == c, guess == c
            union = int(((annotated | predicted) & counted).sum())
            iou = int((annotated & predicted).sum()) / union
            chosen = predicted if region == "predicted" else annotated
            area = int(chosen.sum()) / chosen.numel()
            failed = (not bool(predicted.any()), iou < min_iou, area < min_area, area > max_area)
            if any(failed):
                dropped.append(Dropped(i, c, REASONS[1 + failed.index(True)]))
            else:
                kept.append((i, c, chosen, area, iou))
    images, classes, regions, areas, ious = zip(*kept, strict=True) if kept else ((), (), (), (), ())
    device, size = annotations.device, annotations.shape[1:]
    return Pairs(
        torch.tensor(images, dtype=torch.int64, device=device),
        torch.tensor(classes, dtype=torch.int64, device=device),
        torch.stack(regions) if kept else torch.zeros(0, *size, dtype=torch.bool, device=device),
        torch.tensor(areas, dtype=torch.float64, device=device),
        torch.tensor(ious, dtype=torch.float64, device=device),
        tuple(dropped),
    )


def _check(annotations: Tensor, predictions: Tensor, thresholds: tuple[float, float, float], region: str) -> None:
    if annotations.dim() != 3 or annotations.shape != predictions.shape:
        raise InputError(
            f"expected annotations and predictions (B, H, W) of one size, got {tuple(annotations.shape)} "
            f"and {tuple(predictions.shape)}"
        )
    if annotations.is_floating_point() or predictions.is_floating_point():
        raise InputError(f"expected integer classes, got {annotations.dtype} and {predictions.dtype}")
    if not all(0 <= t <= 1 for t in thresholds) or thresholds[0] > thresholds[1]:
        raise InputError(f"expected 0 ≤ min_area ≤ max_area ≤ 1 and 0 ≤ min_iou ≤ 1, got {thresholds}")
    if region not in ("predicted", "annotated"):
        raise InputError(f"region is 'predicted' or 'annotated', got {region!r}")
