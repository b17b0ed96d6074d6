"""Training recipes: the published one, and one for the small embedded data."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

Loss = Literal["cross_entropy", "binary_cross_entropy"]


@dataclass(frozen=True)
class Recipe:
    """What a training run does besides deletion. `schedule`: `step` is ×0.1 every `step_epochs`.

    `accumulate` to `compile` are how it is computed, and off in every recipe: see `TrainingOptions`.
    """

    model: str
    epochs: int
    batch_size: int
    lr: float
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: Literal["step", "onecycle"] = "step"
    step_epochs: int = 10
    loss: Loss = "cross_entropy"
    model_args: dict[str, Any] = field(default_factory=dict)
    accumulate: int = 1
    clip: float | None = None
    ema: float | None = None
    compile: bool = False

    def override(self, **given: Any) -> Recipe:
        """This recipe with whatever was given (not None) in its place."""
        names = {entry.name for entry in fields(self)}
        return replace(self, **{name: value for name, value in given.items() if name in names and value is not None})


OFF: dict[str, Any] = {"accumulate": 1, "clip": None, "ema": None, "compile": False}
"""What a record says nothing of, so that runs made before there were these flags are the same runs."""

PUBLISHED = Recipe(model="resnet50", epochs=30, batch_size=256, lr=1e-3)
"""Hesse et al. 2024: SGD, momentum 0.9, weight decay 1e-4, ×0.1 every 10 of 30 epochs."""

EMBEDDED = Recipe(
    model="resnet10t",
    epochs=4,
    batch_size=64,
    lr=8e-3,
    optimizer="adamw",
    weight_decay=0.05,
    schedule="onecycle",
    model_args={"channels": [16, 32, 96, 192], "stem_width": 8},
)
"""For `digits` at 64 px: a narrow ResNet, from scratch in about a minute."""


SEGMENTATION = Recipe(model="torchvision:deeplabv3_resnet50", epochs=30, batch_size=16, lr=0.01, schedule="onecycle")
"""For VOC and SBD: a choice of this suite's own; nothing is published on deletion in segmentation."""

EMBEDDED_SEGMENTATION = replace(
    EMBEDDED,
    epochs=6,
    batch_size=32,
    lr=5e-3,
    model_args={"channels": [24, 48, 96, 96], "stem_width": 12, "skip": "layer1", "output_stride": 8},
)
"""For scenes of several `digits` at 64 px: strokes are some 5 px wide, so the head sees a map of stride 4 too."""


def recipe_for(rendered: bool, segmentation: bool = False) -> Recipe:
    """The recipe that data start from: the embedded ones' where they are rendered, else the published one."""
    if segmentation:
        return EMBEDDED_SEGMENTATION if rendered else SEGMENTATION
    return EMBEDDED if rendered else PUBLISHED
