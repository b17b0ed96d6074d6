"""What `eval.idsds` keeps of a model to tell whether deletion is in its domain."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from backbones import TimmBackbone
from checkpoints import Checkpoint
from core import DeletionSpec
from core.checks import check_logits
from core.keyed import make_keys
from eval.options import EvaluationOptions
from eval.runner import ImageBatch
from idsds import deleted_logits, domain_evidence, probe_images


class DomainRecord:
    """Collects what the in-domain evidence is made of, for one model."""

    def __init__(
        self, checkpoint: Checkpoint[TimmBackbone], deletion: DeletionSpec, options: EvaluationOptions, count: int
    ):
        self.backbone, self.name, self.deletion = checkpoint.backbone, checkpoint.name, deletion
        self.seed, self.chunk = options.seed, options.chunk
        self.probed = probe_images(count, options.seed)
        self.columns: dict[str, list[Tensor]] = {}

    def logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Finite logits of whole images (B, classes), and of each without each cell (B, cells, classes)."""
        with torch.no_grad():
            whole = torch.cat([self.backbone(part) for part in images.split(self.chunk)])
        deleted = deleted_logits(self.backbone, images, self.deletion.grid, self.deletion.fill, chunk=self.chunk)
        return check_logits(whole, self.name), check_logits(deleted, self.name)

    def add(self, batch: ImageBatch, whole: Tensor, deleted: Tensor) -> None:
        """Keep predictions of a batch, and of the probe's images the features with and without one keyed cell."""
        probed = torch.isin(batch.indices.cpu(), self.probed)
        images, indices = batch.images[probed.to(batch.images.device)], batch.indices.cpu()[probed]
        cells = self.deletion.sample_cells(self.seed, 0, indices).to(images.device)
        shown = self.deletion.delete(images, cells, make_keys(self.seed, indices).to(images.device))
        row = {
            "index": batch.indices.cpu(),
            "label": batch.labels.cpu(),
            "whole": whole.argmax(dim=1).cpu(),
            "deleted": deleted.argmax(dim=2).cpu(),
        }
        if len(images):
            with torch.no_grad():
                features = [self.backbone.embed(part).float().cpu() for part in (images, shown)]
            row |= {"probed": indices, "features": torch.stack(features, dim=1)}
        for name, value in row.items():
            self.columns.setdefault(name, []).append(value)

    def merged(self) -> dict[str, Tensor]:
        """One tensor per column."""
        return {name: torch.cat(pieces) for name, pieces in self.columns.items()}


def evidence_of(records: list[dict[str, Tensor]]) -> dict[str, Any]:
    """The evidence of a model, as `summary.json` has it, from the records of all processes."""
    records = [record for record in records if record]
    names = dict.fromkeys(name for record in records for name in record)
    columns = {name: torch.cat([record[name] for record in records if name in record]) for name in names}
    order = columns["index"].argsort()
    whole, deleted, labels = (columns[name][order] for name in ("whole", "deleted", "label"))
    features = columns["features"][columns["probed"].argsort()] if "features" in columns else None
    pair = (None, None) if features is None else (features[:, 0], features[:, 1])
    return domain_evidence(whole, deleted, labels, *pair).to_dict()
