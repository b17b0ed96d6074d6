"""The metrics of `dea.metrics` as torchmetrics classes: one value per pair, kept by its index."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from core.errors import InputError
from dea.metrics import Model, deletion_drops, insertion_scores, off_target_mass, stability
from dea.perturbations import PERTURBATIONS


class PairMetric(Metric):
    """Per-pair values under one or more names, gathered over batches and processes.

    `update` takes `indices`, the number of each pair in its data set: a pair that a distributed
    sampler hands out twice is then counted once. `compute` gives for each name its mean over the
    pairs where it is defined, and `NAME_undefined`, the number of those where it is not; `n` is the
    number of pairs.
    """

    full_state_update = False
    values: list[Tensor]
    indices: list[Tensor]

    def __init__(self, names: Sequence[str], **kwargs: Any):
        super().__init__(**kwargs)
        self.names = tuple(names)
        self.add_state("values", default=[], dist_reduce_fx="cat")
        self.add_state("indices", default=[], dist_reduce_fx="cat")

    def keep(self, values: dict[str, Tensor], indices: Tensor | None) -> None:
        """Add the values (B,) of a batch."""
        columns = torch.stack([values[name].double() for name in self.names], dim=1)
        if indices is None:
            indices = torch.full((len(columns),), -1, dtype=torch.int64)
        if indices.shape != columns.shape[:1]:
            raise InputError(f"expected {len(columns)} indices, got {tuple(indices.shape)}")
        self.values.append(columns)
        self.indices.append(indices.to(columns.device))

    def per_pair(self) -> tuple[Tensor, Tensor]:
        """Indices (P,) and values (P, names); pairs with an index come once, ordered by it."""
        values, indices = (torch.cat(list(s)) if isinstance(s, list) else s for s in (self.values, self.indices))
        order = indices.argsort(stable=True)
        values, indices = values[order], indices[order]
        first = torch.ones_like(indices, dtype=torch.bool)
        first[1:] = (indices[1:] != indices[:-1]) | (indices[1:] < 0)
        return indices[first], values[first]

    def compute(self) -> dict[str, Tensor]:
        if not len(self.values):
            raise InputError("no pairs yet; call update first")
        _, values = self.per_pair()
        result = {"n": torch.tensor(len(values))}
        for name, column in zip(self.names, values.unbind(dim=1), strict=True):
            result |= {name: column.nanmean(), f"{name}_undefined": column.isnan().sum()}
        return result


class DeletionDrops(PairMetric):
    """Target and off-target deletion drop; see `deletion_drops`, whose settings it takes."""

    def __init__(
        self,
        fractions: Sequence[float] = (0.05, 0.1),
        fill: str = "mean",
        *,
        upsample: str = "bilinear",
        chunk: int = 16,
        **kwargs: Any,
    ):
        super().__init__(("target_deletion_drop", "off_target_deletion_drop"), **kwargs)
        self.settings = {"fractions": tuple(fractions), "fill": fill, "upsample": upsample, "chunk": chunk}

    def update(
        self,
        model: Model,
        images: Tensor,
        regions: Tensor,
        classes: Tensor,
        maps: Tensor,
        indices: Tensor | None = None,
    ) -> None:
        """Add a batch of pairs: images (B, C, H, W), regions (B, H, W), classes (B,), maps (B, 1, h, w)."""
        drops = deletion_drops(model, images, regions, classes, maps, **self.settings)
        self.keep(dict(zip(self.names, drops, strict=True)), indices)


class InsertionScore(PairMetric):
    """Mean over the fractions of `insertion_scores`, whose settings it takes."""

    def __init__(
        self,
        fractions: Sequence[float] = (0.05, 0.1),
        fill: str = "mean",
        *,
        upsample: str = "bilinear",
        chunk: int = 16,
        **kwargs: Any,
    ):
        super().__init__(("insertion",), **kwargs)
        self.settings = {"fractions": tuple(fractions), "fill": fill, "upsample": upsample, "chunk": chunk}

    def update(
        self,
        model: Model,
        images: Tensor,
        regions: Tensor,
        classes: Tensor,
        maps: Tensor,
        indices: Tensor | None = None,
    ) -> None:
        """Add a batch of pairs: images (B, C, H, W), regions (B, H, W), classes (B,), maps (B, 1, h, w)."""
        scores = insertion_scores(model, images, regions, classes, maps, **self.settings)
        self.keep({"insertion": scores.mean(dim=1)}, indices)


class OffTargetMass(PairMetric):
    """Share of positive attribution outside the region; see `off_target_mass`."""

    def __init__(self, **kwargs: Any):
        super().__init__(("off_target_mass",), **kwargs)

    def update(self, maps: Tensor, regions: Tensor, indices: Tensor | None = None) -> None:
        """Add a batch of pairs: maps (B, 1, h, w), regions (B, H, W)."""
        self.keep({"off_target_mass": off_target_mass(maps, regions)}, indices)


class Stability(PairMetric):
    """Correlation of maps under each perturbation, as `stability_NAME`; see `stability`."""

    def __init__(self, perturbations: Sequence[str] | None = None, *, seed: int = 0, **kwargs: Any):
        self.perturbations = list(PERTURBATIONS) if perturbations is None else list(perturbations)
        super().__init__([f"stability_{name}" for name in self.perturbations], **kwargs)
        self.seed = seed

    def update(
        self, explain: Callable[..., Tensor], images: Tensor, *targets: Tensor, indices: Tensor | None = None
    ) -> None:
        """Add a batch: `explain(images, *targets)` are its maps."""
        found = stability(explain, images, *targets, perturbations=self.perturbations, seed=self.seed)
        self.keep({f"stability_{name}": values for name, values in found.items()}, indices)
