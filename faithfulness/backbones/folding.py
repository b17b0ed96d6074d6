"""Batch normalization folded into the convolutions before it: the same function in evaluation mode, with less to do."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from faithfulness.backbones.backbone import device_of
from faithfulness.core.keyed import keyed_normal, make_keys

KNOWN = ("torch", "timm", "torchvision", "faithfulness")
"""Packages whose modules do the same with every image; whoever writes a module of their own may branch on it."""
TOLERANCE = 1e-9
"""By how much of the largest logit a folded network may differ in float64; a wrong fold differs by far more."""


def fold_batchnorm(model: Any) -> Callable[[Tensor], Tensor]:
    """A copy of a network, images -> logits, whose convolutions hold the batch normalization that follows them.

    Each pair is found in a run: the normalization is given what the convolution has just returned, and both run once.
    The copy is compared with the network in float64. The network itself where it has modules of other packages than
    `KNOWN`, in training mode, or with another forward than their class's, where there is nothing to fold, where it
    can't be copied or run in float64, or where the logits differ, as they do if something else reads what the
    convolution returns.

    Args:
        model: in evaluation mode, with `data_config`; it stays as it is.
    Source: Jacob et al. 2018, section 3.2.
    """
    dtypes = {each.dtype for each in (*model.parameters(), *model.buffers()) if each.is_floating_point()}
    known = len(dtypes) == 1 and all(map(_is_known, model.modules()))
    known &= not any(module.training for module in model.modules() if module is not model)
    with torch.inference_mode(False):
        pairs = _pairs(model) if known else []
    if not pairs:
        return model
    try:
        exact, folded = (copy.deepcopy(model).cpu().double() for _ in range(2))
        for convolution, normalization in pairs:
            _fold(folded, convolution, normalization)
        image = _probe(exact, torch.float64)
        with torch.no_grad():
            expected, found = exact(image), folded(image)
    except (RuntimeError, TypeError, NotImplementedError):  # it holds a graph, a lock, a handle; or isn't for float64
        return model
    same = bool((found - expected).abs().max() <= TOLERANCE * expected.abs().max())
    return folded.eval().to(device_of(model), dtypes.pop()) if same else model


def _probe(model: Any, dtype: torch.dtype) -> Tensor:
    """An image of noise."""
    keys = make_keys(0, torch.zeros(1, dtype=torch.int64, device=device_of(model)))
    return keyed_normal(keys, tuple(model.data_config["input_size"])).to(dtype)


def _pairs(model: Any) -> list[tuple[str, str]]:
    """Names of convolutions and of the normalizations that are given their output."""
    names = {module: name for name, module in model.named_modules()}
    outputs: list[tuple[str, Tensor, int]] = []
    inputs: list[tuple[str, Tensor, int]] = []

    def made(module: nn.Module, given: tuple[Any, ...], output: Tensor) -> None:
        outputs.append((names[module], output, output._version))

    def given(module: nn.Module, tensors: tuple[Any, ...]) -> None:
        inputs.extend((names[module], tensor, tensor._version) for tensor in tensors)

    handles = [module.register_forward_hook(made) for module in names if type(module) is nn.Conv2d]
    kinds = (nn.BatchNorm2d, BatchNormAct2d)
    handles += [module.register_forward_pre_hook(given) for module in names if type(module) in kinds]
    dtype = next((each.dtype for each in model.parameters() if each.is_floating_point()), torch.float32)
    try:
        with torch.no_grad():
            model(_probe(model, dtype))
    finally:
        for handle in handles:
            handle.remove()
    # What was written into in between is another tensor, though the same object.
    found = [(a, b) for a, *one in outputs for b, *other in inputs if one[0] is other[0] and one[1] == other[1]]
    runs = [name for name, *_ in (*outputs, *inputs)]
    known = dict(model.named_modules())
    return [pair for pair in found if all(runs.count(name) == 1 and _is_plain(known[name]) for name in pair)]


def _is_known(module: nn.Module) -> bool:
    """Whether it runs what its class says, and that is of a package whose modules don't look at the image."""
    return type(module).__module__.partition(".")[0] in KNOWN and "forward" not in vars(module)


def _is_plain(module: Any) -> bool:
    """Whether it is nothing but its class: no hook, no parametrization, and statistics of its own, which it uses."""
    hooked = module._forward_hooks or module._forward_pre_hooks or hasattr(module, "parametrizations")
    return not hooked and not module.training and getattr(module, "running_var", 0) is not None


def _fold(model: nn.Module, convolution: str, normalization: str) -> None:
    """Put a float64 normalization into the weights of a convolution; what acts after it stays."""
    before, after = model.get_submodule(convolution), model.get_submodule(normalization)
    assert isinstance(before, nn.Conv2d)
    model.set_submodule(convolution, fuse_conv_bn_eval(before, after))  # type: ignore[type-var]
    rest: Any = nn.Sequential(*after.children()) if isinstance(after, BatchNormAct2d) else nn.Identity()
    model.set_submodule(normalization, rest)
