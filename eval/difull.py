"""Score attributions by where they lie on grids of images, of which a head sees one cell.

python -m eval.difull --model runs/demo/checkpoint --setting difull gridpg dipart --layers input middle final
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from core.cli import run_command
from core.results import Score, summarize_scores, write_per_image, write_summary
from core.statistics import paired_tests
from difull import DiPart, GridPG, GridSetting, impossible_attribution, influence_map, localization_score
from difull.figures import box_figure, heat_map_figure, save_figure
from eval.grids import Case, GridBatch, GridEvaluation, GridOptions, first_grid, save_compositions
from eval.report import TEST, format_table, number, print_attributions, print_cautions
from eval.runner import Method

BLOCKS = 16
"""The most blocks per side in which what can matter to a DiPart head is measured."""


@dataclass(kw_only=True)
class DifullOptions(GridOptions):
    """Score attributions by the share that lies in the cell that the explained head sees.

    Args:
        baseline: another model whose heads' accuracy on the same grids is told beside this one's.
        bilinear: score as published, after bilinear upsampling to the grid; exact otherwise.
        list_attributions: print the registered attributions and stop.
    """

    protocol_name: ClassVar[str] = "difull"

    baseline: str | None = None
    bilinear: bool = False
    list_attributions: bool = False

    @property
    def scoring(self) -> str:
        """How maps are scored, as `summary.json` has it."""
        return "bilinear" if self.bilinear else "exact"


@dataclass(frozen=True, kw_only=True)
class GridScore(Score):
    """A row of the result table, of one setting and scale. The interval is over grids, not over maps."""

    setting: str
    scale: int


def measured_region(setting: GridSetting, grid: Tensor, cell: int, layer: str, chunk: int) -> Tensor:
    """What can matter to a head at a layer, measured in blocks; a block of which any part can matter counts."""
    split = setting.split(layer, cell)
    with torch.no_grad():
        height, width = split.to_map(split.stem(grid)).shape[-2:]
    common = np.gcd(height, width)
    block = next(side for side in range(1, common + 1) if common % side == 0 and max(height, width) <= BLOCKS * side)
    return influence_map(setting, grid, cell, block, layer=layer, chunk=chunk)


class DifullEvaluation(GridEvaluation):
    """Localisation and impossible attribution of every method, layer, setting and head."""

    options: DifullOptions

    def __init__(self, options: DifullOptions):
        self.rows: list[pd.DataFrame] = []
        self.regions: dict[tuple[str, int, str], Tensor] = {}
        super().__init__(options)
        if options.baseline:
            self.baseline = self.runner.load_other(options.baseline)
        for case in self.cases:
            if isinstance(case.setting, DiPart):
                self._measure(case)

    def _measure(self, case: Case) -> None:
        grid = first_grid(self.runner, self.compositions["corners", case.scale])
        chunk = max(1, self.options.chunk // case.setting.cells)
        for cell, methods in case.methods.items():
            for layer in {method.layer for method in methods}:
                region = measured_region(case.setting, grid, cell, layer, chunk)
                self.regions[case.stem, cell, layer] = region

    def observe(self, case: Case, cell: int, method: Method, batch: GridBatch, predicted: Tensor, maps: Tensor) -> None:
        how = self.scoring(method, batch)
        values = {"localization": localization_score(maps, cell, case.scale, **how, undefined=torch.nan)}
        if not isinstance(case.setting, GridPG):
            regions = {head: self.regions.get((case.stem, head, method.layer)) for head in case.methods}
            everything = {head: region is not None and bool(region.all()) for head, region in regions.items()}
            if not all(everything.values()):
                impossible = impossible_attribution(maps, cell, case.scale, regions[cell], torch.nan)
                # Where everything can matter to a head, nothing is impossible, and none of it is right.
                values["impossible_attribution"] = impossible.masked_fill(
                    torch.tensor(everything[cell], device=impossible.device), torch.nan
                )
        self.rows += [
            pd.DataFrame(
                {
                    "setting": case.name,
                    "scale": case.scale,
                    "index": batch.indices.cpu().numpy(),
                    "cell": cell,
                    "label": batch.labels[:, cell].cpu().numpy(),
                    "predicted": predicted.cpu().numpy(),
                    "attribution": method.label,
                    "layer": method.layer,
                    "metric": metric,
                    "value": value.cpu().numpy(),
                }
            )
            for metric, value in values.items()
        ]

    def scoring(self, method: Method, batch: GridBatch) -> dict[str, Any]:
        """What `localization_score` is told of the upsampling before it."""
        size = (batch.images.shape[-2], batch.images.shape[-1])
        return {"upsample": method.upsample, "size": size} if self.options.bilinear else {}

    def kept(self) -> Any:
        return self.rows

    def finish(self, kept: list[Any]) -> dict[str, Any]:
        table = merge_rows(kept)
        scores = grid_scores(table, self.cases, self.options.seed)
        options, runner = self.options, self.runner
        settings = self.describe_settings() | {"scoring": options.scoring}
        accuracy = self.accuracy()
        regions = {
            f"{stem} cell {cell} {layer}": float(region.double().mean())
            for (stem, cell, layer), region in self.regions.items()
        }
        with options.result_folder() as folder:
            save_compositions(folder, self.compositions)
            write_per_image(folder, table)
            summary = write_summary(
                folder,
                protocol=options.protocol_name,
                model=runner.checkpoint.describe(),
                data=runner.describe_data(),
                settings=settings,
                scores=scores,  # type: ignore[arg-type]
                accuracy=accuracy,
                cautions=self.cautions(accuracy),
                share_that_can_matter=regions,
                tests=tests_of(table, self.cases),
            )
            draw(folder / "plots", table, scores, self.cases)
        print_scores(summary)
        print(f"results: {options.out}/summary.json, per_image.parquet, compositions/, plots/")
        return summary


def merge_rows(kept: list[list[pd.DataFrame]]) -> pd.DataFrame:
    """The rows of all processes, in an order that doesn't depend on them."""
    table = pd.concat([part for rank in kept for part in rank])
    order = ["setting", "scale", "metric", "attribution", "layer", "index", "cell"]
    return table.sort_values(order, kind="stable").reset_index(drop=True)


def grid_scores(table: pd.DataFrame, cases: list[Case], seed: int) -> list[GridScore]:
    """A score per setting, scale, metric and method, best first in each; the interval is over grids."""
    groups = dict(iter(table.groupby(["setting", "scale", "metric", "attribution", "layer"])))
    found: list[GridScore] = []
    for case in cases:
        methods = list(zip(*case.methods.values(), strict=True))
        for metric in ("localization", "impossible_attribution"):
            entries = []
            for heads in methods:
                rows = groups.get((case.name, case.scale, metric, heads[0].label, heads[0].layer))
                if rows is not None:
                    entries.append(_score(rows, case, metric, heads, seed))
            entries.sort(key=lambda score: -score.mean if score.higher_is_better else score.mean)
            found += entries
    return found


def _score(rows: pd.DataFrame, case: Case, metric: str, heads: tuple[Method, ...], seed: int) -> GridScore:
    """Undefined maps count 0 for localisation, and are left out of the impossible attribution."""
    values = rows["value"].to_numpy(np.float64)
    filled = rows.assign(value=np.nan_to_num(values)) if metric == "localization" else rows
    per_grid = filled.groupby("index")["value"].mean().to_numpy()
    forward, backward = heads[0].passes
    score = summarize_scores(
        per_grid,
        attribution=heads[0].label,
        layer=heads[0].layer,
        metric=metric,
        seed=seed,
        undefined_as=None,
        seconds=sum(head.seconds for head in heads),
        forward_passes=forward,
        backward_passes=backward,
    )
    defined = values[~np.isnan(values)]
    counts = {
        "mean_defined": float(defined.mean()) if len(defined) else float("nan"),
        "n": len(values),
        "n_undefined": len(values) - len(defined),
    }
    return GridScore(**asdict(replace(score, **counts)), setting=case.name, scale=case.scale)


def tests_of(table: pd.DataFrame, cases: list[Case]) -> list[dict[str, Any]]:
    """Paired tests of the methods' localisation, per setting, scale and layer, on means per grid."""
    found = []
    rows = table[table.metric == "localization"].assign(value=lambda part: part["value"].fillna(0))
    for case in cases:
        own = rows[(rows.setting == case.name) & (rows.scale == case.scale)]
        for layer, part in own.groupby("layer", sort=False):
            columns = part.pivot_table(index="index", columns="attribution", values="value", aggfunc="mean")
            names, p_values = paired_tests({str(name): columns[name].to_numpy() for name in columns})
            entry = {"setting": case.name, "scale": case.scale, "layer": layer, "names": names, "p": p_values.tolist()}
            found.append(entry | {"test": TEST})
    return found


def score_matrix(scores: list[GridScore], metric: str) -> tuple[np.ndarray, list[str], list[tuple[str, str]]]:
    """Means as (methods, columns), the methods, and the columns (setting, layer)."""
    own = [score for score in scores if score.metric == metric]
    places = {"input": 0, "middle": 1, "final": 2}
    layers = sorted(dict.fromkeys(score.layer for score in own), key=lambda layer: places.get(layer, 1))
    cases = list(dict.fromkeys((score.setting, score.scale) for score in own))
    methods = sorted(dict.fromkeys(score.attribution for score in own))
    means = {(score.attribution, score.setting, score.scale, score.layer): score.mean for score in own}
    columns = [(setting, scale, layer) for setting, scale in cases for layer in layers]
    values = np.array([[means.get((method, *column), np.nan) for column in columns] for method in methods])
    return values, methods, [(f"{setting} {scale}×{scale}", layer) for setting, scale, layer in columns]


def draw(folder: Path, table: pd.DataFrame, scores: list[GridScore], cases: list[Case]) -> None:
    """Box plots per setting and metric, a panel per layer; and the heat map of all means."""
    labels = {"localization": "localisation", "impossible_attribution": "impossible attribution"}
    for case in cases:
        own = table[(table.setting == case.name) & (table.scale == case.scale)]
        for metric, label in labels.items():
            rows = own[own.metric == metric]
            if rows.empty:
                continue
            order = list(dict.fromkeys(method.layer for method in next(iter(case.methods.values()))))
            panels = {
                layer: {
                    str(name): part["value"].to_numpy()
                    for name, part in rows[rows.layer == layer].groupby("attribution", sort=False)
                }
                for layer in order
            }
            chance = 1 / case.scale**2 if metric == "localization" else None
            figure = box_figure(panels, chance, f"{case.title}: {label} per map, where defined", label)
            save_figure(figure, folder / f"{metric}-{case.stem}.png")
    for metric, label in labels.items():
        values, methods, columns = score_matrix(scores, metric)
        if methods:
            save_figure(heat_map_figure(values, methods, columns, label=label), folder / f"{metric}.png")


def print_scores(summary: dict[str, Any]) -> None:
    """The tables of an evaluation: accuracy of the heads, then localisation with its intervals."""
    print(f"\n{summary['model']['name']} on grids of {summary['data']['name']} ({summary['data']['split']})")
    print_accuracy(summary["accuracy"])
    print_cautions(summary)
    impossible = {
        (score["setting"], score["scale"], score["attribution"], score["layer"]): score
        for score in summary["scores"]
        if score["metric"] == "impossible_attribution"
    }
    rows = []
    for score in summary["scores"]:
        if score["metric"] != "localization":
            continue
        other = impossible.get((score["setting"], score["scale"], score["attribution"], score["layer"]))
        rows.append(
            (
                f"{score['setting']} {score['scale']}×{score['scale']}",
                score["attribution"],
                score["layer"],
                number(score["mean"]),
                f"[{number(score['ci95'][0])}, {number(score['ci95'][1])}]",
                number(other["mean"]) if other else "–",
                f"[{number(other['ci95'][0])}, {number(other['ci95'][1])}]" if other else "–",
                str(score["n"]),
                str(score["n_undefined"]),
                number(score["seconds"] / score["n"] * 1000, 1) if score["n"] else "–",
            )
        )
    header = ("setting", "attribution", "layer", "localisation", "95% interval", "impossible", "95% interval")
    print(format_table((*header, "n", "undefined", "ms/map"), rows, "<<<>>>>>>>"))


def print_accuracy(rows: list[dict[str, Any]]) -> None:
    """Accuracy of every cell's head."""
    names = [name for name in ("accuracy", "baseline") if any(name in row for row in rows)]
    lines = [
        (
            f"{row['setting']} {row['scale']}×{row['scale']}",
            "this model" if name == "accuracy" else "baseline",
            number(row[name]),
            f"[{number(row[f'{name}_ci95'][0])}, {number(row[f'{name}_ci95'][1])}]",
            " ".join(number(value, 2) for value in row[f"{name}_per_cell"]),
        )
        for row in rows
        for name in names
    ]
    print(format_table(("heads", "", "accuracy", "95% interval", "per cell"), lines, "<<>><") + "\n")


def evaluate(options: DifullOptions) -> dict[str, Any] | None:
    """Run the protocol and write its results; returns the summary (None on other processes)."""
    if options.list_attributions:
        print_attributions()
        return None
    return DifullEvaluation(options).run()


if __name__ == "__main__":
    sys.exit(run_command(DifullOptions, evaluate))
