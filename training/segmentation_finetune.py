"""Train a segmentation network on images with one deleted patch, so that deletion is in-domain.

python -m training.segmentation_finetune                            # embedded data, about a minute
python -m training.segmentation_finetune --model torchvision:deeplabv3_resnet50 --pretrained --data voc:PATH
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import checkpoints
from faithfulness.core.cli import run_command
from faithfulness.core.flags import make_options
from training.options import TrainingOptions
from training.requeue import requeued


@dataclass(kw_only=True)
class SegmentationOptions(TrainingOptions):
    """Train a segmentation network with deleted patches and write a checkpoint folder.

    Args:
        model: torchvision:NAME, a timm name (an FCN on it), checkpoint folder, weight file (with --arch),
            hf-hub:ORG/NAME, or path/to/file.py:function.
        data: digits, voc:PATH, sbd:PATH, or path/to/file.py:function.
        pretrained: start from torchvision's weights, or timm's of the backbone.
        model_args: further arguments of timm's model; skip, the layer that an FCN's head sees besides the last.
    """

    SEGMENTS: ClassVar[bool] = True

    out: Path = Path("runs/segmenter")


def finetune(options: SegmentationOptions | None = None, **flags: Any) -> checkpoints.Checkpoint[Any]:
    """Train with `SegmentationOptions`, or with its flags; models and data as `training.patch_finetune.finetune`.

    A module gives logits (B, K, H, W), a data set (image, mask).
    """
    options = options or make_options(SegmentationOptions, **flags)
    with requeued():
        options.begin()
        from training.module import SegmentationFineTuner
        from training.run import run_training

        return run_training(options, SegmentationFineTuner)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    return run_command(SegmentationOptions, finetune, arguments)


if __name__ == "__main__":
    sys.exit(main())
