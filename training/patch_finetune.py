"""Fine-tune a backbone on images with one deleted patch, so that deletion is in-domain.

python -m training.patch_finetune                                   # embedded data, minutes
python -m training.patch_finetune --model resnet50 --data imagenet:PATH --pretrained --devices 8
python -m training.patch_finetune --model path/to/net.py:make --data path/to/data.py:open_split
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import checkpoints
from faithfulness.core.cli import run_command
from faithfulness.core.flags import make_options
from training.options import TrainingOptions
from training.recipe import Loss, Recipe
from training.requeue import requeued


@dataclass(kw_only=True)
class PatchOptions(TrainingOptions):
    """Fine-tune with deleted patches and write a checkpoint folder.

    Args:
        composite_prob: share of each batch that is composed into grids and trained through each cell's own head.
        composite_scale: cells per side of these grids.
        loss: cross_entropy, or binary_cross_entropy with one-hot targets; by default the latter for B-cos networks.
    """

    GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {
        **TrainingOptions.GROUPS,
        "grids": ("composite_prob", "composite_scale"),
    }

    composite_prob: float = 0.0
    composite_scale: int = 2
    loss: Loss | None = None

    def composite(self) -> Any:
        """The `CompositeSpec` by which the model sees grids; None if it sees none."""
        from training.composite import CompositeSpec

        return CompositeSpec(self.composite_prob, self.composite_scale) if self.composite_prob else None

    def check(self) -> None:
        super().check()
        self.composite()

    def settings(self, recipe: Recipe) -> dict[str, Any]:
        without = ("composite_prob", "composite_scale") if self.composite() is None else ()
        return {name: value for name, value in super().settings(recipe).items() if name not in without}


def finetune(options: PatchOptions | None = None, **flags: Any) -> checkpoints.Checkpoint[Any]:
    """Train with `PatchOptions`, or with its flags: `finetune(model=net, data=data, out="runs/x", epochs=3)`.

    The model may be any module, the data any torch `Dataset` of (image, label), or a dict with one as "train" and one
    as "val". A module is copied before it is trained.
    """
    options = options or make_options(PatchOptions, **flags)
    with requeued():
        options.begin()
        from training.module import PatchFineTuner
        from training.run import run_training

        return run_training(options, PatchFineTuner, options.composite())


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    return run_command(PatchOptions, finetune, arguments)


if __name__ == "__main__":
    sys.exit(main())
