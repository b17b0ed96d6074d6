"""The networks that are compared, how each is trained, and how large the study is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.findings.steps import Steps, weights_of
from training.recipe import EMBEDDED

BASE = "resnet10"
"""The network of which there are several seeds, and with which the others are compared."""
SEEDS = (BASE, *(f"{BASE}-seed{seed}" for seed in range(1, 6)))
"""Trainings of the base."""
FEWEST_SEEDS = 3
FEWEST_NETWORKS = 5
"""Fewer say nothing of networks at large."""
FILLS = ("resnet10-mean", "resnet10-random")
"""The base fine-tuned with other fills than zeros."""
DEEPER = ("resnet18", "resnet34")
WIDER = "resnet10-wide"
NO_BATCHNORM, NO_BIAS = "resnet10-nobn", "resnet10-nobn-nobias"
BAGNET, BCOS, VGG, VIT = "bagnet17", "bcos-resnet10", "vgg8", "vit"
ARCHITECTURES = (BASE, *DEEPER, WIDER, NO_BATCHNORM, NO_BIAS, VGG, VIT, BCOS, BAGNET)
GRIDS = (BASE, VGG, NO_BATCHNORM, VIT)
"""Scored on grids too."""
UNPUBLISHED = (VIT,)
"""Of which the paper on grids has no like: reported, but nothing is decided by them."""


@dataclass(frozen=True)
class Member:
    """A network of the family.

    Attributes:
        model, arguments: timm name and keywords. epochs: on whole images, then with deletion, at scale `hour`.
        lr: the peak on whole images; half of it with deletion. parent: whose first stage it shares; its own by default.
    """

    model: str
    arguments: dict[str, Any] = field(default_factory=dict)
    epochs: tuple[int, int] = (5, 3)
    lr: float = EMBEDDED.lr
    seed: int = 0
    fill: str = "zeros"
    parent: str | None = None


_ARGUMENTS = EMBEDDED.model_args
_DEEP = {
    name: {**_ARGUMENTS, "layers": layers} for name, layers in zip(DEEPER, ([2, 2, 2, 2], [3, 4, 6, 3]), strict=True)
}
_WIDE = {"channels": [2 * width for width in _ARGUMENTS["channels"]], "stem_width": 2 * _ARGUMENTS["stem_width"]}
_SEEDS = {name: Member(EMBEDDED.model, _ARGUMENTS, seed=seed) for seed, name in enumerate(SEEDS)}

FAMILY: dict[str, Member] = {
    **{name: _SEEDS[name] for name in SEEDS[:FEWEST_SEEDS]},
    NO_BATCHNORM: Member("resnet10_nobn_small", epochs=(8, 3), lr=4e-3),
    NO_BIAS: Member("resnet10_nobn_nobias_small", epochs=(8, 3), lr=4e-3),
    DEEPER[1]: Member(EMBEDDED.model, _DEEP[DEEPER[1]]),
    WIDER: Member(EMBEDDED.model, _WIDE),
    BAGNET: Member("bagnet17_small", epochs=(8, 3)),
    BCOS: Member("bcos_resnet10_small", epochs=(5, 2), lr=4e-3),
    VGG: Member("vgg8_small", epochs=(6, 2), lr=2e-3),
    DEEPER[0]: Member(EMBEDDED.model, _DEEP[DEEPER[0]]),
    **{f"{BASE}-{fill}": Member(EMBEDDED.model, _ARGUMENTS, fill=fill, parent=BASE) for fill in ("mean", "random")},
    VIT: Member("vit_conv_small", epochs=(10, 2), lr=3e-3),
    **{name: _SEEDS[name] for name in SEEDS[FEWEST_SEEDS:]},
}
"""In the order in which they are trained: what most findings need comes first."""


@dataclass(frozen=True)
class Scale:
    """How large the study is.

    Attributes:
        models: which of the family. epochs: a factor on each member's.
        train_images, val_images: scenes of training; each of the latter is seen whole and without each cell after
            every epoch.
        images: scored by IDSDS. grids: per setting at most, each image in one. pairs_of: images whose regions DEA
            explains.
        confidence: least one of images in grids; as published but for `quick`. steps: of integrated gradients.
        masks: of RISE.
        methods_everywhere: whether every network is scored with every method that it can carry, or the base only.
    """

    models: tuple[str, ...] = tuple(FAMILY)
    epochs: float = 1.0
    train_images: int = 8192
    val_images: int = 128
    images: int = 256
    grids: int = 30
    pairs_of: int = 48
    confidence: float = 0.99
    steps: int = 16
    masks: int = 128
    methods_everywhere: bool = False


SCALES = {
    "quick": Scale((BASE, NO_BIAS), 0.01, 1024, 16, images=8, grids=3, pairs_of=2, confidence=0.0, steps=4, masks=8),
    "hour": Scale(),
    "night": Scale(
        epochs=2.0, val_images=512, images=512, grids=100, pairs_of=200, steps=50, masks=1000, methods_everywhere=True
    ),
}


def train(name: str, scale: Scale, steps: Steps, say: Callable[[str], None]) -> tuple[Path, Path]:
    """Both stages of a member, as published: whole images, then deletion. Goes on where an earlier call was stopped.

    Returns the folders of the two checkpoints. Raises InputError for a checkpoint that was trained otherwise.
    """
    from training.patch_finetune import finetune

    member = FAMILY[name]
    epochs = [max(1, round(count * scale.epochs)) for count in member.epochs]
    keys = [f"whole/{member.parent or name}", f"deleted/{name}"]
    folders = [steps.out / key for key in keys]
    common: dict[str, Any] = {"train_images": scale.train_images, "val_images": scale.val_images, "seed": member.seed}
    how: dict[str, Any] = {"accelerator": "cpu", "devices": 1, "quiet": True, "resume": True}
    stages = [
        {"model": member.model, "model_args": member.arguments, "lr": member.lr, "deletion_probability": 0.0},
        {"model": str(folders[0]), "lr": member.lr / 2, "fill": member.fill},
    ]

    def make(folder: Path, flags: dict[str, Any], what: str) -> None:
        say(f"{name}: {flags['epochs']} epochs on {what}")
        finetune(out=folder, **flags, **how)

    for place, what in enumerate(("whole images", "deletion")):
        flags = stages[place] | common | {"epochs": epochs[place]}
        given = flags | ({"model": weights_of(folders[0])} if place else {})
        made = folders[place] / "training.json"
        steps.once(keys[place], given, made, partial(make, folders[place], flags, what))
    return folders[0], folders[1]
