"""Pictures that span several results of one question: one for each model, a point or a column."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from eval.frame.board import subjects_of
from eval.frame.comparable import Compared, over_models
from eval.frame.localization import score_matrix
from eval.frame.sources import PICTURES, Picture
from faithfulness.report import accuracy_figure, heat_map_figure, method_label, metric_name, models_figure

ACCURACY = "accuracy"
"""The section of the pictures against the models' accuracy; those of a protocol are in its own."""
ACCURACY_OF = ("idsds", "idsds (single)")
"""Kinds of results that are drawn against the models' accuracy."""
Drawn = tuple[Picture, Callable[[], Any]]
"""A picture, and what draws it."""
Score = dict[str, Any]


def spanning_pictures(results: Sequence[Compared]) -> dict[str, list[Drawn]]:
    """Section -> its pictures, of what there is of two models or more."""
    known = [each for each in results if isinstance(each.summary["model"].get("accuracy"), int | float)]
    found: dict[str, list[Drawn]] = {}
    for section, kinds, given, draw in (
        (ACCURACY, ACCURACY_OF, known, accuracy_pictures),
        ("dea", ("dea",), results, tradeoff_pictures),
        ("mlatt", ("mlatt",), results, matrix_pictures),
    ):
        own = [result for result in given if result.kind in kinds]
        names = subjects_of(own)
        for members in over_models(own):
            if len(members) > 1:
                letters = ", ".join(each.letter for each in members)
                of = f"{len(members)} models, results {letters}{without(members, own)}"
                for caption, figure in draw(members, names):
                    file = Path(f"{PICTURES}/{section}-{len(found.get(section, ()))}.svg")
                    alt = f"{caption}: {of}. The numbers are in results.csv."
                    data = members[0].summary["data"]["name"]
                    picture = Picture(file.as_posix(), file, section, "", data, f"{caption}; {of}", alt)
                    found.setdefault(section, []).append((picture, figure))
    return found


def without(members: Sequence[Compared], own: Sequence[Compared]) -> str:
    """Which results are of the same question and network as one that is shown."""
    shown = [each.letter for each in members]
    lost = [each.letter for each in own if each.letter not in shown and len(over_models([*members, each])) == 1]
    return f" (not {', '.join(lost)}, of the same networks)" if lost else ""


Captioned = Iterator[tuple[str, Callable[[], Any]]]
"""What a picture shows, and what draws it."""


def accuracy_pictures(members: Sequence[Compared], names: dict[tuple[Any, ...], str]) -> Captioned:
    """The first metric against the accuracy of the models."""
    models = {names[each.model]: each.summary["model"]["accuracy"] for each in members}
    metric, data = members[0].summary["scores"][0]["metric"], members[0].summary["data"]["name"]
    lines: dict[str, list[tuple[float, ...]]] = {}
    for result in members:
        for score in result.summary["scores"]:
            point = _numbers(result.summary["model"]["accuracy"], score["mean"], *score["ci95"])
            lines.setdefault(method_label(score["attribution"], score["layer"]), []).append(point)
    label = metric_name(metric, members[0].directions[metric])
    caption = f"accuracy against {metric_name(metric)} on {data}, {len(lines)} methods"
    yield caption, partial(accuracy_figure, lines, models, label=label, title=data)


def tradeoff_pictures(members: Sequence[Compared], names: dict[tuple[Any, ...], str]) -> Captioned:
    """Faithfulness against stability and against cost, a point per method and model."""
    panels: dict[str, dict[str, list[tuple[float, ...]]]] = {}
    for metric, label in (
        ("stability", metric_name("stability", True)),
        ("passes_per_map", "forward and backward passes per map"),
    ):
        for number, result in enumerate(members):
            scores = {_method(score): score for score in result.summary["scores"] if score["metric"] == metric}
            for score in result.summary["scores"]:
                across = scores.get(_method(score))
                if score["metric"] == "target_deletion_drop" and across is not None:
                    point = (float(number), *_numbers(across["mean"], score["mean"], *score["ci95"]))
                    panels.setdefault(label, {}).setdefault(method_label(*_method(score)), []).append(point)
    if not panels:
        return
    data = members[0].summary["data"]["name"]
    yield (
        f"faithfulness, stability and cost on {data}",
        partial(
            models_figure,
            panels,
            [names[each.model] for each in members],
            y_label=metric_name("target_deletion_drop", True),
            log_x=("forward and backward passes per map",),
            title=data,
        ),
    )


def matrix_pictures(members: Sequence[Compared], names: dict[tuple[Any, ...], str]) -> Captioned:
    """Localization of all methods at all layers of all models, a picture per setting and scale."""
    parts = [score_matrix(result.summary["scores"], "localization") for result in members]
    data = members[0].summary["data"]["name"]
    for setting in dict.fromkeys(setting for _, _, columns in parts for setting, _ in columns):
        methods = sorted({method for _, own, _ in parts for method in own})
        values, heads = [], []
        for result, (means, own, columns) in zip(members, parts, strict=True):
            for place, (name, layer) in enumerate(columns):
                if name == setting:
                    heads.append((names[result.model], layer))
                    values.append([means[own.index(each), place] if each in own else math.nan for each in methods])
        chance = 1 / int(setting.rpartition("×")[2]) ** 2
        yield (
            f"localization in {setting} on {data}, every method at every layer",
            partial(
                heat_map_figure,
                np.array(values, dtype=float).T,
                methods,
                heads,
                title=f"{metric_name('localization')} in {setting}: models on {data}",
                chance=[chance] * len(heads),
            ),
        )


def _method(score: Score) -> tuple[str, str]:
    return score["attribution"], score["layer"]


def _numbers(*values: Any) -> tuple[float, ...]:
    """Values as numbers, NaN for those that there aren't."""
    return tuple(math.nan if value is None else float(value) for value in values)
