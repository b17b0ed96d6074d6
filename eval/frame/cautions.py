"""What numbers can't bear, a line each."""

from __future__ import annotations

from typing import Any

FEW = 20
"""Fewer images than that bear no comparison: 10 methods, Holm-corrected, need differences of a standard deviation."""


def caution_count(count: int, what: str = "images") -> list[str]:
    """A line, if the scores rest on few images."""
    if count >= FEW:
        return []
    return [f"{count} {what}: too few to tell methods apart, or to trust an interval (at least {FEW})"]


def caution_accuracy(who: str, accuracy: float, classes: int) -> list[str]:
    """A line, if a model is nearer to chance than to certainty: what it attends to is not what decides the class."""
    if not accuracy < (1 + 1 / classes) / 2:
        return []
    return [
        f"{who}: accuracy {accuracy:.2f}, nearer to chance ({1 / classes:.2g}) than to certainty; the scores describe "
        "what such a model attends to, and can't rank methods for one that works"
    ]


def caution_baseline(evidence: dict[str, Any]) -> list[str]:
    """A line, if deletion costs a model more than it costs the baseline that it is compared with."""
    if "baseline" not in evidence:
        return []
    own, other = (evidence[name]["accuracy"] - evidence[name]["accuracy_deleted"] for name in ("model", "baseline"))
    if own < other:
        return []
    return [
        f"deleting a cell costs the model {own:.3f} accuracy and its baseline {other:.3f}: nothing shows that deletion "
        "is more in the model's domain"
    ]


def caution_iou(mean_iou: float) -> list[str]:
    """A line, if a network finds less than half of what is there: most of its regions were filtered out."""
    if not mean_iou < 0.5:
        return []
    return [f"the model: mean IoU {mean_iou:.2f}; the scores describe the few regions that it finds"]


def caution_lines(summary: dict[str, Any]) -> list[str]:
    """The cautions of a run, as they are printed."""
    return [f"caution: {line}" for line in summary["cautions"]]
