"""Scores of (image, class) pairs: per method and metric, paired differences, and their pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dea import METRICS
from eval.frame.methods import Method
from eval.frame.part import Cost, Part
from eval.frame.run import Run
from faithfulness.core.results import Score, summarize_scores
from faithfulness.core.statistics import mean_interval

COMPARED = ("target_deletion_drop", "off_target_deletion_drop", "insertion", "off_target_mass", "stability")
"""The metrics in which methods are compared."""
EXAMPLES = 6
"""How many pairs the sheet of examples shows; they are of the images with lower indices."""


def pair_scores(table: pd.DataFrame, methods: Sequence[Method], costs: dict[str, Cost], seed: int) -> list[Score]:
    """A score per method and metric, the methods in order of their target deletion drop."""
    found: list[list[Score]] = []
    order = list(METRICS)
    for method in methods:
        own = table[(table.attribution == method.label) & (table.layer == method.layer)]
        cost = costs[method.key]
        common: dict[str, Any] = {
            "attribution": method.label,
            "layer": method.layer,
            "seed": seed,
            "undefined_as": None,
            "seconds": cost.seconds,
            "forward_passes": cost.forward,
            "backward_passes": cost.backward,
        }
        one = [
            summarize_scores(rows["value"].to_numpy(), metric=metric, higher_is_better=METRICS[metric], **common)
            for metric, rows in ((str(name), rows) for name, rows in own.groupby("metric", sort=False))
        ]
        total = math.nan if cost.forward is None or cost.backward is None else cost.forward + cost.backward
        for metric, value in (("seconds_per_map", cost.seconds / cost.maps), ("passes_per_map", total)):
            score = summarize_scores(np.array([value]), metric=metric, higher_is_better=False, **common)
            one.append(replace(score, n=cost.maps, n_undefined=cost.maps if math.isnan(value) else 0))
        found.append(sorted(one, key=lambda score: order.index(score.metric)))
    return [score for one in sorted(found, key=lambda one: -one[0].mean) for score in one]


def comparisons(table: pd.DataFrame, methods: Sequence[Method], seed: int) -> list[dict[str, Any]]:
    """Paired differences of `dea` (else the first method) from each other method, with bootstrap intervals."""
    wide = table.pivot(index=["index", "class"], columns=["metric", "attribution", "layer"], values="value")
    reference = next((method for method in methods if method.label == "dea"), methods[0])
    rows = []
    for metric in COMPARED:
        for other in methods:
            if other is reference:
                continue
            columns = (wide[(metric, method.label, method.layer)] for method in (reference, other))
            difference = (next(columns) - next(columns)).dropna().to_numpy()
            rows.append(
                {
                    "metric": metric,
                    "attribution": reference.name,
                    "other": other.name,
                    "difference": float(difference.mean()) if len(difference) else math.nan,
                    "ci95": mean_interval(difference, seed),
                    "n": len(difference),
                }
            )
    return rows


def pictures(
    run: Run[Any],
    part: Part,
    scores: Sequence[Score],
    methods: Sequence[Method],
    fractions: Sequence[float],
    inserted: Sequence[float],
    pairs: int,
) -> dict[str, Callable[[], Any]]:
    """Curves over the deleted share, faithfulness against stability and cost, and the sheet of examples.

    `inserted` are the shares of kept pixels that were looked at besides those that are scored, `fractions`.
    """
    from faithfulness import report

    title = f"{run.title}, {pairs} pairs"
    curves = {method.name: part.table(f"curves of {method.key}", "index", "class") for method in methods}
    found: dict[str, Callable[[], Any]] = {}
    for kind, label in (
        ("target", report.metric_name("target_deletion_drop", True)),
        ("off_target", report.metric_name("off_target_deletion_drop", False)),
    ):
        values = {name: columns[kind] for name, columns in curves.items()}
        found[f"curve_{kind}"] = partial(report.plot_curves, values, fractions, label=label, title=title)
    shares, order = np.unique([*fractions, *inserted], return_index=True)
    found["curve_insertion"] = partial(
        report.plot_curves,
        {
            name: np.concatenate([columns["insertion"], columns["inserted"]], axis=1)[:, order]
            for name, columns in curves.items()
        },
        shares.tolist(),
        label="insertion: target probability (higher is better)",
        title=title,
        x_label="pixels kept, most attributed first (%)",
        scored=(min(fractions), max(fractions)),
    )
    mean = {(score.attribution, score.layer, score.metric): score for score in scores}
    drops = report.metric_name("target_deletion_drop", True)
    for file, metric, label, log in (
        ("faithfulness_stability", "stability", "stability: mean Pearson correlation (higher is better)", False),
        ("faithfulness_cost", "passes_per_map", "forward and backward passes per map (fewer is cheaper)", True),
    ):
        points, intervals = {}, {}
        for method in methods:
            drop = mean[method.label, method.layer, "target_deletion_drop"]
            points[method.name] = (mean[method.label, method.layer, metric].mean, drop.mean)
            intervals[method.name] = drop.ci95
        named = {"x_label": label, "y_label": drops, "log_x": log, "intervals": intervals, "title": title}
        found[file] = partial(report.plot_scatter, points, **named)
    shown = {name: column[:EXAMPLES] for name, column in part.table("examples", "index", "class").items()}
    if shown:
        maps = {method.name: _example_maps(part, method) for method in methods}
        labels = (run.data.classes[label] for label in shown["class"])
        names = [f"#{index} class {label}" for index, label in zip(shown["index"], labels, strict=True)]
        images = np.stack([report.visible(image, run.checkpoint.model.data_config) for image in shown["image"]])
        found["examples"] = partial(report.plot_examples, images, shown["region"], maps, names=names, title=title)
    return found


def _example_maps(part: Part, method: Method) -> NDArray[Any]:
    return part.table(f"example maps of {method.key}", "index", "class")["map"][:EXAMPLES]
