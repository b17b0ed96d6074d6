"""Score attributions on grids of images whose heads provably can't see other cells (DiFull, GridPG, DiPart)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from eval.frame import Command, Outcome, Part, Pass
from eval.frame.cautions import caution_lines
from eval.frame.grid_options import GridOptions
from eval.frame.grid_text import head_of, report_accuracy

if TYPE_CHECKING:
    from eval.frame.run import Run


@dataclass(kw_only=True)
class DifullOptions(GridOptions):
    """Score attributions by the share that lies in the cell that the explained head sees.

    Args:
        baseline: another model whose heads' accuracy on the same grids is told beside this one's; none by default.
        bilinear: score as published, after bilinear upsampling to the grid; exact otherwise.

    Example:
        python -m eval.difull --model runs/demo/checkpoint --setting difull gridpg --layers input final
    """

    protocol_name: ClassVar[str] = "difull"

    baseline: str | Any | None = None
    bilinear: bool = False


class GridLocalization:
    """Localization and impossible attribution of every method, layer, setting and head."""

    def __init__(self, run: Run[DifullOptions]):
        from eval.frame.grids import Grids
        from eval.frame.localization import Localization

        self.run = run
        self.grids = Grids(run, baseline=run.options.baseline)
        self.localization = Localization(self.grids, run.options.bilinear)

    def passes(self) -> Iterator[Pass]:
        """All grids of all kinds."""
        yield from self.grids.passes(self.localization.observe)

    def summarize(self, part: Part) -> Outcome:
        """Scores, accuracy of the heads, tests, what can matter."""
        from eval.frame.compositions import composition_files
        from eval.frame.localization import (
            grid_scores,
            localization_pictures,
            localization_table,
            test_pictures,
            tests_of,
        )

        options, grids = self.run.options, self.grids
        accuracy = grids.accuracy(part)
        table = localization_table(part)
        scores = grid_scores(table, grids.cases, part.costs, options.seed)
        tests = tests_of(table, grids.cases)
        return Outcome(
            scores=scores,
            settings=grids.describe(part) | {"scoring": "bilinear" if options.bilinear else "exact"},
            sections={
                "accuracy": accuracy,
                "cautions": grids.cautions(accuracy),
                "share_that_can_matter": self.localization.shares(),
                "tests": tests,
            },
            per_image=table,
            files=composition_files(grids.compositions),
            pictures=localization_pictures(self.localization, table, scores)
            | test_pictures(table, grids.cases, tests, self.run.title),
        )


def report_difull(summary: dict[str, Any]) -> str:
    """Accuracy of the heads, then localization and impossible attribution with their intervals."""
    from faithfulness.core.tables import format_table
    from faithfulness.report import number

    def key(score: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(score[name] for name in ("setting", "scale", "attribution", "layer"))

    metric = "impossible_attribution"
    impossible = {key(score): score for score in summary["scores"] if score["metric"] == metric}
    rows = []
    for score in summary["scores"]:
        if score["metric"] != "localization":
            continue
        other = impossible.get(key(score))
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
    header = ("setting", "attribution", "layer", "localization", "95% interval", "impossible", "95% interval")
    table = format_table((*header, "n", "undefined", "ms/map"), rows, "<<<>>>>>>>")
    return "\n".join([head_of(summary), report_accuracy(summary["accuracy"]), *caution_lines(summary), table])


COMMAND = Command(DifullOptions, GridLocalization, report_difull)
main = COMMAND.main
evaluate = COMMAND.evaluate

if __name__ == "__main__":
    sys.exit(main())
