"""AggAtt: all maps of a data set sorted by their localisation and averaged in bins, methods in rows.

python -m eval.aggatt --model runs/demo/checkpoint --setting difull --layers input
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from core import InputError
from core.cli import run_command
from core.results import summarize_scores, write_summary
from difull import Aggregate, aggregate, cell_sums, localization_score
from difull.figures import aggregate_figure, examples_figure, save_figure
from eval.difull import GridScore, print_accuracy
from eval.grids import Case, GridBatch, GridEvaluation, GridOptions, GridSamples, kind_of, save_compositions
from eval.report import format_table, number, print_cautions
from eval.runner import Method

Panel = tuple[str, str, str]
"""Case, method, layer."""


@dataclass(kw_only=True)
class AggattOptions(GridOptions):
    """Average all maps of a data set in bins of their localisation.

    Args:
        cell: the head that is explained, and the cell that is framed.
        map_size: maps are kept at no more pixels a side than this (averaged down): grids × methods × size² × 4 bytes.
        examples: how many grids of each bin the sheets show.
    """

    protocol_name: ClassVar[str] = "aggatt"

    layers: list[str] | None = field(default_factory=lambda: ["input"])
    cell: int = 0
    map_size: int = 128
    examples: int = 3

    def check(self) -> None:
        """Raise InputError for values that this command can't use."""
        super().check()
        if self.map_size < 8 or self.examples < 1:
            raise InputError(f"--map-size must be at least 8 and --examples 1, got {self.map_size}, {self.examples}")
        for kind, scale in self.keys:
            heads = range(scale**2) if kind == "distinct" else (0, scale**2 - 1)
            if self.cell not in heads:
                known = ", ".join(map(str, heads))
                raise InputError(
                    f"--cell {self.cell} is not scored in {kind} grids of {scale}×{scale}; scored: {known}"
                )


def shrink(maps: Tensor, side: int) -> Tensor:
    """Positive attribution (B, 1, h, w), averaged down by a whole factor to `side` pixels at most."""
    maps = maps.sum(dim=1, keepdim=True).clamp(min=0)
    height, width = maps.shape[-2:]
    common = int(np.gcd(height, width))
    factors = (f for f in range(1, common + 1) if common % f == 0 and max(height, width) <= f * side)
    factor = next(factors, common)
    return maps if factor == 1 else torch.nn.functional.avg_pool2d(maps, factor)


class AggattEvaluation(GridEvaluation):
    """Keeps the positive maps of one head, small, with their scores."""

    options: AggattOptions

    def __init__(self, options: AggattOptions):
        self.maps: dict[Panel, list[tuple[np.ndarray, ...]]] = {}
        super().__init__(options)
        for case in self.cases:
            case.methods = {options.cell: case.methods[options.cell]}

    def observe(self, case: Case, cell: int, method: Method, batch: GridBatch, predicted: Tensor, maps: Tensor) -> None:
        score = localization_score(maps, cell, case.scale, undefined=torch.nan)
        inside = cell_sums(maps.sum(dim=1, keepdim=True).clamp(min=0), case.scale)[:, cell]
        columns = (batch.indices, score, inside, shrink(maps, self.options.map_size).float())
        self.maps.setdefault((case.stem, method.label, method.layer), []).append(
            tuple(column.cpu().numpy() for column in columns)
        )

    def kept(self) -> Any:
        return self.maps

    def finish(self, kept: list[Any]) -> dict[str, Any]:
        options = self.options
        panels: dict[Panel, Aggregate] = {}
        scores, bins, accuracy = [], [], self.accuracy()
        with options.result_folder() as folder:
            save_compositions(folder, self.compositions)
            for case in self.cases:
                for method in case.methods[options.cell]:
                    key = (case.stem, method.label, method.layer)
                    columns = [
                        np.concatenate(c) for c in zip(*(p for rank in kept for p in rank.get(key, [])), strict=True)
                    ]
                    order = columns[0].argsort()
                    indices, values, inside, maps = (column[order] for column in columns)
                    result = aggregate(torch.from_numpy(maps), np.nan_to_num(values), inside, examples=options.examples)
                    panels[key] = result
                    scores.append(self._score(case, method, values))
                    bins.append(describe_bins(case, method, result, indices))
                    self._draw_examples(folder / "plots", case, method, result, indices, maps)
                self._draw_bins(folder / "plots", case, panels)
            bins_of: dict[str, Any] = {"/".join(key): result.means.numpy() for key, result in panels.items()}
            np.savez_compressed(folder / "bins.npz", **bins_of)
            summary = write_summary(
                folder,
                protocol=options.protocol_name,
                model=self.runner.checkpoint.describe(),
                data=self.runner.describe_data(),
                settings=self.describe_settings() | {"cell": options.cell, "map_size": options.map_size},
                scores=scores,
                accuracy=accuracy,
                cautions=self.cautions(accuracy),
                bins=bins,
            )
        print_accuracy(summary["accuracy"])
        print_cautions(summary)
        rows = [
            (f"{row['setting']} {row['scale']}×{row['scale']}", row["attribution"], row["layer"], *row["shown"])
            for row in ({**entry, "shown": [_range(part) for part in entry["bins"]]} for entry in summary["bins"])
        ]
        names = [f"{100 * part['from']:g}–{100 * part['to']:g} %" for part in bins[0]["bins"]]
        print(format_table(("setting", "attribution", "layer", *names), rows, "<<<" + ">" * len(names)))
        print(f"results: {options.out}/summary.json, bins.npz, plots/")
        return summary

    def _score(self, case: Case, method: Method, values: np.ndarray) -> GridScore:
        forward, backward = method.passes
        score = summarize_scores(
            values,
            attribution=method.label,
            layer=method.layer,
            metric="localization",
            seed=self.options.seed,
            seconds=method.seconds,
            forward_passes=forward,
            backward_passes=backward,
        )
        return GridScore(**vars(score), setting=case.name, scale=case.scale)

    def _draw_bins(self, folder: Path, case: Case, panels: dict[Panel, Aggregate]) -> None:
        """A figure per layer, methods in rows."""
        for layer in dict.fromkeys(layer for stem, _, layer in panels if stem == case.stem):
            rows = {name: result for (stem, name, own), result in panels.items() if (stem, own) == (case.stem, layer)}
            title = f"{case.title} at {layer}: mean positive attribution by localisation, best maps first"
            picture = aggregate_figure(rows, self.options.cell, case.scale, title)
            save_figure(picture, folder / f"bins-{case.stem}-{layer}.png")

    def _draw_examples(
        self, folder: Path, case: Case, method: Method, result: Aggregate, indices: np.ndarray, maps: np.ndarray
    ) -> None:
        """The sheet of examples of one method; grids are read again, for the few that are shown."""
        samples = GridSamples(self.runner.samples(), self.compositions[kind_of(case.name), case.scale])
        shown = sorted({place for part in result.examples for place in part})
        images = {}
        for place in shown:
            cells = samples[0, int(indices[place])]["image"].float() / 255
            images[place] = _side_by_side(cells, case.scale)
        title = f"{method.label} at {method.layer}, {case.title}: examples from the middle of each bin"
        pictures = {place: torch.from_numpy(maps[place]) for place in shown}
        numbers = {place: int(indices[place]) for place in shown}  # as summary.json has them
        picture = examples_figure(result, images, pictures, self.options.cell, case.scale, title, numbers)
        label = "".join(letter if letter.isalnum() or letter in "-+" else "_" for letter in method.label).strip("_")
        save_figure(picture, folder / f"examples-{case.stem}-{method.layer}-{label}.png")


def _side_by_side(cells: Tensor, scale: int) -> Tensor:
    """(n², 3, h, w) -> (3, n·h, n·w)."""
    return torch.cat([torch.cat(list(row), dim=2) for row in cells.unflatten(0, (scale, scale))], dim=1)


def describe_bins(case: Case, method: Method, result: Aggregate, indices: np.ndarray) -> dict[str, Any]:
    """What `summary.json` says of a method's bins: shares, counts, range of scores, example grids."""
    ends = np.cumsum((0, *result.counts))
    parts = []
    for number_, count in enumerate(result.counts):
        scores = result.scores[result.order[ends[number_] : ends[number_ + 1]]]
        parts.append(
            {
                "from": result.edges[number_],
                "to": result.edges[number_ + 1],
                "n": count,
                "best": float(scores.max()) if count else None,
                "worst": float(scores.min()) if count else None,
                "examples": [int(indices[place]) for place in result.examples[number_]],
            }
        )
    names = {"setting": case.name, "scale": case.scale, "attribution": method.label, "layer": method.layer}
    return names | {"bins": parts}


def _range(part: dict[str, Any]) -> str:
    return f"{number(part['best'], 2)}–{number(part['worst'], 2)}" if part["n"] else "–"


def evaluate(options: AggattOptions) -> dict[str, Any] | None:
    """Make the figures and write them; returns the summary (None on other processes)."""
    return AggattEvaluation(options).run()


if __name__ == "__main__":
    sys.exit(run_command(AggattOptions, evaluate))
