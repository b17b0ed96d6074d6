"""What two publications used of each method: `published="idsds"` or `"difull"` selects it in a word.

A parameter that is given wins over the preset; a method that a publication didn't use keeps its defaults.
What a default is already stands here too where the publication states it, so that the preset outlives a default.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from faithfulness.core.errors import InputError, unknown_name
from faithfulness.core.tables import format_table, wrap


@dataclass(frozen=True)
class Setup:
    """A method as a publication used it.

    Attributes:
        parameters: its parameters; `inside`: over them, at another layer than the input.
        layer: a tap at which it lies in networks that have it, elsewhere the method's own.
    """

    parameters: dict[str, Any] = field(default_factory=dict)
    inside: dict[str, Any] = field(default_factory=dict)
    layer: str | None = None


_NOISY: dict[str, Any] = {"samples": 4, "noise": 1.0}
_RISE: dict[str, Any] = {
    **{"masks": 1000, "probability": 0.1, "softmax": True},
    **{"divide": "expectation", "far_end": False, "mirror": True},
}
_CAM = Setup({"relu": True}, layer="pool")

PUBLICATIONS = {"idsds": "Hesse et al. 2024", "difull": "Rao et al. 2022, 2023"}
"""Who used what the presets set."""

PUBLISHED: dict[str, dict[str, Setup]] = {
    # Hesse et al. 2024 and their code: CAMs of torchcam, the rest of captum, Chefer et al., Petsiuk et al.
    "idsds": {
        "grad": Setup({"absolute": False}),
        "ig": Setup({"steps": 50, "baseline": "zeros"}),
        "ig-u": Setup({"steps": 50, "baseline": "uniform"}),
        "ixg-sg": Setup(_NOISY),
        "ig-sg": Setup({"steps": 50, "baseline": "zeros", **_NOISY}),
        "ig-sg-sq": Setup({"steps": 50, "baseline": "zeros", **_NOISY}),
        "gradcam": _CAM,
        "gradcampp": Setup({"relu": True, "variant": "torchcam"}, layer="pool"),
        "sg-campp": Setup({"relu": True, "variant": "torchcam", "samples": 4, "noise": 0.3}, layer="pool"),
        "xgradcam": _CAM,
        "layercam": _CAM,
        "rise": Setup({"cells": 8, "baseline": "zeros", **_RISE}),
        "rise-u": Setup({"cells": 8, "baseline": "uniform", **_RISE}),
        "rollout": Setup({"fusion": "mean", "discard": 0.0, "residual": 0.5, "start": 1}),
        "cheferlrp": Setup({"start": 1}),
        "gradcam-attention": Setup({"relu": True}),
        "bagnet": Setup({"place": "dense"}),
    },
    # Rao et al. 2022 and 2023 (TPAMI) and their code.
    "difull": {
        "grad": Setup({"absolute": True}),
        "gb": Setup({"absolute": True}),
        "ig": Setup({"steps": 20, "baseline": "zeros"}),
        "s-ig": Setup({"steps": 20, "baseline": "zeros"}),
        "gradcam": Setup({"relu": True}),
        "gradcampp": Setup({"relu": True, "variant": "paper"}),
        "layercam": Setup({"relu": True}),
        "ablationcam": Setup({"relu": True}),
        "scorecam": Setup({"relu": True, "weighting": "classes"}),
        "occlusion": Setup({"kernel": 16, "stride": 8}, {"kernel": 5, "stride": 2}),
        "rise": Setup({"cells": 6, "baseline": "zeros", **_RISE}),
    },
}


def check_preset(preset: str) -> str:
    """The preset's name itself; InputError, with near matches, for one that doesn't exist."""
    if not isinstance(preset, str):
        raise InputError(f"expected published=idsds or difull, got {preset!r}")
    if preset not in PUBLISHED:
        raise unknown_name("published configuration", preset, PUBLISHED)
    return preset


def published_setup(preset: str | None, name: str) -> Setup:
    """What a preset sets for a method; nothing without a preset, or if the publication didn't use the method."""
    return Setup() if preset is None else PUBLISHED[check_preset(preset)].get(name, Setup())


def describe_setup(setup: Setup | None) -> str:
    """What a setup sets, in one line: `kernel=16, stride=8; inside kernel=5, stride=2`."""
    if setup is None:
        return ""
    parts = [", ".join(f"{key}={value}" for key, value in setup.parameters.items())]
    if setup.inside:
        parts.append("inside " + ", ".join(f"{key}={value}" for key, value in setup.inside.items()))
    if setup.layer:
        parts.append(f"layer {setup.layer}, where there is one")
    return "; ".join(parts)


def published_table() -> str:
    """What the presets set, as text of at most 100 columns: a row per method that either publication used."""
    names = sorted({name for setups in PUBLISHED.values() for name in setups})
    rows = [(name, *(wrap(describe_setup(setups.get(name)), 38) for setups in PUBLISHED.values())) for name in names]
    return format_table(("published", *(f"{name} ({PUBLICATIONS[name]})" for name in PUBLISHED)), rows, "<<<")
