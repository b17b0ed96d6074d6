"""The variants of `dea` that `eval.dea --sweep` compares, and their rows of the summary."""

from __future__ import annotations

from typing import Any

from faithfulness.attribution import parse_attribution
from faithfulness.core.results import Score

SWEEP: dict[str, tuple[str, ...]] = {
    "grid": ("8", "4", "16"),
    "fill": ("zeros", "mean", "random"),
    "lambda_": ("1", "0", "0.5", "2"),
    "gradient": ("ega", "gpa"),
    "fusion": ("sum", "gated", "product"),
}
"""Parameters of `dea` that `--sweep` varies, one at a time: the default first, then the other values."""


def sweep_attributions() -> list[tuple[str, str, str]]:
    """(parameter, value, attribution's label) of every variant that `--sweep` compares."""
    return [
        (name, value, "dea" if value == values[0] else parse_attribution(f"dea({name}={value})").label)
        for name, values in SWEEP.items()
        for value in values
    ]


def sweep_rows(scores: list[Score]) -> list[dict[str, Any]]:
    """The metrics of every variant of `dea`."""
    return [
        {"parameter": name.rstrip("_"), "value": value, "attribution": label}
        | {score.metric: score.mean for score in scores if (score.attribution, score.layer) == (label, "input")}
        for name, value, label in sweep_attributions()
    ]
