"""Localization and impossible attribution of heads: per map, per method, as tables and pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from difull import METRICS, DiPart, GridPG, GridSetting, impossible_attribution, influence_map, localization_score
from eval.frame.grid_batches import GridBatch, first_grid
from eval.frame.grids import Case, Grids
from eval.frame.methods import Method
from eval.frame.part import Cost, Part
from eval.frame.ranked import TEST
from faithfulness.core.results import Score, summarize_scores
from faithfulness.core.statistics import pair_winners, paired_tests

BLOCKS = 16
"""The most blocks per side in which what can matter to a DiPart head is measured."""
_ORDER = ["setting", "scale", "metric", "attribution", "layer", "index", "cell"]


def measured_region(setting: GridSetting, grid: Tensor, cell: int, layer: str, chunk: int) -> Tensor:
    """What can matter to a head at a layer, measured in blocks; a block of which any part can matter counts."""
    split = setting.split(layer, cell)
    with torch.no_grad():
        height, width = split.to_map(split.stem(grid)).shape[-2:]
    common = np.gcd(height, width)
    block = next(side for side in range(1, common + 1) if common % side == 0 and max(height, width) <= BLOCKS * side)
    return influence_map(setting, grid, cell, block, layer=layer, chunk=chunk)


class Localization:
    """The scores of every head's maps.

    Args:
        bilinear: score as published, after bilinear upsampling to the grid; exact otherwise.
    """

    def __init__(self, grids: Grids, bilinear: bool):
        self.grids, self.bilinear = grids, bilinear
        self.regions: dict[tuple[str, int, str], Tensor] = {}
        for case in grids.cases:
            if isinstance(case.setting, DiPart):
                self._measure(case)

    def _measure(self, case: Case) -> None:
        run = self.grids.run
        grid = first_grid(run, self.grids.compositions["corners", case.scale])
        chunk = max(1, run.chunk // case.setting.cells)
        for cell, methods in case.methods.items():
            for layer in {method.layer for method in methods}:
                self.regions[case.stem, cell, layer] = measured_region(case.setting, grid, cell, layer, chunk)

    def upsampling(self, method: Method, batch: GridBatch) -> dict[str, Any]:
        """What `localization_score` is told of the upsampling before it."""
        size = (batch.images.shape[-2], batch.images.shape[-1])
        return {"upsample": method.upsample, "size": size} if self.bilinear else {}

    def observe(
        self, part: Part, case: Case, cell: int, method: Method, batch: GridBatch, predicted: Tensor, maps: Tensor
    ) -> None:
        """Add the rows of one head's maps."""
        how = self.upsampling(method, batch)
        values = {"localization": localization_score(maps, cell, case.scale, **how, undefined=torch.nan)}
        impossible = self._impossible(case, cell, method, maps)
        if impossible is not None:
            values["impossible_attribution"] = impossible
        for metric, value in values.items():
            part.add(
                "per_image",
                setting=case.name,
                scale=case.scale,
                index=batch.indices,
                cell=cell,
                label=batch.labels[:, cell],
                predicted=predicted,
                attribution=method.label,
                layer=method.layer,
                metric=metric,
                value=value,
            )

    def _impossible(self, case: Case, cell: int, method: Method, maps: Tensor) -> Tensor | None:
        """Where everything can matter to a head, nothing is impossible, and none of it is right."""
        if isinstance(case.setting, GridPG):
            return None
        regions = {head: self.regions.get((case.stem, head, method.layer)) for head in case.methods}
        everything = {head: region is not None and bool(region.all()) for head, region in regions.items()}
        if all(everything.values()):
            return None
        impossible = impossible_attribution(maps, cell, case.scale, regions[cell], torch.nan)
        return impossible.masked_fill(torch.tensor(everything[cell], device=impossible.device), torch.nan)

    def chances(self, metric: str) -> dict[tuple[str, int, str], float]:
        """The score of a uniform map by setting, scale and layer; none where nothing is impossible."""
        found = {}
        for case in self.grids.cases:
            for layer in {method.layer for method in next(iter(case.methods.values()))}:
                regions = [self.regions.get((case.stem, cell, layer)) for cell in case.methods]
                inside = [1 / case.scale**2 if region is None else float(region.double().mean()) for region in regions]
                outside = [1 - share for share in inside if share < 1]
                if metric == "localization":
                    found[case.name, case.scale, layer] = 1 / case.scale**2
                elif outside and not isinstance(case.setting, GridPG):
                    found[case.name, case.scale, layer] = sum(outside) / len(outside)
        return found

    def shares(self) -> dict[str, float]:
        """How much of a grid can matter to a head, where that was measured."""
        return {
            f"{stem} cell {cell} {layer}": float(region.double().mean())
            for (stem, cell, layer), region in self.regions.items()
        }


def localization_table(part: Part) -> pd.DataFrame:
    """The rows of all processes, in an order that doesn't depend on them."""
    return pd.DataFrame(part.table("per_image")).sort_values(_ORDER, kind="stable").reset_index(drop=True)


def grid_scores(table: pd.DataFrame, cases: Iterable[Case], costs: dict[str, Cost], seed: int) -> list[Score]:
    """A score per setting, scale, metric and method, best first in each; the interval is over grids."""
    groups = dict(iter(table.groupby(["setting", "scale", "metric", "attribution", "layer"])))
    found: list[Score] = []
    for case in cases:
        methods = list(zip(*case.methods.values(), strict=True))
        for metric in METRICS:
            entries = []
            for heads in methods:
                rows = groups.get((case.name, case.scale, metric, heads[0].label, heads[0].layer))
                if rows is not None:
                    entries.append(_score(rows, case, metric, cost_of(heads, costs), seed))
            found += sorted(entries, key=lambda score: score.sort_key)
    return found


def cost_of(methods: Iterable[Method], costs: dict[str, Cost]) -> dict[str, Any]:
    """Seconds of a method's heads together, and passes per map, as a score has them."""
    first, *others = [costs.get(method.key, Cost()) for method in methods]
    total = sum(others, first)
    return {"seconds": total.seconds, "forward_passes": total.forward, "backward_passes": total.backward}


def _score(rows: pd.DataFrame, case: Case, metric: str, cost: dict[str, Any], seed: int) -> Score:
    """Undefined maps count 0 for localization, and are left out of the impossible attribution."""
    values = rows["value"].to_numpy(np.float64)
    filled = rows.assign(value=np.nan_to_num(values)) if metric == "localization" else rows
    score = summarize_scores(
        filled.groupby("index")["value"].mean().to_numpy(),
        attribution=rows["attribution"].iloc[0],
        layer=rows["layer"].iloc[0],
        metric=metric,
        higher_is_better=METRICS[metric],
        seed=seed,
        undefined_as=None,
        setting=case.name,
        scale=case.scale,
        **cost,
    )
    defined = values[~np.isnan(values)]
    mean_defined = float(defined.mean()) if len(defined) else float("nan")
    return replace(score, mean_defined=mean_defined, n=len(values), n_undefined=len(values) - len(defined))


def tests_of(table: pd.DataFrame, cases: Iterable[Case]) -> list[dict[str, Any]]:
    """Paired tests of the methods' localization, per setting, scale and layer, on means per grid."""
    found = []
    for case, layer, columns in tested_columns(table, cases):
        names, p_values = paired_tests(columns)
        entry = {"setting": case.name, "scale": case.scale, "layer": layer, "names": names, "p": p_values.tolist()}
        found.append(entry | {"test": TEST})
    return found


def tested_columns(table: pd.DataFrame, cases: Iterable[Case]) -> Iterator[tuple[Case, str, dict[str, np.ndarray]]]:
    """Case, layer, and each method's localization per grid, undefined maps as 0."""
    rows = table[table.metric == "localization"].assign(value=lambda part: part["value"].fillna(0))
    for case in cases:
        own = rows[(rows.setting == case.name) & (rows.scale == case.scale)]
        for layer, part in own.groupby("layer", sort=False):
            columns = part.pivot_table(index="index", columns="attribution", values="value", aggfunc="mean")
            yield case, str(layer), {str(name): columns[name].to_numpy() for name in columns}


def test_pictures(
    table: pd.DataFrame, cases: Iterable[Case], tests: Iterable[dict[str, Any]], title: str
) -> dict[str, Callable[[], Any]]:
    """The tests of each setting, scale and layer with two methods or more; the winner of each pair is marked."""
    from faithfulness import report

    found: dict[str, Callable[[], Any]] = {}
    for (case, layer, columns), entry in zip(tested_columns(table, cases), tests, strict=True):
        if len(columns) > 1:
            p_values = np.array(entry["p"], dtype=float)
            found[f"tests-{case.stem}-{layer}"] = partial(
                report.test_matrix,
                entry["names"],
                p_values,
                title=f"{report.metric_name('localization', True)}, {case.title} at {layer}: {title}",
                better=pair_winners(columns, p_values),
            )
    return found


test_pictures.__test__ = False  # type: ignore[attr-defined]  # pytest goes by the name


def score_matrix(scores: Iterable[dict[str, Any]], metric: str) -> tuple[np.ndarray, list[str], list[tuple[str, str]]]:
    """Means as (methods, columns), the methods, and the columns (setting, layer)."""
    own = [score for score in scores if score["metric"] == metric]
    places = {"input": 0, "middle": 1, "final": 2}
    layers = sorted(dict.fromkeys(score["layer"] for score in own), key=lambda layer: places.get(layer, 1))
    cases = list(dict.fromkeys((score["setting"], score["scale"]) for score in own))
    methods = sorted(dict.fromkeys(score["attribution"] for score in own))
    means = {(row["attribution"], row["setting"], row["scale"], row["layer"]): row["mean"] for row in own}
    columns = [(setting, scale, layer) for setting, scale in cases for layer in layers]
    values = [[means.get((method, *column)) for column in columns] for method in methods]
    return (
        np.array(values, dtype=float),
        methods,
        [(f"{setting} {scale}×{scale}", layer) for setting, scale, layer in columns],
    )


def localization_pictures(
    localization: Localization, table: pd.DataFrame, scores: list[Score]
) -> dict[str, Callable[[], Any]]:
    """Box plots per setting and metric, a panel per layer; and the heat map of all means."""
    from faithfulness import report

    found: dict[str, Callable[[], Any]] = {}
    cases, title = localization.grids.cases, localization.grids.run.title
    chances = {metric: localization.chances(metric) for metric in METRICS}
    for case in cases:
        own = table[(table.setting == case.name) & (table.scale == case.scale)]
        for metric in METRICS:
            rows = own[own.metric == metric]
            if not rows.empty:
                found[f"{metric}-{case.stem}"] = _boxes(rows, case, metric, chances[metric], title)
    titles = {f"{case.name} {case.scale}×{case.scale}": (case.title, case) for case in cases}
    matrix = [score.to_dict() for score in scores]
    for metric in METRICS:
        values, methods, columns = score_matrix(matrix, metric)
        if methods:
            own = [(titles[name], layer) for name, layer in columns]
            found[metric] = partial(
                report.heat_map_figure,
                values,
                methods,
                [(name, layer) for (name, _), layer in own],
                title=f"{report.metric_name(metric)}: {title}",
                label=metric,
                higher_is_better=METRICS[metric],
                chance=[chances[metric].get((case.name, case.scale, layer)) for (_, case), layer in own],
            )
    return found


def _boxes(
    rows: pd.DataFrame, case: Case, metric: str, chances: dict[tuple[str, int, str], float], title: str
) -> Callable[[], Any]:
    from faithfulness import report

    order = dict.fromkeys(method.layer for method in next(iter(case.methods.values())))
    panels = {
        layer: {
            str(name): part["value"].to_numpy()
            for name, part in rows[rows.layer == layer].groupby("attribution", sort=False)
        }
        for layer in order
    }
    known = {layer: chances.get((case.name, case.scale, layer)) for layer in order}
    chance = {layer: value for layer, value in known.items() if value is not None}
    head = f"{case.title}: {report.metric_name(metric)} per map, where defined; {title}"
    higher = METRICS[metric]
    return partial(report.box_figure, panels, chance, title=head, label=metric, higher_is_better=higher)
