"""Compare every method at every layer in every setting (ML-Att), and see what smoothing does to them."""

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

    from eval.frame.grid_batches import GridBatch
    from eval.frame.grids import Case
    from eval.frame.methods import Method
    from eval.frame.run import Run

REFERENCE = ("gradcam", "final")


@dataclass(kw_only=True)
class MlattOptions(GridOptions):
    """Compare methods at input, middle and final layer in all settings.

    Args:
        baseline: another model whose heads' accuracy on the same grids is told beside this one's; none by default.
        bilinear: score as published, after bilinear upsampling to the grid; exact otherwise.
        kernels: smoothing kernels K in pixels of a grid of 448 px, scaled to each map; 1 is none.

    Example:
        python -m eval.mlatt --model runs/demo/checkpoint --grids 200 --attributions grad ixg gradcam
    """

    protocol_name: ClassVar[str] = "mlatt"

    baseline: str | Any | None = None
    bilinear: bool = False
    setting: list[str] = field(default_factory=lambda: ["gridpg", "difull", "dipart"])
    layers: list[str] | None = field(default_factory=lambda: ["input", "middle", "final"])
    kernels: list[int] = field(default_factory=lambda: [1, 9, 17, 33, 65, 129, 257])

    def check(self) -> None:
        """Raise InputError for values that this command can't use; adds the method that all are compared with."""
        super().check()
        if not self.layers or REFERENCE[1] not in self.layers:
            raise InputError(f"--layers must have {REFERENCE[1]}, where the reference {REFERENCE[0]} is explained")
        if any(not isinstance(kernel, int) or kernel < 1 or kernel % 2 == 0 for kernel in self.kernels):
            raise InputError(f"--kernels takes odd numbers of at least 1, got {self.kernels}")
        if not any(name.partition("@")[0].strip().lower() in (REFERENCE[0], "grad-cam") for name in self.attributions):
            self.attributions = [*self.attributions, REFERENCE[0]]
        self.kernels = sorted({1, *self.kernels})


class MlAtt:
    """Localization as in `eval.difull`, and of every map after smoothing."""

    def __init__(self, run: Run[MlattOptions]):
        from eval.frame.grids import Grids
        from eval.frame.localization import Localization

        self.run = run
        self.grids = Grids(run, baseline=run.options.baseline)
        self.localization = Localization(self.grids, run.options.bilinear)

    def passes(self) -> Iterator[Pass]:
        """All grids of all kinds."""
        yield from self.grids.passes(self.observe)

    def observe(
        self, part: Part, case: Case, cell: int, method: Method, batch: GridBatch, predicted: Tensor, maps: Tensor
    ) -> None:
        """Add the scores of one head's maps, as they are and smoothed."""
        from difull import smoothed_scores

        self.localization.observe(part, case, cell, method, batch, predicted, maps)
        how = self.localization.upsampling(method, batch)
        for published, (kernel, scores) in smoothed_scores(
            maps, cell, case.scale, self.run.options.kernels, **how
        ).items():
            part.add(
                "smoothing",
                setting=case.name,
                scale=case.scale,
                attribution=method.label,
                layer=method.layer,
                kernel=published,
                kernel_of_map=kernel,
                index=batch.indices,
                cell=cell,
                localization=scores,
            )

    def summarize(self, part: Part) -> Outcome:
        """Scores, accuracy of the heads, and correlations with the reference."""
        import pandas as pd

        from eval.frame.compositions import composition_files
        from eval.frame.correlations import correlate, correlation_pictures
        from eval.frame.localization import grid_scores, localization_pictures, localization_table

        options, grids = self.run.options, self.grids
        accuracy = grids.accuracy(part)
        table = localization_table(part)
        keys = ["setting", "scale", "attribution", "layer", "kernel", "index", "cell"]
        smoothed = pd.DataFrame(part.table("smoothing")).sort_values(keys).reset_index(drop=True)
        scores = grid_scores(table, grids.cases, part.costs, options.seed)
        correlations = correlate(smoothed, REFERENCE, options.seed)
        scoring = "bilinear" if options.bilinear else "exact"
        return Outcome(
            scores=scores,
            settings=grids.describe(part) | {"kernels": options.kernels, "scoring": scoring},
            sections={"accuracy": accuracy, "cautions": grids.cautions(accuracy), "correlations": correlations},
            per_image=table,
            files=composition_files(grids.compositions) | {"smoothing.parquet": smoothed.to_parquet},
            pictures=localization_pictures(self.localization, table, scores)
            | correlation_pictures(correlations, REFERENCE, grids.cases, self.run.title),
        )


def report_mlatt(summary: dict[str, Any]) -> str:
    """Localization of all methods at all layers, and each method's correlation with the reference."""
    from eval.frame.correlations import report_correlations
    from eval.frame.localization import score_matrix
    from faithfulness.core.tables import format_table
    from faithfulness.report import number

    values, methods, columns = score_matrix(summary["scores"], "localization")
    rows = [(name, *(number(value, 2) for value in row)) for name, row in zip(methods, values, strict=True)]
    table = format_table(("localization", *(f"{setting} {layer}" for setting, layer in columns)), rows)
    correlations = report_correlations(summary["correlations"], REFERENCE)
    accuracy = report_accuracy(summary["accuracy"])
    return "\n".join([head_of(summary), accuracy, *caution_lines(summary), table, correlations])


COMMAND = Command(MlattOptions, MlAtt, report_mlatt)
main = COMMAND.main
evaluate = COMMAND.evaluate

if __name__ == "__main__":
    sys.exit(main())
