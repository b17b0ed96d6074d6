"""One grammar for attributions as text, read by every command.

    NAME[(parameter=value, ...)][|abs | |relu | +smooth(K) ...][@LAYER]

`ig(steps=20)`, `ig|abs`, `ixg+smooth(65)`, `gradcam@middle`, `ixg|abs+smooth(9)@final`. Modifiers
apply from left to right to the channel-summed map. Every NAME takes `published=idsds` or `published=difull`
besides its parameters, which win over it (see `faithfulness.attribution.published`). NAME is a registered one, or a
file's function as `path/to/file.py:function` (see `faithfulness.attribution.plugins`).
"""

from __future__ import annotations

import ast
import inspect
import math
import re
import warnings
from collections.abc import Callable, Collection
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from faithfulness.attribution.base import ATTRIBUTIONS, Attribution, Passes
from faithfulness.attribution.guard import Guarded, unchanged
from faithfulness.attribution.plugins import attribution_factory, is_foreign, load_entry_points, resolve_attribution
from faithfulness.attribution.published import check_preset, published_setup
from faithfulness.attribution.smoothing import check_kernel, smooth
from faithfulness.backbones.backbone import check_module
from faithfulness.core.errors import InputError, shown, unknown_name
from faithfulness.core.flags import Flag
from faithfulness.core.plugin_files import own_code

_PATTERN = re.compile(
    r"(?P<name>[^()|@]+\.py:\w+|[A-Za-z][\w\-+]*?(?:\+\+)?)(?P<arguments>\(.*?\))?"
    r"(?P<modifiers>(?:\|abs|\|relu|\+smooth\(\s*[0-9]{1,9}\s*\))*)(?:@(?P<layer>[\w.]+))?"
)
LONGEST = 4096
"""Characters of an attribution as text, which may hold a path."""
_MODIFIER = re.compile(r"\|(abs|relu)|\+smooth\(\s*([0-9]+)\s*\)")


@dataclass(frozen=True)
class AttributionSpec:
    """An attribution as text says it: name, parameters, modifiers in order, layer."""

    name: str
    parameters: dict[str, Any] = field(default_factory=dict)
    modifiers: tuple[tuple[str, int], ...] = ()
    layer: str | None = None

    @property
    def label(self) -> str:
        """The text without the layer: what tables call this method."""
        arguments = ", ".join(f"{key}={value!r}" for key, value in self.parameters.items())
        modifiers = "".join(f"+smooth({kernel})" if kind == "smooth" else f"|{kind}" for kind, kernel in self.modifiers)
        return self.name + (f"({arguments})" if arguments else "") + modifiers


def parse_attribution(text: str) -> AttributionSpec:
    """Read an attribution from text; unknown names and parameters are refused with near matches."""
    match = _PATTERN.fullmatch(text.strip()) if len(text) <= LONGEST else None
    if match is None or match["name"].endswith("+smooth"):  # which smooths by what isn't a whole number
        raise InputError(
            f"can't read attribution {shown(repr(text), 200)}; expected NAME(parameter=value)|abs|relu+smooth(K)@LAYER"
        )
    name = resolve_attribution(match["name"])
    parameters = _parse_arguments(text, match["arguments"] or "()")
    _check_parameters(name, parameters)
    modifiers = tuple(
        (found[1], 0) if found[1] else ("smooth", check_kernel(int(found[2])))
        for found in _MODIFIER.finditer(match["modifiers"])
    )
    return AttributionSpec(name, parameters, modifiers, match["layer"])


def _check_parameters(name: str, parameters: dict[str, Any]) -> None:
    if not parameters:
        return
    known = parameters_of(name)
    for parameter in parameters:
        if parameter not in known and parameter != "published":
            raise unknown_name(f"parameter of {name}", parameter, [*known, "published"])
    if parameters.get("published") is not None:
        check_preset(parameters["published"])
    for parameter, value in parameters.items():
        if parameter != "published":
            _check_type(name, parameter, known[parameter], value)


def _check_type(name: str, parameter: str, known: inspect.Parameter, value: Any) -> None:
    """A parameter must have the type that the method's signature says, where text can give such a one."""
    flag = Flag(parameter, known.annotation, known.default, "")
    far = isinstance(value, int) and abs(value) >= 2**63  # which no tensor can hold
    if flag.kinds <= _TYPES and (far or not flag.takes_value(value)):
        raise InputError(f"{name}({parameter}=...): expected {flag.expected}, got {shown(repr(value), 80)}")


_TYPES = {int, float, bool, str, list, Literal, Tensor, type(None)}


def _parse_arguments(text: str, arguments: str) -> dict[str, Any]:
    refusal = f"can't read the parameters of {shown(repr(text), 200)}; expected (name=value, ...)"
    try:
        call = ast.parse(f"f{arguments}", mode="eval").body
        if not isinstance(call, ast.Call) or call.args:
            raise ValueError("parameters need names")
        names = [str(item.arg) for item in call.keywords]
        values = [_literal(item.value) for item in call.keywords]
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise InputError(refusal) from error
    if twice := {name for name in names if names.count(name) > 1}:
        raise InputError(f"{text} gives {', '.join(sorted(twice))} twice; expected each parameter once")
    return dict(zip(names, values, strict=True))


def _literal(node: ast.expr) -> Any:
    """A Python literal; a bare word is a string, so that `baseline=uniform` needs no quotes."""
    return node.id if isinstance(node, ast.Name) else ast.literal_eval(node)


def parameters_of(name: str) -> dict[str, inspect.Parameter]:
    """The parameters that a method takes by name, its bases' included."""
    factory = attribution_factory(name)
    kinds = [kind for kind in factory.__mro__ if "__init__" in vars(kind)] if inspect.isclass(factory) else [factory]
    found: dict[str, inspect.Parameter] = {}
    for kind in kinds:
        signature = _signature(kind.__init__ if inspect.isclass(kind) else kind)
        for parameter in signature.parameters.values():
            with_default = parameter.default is not parameter.empty and not inspect.isclass(kind)
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY or with_default:
                found.setdefault(parameter.name, parameter)
        if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in signature.parameters.values()):
            break
    for fixed in ("model", "layer", "cell"):
        found.pop(fixed, None)
    return found


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    """A signature with its types, or with their names where a user's own code doesn't hold them."""
    try:
        return inspect.signature(function, eval_str=True)
    except (NameError, TypeError, AttributeError, SyntaxError):
        return inspect.signature(function)


class CallableAttribution:
    """What a factory returned that isn't an `Attribution`, with the attributes that commands read."""

    def __init__(self, explain: Callable[[Tensor, Tensor], Tensor], layer: str | None):
        self.explain = explain
        self.layer = getattr(explain, "layer", layer or "input")
        self.upsample = getattr(explain, "upsample", "bilinear")
        self.passes = getattr(explain, "passes", Passes(math.nan, math.nan))

    def __call__(self, images: Tensor, targets: Tensor) -> Tensor:
        """Maps, as the callable gives them."""
        return self.explain(images, targets)


class Modified:
    """An attribution followed by modifiers of its map."""

    def __init__(self, inner: Attribution | CallableAttribution | Guarded, modifiers: tuple[tuple[str, int], ...]):
        self.inner = inner
        self.modifiers = modifiers

    def __call__(self, images: Tensor, targets: Tensor) -> Tensor:
        """Maps (B, 1, h, w), as the inner method gives them, then modified."""
        maps = self.inner(images, targets)
        for kind, kernel in self.modifiers:
            maps = smooth(maps, kernel) if kind == "smooth" else maps.abs() if kind == "abs" else maps.relu()
        return maps

    def __getattr__(self, name: str) -> Any:
        if name == "inner" or name.startswith("__"):  # while it is being copied or unpickled, there is none yet
            raise AttributeError(name)
        return getattr(self.inner, name)


def create_attribution(
    name: str | AttributionSpec,
    model: nn.Module,
    layer: str | None = None,
    *,
    cell: int | None = None,
    **parameters: Any,
) -> Callable[[Tensor, Tensor], Tensor]:
    """An attribution method for a model: `create_attribution("ig(steps=20)|abs", model)`.

    Args:
        name: a registered name, an alias, or the full grammar of this module; or what it was read as.
        model: a network with `split`, or any module with logits.
        layer: "input", "middle", "final" or a tap's name; overrides the text's `@LAYER`.
        cell: the head to explain, for a grid setting.
        parameters: override the text's. `published="idsds"` or `"difull"` stands for all those that Hesse et al.
            or Rao et al. used, and for their layer; what is given beside it wins.
    Returns:
        `explain(images, targets) → (B, 1, h, w)`, with `passes`, `layer` and `upsample`.
    Raises:
        InputError: unknown name, parameter or layer. A method from outside raises it too if it changes the
            model's weights or mode, see `faithfulness.attribution.guard`.

    >>> import torch
    >>> from faithfulness import create_attribution
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 5, bias=False))
    >>> images, targets = torch.rand(2, 3, 8, 8), torch.tensor([4, 0])
    >>> explain = create_attribution("ixg", model)
    >>> maps = explain(images, targets)
    >>> maps.shape, explain.passes
    (torch.Size([2, 1, 8, 8]), Passes(forward=1, backward=1))
    >>> torch.allclose(maps.sum(dim=(1, 2, 3)), model(images)[[0, 1], targets], atol=1e-5)
    True
    >>> create_attribution("ig(steps=20)|abs", model, chunk=64)(images, targets).min() >= 0
    tensor(True)
    """
    check_module(model)
    for what, value, kind in (("attribution", name, str | AttributionSpec), ("layer", layer, str | None)):
        if not isinstance(value, kind):
            raise InputError(f"expected a name as the {what}, got {type(value).__name__} {shown(repr(value), 60)}")
    spec = parse_attribution(name) if isinstance(name, str) else name
    merged = spec.parameters | parameters
    _check_parameters(spec.name, merged)
    setup = published_setup(merged.pop("published", None), spec.name)
    layer = layer or spec.layer or (setup.layer if setup.layer and setup.layer in _taps(model) else None)
    preset = setup.parameters | (setup.inside if layer not in (None, "input") else {})
    settings = {} if cell is None else {"cell": cell}
    factory = attribution_factory(spec.name)
    foreign = is_foreign(factory)
    explain: Any
    with unchanged(model, spec.name) if foreign else nullcontext(), own_code(spec.name) if foreign else nullcontext():
        explain = factory(model, layer, **settings, **preset | merged)
    if not callable(explain):
        raise InputError(f"{spec.name} returned {_kind(explain)}, expected a function explain(images, targets) -> maps")
    _warn_of_training(model)
    if not isinstance(explain, Attribution):
        explain = CallableAttribution(cast(Any, explain), layer)
    if foreign:
        explain = Guarded(explain, model, spec.name)
    return Modified(explain, spec.modifiers) if spec.modifiers else explain


def _kind(value: Any) -> str:
    return "None" if value is None else type(value).__name__


def _warn_of_training(model: nn.Module) -> None:
    """Whoever explains a network in training mode may compare the maps with logits of another network."""
    if any(module.training and isinstance(module, _DropoutNd | _NormBase) for module in model.modules()):
        warnings.warn(
            f"{type(model).__name__} is in training mode: its maps are those of evaluation mode, without dropout and "
            "with running statistics; call model.eval()",
            stacklevel=3,
        )


def _taps(model: nn.Module) -> Collection[str]:
    """The names of a network's taps, of its backbone's in a grid setting."""
    layout = getattr(getattr(model, "backbone", model), "layout", None)
    return () if layout is None else layout.taps


def with_defaults(spec: AttributionSpec, defaults: dict[str, Any]) -> dict[str, Any]:
    """Those of a command's own parameters that the method takes and the text doesn't give; None gives none."""
    known = {"published", *parameters_of(spec.name)} - set(spec.parameters)
    return {key: value for key, value in defaults.items() if key in known and value is not None}


def list_attributions() -> list[str]:
    """The registered names, those of installed packages included.

    >>> from faithfulness import list_attributions
    >>> [name for name in list_attributions() if name.startswith("ig")]
    ['ig', 'ig-sg', 'ig-sg-sq', 'ig-u']
    """
    load_entry_points()
    return list(ATTRIBUTIONS)


__all__ = ["AttributionSpec", "Passes", "create_attribution", "list_attributions", "parse_attribution"]
