"""Scores of a summary, computed again from the values by image that the release brings."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

PER_SAMPLE = ("idsds", "incremental", "dea")
"""Protocols whose rows are of images, so that the first N of them stand for themselves."""
CLOSE = 1e-9
"""How far a mean may lie from that of the per-image values: both are float64, summed in another order."""
REDRAWN = 0.05
"""How far an end of an interval may lie from the computed one, of its width: other draws move it by about 0.015."""
_FIELDS = ("n", "n_undefined", "mean", "mean_defined")


def departure(score: dict[str, Any], rows: Any, seed: int) -> str | None:
    """How a score differs from what its per-image values give; None where it doesn't.

    An undefined image counts 0 or is left out, and grids are resampled as wholes, as the protocol has it: the score
    must be one of these, in all its numbers.

    Args:
        rows: the rows of the table with its method, layer, metric and place; `value`, and `index` of grids.
    """
    said = {key: score.get(key) for key in (*_FIELDS, "ci95")}
    found: list[dict[str, Any]] = []
    for again in _readings(rows, seed, bool(score.get("setting"))):
        found.append(again)
        if all(_near(said[key], again[key], CLOSE) for key in _FIELDS) and _same_interval(said["ci95"], again["ci95"]):
            return None
    first = min(found, key=lambda again: not _near(said["mean"], again["mean"], CLOSE))
    name = next((key for key in _FIELDS if not _near(said[key], first[key], CLOSE)), "ci95")
    return f"the summary says {name} {_shown(said[name])}, the per-image values give {_shown(first[name])}"


def _readings(rows: Any, seed: int, in_grids: bool) -> Iterator[dict[str, Any]]:
    """What a score of these values may be."""
    import numpy as np

    from faithfulness.core.results import summarize_scores

    values = rows["value"].to_numpy(dtype=np.float64)
    described: dict[str, Any] = {"attribution": "", "layer": "", "metric": "", "higher_is_better": True}
    for filled in (0.0, None):
        yield summarize_scores(values, seed=seed, undefined_as=filled, **described).to_dict()
    if not in_grids or "index" not in rows:
        return
    defined = values[~np.isnan(values)]
    own = {
        "n": len(values),
        "n_undefined": len(values) - len(defined),
        "mean_defined": float(defined.mean()) if len(defined) else math.nan,
    }
    for kept in (np.nan_to_num(values), values):
        wholes = rows.assign(value=kept).groupby("index")["value"].mean().to_numpy()
        yield summarize_scores(wholes, seed=seed, undefined_as=None, **described).to_dict() | own


def _near(said: object, found: int | float, slack: float) -> bool:
    """Whether a number is another one; a file of JSON has null for what is none."""
    if math.isnan(found):
        return said is None
    return isinstance(said, int | float) and abs(said - found) <= slack


def _same_interval(said: object, found: tuple[float, float]) -> bool:
    slack = CLOSE + REDRAWN * abs(found[1] - found[0])
    if not isinstance(said, list) or len(said) != 2:
        return False
    return all(_near(mine, end, CLOSE if math.isnan(end) else slack) for mine, end in zip(said, found, strict=True))


def _shown(value: object) -> str:
    if isinstance(value, list | tuple):
        return " … ".join(map(_shown, value))
    return f"{value:.6g}" if isinstance(value, int | float) else "nothing"
