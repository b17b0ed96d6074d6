"""Tables for the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from attribution import describe_attributions
from attribution.published import PUBLISHED, describe_setup

CONTROL = "edge"
"""The control that never sees the model: a method not above it explains no more than contours do."""
TEST = "Wilcoxon signed-rank (zeros after Pratt), Holm-corrected"
FEW = 20
"""Fewer images than that bear no comparison: 10 methods, Holm-corrected, need differences of a standard deviation."""


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]], align: str | None = None) -> str:
    """Columns as wide as their content; `align` has < or > for each, by default only the first is left."""
    align = align or "<" + ">" * (len(header) - 1)
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    lines = [
        "  ".join(f"{cell:{side}{width}}" for cell, width, side in zip(row, widths, align, strict=True)).rstrip()
        for row in (header, *rows)
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def print_attributions() -> None:
    """All registered methods: name, parameters, needs, default layer, passes per map."""
    rows = [
        (
            ", ".join((row.name, *row.aliases)),
            ", ".join(f"{key}={value}" for key, value in row.parameters.items()),
            row.needs,
            row.layer,
            row.forward,
            row.backward,
        )
        for row in describe_attributions()
    ]
    print(format_table(("attribution", "parameters", "needs", "layer", "forward", "backward"), rows, "<<<<>>"))
    print("\nEvery one takes chunk=256, output=logit|probability and published=idsds|difull, which sets:")
    print(format_table(("", "idsds (Hesse et al.)", "difull (Rao et al.)"), published_rows(), "<<<"))


def published_rows() -> list[tuple[str, ...]]:
    """What the presets set, a row per method that either publication used."""
    names = dict.fromkeys(name for setups in PUBLISHED.values() for name in setups)
    return [(name, *(describe_setup(setups.get(name)) for setups in PUBLISHED.values())) for name in sorted(names)]


def number(value: float | None, digits: int = 3) -> str:
    """A number, or a dash where there is none."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


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


def not_above_control(label: str, tests: dict[str, Any]) -> bool:
    """Whether the paired test doesn't show a method above the control, which never saw the model."""
    found = tests[f"against_{CONTROL}"].get(label)
    return found is not None and label != "random" and not found["above"]


def describe_protocol(settings: dict[str, Any]) -> str:
    """What a score is of, for the head of a table: cells or steps, what is explained, and which preset."""
    if "order" in settings:
        better = "higher" if settings["order"] == "ascending" else "lower"
        text = f"{settings['steps']} steps, {settings['order']} ({better} is better)"
    else:
        text = f"{settings['grid'][0]}×{settings['grid'][1]} cells"
    text += "" if settings["output"] == "logit" else f", of the {settings['output']}"
    return text + (f", methods as published ({settings['published']})" if settings["published"] else "")


def print_ranking(summary: dict[str, Any]) -> None:
    """The ranked table of an evaluation, with its evidence."""
    scores, settings, model = summary["scores"], summary["settings"], summary["model"]
    print(
        f"\n{scores[0]['metric']} of {model['name']} on {summary['data']['name']} ({summary['data']['split']}), ",
        end="",
    )
    print(f"{describe_protocol(settings)}, fill {settings['fill']}", end="")
    print(" (LEAKS the deleted pixels)" if settings["fill_leaks"] else "")
    rows = []
    for rank, score in enumerate(scores, start=1):
        per_image = score["seconds"] / score["n"] * 1000 if score["n"] and score["seconds"] is not None else None
        passes = f"{number(score['forward_passes'], 0)}+{number(score['backward_passes'], 0)}"
        rows.append(
            (
                f"{rank:2d} {score['attribution']}",
                score["layer"],
                number(score["mean"]),
                f"[{number(score['ci95'][0])}, {number(score['ci95'][1])}]",
                number(score["mean_defined"]),
                str(score["n"]),
                str(score["n_undefined"]),
                number(per_image, 2),
                passes,
                f"not above {CONTROL}"
                if score["n"] >= FEW and not_above_control(score_label(score), summary["tests"])
                else "",
            )
        )
    header = ("attribution", "layer", "mean", "95% interval", "defined", "n", "undefined", "ms/image", "passes", "")
    print(format_table(header, rows))
    notes = (
        [f"{settings['n_constant_drops']} images left out (no drop differs)"] if settings["n_constant_drops"] else []
    )
    if summary["data"].get("n_corrupt"):
        notes.append(f"{summary['data']['n_corrupt']} corrupt images skipped")
    if notes:
        print("; ".join(notes))
    print_cautions(summary)
    print_evidence(summary.get("evidence", {}))


def score_label(score: dict[str, Any]) -> str:
    """What tests and plots call a method: with its layer, unless that is the input."""
    return score["attribution"] if score["layer"] == "input" else f"{score['attribution']}@{score['layer']}"


def print_cautions(summary: dict[str, Any]) -> None:
    """What the numbers can't bear, a line each."""
    for line in summary["cautions"]:
        print(f"caution: {line}")


def print_evidence(evidence: dict[str, dict[str, Any]]) -> None:
    """How the model takes deletion, beside the one that was trained without it."""
    if not evidence:
        return
    rows = [
        (
            "this model" if name == "model" else str(entry.get("name", name)),
            number(entry["accuracy"]),
            number(entry["accuracy_deleted"]),
            number(entry["accuracy"] - entry["accuracy_deleted"]),
            number(entry["agreement"]),
            number(entry["separability"]),
        )
        for name, entry in evidence.items()
    ]
    print("\nIs deletion in-domain?")
    print(format_table(("", "accuracy", "one cell deleted", "gap", "agreement", "separability"), rows))
