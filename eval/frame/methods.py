"""The attributions of a run: made from text and from callables, run under the clock, their maps checked."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from numpy.typing import NDArray

from eval.frame.identity import source_digest
from eval.frame.part import Part
from eval.frame.protocol import Step
from faithfulness.attribution import ATTRIBUTIONS, Guarded, create_attribution, expand_attributions, parse_attribution
from faithfulness.attribution.plugins import as_factory
from faithfulness.attribution.spec import with_defaults
from faithfulness.core.errors import InputError
from faithfulness.core.resize import resize_exactly
from faithfulness.report import method_label


@dataclass(frozen=True, eq=False)
class Method:
    """An attribution that is being evaluated: its name in tables, its layer, the callable, and where it belongs."""

    label: str
    layer: str
    explain: Any
    place: str = ""
    """Whatever tells it from methods of the same label and layer: the setting and the head, on grids."""
    source: str | None = None
    """Digest of the code of a method from outside, "" for the suite's own; None where it can't be told."""

    @property
    def key(self) -> str:
        """The name that its costs go by."""
        return f"{self.place}{self.label}@{self.layer}"

    @property
    def name(self) -> str:
        """How tables and pictures call it: with its layer, unless that is the method's own."""
        return method_name(self.label, self.layer)

    @property
    def upsample(self) -> str:
        """How its maps are brought to image size."""
        return getattr(self.explain, "upsample", "bilinear")

    def step(self, score: Callable[[Method, Any, Mapping[str, Part]], Part], images: float = 1.0) -> Step:
        """This method's piece of the work on a batch: `score` is given the method, the batch, and earlier parts.

        `images` is how many images' passes a map of a sample takes: on a grid, its cells.
        """
        forward, backward = (math.nan if count is None else count for count in self.passes)
        depends = None if self.source is None else [self.label, self.layer, self.source]
        return Step(self.key, partial(score, self), depends, images * (forward + 2 * backward))

    @property
    def passes(self) -> tuple[float | None, float | None]:
        """Forward and backward passes per map, where the method knows."""
        found = getattr(self.explain, "passes", None)
        return (None, None) if found is None else (float(found.forward), float(found.backward))


def method_name(label: str, layer: str) -> str:
    """A method's label, with the layer unless that is the method's own."""
    try:
        usual = getattr(ATTRIBUTIONS[parse_attribution(label).name], "default_layer", "input")
    except InputError:
        usual = "input"
    return method_label(label, layer, usual)


def as_summed(values: Any, size: Sequence[int], upsample: str) -> NDArray[Any]:
    """A map (h, w) as its sums over cells take it: brought to the image's size (H, W), as the method says."""
    height, width = size
    return resize_exactly(torch.as_tensor(values)[None, None], (height, width), upsample)[0, 0].numpy()


def _with_model(function: Any, name: str, model: torch.nn.Module, cell: int | None, arguments: int) -> Any:
    """A user's function of (images, targets); one of (model, images, targets) is given what it explains.

    Raises InputError for other signatures, and on grids, where the first kind can't know which head is meant.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # of what is written in C, it can't be known
        return function
    if next(iter(signature.parameters), None) == "model":
        return as_factory(function, name)(model, None, cell=cell)
    try:
        signature.bind(*range(arguments))
    except TypeError as error:
        expected = "(images, targets)" if arguments == 2 else "(images, regions, classes)"
        raise InputError(f"{name} takes {signature}, expected {expected}") from error
    if cell is not None:
        raise InputError(f"{name} must take (model, images, targets) on grids, where the model is the explained head")
    return function


def make_methods(
    names: list[str],
    layers: list[str] | None,
    model: torch.nn.Module,
    chunk: int,
    callables: dict[str, Any] | None = None,
    *,
    cell: int | None = None,
    arguments: int = 2,
    place: str = "",
    published: str | None = None,
    output: str | None = None,
) -> list[Method]:
    """Build the attributions that text names, at each layer, and take in the user's own callables.

    `model` is what they explain; `cell` the head of a grid setting, `place` its name; `published` and
    `output` hold for the methods that the text doesn't give their own; `arguments` is how many a callable takes.
    """
    methods = []
    defaults = {"chunk": chunk, "published": published, "output": output}
    for layer in layers or [None]:
        for spec in expand_attributions(names, model, layer, cell=cell, defaults=defaults):
            try:
                explain = create_attribution(spec, model, layer, cell=cell, **with_defaults(spec, defaults))
            except InputError as error:
                raise InputError(f"{spec.label}: {error}") from error
            methods.append(Method(spec.label, getattr(explain, "layer", "input"), explain, place, source_digest(spec)))
    for name, function in (callables or {}).items():
        explain = _with_model(function, name, model, cell, arguments)
        methods.append(Method(name, "input", Guarded(explain, model, name), place))
    if not methods:
        raise InputError("--attributions needs at least one method; --list-attributions shows them")
    seen = [(method.label, method.layer) for method in methods]
    repeated = {f"{label} at {layer}" for label, layer in seen if seen.count((label, layer)) > 1}
    if repeated:
        raise InputError(f"the same attribution twice: {', '.join(sorted(repeated))}")
    return methods
