"""Sort all maps of a data set by their localization and average them in bins, methods in rows (AggAtt)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from eval.frame import Command, Outcome, Part, Pass
from eval.frame.cautions import caution_lines
from eval.frame.grid_options import GridOptions
from eval.frame.grid_text import head_of, report_accuracy
from faithfulness.core.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from difull import Aggregate
    from eval.frame.grid_batches import GridBatch
    from eval.frame.grids import Case
    from eval.frame.methods import Method
    from eval.frame.run import Run
    from faithfulness.core.results import Score


@dataclass(kw_only=True)
class AggattOptions(GridOptions):
    """Average all maps of a data set in bins of their localization.

    Args:
        cell: the head that is explained, and the cell that is framed.
        map_size: maps are kept at no more pixels a side than this (averaged down): grids × methods × size² × 4 bytes.
        examples: how many grids of each bin the sheets show.

    Example:
        python -m eval.aggatt --model runs/demo/checkpoint --setting difull --attributions ixg gradcam
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


class AggAtt:
    """Keeps the positive maps of one head, small, with their scores."""

    def __init__(self, run: Run[AggattOptions]):
        from eval.frame.grids import Grids

        self.run, self.grids = run, Grids(run, heads=[run.options.cell])

    def passes(self) -> Iterator[Pass]:
        """All grids of all kinds."""
        yield from self.grids.passes(self.observe)

    def observe(
        self, part: Part, case: Case, cell: int, method: Method, batch: GridBatch, predicted: Tensor, maps: Tensor
    ) -> None:
        """Keep one head's maps with their scores, and what lies inside the cell."""
        import difull

        positive = maps.sum(dim=1, keepdim=True).clamp(min=0)
        part.add(
            f"maps of {method.key}",
            index=batch.indices,
            score=difull.localization_score(maps, cell, case.scale, undefined=float("nan")),
            inside=difull.mass_inside(positive, cell, case.scale),
            map=difull.shrink(positive, self.run.options.map_size).float(),
        )

    def summarize(self, part: Part) -> Outcome:
        """The bins of every method, and their scores."""
        import numpy as np
        import torch

        import difull
        from eval.frame.compositions import composition_files

        options, grids = self.run.options, self.grids
        accuracy = grids.accuracy(part)
        scores, bins, panels, pictures = [], [], {}, {}
        for case in grids.cases:
            for method in case.methods[options.cell]:
                kept = part.table(f"maps of {method.key}", "index")
                maps, values = torch.from_numpy(kept["map"]), np.nan_to_num(kept["score"])
                result = difull.aggregate(maps, values, kept["inside"], examples=options.examples)
                panels[case.stem, method.label, method.layer] = result
                scores.append(self.score(case, method, kept["score"], part))
                bins.append(describe_bins(case, method, result, kept["index"]))
                numbers = {place: int(kept["index"][place]) for part in result.examples for place in part}
                shown = {place: maps[place].clone() for place in numbers}
                pictures[_stem("examples", case, method)] = self.sheet(case, method, result, numbers, shown)
        for case in grids.cases:
            pictures |= self.bin_pictures(case, panels)
        means = {"/".join(key): result.means.numpy() for key, result in panels.items()}
        return Outcome(
            scores=scores,
            settings=grids.describe(part) | {"cell": options.cell, "map_size": options.map_size},
            sections={"accuracy": accuracy, "cautions": grids.cautions(accuracy), "bins": bins},
            files=composition_files(grids.compositions) | {"bins.npz": lambda path: np.savez_compressed(path, **means)},
            pictures=pictures,
        )

    def score(self, case: Case, method: Method, values: Any, part: Part) -> Score:
        """The mean localization of a method's maps, undefined ones as 0."""
        from eval.frame.localization import cost_of
        from faithfulness.core.results import summarize_scores

        return summarize_scores(
            values,
            attribution=method.label,
            layer=method.layer,
            metric="localization",
            higher_is_better=True,
            seed=self.run.options.seed,
            setting=case.name,
            scale=case.scale,
            **cost_of([method], part.costs),
        )

    def bin_pictures(self, case: Case, panels: dict[tuple[str, str, str], Aggregate]) -> dict[str, Any]:
        """A figure per layer, methods in rows."""
        from faithfulness import report

        found = {}
        for layer in dict.fromkeys(layer for stem, _, layer in panels if stem == case.stem):
            rows = {name: result for (stem, name, own), result in panels.items() if (stem, own) == (case.stem, layer)}
            title = f"AggAtt, {case.title} at {layer}: {self.run.title}"
            found[f"bins-{case.stem}-{layer}"] = lambda rows=rows, title=title, layer=layer: report.aggregate_figure(
                rows, self.run.options.cell, case.scale, title=title, layer=layer
            )
        return found

    def sheet(
        self, case: Case, method: Method, result: Aggregate, numbers: dict[int, int], maps: dict[int, Tensor]
    ) -> Any:
        """What draws a method's examples; grids are read again, for the few that are shown.

        `numbers` and `maps` are, by place among the method's maps, the grid's number and the map itself.
        """
        from eval.frame.grid_batches import GridSamples
        from eval.frame.grid_options import kind_of
        from faithfulness import report

        def draw() -> Any:
            import difull

            compositions, cell = self.grids.compositions[kind_of(case.name), case.scale], self.run.options.cell
            samples = GridSamples(self.run.samples(), compositions)
            images = {
                place: difull.side_by_side(self.run.visible(samples[0, number]["image"]), case.scale)
                for place, number in numbers.items()
            }
            labels = {
                place: self.run.data.classes[compositions.labels[number, cell]] for place, number in numbers.items()
            }
            title = f"{report.short_label(method.label)} at {method.layer}, {case.title}: examples from the middle of "
            title += f"each bin of AggAtt; {self.run.title}"
            return report.examples_figure(
                result, images, maps, cell, case.scale, title=title, numbers=numbers, classes=labels
            )

        return draw


def _stem(what: str, case: Case, method: Method) -> str:
    """A file name for a method's picture; of a file's function with those folders only that tell two apart."""
    from faithfulness.report import short_labels

    label = short_labels(each.label for each in next(iter(case.methods.values())))[method.label]
    label = "".join(letter if letter.isalnum() or letter in "-+" else "_" for letter in label).strip("_")
    return f"{what}-{case.stem}-{method.layer}-{label}"


def describe_bins(case: Case, method: Method, result: Aggregate, indices: Any) -> dict[str, Any]:
    """What `summary.json` says of a method's bins: shares, counts, range of scores, example grids."""
    parts = []
    for number, scores in enumerate(result.scores_of_bins):
        parts.append(
            {
                "from": result.edges[number],
                "to": result.edges[number + 1],
                "n": len(scores),
                "best": float(scores.max()) if len(scores) else None,
                "worst": float(scores.min()) if len(scores) else None,
                "examples": [int(indices[place]) for place in result.examples[number]],
            }
        )
    names = {"setting": case.name, "scale": case.scale, "attribution": method.label, "layer": method.layer}
    return names | {"bins": parts}


def report_aggatt(summary: dict[str, Any]) -> str:
    """The range of scores in each bin."""
    from faithfulness.core.tables import format_table
    from faithfulness.report import number

    def shown(part: dict[str, Any]) -> str:
        return f"{number(part['best'], 2)}–{number(part['worst'], 2)}" if part["n"] else "–"

    rows = [
        (f"{row['setting']} {row['scale']}×{row['scale']}", row["attribution"], row["layer"], *map(shown, row["bins"]))
        for row in summary["bins"]
    ]
    names = [f"{100 * part['from']:g}–{100 * part['to']:g} %" for part in summary["bins"][0]["bins"]]
    table = format_table(("setting", "attribution", "layer", *names), rows, "<<<" + ">" * len(names))
    return "\n".join([head_of(summary), report_accuracy(summary["accuracy"]), *caution_lines(summary), table])


COMMAND = Command(AggattOptions, AggAtt, report_aggatt)
main = COMMAND.main
evaluate = COMMAND.evaluate

if __name__ == "__main__":
    sys.exit(main())
