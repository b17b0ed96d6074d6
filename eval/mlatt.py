"""ML-Att: every method at every layer in every setting, beside each other; and what smoothing does to them.

python -m eval.mlatt --model runs/demo/checkpoint --grids 200
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from attribution.smoothing import smooth
from core import InputError
from core.cli import run_command
from core.results import write_per_image, write_summary
from core.statistics import spearman_rows
from difull import localization_score
from difull.figures import heat_map_figure, save_figure
from eval.difull import DifullEvaluation, DifullOptions, draw, grid_scores, merge_rows, print_accuracy, score_matrix
from eval.grids import Case, GridBatch, save_compositions
from eval.report import format_table, number, print_attributions, print_cautions
from eval.runner import Method

PUBLISHED_SIDE = 448
REFERENCE = ("gradcam", "final")
RESAMPLES = 400


@dataclass(kw_only=True)
class MlattOptions(DifullOptions):
    """Compare methods at input, middle and final layer in all settings.

    Args:
        kernels: smoothing kernels K in pixels of a grid of 448 px, scaled to each map; 1 is none.
    """

    protocol_name: ClassVar[str] = "mlatt"

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


def kernel_for(published: int, size: tuple[int, int]) -> int:
    """A kernel of 448 px scaled to a map: odd, at least 1, at most what the map can reflect."""
    side = min(size)
    return min(max(1, 2 * round((published / PUBLISHED_SIDE * side - 1) / 2) + 1), 2 * side - 1)


class MlattEvaluation(DifullEvaluation):
    """Localisation as in `eval.difull`, and of every map after smoothing."""

    options: MlattOptions

    def __init__(self, options: MlattOptions):
        self.smoothed: list[pd.DataFrame] = []
        super().__init__(options)

    def observe(self, case: Case, cell: int, method: Method, batch: GridBatch, predicted: Tensor, maps: Tensor) -> None:
        super().observe(case, cell, method, batch, predicted, maps)
        size = (maps.shape[-2], maps.shape[-1])
        how = self.scoring(method, batch)
        scores: dict[int, np.ndarray] = {}  # small maps share a kernel
        for published in self.options.kernels:
            kernel = kernel_for(published, size)
            if kernel not in scores:
                shown = maps if kernel == 1 else smooth(maps, kernel)
                scores[kernel] = localization_score(shown, cell, case.scale, **how).cpu().numpy()
            self.smoothed.append(
                pd.DataFrame(
                    {
                        "setting": case.name,
                        "scale": case.scale,
                        "attribution": method.label,
                        "layer": method.layer,
                        "kernel": published,
                        "kernel_of_map": kernel,
                        "index": batch.indices.cpu().numpy(),
                        "cell": cell,
                        "localization": scores[kernel],
                    }
                )
            )

    def kept(self) -> Any:
        return self.rows, self.smoothed

    def finish(self, kept: list[Any]) -> dict[str, Any]:
        options = self.options
        table = merge_rows([rank[0] for rank in kept])
        keys = ["setting", "scale", "attribution", "layer", "kernel", "index", "cell"]
        smoothed = pd.concat([part for rank in kept for part in rank[1]]).sort_values(keys).reset_index(drop=True)
        scores = grid_scores(table, self.cases, options.seed)
        correlations = correlate(smoothed, options.seed)
        accuracy = self.accuracy()
        with options.result_folder() as folder:
            save_compositions(folder, self.compositions)
            write_per_image(folder, table)
            smoothed.to_parquet(folder / "smoothing.parquet")
            summary = write_summary(
                folder,
                protocol=options.protocol_name,
                model=self.runner.checkpoint.describe(),
                data=self.runner.describe_data(),
                settings=self.describe_settings() | {"kernels": options.kernels, "scoring": options.scoring},
                scores=scores,  # type: ignore[arg-type]
                accuracy=accuracy,
                cautions=self.cautions(accuracy),
                correlations=correlations,
            )
            draw(folder / "plots", table, scores, self.cases)
            draw_correlations(folder / "plots", correlations, self.cases)
        print_accuracy(summary["accuracy"])
        print_cautions(summary)
        values, methods, columns = score_matrix(scores, "localization")
        rows = [(name, *(number(value, 2) for value in row)) for name, row in zip(methods, values, strict=True)]
        print(format_table(("localisation", *(f"{setting} {layer}" for setting, layer in columns)), rows))
        print_correlations(correlations)
        print(f"results: {options.out}/summary.json, per_image.parquet, smoothing.parquet, plots/")
        return summary


def correlate(smoothed: pd.DataFrame, seed: int) -> list[dict[str, Any]]:
    """Spearman correlation over (grid, cell) of each smoothed method's localisation with unsmoothed Grad-CAM at Final.

    The 95% interval is a percentile bootstrap over grids. None where one of the two is constant.
    """
    found = []
    for (setting, _), own in smoothed.groupby(["setting", "scale"], sort=False):
        is_reference = (own.attribution == REFERENCE[0]) & (own.layer == REFERENCE[1]) & (own.kernel == 1)
        reference = own[is_reference].sort_values(["index", "cell"])
        grids, positions = np.unique(reference["index"].to_numpy(), return_inverse=True)
        each = np.argsort(positions, kind="stable").reshape(len(grids), -1)
        draws = np.random.default_rng(seed).integers(len(grids), size=(RESAMPLES, len(grids)))
        samples = torch.from_numpy(each[draws].reshape(RESAMPLES, -1))
        target = torch.from_numpy(reference["localization"].to_numpy().copy())
        for (name, layer, _), part in own.groupby(["attribution", "layer", "kernel"], sort=False):
            values = torch.from_numpy(part.sort_values(["index", "cell"])["localization"].to_numpy().copy())
            rho = float(spearman_rows(values[None], target[None]))
            resampled = spearman_rows(values[samples], target[samples]).numpy()
            resampled = resampled[~np.isnan(resampled)]
            interval = np.quantile(resampled, [0.025, 0.975]).tolist() if len(resampled) else [np.nan, np.nan]
            found.append(
                {
                    "setting": setting,
                    "scale": int(own["scale"].iloc[0]),
                    "attribution": name,
                    "layer": layer,
                    "kernel": int(part["kernel"].iloc[0]),
                    "kernel_of_map": int(part["kernel_of_map"].iloc[0]),
                    "spearman": rho,
                    "ci95": interval,
                    "localization": float(values.mean()),
                    "n": len(values),
                }
            )
    return found


def draw_correlations(folder: Any, correlations: list[dict[str, Any]], cases: list[Case]) -> None:
    """A heat map per setting: methods and layers in rows, kernels in columns."""
    for case in cases:
        own = [row for row in correlations if (row["setting"], row["scale"]) == (case.name, case.scale)]
        names = list(dict.fromkeys(f"{row['attribution']}@{row['layer']}" for row in own))
        kernels = list(dict.fromkeys(row["kernel"] for row in own))
        values = np.full((len(names), len(kernels)), np.nan)
        for row in own:
            values[names.index(f"{row['attribution']}@{row['layer']}"), kernels.index(row["kernel"])] = row["spearman"]
        columns = [(case.title, "none" if kernel == 1 else f"K = {kernel}") for kernel in kernels]
        title = f"Spearman correlation with {REFERENCE[0]} at {REFERENCE[1]}, after smoothing"
        picture = heat_map_figure(values, names, columns, title, "Spearman", (-1.0, 1.0))
        save_figure(picture, folder / f"correlation-{case.stem}.png")


def print_correlations(correlations: list[dict[str, Any]]) -> None:
    """Each method's correlation unsmoothed, and at the kernel that helps it most."""
    rows = []
    keys = list(dict.fromkeys((r["setting"], r["scale"], r["attribution"], r["layer"]) for r in correlations))
    for key in keys:
        own = [r for r in correlations if (r["setting"], r["scale"], r["attribution"], r["layer"]) == key]
        plain = next(r for r in own if r["kernel"] == 1)
        best = max(own, key=lambda r: -2 if np.isnan(r["spearman"]) else r["spearman"])
        shown = [
            f"{number(r['spearman'], 2)} [{number(r['ci95'][0], 2)}, {number(r['ci95'][1], 2)}]" for r in (plain, best)
        ]
        rows.append((f"{key[0]} {key[1]}×{key[1]}", key[2], key[3], *shown, str(best["kernel"])))
    print(f"\nSpearman correlation of localisation with {REFERENCE[0]} at {REFERENCE[1]}")
    print(format_table(("setting", "attribution", "layer", "unsmoothed", "smoothed best", "K"), rows, "<<<>>>"))


def evaluate(options: MlattOptions) -> dict[str, Any] | None:
    """Run the comparison and write its results; returns the summary (None on other processes)."""
    if options.list_attributions:
        print_attributions()
        return None
    return MlattEvaluation(options).run()


if __name__ == "__main__":
    sys.exit(run_command(MlattOptions, evaluate))
