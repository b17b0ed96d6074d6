"""A user's own network, taken as it is: wrapped where something is missing, its weights never copied nor changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from typing import Any

import torch
from torch import nn

from faithfulness.backbones.backbone import (
    InputOnlyModel,
    OwnNetwork,
    Size,
    check_logits,
    check_module,
    count_logits,
    name_of,
    own_data_config,
    shape_of,
    told_config,
)
from faithfulness.backbones.timm_models import LAYOUTS, TimmBackbone
from faithfulness.core.errors import InputError


def adopt_classifier(model: Any, input_size: Size | None = None, default_size: int | None = None) -> Any:
    """A user's classifier with `split`, `input_size`, `data_config`, `num_classes` and `name`; weights are shared.

    A timm model becomes a `TimmBackbone`, a network with `split` keeps its layers, any other is explained at its
    input. The module itself gets no new attributes.

    Args:
        model: a module with logits (B, classes).
        input_size: side of the square images in pixels, or height and width.
        default_size: the side where neither `input_size` nor the module says one; 224 by default.
    Raises:
        InputError: not a module, other outputs than logits (B, classes), images that it can't take.
    """
    check_module(model)
    check_usable(model)
    adopted: Any = copy(model) if hasattr(model, "split") else _wrapped(model, default_size)
    if not isinstance(adopted, TimmBackbone | OwnNetwork):
        _complete(adopted)
    side = input_size or (None if getattr(adopted, "size_told", True) else default_size)
    if side:
        adopted.data_config = {**adopted.data_config, "input_size": shape_of(side)}
    if isinstance(adopted, TimmBackbone):
        adopted.arguments, adopted._has_layout = dict(adopted.arguments), None
    elif not isinstance(adopted, OwnNetwork):
        adopted.input_size = adopted.data_config["input_size"][1:]
    with _steady(adopted):
        check_logits(adopted, 2)
    return adopted


@contextmanager
def _steady(model: Any) -> Iterator[None]:
    """Raise InputError if a network's pass writes into its own weights: no two of its outputs would belong together."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    before = {name: tensor._version for name, tensor in tensors.items()}
    yield
    if changed := [name for name, tensor in tensors.items() if tensor._version != before[name]]:
        raise InputError(
            f"{model.name} changes its own {changed[0]} as it runs; expected the same network for all images"
        )


def _wrapped(model: nn.Module, default_size: int | None) -> nn.Module:
    if not _is_timm(model):
        return InputOnlyModel(model)
    sized = told_config(model).get("input_size") or getattr(getattr(model, "patch_embed", None), "img_size", None)
    return TimmBackbone(model, None if sized else default_size)


def _complete(adopted: Any) -> None:
    """Give a copy of a network with a `split` of its own what else it needs."""
    told = told_config(adopted)
    adopted.size_told, adopted.data_config = bool(told.get("input_size")), own_data_config(told)
    adopted.normalization_told = {"mean", "std"} <= told.keys()
    adopted.name = name_of(adopted)
    if not hasattr(adopted, "num_classes"):
        adopted.num_classes = count_logits(adopted, adopted.data_config["input_size"])


def _is_timm(model: nn.Module) -> bool:
    families = any(kind in LAYOUTS for kind in type(model).__mro__)
    return families or all(hasattr(model, name) for name in ("pretrained_cfg", "forward_features", "forward_head"))


def check_usable(model: nn.Module) -> None:
    """Raise InputError for a network that can't be taken apart, or whose gradients can't be had."""
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise InputError(f"{type(model).__name__} is scripted or traced; give the module that it was made from")
    if any(parameter.is_inference() for parameter in model.parameters()):
        raise InputError(f"{type(model).__name__} was made under torch.inference_mode(), so it has no gradients")
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_meta or tensor.is_complex():
            got = "on the meta device, without values" if tensor.is_meta else str(tensor.dtype)
            raise InputError(f"{type(model).__name__}'s {name} is {got}; expected a network with real weights")


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Whatever the block does to a module's place, type, layout, modes and gradients is undone after it.

    Parameters and buffers are put back as they were, not converted back. Weights that the block changes
    where they lie, as training does, stay changed.
    """
    check_usable(model)
    modules = list(model.modules())
    modes = [module.training for module in modules]
    parameters = [dict(module._parameters) for module in modules]
    buffers = [dict(module._buffers) for module in modules]
    values = [(each, each.data, each.requires_grad) for each in model.parameters()]
    gradients = [(each, each.grad, each.grad.data) for each in model.parameters() if each.grad is not None]
    try:
        yield
    finally:
        for module, mode, own, kept in zip(modules, modes, parameters, buffers, strict=True):
            module.training = mode
            module._parameters.update(own)
            module._buffers.update(kept)
        for parameter, data, required in values:
            parameter.grad = None
            parameter.data = data
            if parameter.requires_grad != required:
                parameter.requires_grad_(required)
        for parameter, gradient, data in gradients:
            gradient.data = data
            parameter.grad = gradient
