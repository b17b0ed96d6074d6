"""Loading what `--model`, or a flag like it, names; and leaving what the caller owns as it was."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

from checkpoints import Checkpoint, Task
from eval.frame.options import ModelOptions
from faithfulness.backbones import unchanged
from faithfulness.core.errors import InputError
from faithfulness.data import IndexedData


def borrowed(model: Any) -> AbstractContextManager[None]:
    """Whatever a block does to a network that the caller owns is undone after it; names of networks own none."""
    owned = model.model if isinstance(model, Checkpoint) else model
    return unchanged(owned) if isinstance(owned, torch.nn.Module) else nullcontext()


def load_named(
    model: Any,
    options: ModelOptions,
    task: Task,
    data: IndexedData,
    *,
    own_size: bool = False,
    model_args: dict[str, Any] | None = None,
) -> Checkpoint[Any]:
    """Load what `--model`, or a flag like it, names; untrained weights are drawn by the seed.

    A `timm:NAME` gets as many classes as the data, unless it is pretrained, and the data's default size. With
    `own_size`, a checkpoint keeps its own, whatever `--input-size` says.
    """
    torch.manual_seed(options.seed)
    return task.load_model(
        model,
        arch=options.arch,
        num_classes=None if options.pretrained or not isinstance(model, str | Path) else len(data.classes),
        pretrained=options.pretrained,
        input_size=None if own_size else options.input_size,
        model_args=model_args,
        default_size=data.default_size,
    )


def check_classes(checkpoint: Checkpoint[Any], data: IndexedData) -> None:
    """The data must have the checkpoint's classes: as many, and by the same names if it names them."""
    classes = checkpoint.model.num_classes
    if not data.suits(classes):
        raise InputError(f"{checkpoint.name} has {classes} classes, {data.name} ({data.split}) has {len(data.classes)}")
    if checkpoint.classes and checkpoint.classes != data.classes:
        first = next((a, b) for a, b in zip(checkpoint.classes, data.classes, strict=True) if a != b)
        raise InputError(
            f"{checkpoint.name} has other classes than {data.name}: {first[0]!r} where the data has {first[1]!r}"
        )
