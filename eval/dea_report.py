"""What a segmentation run shows: its tables on the terminal and its pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attribution import ATTRIBUTIONS, parse_attribution
from core.errors import InputError
from dea import PERTURBATIONS
from dea.figures import plot_curves, plot_examples, plot_scatter
from eval.report import format_table, number, print_cautions

COMPARED = ("target_deletion_drop", "off_target_deletion_drop", "insertion", "off_target_mass", "stability")
METRICS = (*COMPARED, *(f"stability_{name}" for name in PERTURBATIONS), "seconds_per_map", "passes_per_map")
SHORT = {
    "target_deletion_drop": "TDD ↑",
    "off_target_deletion_drop": "ODD ↓",
    "insertion": "insertion ↑",
    "off_target_mass": "off target ↓",
    "stability": "stability ↑",
}
CURVES = {"target": "target deletion drop", "off_target": "off-target change", "insertion": "target probability"}


def name_of(label: str, layer: str) -> str:
    """How tables and plots call a method: with its layer, unless that is the method's own."""
    try:
        usual = getattr(ATTRIBUTIONS[parse_attribution(label).name], "default_layer", "input")
    except InputError:
        usual = "input"
    return label if layer == usual else f"{label}@{layer}"


def visible(image: Tensor, data_config: dict[str, Any]) -> Tensor:
    """A normalised image (3, H, W) as it looks, in [0, 1], on the CPU."""
    mean, std = (torch.tensor(data_config[key]).view(-1, 1, 1) for key in ("mean", "std"))
    return (image.float().cpu() * std + mean).clamp(0, 1)


def merge_curves(ranks: list[dict[str, list[dict[str, Any]]]], names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Kind of curve -> method -> values (pairs, fractions), the pairs in order of image and class."""
    merged: dict[str, dict[str, Any]] = {}
    for kind in CURVES:
        pieces = [piece for rank in ranks for piece in rank.get(kind, [])]
        merged[kind] = {}
        for name in names:
            own = [piece for piece in pieces if piece["name"] == name]
            index, classes, values = (torch.cat([piece[key] for piece in own]) for key in ("index", "class", "values"))
            order = np.lexsort((classes.numpy(), index.numpy()))
            merged[kind][name] = values.numpy()[order]
    return merged


def draw(
    folder: Path,
    summary: dict[str, Any],
    curves: dict[str, dict[str, Any]],
    names: Sequence[str],
    examples: Sequence[Any],
) -> None:
    """Curves over the deleted share, faithfulness against stability and cost, and the sheet of examples."""
    fractions = summary["settings"]["fractions"]
    for kind, label in CURVES.items():
        title = f"{summary['model']['name']} on {summary['data']['name']}, {summary['data']['n_pairs']} pairs"
        plot_curves(curves[kind], fractions, folder / f"curve_{kind}.png", label=label, title=title)
    table = _table(summary)
    drop = {name: table[name]["target_deletion_drop"] for name in names}
    intervals = {name: tuple(score["ci95"]) for name, score in drop.items()}
    for file, metric, label, log in (
        ("faithfulness_stability", "stability", "stability (mean Pearson correlation)", False),
        ("faithfulness_cost", "passes_per_map", "forward and backward passes per map", True),
    ):
        points = {name: (_value(table[name][metric]["mean"]), _value(drop[name]["mean"])) for name in names}
        plot_scatter(points, folder / f"{file}.png", x_label=label, log_x=log, intervals=intervals)
    if examples:
        plot_examples(
            torch.stack([example.image for example in examples]),
            torch.stack([example.region for example in examples]),
            {name: torch.stack([example.maps[name] for example in examples]) for name in names},
            folder / "examples.png",
            names=[example.name for example in examples],
        )


def caution_iou(mean_iou: float) -> list[str]:
    """A line, if the network finds less than half of what is there: most of its regions were filtered out."""
    if not mean_iou < 0.5:
        return []
    return [f"the model: mean IoU {mean_iou:.2f}; the scores describe the few regions that it finds"]


def print_report(summary: dict[str, Any], names: Sequence[str]) -> None:
    """The ranked table, the paired differences, the sweep, and what to keep in mind."""
    data, settings, model = summary["data"], summary["settings"], summary["model"]
    shares = settings["fractions"]
    print(f"\n{model['name']} (mean IoU {number(model['mean_iou'])}) on {data['name']} ({data['split']}): ", end="")
    print(f"{data['n_pairs']} pairs of {data['n_images']} images, deleting {100 * shares[0]:g} … ", end="")
    print(f"{100 * shares[-1]:g} % of the pixels, fill {settings['fill']}", end="")
    print(" (LEAKS the deleted pixels)" if settings["fill_leaks"] else "")
    dropped = ", ".join(f"{count} {reason}" for reason, count in data["dropped"].items() if count)
    print(f"left out: {dropped or 'none'}" + (f"; {data['n_corrupt']} corrupt" if data["n_corrupt"] else ""))
    print(f"regions cover {100 * data['mean_region_area']:.1f} % of the image on average", end="")
    print("; fractions below that, since deleting all of a region scores every map alike" * _small(summary))
    print_cautions(summary)
    print(format_table(("attribution", *SHORT.values(), "ms/map", "passes"), _rows(summary, names)))
    table = _comparison_rows(summary, names)
    if table:
        print("\npaired differences, 95% interval (* excludes 0)")
        print(format_table((f"{summary['comparisons'][0]['attribution']} −", *SHORT.values()), table))
    if "sweep" in summary:
        print("\nsweep of dea")
        print(format_table(("variant", *SHORT.values(), "passes"), _sweep_rows(summary)))
    undefined = [
        f"{name}: {score['n_undefined']} of {score['n']} {metric}"
        for name, scores in _table(summary).items()
        for metric, score in scores.items()
        if metric in COMPARED and score["n_undefined"]
    ]
    if undefined:
        print("undefined, left out of the means: " + "; ".join(undefined))


def _small(summary: dict[str, Any]) -> bool:
    return summary["settings"]["fractions"][-1] <= summary["data"]["mean_region_area"]


def _value(mean: float | None) -> float:
    return math.nan if mean is None else mean


def _table(summary: dict[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """Method -> metric -> score, in the order of the scores."""
    table: dict[str, dict[str, dict[str, Any]]] = {}
    for score in summary["scores"]:
        table.setdefault(name_of(score["attribution"], score["layer"]), {})[score["metric"]] = score
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
        star = "*" if low > 0 or high < 0 else " "
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
