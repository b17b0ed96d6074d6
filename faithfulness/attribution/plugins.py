"""Attribution methods from outside: installed packages (entry points) and files of the user's own.

An entry point of the group `faithfulness.attributions` names a factory, or a module that registers
its own. `path/to/file.py:function` names what a file holds. Either may be

- a factory: `factory(model, layer=None, *, ...)`, such as an `Attribution` class, which returns
  `explain(images, targets) → maps`; told by a first parameter called `model` and at most two
  parameters without a default, or by being a class;
- a plain function `f(images, targets, *, ...)` or `f(model, images, targets, *, ...)`, which returns
  maps (B, C, h, w) of the input; told by two, respectively three, parameters without a default.

Parameters with a default can be set in the text: `mine.py:explain(sigma=2)`.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from functools import cache
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from faithfulness.attribution.base import ATTRIBUTIONS, Attribution, Passes
from faithfulness.core.checks import check_maps
from faithfulness.core.errors import InputError
from faithfulness.core.plugin_files import FILE, load_function, one_line, signature_of

GROUP = "faithfulness.attributions"
Factory = Callable[..., Any]

_log = logging.getLogger(__name__)


@cache
def load_entry_points() -> None:
    """Register the methods of installed packages, once; one that fails is told in a line and left out."""
    for entry in entry_points(group=GROUP):
        if entry.name in ATTRIBUTIONS:
            _log.warning("attribution %r of %s is left out: the name is taken", entry.name, entry.value)
            continue
        try:
            found = entry.load()
            if not isinstance(found, ModuleType) and entry.name not in ATTRIBUTIONS:
                ATTRIBUTIONS.register(entry.name, as_factory(found, entry.name))
        except Exception as error:  # whatever a foreign package does wrong, the others still work
            _log.warning("attribution %r of %s can't be loaded: %s", entry.name, entry.value, one_line(error))


def resolve_attribution(name: str) -> str:
    """The canonical name; that of a file's function is its own text.

    Raises InputError for an unknown name, with near matches.
    """
    if FILE.fullmatch(name):
        attribution_factory(name)
        return name
    if name not in ATTRIBUTIONS:
        load_entry_points()
    return ATTRIBUTIONS.resolve(name)


def attribution_factory(name: str) -> Factory:
    """The factory behind a name, an alias, or `path/to/file.py:function`."""
    if FILE.fullmatch(name) is None:
        return ATTRIBUTIONS[resolve_attribution(name)]
    return as_factory(load_function(name), name)


def as_factory(function: Any, name: str) -> Factory:
    """A factory as it is; a plain function as a factory. Raises InputError for anything else."""
    if inspect.isclass(function):
        return function
    if not callable(function):
        raise InputError(f"{name} is {type(function).__name__}, expected a function or a class")
    parameters = list(signature_of(function, name).parameters.values())
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = [p.name for p in positional if p.default is p.empty]
    takes_model = bool(required) and required[0] == "model"
    if takes_model and len(required) <= 2:
        return function
    if len(required) != 2 + takes_model:
        raise InputError(
            f"{name} takes ({', '.join(required)}), "
            "expected (images, targets), (model, images, targets) or (model, layer=None)"
        )

    def factory(model: nn.Module, layer: str | None = None, *, cell: int | None = None, **options: Any) -> Attribution:
        return FunctionAttribution(function, name, takes_model, model, layer, cell=cell, **options)

    optional = [p.replace(kind=p.KEYWORD_ONLY) for p in parameters if p.default is not p.empty]
    own = list(inspect.signature(factory).parameters.values())[:-1]
    factory.__signature__ = inspect.Signature([*own, *optional])  # type: ignore[attr-defined]
    factory.__doc__ = function.__doc__
    factory.__module__ = getattr(function, "__module__", "")
    return factory


def is_foreign(factory: Factory) -> bool:
    """Whether a method is a user's, or an installed package's: whatever isn't made in this one."""
    return not str(getattr(factory, "__module__", "")).startswith(f"{__package__}.")


class FunctionAttribution(Attribution):
    """A user's function of images and targets, explained at the input; its maps are summed over channels."""

    needs = "its own"

    def __init__(
        self,
        function: Callable[..., Any],
        name: str,
        takes_model: bool,
        model: nn.Module,
        layer: str | None,
        *,
        cell: int | None,
        **options: Any,
    ):
        if layer not in (None, "input"):
            raise InputError(f"{name} is a plain function, which explains the input only, not layer {layer!r}")
        super().__init__(model, layer, cell=cell)
        self.function, self.name, self.options = function, name, options
        self.first: tuple[nn.Module, ...] = ((self.model if cell is None else _Head(self)),) if takes_model else ()

    def attribute(self, images: Tensor, activations: Tensor, targets: Tensor) -> Tensor:
        with torch.enable_grad():
            maps = self.function(*self.first, images.detach(), targets, **self.options)
        return check_maps(maps, images, self.name).sum(dim=1, keepdim=True)

    @property
    def passes(self) -> Passes:
        return Passes(float("nan"), float("nan"))


class _Head(nn.Module):
    """One head of a grid setting, as a module with logits."""

    def __init__(self, explain: Attribution):
        super().__init__()
        self.inner = explain.split

    def forward(self, images: Tensor) -> Tensor:
        return self.inner.rest(images)
