"""Grids of images as batches: cells are read as samples, and composed on the device."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from checkpoints import Checkpoint
from difull import Compositions, DiFull, DiPart, GridPG, GridSetting, compose_grid
from eval.frame.batches import ImageBatch, SampleBatches
from eval.frame.run import Run
from faithfulness.core.errors import InputError
from faithfulness.data import KeyedSamples

_CLASSES = {"difull": DiFull, "gridpg": GridPG, "dipart": DiPart}


class GridBatch(NamedTuple):
    """Normalized grids (B, C, n·h, n·w) on the device, the class of each cell (B, n²), and their numbers (B,)."""

    images: Tensor
    labels: Tensor
    indices: Tensor


class GridSamples(Dataset[Any]):
    """The cells of each grid as samples for a loader; a grid with a corrupt image is left out."""

    def __init__(self, samples: KeyedSamples, compositions: Compositions):
        self.samples, self.compositions = samples, compositions

    def __len__(self) -> int:
        return len(self.compositions)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        epoch, grid = key
        cells = [self.samples[epoch, int(index)] for index in self.compositions.indices[grid]]
        if any("image" not in cell for cell in cells):
            return {"index": grid}
        images = torch.stack([torch.as_tensor(cell["image"]) for cell in cells])
        return {"image": images, "label": torch.tensor(self.compositions.labels[grid]), "index": grid}


def grid_batches(run: Run[Any], compositions: Compositions, checkpoint: Checkpoint[Any] | None = None) -> SampleBatches:
    """This process's batches of grids; a batch has as many pixels as one of single images."""
    size = max(1, run.options.batch_size // compositions.scale**2)
    samples = GridSamples(run.samples(checkpoint), compositions)
    what = f"{compositions.kind} grids of {compositions.scale}×{compositions.scale}"

    def compose(batch: ImageBatch) -> GridBatch:
        return GridBatch(compose_grid(batch.images, compositions.scale), batch.labels, batch.indices)

    return run.batches(samples, len(compositions), size, checkpoint, what, compose)


def first_grid(run: Run[Any], compositions: Compositions) -> Tensor:
    """The first grid (1, C, n·h, n·w) that can be read, the same on every process."""
    samples = GridSamples(run.samples(), compositions)
    for number in range(len(samples)):
        sample = samples[0, number]
        if "image" in sample:
            return compose_grid(run.one(sample["image"]), compositions.scale)
    raise InputError(f"no grid of {run.data.name} could be read")


def make_setting(name: str, model: torch.nn.Module, scale: int) -> GridSetting:
    """A setting in evaluation mode; nothing of the network changes."""
    return _CLASSES[name](model, scale).eval()
