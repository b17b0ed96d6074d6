"""The tables of a segmentation run for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eval.frame.cautions import caution_lines
from eval.frame.methods import method_name
from eval.frame.segmentation import COMPARED
from faithfulness.core.tables import format_table
from faithfulness.report import number

SHORT = {
    "target_deletion_drop": "TDD ↑",
    "off_target_deletion_drop": "ODD ↓",
    "insertion": "insertion ↑",
    "off_target_mass": "off target ↓",
    "stability": "stability ↑",
}


def report(summary: dict[str, Any]) -> str:
    """The ranked table, the paired differences, the sweep, and what to keep in mind."""
    data = summary["data"]
    names = summary["settings"].get("shown", list(_table(summary)))
    dropped = ", ".join(f"{count} {reason}" for reason, count in data["dropped"].items() if count)
    area = f"regions cover {100 * data['mean_region_area']:.1f} % of the image on average"
    if summary["settings"]["fractions"][-1] <= data["mean_region_area"]:
        area += "; fractions below that, since deleting all of a region scores every map alike"
    lines = [
        _head(summary),
        f"left out: {dropped or 'none'}" + (f"; {data['n_corrupt']} corrupt" if data["n_corrupt"] else ""),
        area,
        *caution_lines(summary),
        format_table(("attribution", *SHORT.values(), "ms/map", "passes"), _rows(summary, names)),
    ]
    compared = _comparison_rows(summary, names)
    if compared:
        head = (f"{summary['comparisons'][0]['attribution']} −", *SHORT.values())
        lines += ["\npaired differences, 95% interval (* excludes 0)", format_table(head, compared)]
    if "sweep" in summary:
        head = ("variant", *SHORT.values(), "passes")
        lines += ["\nsweep of dea", format_table(head, _sweep_rows(summary))]
    undefined = [
        f"{name}: {score['n_undefined']} of {score['n']} {metric}"
        for name, scores in _table(summary).items()
        for metric, score in scores.items()
        if metric in COMPARED and score["n_undefined"]
    ]
    return "\n".join(lines + ["undefined, left out of the means: " + "; ".join(undefined)] * bool(undefined))


def _head(summary: dict[str, Any]) -> str:
    data, settings, model = summary["data"], summary["settings"], summary["model"]
    shares = settings["fractions"]
    return (
        f"\n{model['name']} (mean IoU {number(model['mean_iou'])}) on {data['name']} ({data['split']}): "
        f"{data['n_pairs']} pairs of {data['n_images']} images, deleting {100 * shares[0]:g} … "
        f"{100 * shares[-1]:g} % of the pixels, fill {settings['fill']}"
        + (" (LEAKS the deleted pixels)" if settings["fill_leaks"] else "")
    )


def _table(summary: dict[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """Method -> metric -> score, in the order of the scores."""
    table: dict[str, dict[str, dict[str, Any]]] = {}
    for score in summary["scores"]:
        table.setdefault(method_name(score["attribution"], score["layer"]), {})[score["metric"]] = score
    return table


def _rows(summary: dict[str, Any], names: Sequence[str]) -> list[list[str]]:
    rows = []
    for name, scores in _table(summary).items():
        if name not in names:
            continue
        low, high = scores["target_deletion_drop"]["ci95"]
        means = [number(scores[metric]["mean"]) for metric in COMPARED]
        means[0] += f" [{number(low)}, {number(high)}]"
        cost = [number(1000 * scores["seconds_per_map"]["mean"], 2), number(scores["passes_per_map"]["mean"], 0)]
        rows.append([f"{len(rows) + 1:2d} {name}", *means, *cost])
    return rows


def _comparison_rows(summary: dict[str, Any], names: Sequence[str]) -> list[list[str]]:
    cells: dict[str, dict[str, str]] = {}
    for row in summary["comparisons"]:
        low, high = row["ci95"]
        star = "*" if low is not None and (low > 0 or high < 0) else " "
        text = f"{number(row['difference'])} [{number(low)}, {number(high)}]{star}"
        cells.setdefault(row["other"], {})[row["metric"]] = text
    return [[name, *(row[metric] for metric in COMPARED)] for name, row in cells.items() if name in names]


def _sweep_rows(summary: dict[str, Any]) -> list[list[str]]:
    return [
        [
            f"{row['parameter']} {row['value']}",
            *(number(row[metric]) for metric in COMPARED),
            number(row["passes_per_map"], 0),
        ]
        for row in summary["sweep"]
    ]
