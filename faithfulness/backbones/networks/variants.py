"""How this suite's own networks become timm models: `timm.create_model(name)` once `backbones` is imported."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

from faithfulness.backbones.split import Layout, flatten_steps


@dataclass(frozen=True)
class Variant:
    """A named network: the keywords of its class, the side of its images in pixels, its outer layers.

    `fixed`: the side is part of the network (position embeddings), and timm's `img_size` sets it.
    `mean`, `std`: what its images are normalized by.
    """

    arguments: dict[str, Any] = field(default_factory=dict)
    size: int = 224
    first_conv: str = "conv1"
    classifier: str = "fc"
    fixed: bool = False
    mean: tuple[float, ...] = IMAGENET_DEFAULT_MEAN
    std: tuple[float, ...] = IMAGENET_DEFAULT_STD


def register_variants(family: type[nn.Module], module: str, variants: dict[str, Variant]) -> None:
    """Make the variants of a class known to timm, as entry points of `module` (its `__name__`).

    The class takes `num_classes`, `in_chans` and the variant's arguments; users' keywords go before the latter.
    Their weights have no address: a file or a checkpoint holds them.
    """
    home = sys.modules[module]
    configs: Any = {name: _config(variant) for name, variant in variants.items()}
    vars(home).setdefault("default_cfgs", {}).update(generate_default_cfgs(configs))
    for name, variant in variants.items():
        entry = _entry_point(family, name, variant)
        entry.__module__ = module
        setattr(home, name, register_model(entry))


def _entry_point(family: type[nn.Module], name: str, variant: Variant) -> Callable[..., nn.Module]:
    def create(pretrained: bool = False, **arguments: Any) -> nn.Module:
        return build_model_with_cfg(family, name, pretrained, **(variant.arguments | arguments))

    create.__name__ = create.__qualname__ = name
    create.__doc__ = f"{family.__name__} `{name}` for images of {variant.size} pixels."
    return create


def _config(variant: Variant) -> dict[str, Any]:
    return {
        "num_classes": 1000,
        "input_size": (3, variant.size, variant.size),
        "fixed_input_size": variant.fixed,
        "interpolation": "bilinear",
        "crop_pct": 0.875 if variant.size == 224 else 1.0,
        "mean": variant.mean,
        "std": variant.std,
        "first_conv": variant.first_conv,
        "classifier": variant.classifier,
    }


def stage_layout(model: Any, *names: str) -> Layout:
    """The layout of a network of four stages `layer1` … `layer4`: these submodules, then `forward_head`."""
    steps = tuple(step for name in names for step in flatten_steps(name, model.get_submodule(name)))
    return Layout(steps, model.forward_head, {"middle": "layer2", "final": "layer4"})
