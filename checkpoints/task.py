"""What a task is to a command: how data are opened and read, and models loaded and saved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from checkpoints.format import save_checkpoint
from checkpoints.load import load_model
from checkpoints.segmentation import load_segmenter, save_segmenter
from faithfulness.core.registry import Registry
from faithfulness.data import (
    DATA,
    SEGMENTATION_DATA,
    Samples,
    SegmentationSamples,
    open_data,
    open_segmentation_data,
)


@dataclass(frozen=True)
class Task:
    """Classification or segmentation, for training and evaluation alike.

    Attributes:
        name: "classification" or "segmentation".
        open_data: (data, split, *, size, seed, count) -> images by index; data as `--data` has them, or a data set.
        samples: (data, data_config, *, training, seed, skip_corrupt) -> samples by (epoch, index).
        load_model: (model, *, arch, num_classes, pretrained, input_size, model_args, default_size) -> Checkpoint.
        save_model: (folder, model, *, deletion, classes, training, composite) writes a checkpoint folder.
        kinds: the data sets that `--data` knows by name.
    """

    name: str
    open_data: Callable[..., Any]
    samples: Callable[..., Any]
    load_model: Callable[..., Any]
    save_model: Callable[..., None]
    kinds: Registry[Any]


CLASSIFICATION = Task("classification", open_data, Samples, load_model, save_checkpoint, DATA)
SEGMENTATION = Task(
    "segmentation", open_segmentation_data, SegmentationSamples, load_segmenter, save_segmenter, SEGMENTATION_DATA
)
