"""What is kept of a model, batch by batch, to tell whether deletion is in its domain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from faithfulness.core.checks import check_logits
from faithfulness.core.deletion import DeletionSpec
from faithfulness.core.keyed import make_keys
from idsds.evidence import DomainEvidence, domain_evidence
from idsds.functional import deleted_logits


def finite_logits(
    model: Any, images: Float[Tensor, "b c h w"], deletion: DeletionSpec, *, chunk: int, name: str
) -> tuple[Float[Tensor, "b k"], Float[Tensor, "b cells k"]]:
    """Logits of whole images (B, classes), and of each without each cell (B, cells, classes).

    Raises InputError, with the model's name, where they are NaN or infinite.
    """
    whole = in_chunks(lambda part: whole_logits(model, part, name), images, chunk)
    deleted = deleted_logits(model, images, deletion.grid, deletion.fill, chunk=chunk)
    return whole, check_logits(deleted, name)


def whole_logits(model: Any, images: Float[Tensor, "b c h w"], name: str) -> Float[Tensor, "b k"]:
    """Logits of images (B, classes); InputError, with the model's name, where they are NaN or infinite."""
    with torch.no_grad():
        return check_logits(model(images), name)


def in_chunks(run: Callable[[Tensor], Tensor], images: Float[Tensor, "b c h w"], chunk: int) -> Tensor:
    """What a function makes of images, at most `chunk` at a time."""
    return torch.cat([run(part) for part in images.split(chunk)])


def probe_features(
    model: Any,
    deletion: DeletionSpec,
    images: Float[Tensor, "b c h w"],
    indices: Int[Tensor, " b"],
    probed: Int[Tensor, " n"],
    seed: int,
) -> dict[str, Tensor]:
    """Of the images that the probe is given: their index (P,), and pooled features (P, 2, D), float32 on the CPU.

    The features are of the whole image, and of the same without one keyed cell. Empty for a network that offers
    no layers.
    """
    if not hasattr(model, "embed") or getattr(model, "layout", model) is None:
        return {}
    indices = indices.cpu()
    chosen = torch.isin(indices, probed)
    images, indices = images[chosen.to(images.device)], indices[chosen]
    if not len(indices):
        return {}
    cells = deletion.sample_cells(seed, 0, indices).to(images.device)
    shown = deletion.delete(images, cells, make_keys(seed, indices).to(images.device))
    with torch.no_grad():
        features = [model.embed(part).float().cpu() for part in (images, shown)]
    return {"index": indices, "features": torch.stack(features, dim=1)}


def evidence_of(predictions: dict[str, Any], probe: dict[str, Any]) -> DomainEvidence:
    """The evidence of a model from what was kept of its batches.

    Args:
        predictions: label (N,), and the classes predicted for whole images (N,) and without each cell (N, cells).
        probe: features (P, 2, D), in order of the images; empty where the model has none.
    """
    whole, deleted, labels = (torch.as_tensor(predictions[name]) for name in ("whole", "deleted", "label"))
    features = torch.as_tensor(probe["features"]) if probe else None
    pair = (None, None) if features is None else (features[:, 0], features[:, 1])
    return domain_evidence(whole, deleted, labels, *pair)
