"""What methods there are, what they need and cost, and which of them a model can run."""

from __future__ import annotations

import inspect
import logging
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import timm
import torch
from torch import nn

from faithfulness.attribution.base import ATTRIBUTIONS
from faithfulness.attribution.plugins import attribution_factory
from faithfulness.attribution.spec import (
    AttributionSpec,
    create_attribution,
    list_attributions,
    parameters_of,
    parse_attribution,
    with_defaults,
)
from faithfulness.backbones import Backbone, TimmBackbone
from faithfulness.core.errors import InputError
from faithfulness.core.tables import WIDTH, format_table, wrap

COMMON = ("chunk", "output")
"""Parameters that every method of the suite takes."""
_COLUMNS = {"attribution": 18, "paper": 43, "layer": 7, "forward": 12, "backward": 12}
"""Columns of the table of methods, and how wide each of them may get."""
_ALL = re.compile(r"all(?P<suffix>[|+@].*)?", re.IGNORECASE)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AttributionRow:
    """A registered method in words: a row of `--list-attributions`.

    Attributes:
        parameters: name -> default; `chunk` and `output`, which all of them take, are left out.
        paper: author and year; empty where the method doesn't say.
        layer: where it explains unless told otherwise.
        forward, backward: passes per map with default parameters.
    """

    name: str
    aliases: tuple[str, ...]
    summary: str
    parameters: dict[str, Any]
    needs: str
    paper: str
    layer: str
    forward: str
    backward: str


def describe_attributions() -> list[AttributionRow]:
    """All registered methods, those of installed packages included, sorted by name."""
    return [_describe(name) for name in list_attributions()]


def attribution_table() -> str:
    """All registered methods as text of at most 100 columns, two lines or more each.

    Name, paper, default layer, forward and backward passes per map; below them the other spellings, what the
    method asks of the model, and its parameters with their defaults.
    """
    methods = describe_attributions()
    rows = [
        [
            wrap(cell, width)
            for cell, width in zip(
                (row.name, row.paper or "–", row.layer, row.forward, row.backward), _COLUMNS.values(), strict=True
            )
        ]
        for row in methods
    ]
    table = format_table(list(_COLUMNS), rows, "<<<>>", [_details(row) for row in methods])
    common = "Every one of the suite's takes chunk=256, output=logit|probability and published=idsds|difull."
    return f"{table}\n\n{wrap(common, WIDTH)}"


def _details(row: AttributionRow) -> str:
    """What the table says below a method's row."""
    values = ", ".join(f"{name}={value}" for name, value in row.parameters.items())
    parts = {"also": ", ".join(row.aliases), "needs": row.needs, "takes": values}
    return wrap("; ".join(f"{word} {text}" for word, text in parts.items() if text), WIDTH, "    ")


def _describe(name: str) -> AttributionRow:
    factory = attribution_factory(name)
    parameters = {key: parameter.default for key, parameter in parameters_of(name).items() if key not in COMMON}
    forward, backward = getattr(factory, "passes_in_words", None) or _count_passes(name)
    return AttributionRow(
        name=name,
        aliases=ATTRIBUTIONS.aliases(name),
        summary=(inspect.getdoc(factory) or "").partition("\n")[0],
        parameters=parameters,
        needs=getattr(factory, "needs", ""),
        paper=getattr(factory, "__dict__", {}).get("paper", ""),  # its own, not that of the method it extends
        layer=getattr(factory, "default_layer", "input"),
        forward=forward,
        backward=backward,
    )


def _count_passes(name: str) -> tuple[str, str]:
    """Passes of a method with default parameters, read off an instance for a tiny network."""
    for probe in _probes():
        try:
            passes = create_attribution(name, probe).passes  # type: ignore[attr-defined]
        except Exception:  # a foreign method may fail in any way on a network it isn't made for
            continue
        return tuple("depends on the layer" if math.isnan(count) else f"{count:g}" for count in passes)  # type: ignore[return-value]
    return ("depends on the model", "depends on the model")


@cache
def _probes() -> tuple[nn.Module, ...]:
    """A tiny CNN and a tiny ViT."""
    with torch.random.fork_rng(devices=[]):  # so that a listing leaves the global generator alone
        features = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3), nn.ReLU())
        head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2))
        vit = timm.create_model("test_vit", img_size=32, num_classes=2)
    return Backbone(features, head, {"middle": "1"}).eval(), TimmBackbone(vit, 32).eval()


def expand_attributions(
    names: Iterable[str],
    model: nn.Module,
    layer: str | None = None,
    *,
    cell: int | None = None,
    defaults: dict[str, Any] | None = None,
) -> list[AttributionSpec]:
    """Attributions as text -> specs, each once; `all` stands for every registered one that runs here.

    `all` takes modifiers and a layer, as in `all|abs@middle`. What of it the model can't run is left
    out, with a line in the log that says why; a method that is named itself is never left out.

    Args:
        model: the network that will be explained.
        layer, cell: as for `create_attribution`.
        defaults: parameters that the methods will be created with where they take them.
    Raises:
        InputError: a name or parameter that isn't known.
    """
    found: dict[tuple[str, str | None], AttributionSpec] = {}
    for text in names:
        match = _ALL.fullmatch(text.strip())
        specs = (
            _runnable(match["suffix"] or "", model, layer, cell, defaults or {}) if match else [parse_attribution(text)]
        )
        for spec in specs:
            found.setdefault((spec.label, spec.layer), spec)
    return list(found.values())


def _runnable(
    suffix: str, model: nn.Module, layer: str | None, cell: int | None, defaults: dict[str, Any]
) -> list[AttributionSpec]:
    specs = []
    for name in list_attributions():
        spec = parse_attribution(name + suffix)
        try:
            create_attribution(spec, model, layer, cell=cell, **with_defaults(spec, defaults))
        except InputError as error:
            _log.warning("%s is left out: %s", name, error)
        else:
            specs.append(spec)
    return specs
