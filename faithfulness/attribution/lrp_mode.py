"""A torch function mode in which the backward pass carries relevance instead of gradients.

Inside the block every torch function that touches the input's descendants is replaced, however it is
called: by a layer, an operator, a method. So residual connections are seen wherever they are written,
and nothing in the network is patched. Convolutions and linear layers follow the composite's rules, with
a batch normalization behind them folded in; other linear operations and additions follow LRP-ε;
ReLU, max pooling and reshaping pass relevance on to where the values came from.

A function that works in place isn't let to: what it would overwrite is needed on the way back. Its result
stands for the tensor from then on, wherever the network names it again. A view that was taken before keeps
the old values, so whoever uses the mode compares the logits with the network's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.grad import conv2d_input
from torch.overrides import TorchFunctionMode

from faithfulness.attribution.lrp_rules import LinearMap, box_rule, epsilon_rule, gamma_rule, stabilize, zplus_rule
from faithfulness.core.errors import InputError

PASSING = frozenset(
    (
        *("view", "reshape", "flatten", "unflatten", "permute", "transpose", "swapaxes", "movedim", "contiguous"),
        *("clone", "unsqueeze", "squeeze", "select", "narrow", "chunk", "split", "unbind", "cat", "concat", "stack"),
        *("pad", "to", "float", "double", "type", "expand", "expand_as", "flip", "roll", "index_select"),
        *("__getitem__", "__setitem__", "dropout", "dropout1d", "dropout2d"),
    )
)
"""Functions that move values without changing them; autograd's own backward moves relevance back."""

POOLING = frozenset(("max_pool2d", "adaptive_max_pool2d", "amax", "gather"))
"""Functions that select values; relevance goes to the selected one."""

ADDITIONS = frozenset(("add", "__add__", "__radd__"))
SCALINGS = frozenset(("mul", "__mul__", "__rmul__", "multiply", "div", "divide", "__truediv__"))
IN_PLACE = {
    **{f"{name}_": name for name in ("add", "mul", "multiply", "div", "divide", "relu", "dropout")},
    **{"__iadd__": "add", "__imul__": "mul", "__itruediv__": "div", "__idiv__": "div"},
}
"""Functions that write into their first argument -> their like that doesn't."""
LINEAR_FUNCTIONS = frozenset(
    ("mean", "sum", "avg_pool2d", "adaptive_avg_pool2d", "interpolate", "matmul", "__matmul__")
)
"""Linear functions of their first argument; relevance follows LRP-ε."""
RULES = ("epsilon", "zplus", "gamma")


class Relevance(torch.autograd.Function):
    """`value` as it is; backward, `share(relevance, *inputs)` gives each input's relevance."""

    @staticmethod
    def forward(ctx: Any, share: Callable[..., tuple[Tensor, ...]], value: Tensor, *inputs: Tensor) -> Tensor:
        ctx.share = share
        ctx.save_for_backward(*inputs)
        return value

    @staticmethod
    def backward(ctx: Any, *relevances: Tensor) -> tuple[Tensor | None, ...]:
        (relevance,) = relevances
        exact = torch.promote_types(relevance.dtype, torch.float32)
        with torch.autocast(relevance.device.type, enabled=False):
            shares = ctx.share(relevance.to(exact), *(given.to(exact) for given in ctx.saved_tensors))
        return None, None, *shares


@dataclass(frozen=True)
class Composite:
    """Which rule a layer follows.

    Attributes:
        rule: of convolutions; linear layers always follow LRP-ε.
        epsilon, gamma: parameters of the rules.
        box: lowest and highest value of each channel of the input, (C,); an image's own if None.
        dense: ids of convolution weights that stand for linear layers, as in timm's VGG.
    """

    rule: str
    epsilon: float = 1e-9
    gamma: float = 0.25
    box: tuple[Tensor, Tensor] | None = None
    dense: frozenset[int] = frozenset()

    def share(self, linear: LinearMap, x: Tensor, z: Tensor, relevance: Tensor, first: bool) -> Tensor:
        """Relevance of x under the rule for this map; `first` for the layer that sees the image."""
        if linear.dense or self.rule == "epsilon":
            return epsilon_rule(linear, x, z, relevance, self.epsilon)
        if first:
            return box_rule(linear, x, relevance, self.epsilon, *self._box(x))
        if self.rule == "zplus":
            return zplus_rule(linear, x, z, relevance, self.epsilon)
        return gamma_rule(linear, x, z, relevance, self.epsilon, self.gamma)

    def _box(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.box is None or len(self.box[0]) != x.shape[1]:
            return x.amin(dim=(2, 3), keepdim=True), x.amax(dim=(2, 3), keepdim=True)
        low, high = (bound.to(x).view(-1, 1, 1) for bound in self.box)
        return low, high


class RelevanceMode(TorchFunctionMode):
    """Inside the block, functions of active tensors (those that require grad) carry relevance.

    Raises InputError for a function that has no rule.
    """

    def __init__(self, composite: Composite):
        super().__init__()
        self.composite = composite
        # Both are kept, so that no other tensor gets the id.
        self._overwritten: dict[int, tuple[Tensor, Tensor]] = {}

    def current(self, value: Any) -> Any:
        """What stands for a tensor, or for those in a list, after functions that work in place."""
        if isinstance(value, (list, tuple)):
            items = [self.current(item) for item in value]
            return type(value)(items) if type(value) in (list, tuple) else value
        while isinstance(value, Tensor) and id(value) in self._overwritten:
            value = self._overwritten[id(value)][1]
        return value

    def __exit__(self, *error: Any) -> None:
        self._overwritten.clear()  # the rules hold the mode, so it must not hold their tensors
        super().__exit__(*error)

    def start(self, activations: Tensor, image: bool) -> Tensor:
        """The activations as the leaf whose relevance is wanted; `image` if they are the network's input."""
        leaf = activations.detach().requires_grad_(True)
        leaf.lrp_image = image  # type: ignore[attr-defined]
        return leaf

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", str(func))
        if self._overwritten:
            given, args = args, self.current(tuple(args))
            kwargs = {key: self.current(value) for key, value in kwargs.items()}
        else:
            given = args
        active = [*_active(args), *_active(kwargs.values())]
        if not active:
            return func(*args, **kwargs)
        if name == "__setitem__" and args[0].requires_grad:
            written: Any = args[0].clone()
            written.lrp_image = getattr(args[0], "lrp_image", False)
            func(written, *args[1:])
            self._overwritten[id(given[0])] = given[0], written
            return None
        if name in IN_PLACE or _asks_in_place(name, args, kwargs):
            if name in IN_PLACE:
                name = IN_PLACE[name]
                func = getattr(functional if name == "dropout" else torch, name)
            kwargs = {key: value for key, value in kwargs.items() if key != "inplace"}
            keep = args[:1] if name == "relu" else args[:3] if name == "dropout" else args
            target = given[0] if given else kwargs["input"]
            self._overwritten[id(target)] = target, self._follow_function(func, name, active, keep, kwargs).to(target)
            return target
        return self._follow_function(func, name, active, args, kwargs)

    def _follow_function(self, func: Any, name: str, active: list[Tensor], args: Any, kwargs: Any) -> Any:
        if "out" in kwargs:
            raise InputError(f"lrp has no rule for the function {name!r} with out=")
        if name in PASSING or name in POOLING:
            return self._pass(func, name, active, args, kwargs)
        if name in ADDITIONS:
            return self._add(active, args, kwargs)
        if len(active) == 1:
            if name in ("conv2d", "linear"):
                return self._linear(func, name, args, kwargs)
            if name == "batch_norm":
                return self._normalize(func, *args, **kwargs)
            if name in LINEAR_FUNCTIONS and args and args[0] is active[0]:
                return self._average(func, args, kwargs)
            if name == "relu":
                return Relevance.apply(lambda r, x: (r,), torch.relu(active[0].detach()), active[0])
            if name in SCALINGS and len(args) == 2 and not ("div" in name and args[0] is not active[0]):
                return self._scale(name, active[0], args)
        result = func(*args, **kwargs)
        if _active([result]) or name == "detach":
            raise InputError(f"lrp has no rule for the function {name!r} ({len(active)} inputs that carry relevance)")
        return result

    def _pass(self, func: Any, name: str, active: list[Tensor], args: Any, kwargs: Any) -> Any:
        result = func(*args, **kwargs)
        if name in PASSING and all(getattr(x, "lrp_image", False) for x in active):
            for tensor in _active([result]):
                tensor.lrp_image = True  # type: ignore[attr-defined]
        return result

    def _add(self, active: list[Tensor], args: Any, kwargs: Any) -> Tensor:
        if kwargs.get("alpha", 1) != 1:
            raise InputError("lrp has no rule for an addition with alpha")
        terms = [args[0], args[1] if len(args) > 1 else kwargs["other"]]
        value = torch.add(*(_plain(term) for term in terms))
        z = value.detach()

        def share(relevance: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
            shares = relevance / stabilize(z.to(relevance.dtype), self.composite.epsilon)
            return tuple((x * shares).sum_to_size(x.shape) for x in inputs)

        return Relevance.apply(share, value, *active)  # type: ignore[return-value]

    def _scale(self, name: str, x: Tensor, args: Any) -> Tensor:
        value = (torch.div if "div" in name else torch.mul)(*(_plain(factor) for factor in args))
        return Relevance.apply(lambda r, x: (r.sum_to_size(x.shape),), value, x)  # type: ignore[return-value]

    def _average(self, func: Any, args: Any, kwargs: Any) -> Tensor:
        x, rest = args[0], args[1:]
        value = func(x.detach(), *rest, **kwargs)

        def share(relevance: Tensor, x: Tensor) -> tuple[Tensor]:
            with torch.enable_grad():
                leaf = x.detach().requires_grad_(True)
                z = func(leaf, *rest, **kwargs)
            (pulled,) = torch.autograd.grad(z, leaf, relevance / stabilize(z.detach(), self.composite.epsilon))
            return (x * pulled,)

        return Relevance.apply(share, value, x)  # type: ignore[return-value]

    def _linear(self, func: Any, name: str, args: Any, kwargs: Any) -> Tensor:
        given = dict(zip(("input", "weight", "bias", "stride", "padding", "dilation", "groups"), args, strict=False))
        given |= kwargs
        x, weight, bias = given.pop("input"), given.pop("weight"), given.pop("bias", None)
        if not x.requires_grad or x.dim() != (4 if name == "conv2d" else x.dim()):
            raise InputError(f"lrp needs {name} of a batch with constant weights, got input {tuple(x.shape)}")
        if name == "linear":
            linear = LinearMap(weight, bias, functional.linear, lambda s, w, shape: s @ w, dense=True)
        else:
            x = _pad_same(x, weight, given)
            linear = _convolution(weight, bias, given, id(weight) in self.composite.dense)
        value = linear.run(x.detach(), weight, bias)
        return self._follow(linear, x, value)

    def _follow(self, linear: LinearMap, x: Tensor, value: Tensor) -> Tensor:
        """The map's value, with its rule for the way back, and the map itself for a normalization to fold."""
        first = getattr(x, "lrp_image", False)
        z = value.detach()  # without it, the value and its way back would hold each other in memory

        def share(relevance: Tensor, x: Tensor) -> tuple[Tensor]:
            dtype = relevance.dtype
            return (self.composite.share(linear.to(dtype), x, z.to(dtype), relevance, first),)

        result: Any = Relevance.apply(share, value, x)
        result.lrp_linear = (linear, x)
        return result

    def _normalize(
        self,
        func: Any,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if training or running_mean is None or running_var is None:
            raise InputError("lrp needs batch normalization with running statistics, got one without")
        value = func(input.detach(), running_mean, running_var, weight, bias, training, momentum, eps)
        scale = (running_var + eps).rsqrt() if weight is None else weight * (running_var + eps).rsqrt()
        shift = -running_mean * scale if bias is None else bias - running_mean * scale
        followed = getattr(input, "lrp_linear", None)
        if followed is not None:
            linear, x = followed
            return self._follow(linear.scaled(scale, shift), x, value)
        factors, z = scale.view(-1, *[1] * (input.dim() - 2)), value.detach()

        def share(relevance: Tensor, x: Tensor) -> tuple[Tensor]:
            shares = relevance / stabilize(z.to(relevance.dtype), self.composite.epsilon)
            return (x * factors.to(relevance.dtype) * shares,)

        return Relevance.apply(share, value, input)  # type: ignore[return-value]


def _active(values: Any) -> list[Tensor]:
    """The tensors among values, and in lists among them, that carry relevance."""
    found = []
    for value in values:
        if isinstance(value, Tensor):
            if value.requires_grad:
                found.append(value)
        elif isinstance(value, (list, tuple)):
            found.extend(_active(value))
    return found


def _asks_in_place(name: str, args: Any, kwargs: Any) -> bool:
    """Whether a function that leaves its input alone by default is told not to."""
    positions = {"relu": 1, "dropout": 3, "dropout1d": 3, "dropout2d": 3}
    if name not in positions:
        return False
    return bool(kwargs.get("inplace", args[positions[name]] if len(args) > positions[name] else False))


def _plain(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def _pad_same(x: Tensor, weight: Tensor, given: dict[str, Any]) -> Tensor:
    """Spell out a convolution's padding if it is a word; `given` holds the numbers afterwards."""
    padding = given.get("padding", 0)
    if not isinstance(padding, str):
        return x
    given["padding"] = 0
    if padding == "valid":
        return x
    dilation = given.get("dilation", 1)
    steps = (dilation, dilation) if isinstance(dilation, int) else dilation
    totals = [step * (size - 1) for step, size in zip(steps, weight.shape[2:], strict=True)]
    (top, bottom), (left, right) = ((total // 2, total - total // 2) for total in totals)
    padded = functional.pad(x, (left, right, top, bottom))
    padded.lrp_image = getattr(x, "lrp_image", False)  # type: ignore[attr-defined]
    return padded


def _convolution(weight: Tensor, bias: Tensor | None, options: dict[str, Any], dense: bool) -> LinearMap:
    def run(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        return functional.conv2d(x, w, b, **options)

    def pull(s: Tensor, w: Tensor, shape: torch.Size) -> Tensor:
        return conv2d_input(shape, w, s, **options)

    return LinearMap(weight, bias, run, pull, dense)
