"""Small data for every figure, and every figure drawn from them."""

import math

import numpy as np
import torch

from difull import aggregate
from faithfulness import PatchGrid, report

GRID = PatchGrid(2, 2)
LONG = "ig-sg(samples=32, steps=16, noise=0.15)|abs+smooth(65)@final"


def rows(*methods, metric="idsds", higher=True):
    return [
        {
            "attribution": name,
            "layer": layer,
            "metric": metric,
            "mean": 0.8 - 0.1 * i,
            "ci95": [0.7 - 0.1 * i, 0.9 - 0.1 * i],
            "n": 9,
            "higher_is_better": higher,
        }
        for i, (name, layer) in enumerate(methods)
    ]


def differences(*methods):
    """The first differs, the others are not known."""
    none = {"difference": None, "ci95": [None, None], "detectable": None, "better": None}
    known = {"difference": 0.2, "ci95": [0.1, 0.3], "detectable": 0.15, "better": "reference"}
    return [row | (none if place else known) for place, row in enumerate(rows(*((name, "input") for name in methods)))]


def maps_and_scores(count=100, side=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 1, side, side, generator=generator), torch.rand(count, generator=generator)


def kept(methods, count=2):
    generator = np.random.default_rng(0)
    return [
        {
            "index": index,
            "label": "seven",
            "method": method,
            "image": generator.normal(size=(3, 8, 8)).astype(np.float32),
            "map": generator.random((4, 4)) if method == "gradcam" else generator.normal(size=(8, 8)),
            "sums": np.arange(4.0) if method != "flat" else np.zeros(4),
            "drops": np.arange(4.0),
        }
        for index in range(count)
        for method in methods
    ]


def found(per_cell=0.5):
    return {
        "accuracy": 0.9,
        "accuracy_deleted": 0.8,
        "separability": 0.6,
        "accuracy_per_cell": [per_cell, 0.7, 0.8, 1.0],
    }


def pairs(count=3):
    generator = torch.Generator().manual_seed(0)
    regions = torch.rand(count, 6, 6, generator=generator) < 0.3
    return torch.rand(count, 3, 6, 6, generator=generator), regions, torch.randn(count, 1, 6, 6, generator=generator)


def many():
    methods = [f"m{i}" for i in range(28)]
    return report.examples(kept(methods, 6), methods, GRID, "t")


def few_bins():
    maps, scores = maps_and_scores(10)
    result = aggregate(maps, 0 * scores, examples=2)
    images = {index: torch.rand(3, 8, 8) for part in result.examples for index in part}
    return report.examples_figure(result, images, dict(enumerate(maps)), 1, 2, "t", dict.fromkeys(images, 77))


def draw_curves(title="t"):
    values = np.random.default_rng(0).random((9, 3))
    values[2, 1] = math.nan
    curves = {"dea": values, "gpa": values / 2, "gradcam": values / 2, "flat": np.full((9, 3), math.nan)}
    return report.plot_curves(curves, (0.1, 0.2, 0.3), label="drop", title=title)


FIGURES = {
    "ranking": lambda: report.ranking(rows(("ixg", "input"), ("edge", "input"), (LONG, "final")), None, "t"),
    "distributions": lambda: report.distributions(
        {"ixg": np.array([0.1, np.nan, 0.4]), LONG: np.full(3, np.nan), "none": np.array([])}, "idsds", "t"
    ),
    "test_matrix": lambda: report.test_matrix(["a", LONG], [[math.nan, 0.01], [0.0001, math.nan]], "t"),
    "difference_figure": lambda: report.difference_figure(
        {"A − B": differences("ixg", LONG), "A − C": differences("gradcam", LONG)}, "t"
    ),
    "evidence": lambda: report.evidence({"model": found(), "baseline": found(0.1) | {"name": "m"}}, GRID, "t"),
    "examples": lambda: report.examples(kept(["ixg", "gradcam", "flat"]), ["gradcam", "ixg", "flat"], GRID, "t"),
    "many": many,
    "winners": lambda: report.test_matrix(["a", "b"], [[None, 0.01], [0.01, None]], "t", better=[[0, -1], [1, 0]]),
    "plot_examples": lambda: report.plot_examples(
        *pairs()[:2], {"dea": pairs()[2], "flat": 0 * pairs()[2][:, :, ::2, ::2]}, names=["a", "b", "c"], title="t"
    ),
    "gray": lambda: report.plot_examples(pairs()[0][:1, :1], pairs()[1][:1], {}, title="t"),
    "aggregate_figure": lambda: report.aggregate_figure(
        {"none": aggregate(0 * maps_and_scores(10)[0], torch.zeros(10))}, 0, 3, "t"
    ),
    "examples_figure": few_bins,
    "heat_map_figure": lambda: report.heat_map_figure(
        np.array([[0.2, np.nan], [1, 0]]), ["a", LONG], [("DiFull", "input"), ("GridPG", "input")], "t"
    ),
    "box_figure": lambda: report.box_figure(
        {"input": {"a": np.array([0.1, np.nan, 0.4])}, "final": {"b": np.array([])}}, 0.25, "t"
    ),
    "influence_figure": lambda: report.influence_figure({"DiFull": np.eye(4, dtype=bool)}, 0, 2, "t"),
    "plot_curves": draw_curves,
    "plot_scatter": lambda: report.plot_scatter(
        {"dea": (20, 0.3), "random": (0.0, 0.01), LONG: (math.nan, 0.2), "lost": (None, 1)},
        x_label="passes",
        log_x=True,
        intervals={"dea": [0.2, 0.4], "random": [None, None]},
        title="t",
    ),
}
