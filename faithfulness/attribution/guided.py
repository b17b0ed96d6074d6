"""Guided backpropagation: the gradient, its negative part dropped at every activation function."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from faithfulness.attribution.base import register_attribution
from faithfulness.attribution.gradients import Gradient

_NAMES = (
    *("relu", "relu_", "relu6", "leaky_relu", "leaky_relu_", "prelu", "rrelu", "rrelu_", "threshold", "threshold_"),
    *("elu", "elu_", "celu", "celu_", "selu", "selu_", "gelu", "silu", "mish", "hardswish", "softplus"),
)
RECTIFIERS = frozenset(
    getattr(home, name) for home in (functional, torch, Tensor) for name in _NAMES if hasattr(home, name)
)
"""Activation functions at which the gradient is clamped. Gates (sigmoid, tanh, softmax) are not among them."""

COMPOSITE_MODULES = frozenset(
    ("Swish", "SwishMe", "Mish", "MishMe", "HardSwish", "HardSwishMe", "HardMish", "HardMishMe", "QuickGELU")
)
"""timm's activation modules that are made of other functions, and so are told by the module's name."""


def _clamp_gradient(result: Any) -> None:
    if isinstance(result, Tensor) and result.requires_grad:
        result.register_hook(lambda incoming: incoming.clamp(min=0))


class _ClampAtRectifiers(TorchFunctionMode):
    """Sees every call of a torch function in its block, from a module or not, in place or not."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in RECTIFIERS:
            _clamp_gradient(result)
        return result


@contextmanager
def guided(model: nn.Module) -> Iterator[None]:
    """Inside the block, forward passes of `model` record guided gradients; after it, all is as before.

    A gradient that arrives at the output of an activation function keeps its positive part, then
    goes on through the function's own derivative. For ReLU this is the classic rule; for GELU and
    its kin, which Springenberg et al. don't treat, it is this suite's reading of it. A ReLU written
    in other words, such as `x.clamp(min=0)`, isn't recognized.
    """
    handles = [
        module.register_forward_hook(lambda _module, _inputs, result: _clamp_gradient(result))
        for module in model.modules()
        if type(module).__name__ in COMPOSITE_MODULES
    ]
    try:
        with _ClampAtRectifiers():
            yield
    finally:
        for handle in handles:
            handle.remove()


@register_attribution("gb", aliases=("guidedbackprop", "guided-backpropagation"))
class GuidedBackpropagation(Gradient):
    """Guided backpropagation (Springenberg et al. 2015), absolute before the channel sum.

    `absolute=False` keeps the signs. See `guided` for activations other than ReLU.
    """

    paper = "Springenberg et al. 2015"
    needs = "gradients, activation functions"

    def relevance(self, activations: Tensor, targets: Tensor) -> Tensor:
        with guided(self.model):
            return super().relevance(activations, targets)
