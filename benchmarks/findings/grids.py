"""GridPG, DiFull and DiPart of some networks, at ML-Att's layers, and what the findings ask of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from benchmarks.findings.claims import GRADIENT, KERNELS, LAYERS, POOLED
from benchmarks.findings.family import BASE, NO_BATCHNORM, Scale
from benchmarks.findings.quantities import (
    Floats,
    Quantities,
    equivalent,
    largest,
    paired,
    resampled,
    unpaired,
)
from faithfulness.core.statistics import spearman_rows

if TYPE_CHECKING:
    import pandas as pd

    from eval.frame.result import Result

UNIT = "grids"
STEPS = 20
"""Of integrated gradients on grids, as published."""


def methods(scale: Scale) -> dict[str, str]:
    """Plain name -> label."""
    names = (*GRADIENT[:2], *POOLED, "layercam")
    return {**{name: name for name in names}, "ig": f"ig(steps={STEPS})", "rise": f"rise(masks={scale.masks}, cells=6)"}


def score_grids(name: str, checkpoint: Path, scale: Scale, out: Path) -> list[Result]:
    """All methods at all layers on GridPG and DiFull, RISE at two; occlusion on DiFull, IG and IxG on DiPart."""
    from eval import difull, load_results, mlatt

    known = methods(scale)
    common: dict[str, Any] = {"grids": scale.grids, "confidence": scale.confidence, "limit": 512, "accelerator": "cpu"}
    rise = known["rise"]
    wanted = [label for label in known.values() if label != rise]
    calls = {
        "mlatt": (mlatt, wanted, ["gridpg", "difull"], list(LAYERS)),
        "rise": (difull, [rise], ["gridpg", "difull"], ["input", "final"]),
        "occlusion": (difull, ["occlusion(kernel=16, stride=8)"], ["difull"], ["input"]),
        "dipart": (difull, ["ixg", known["ig"]], ["dipart"], list(LAYERS)),
    }
    results = []
    for call, (command, labels, setting, layers) in calls.items():
        folder = out / "grids" / name / call
        if (folder / "summary.json").is_file():
            results.append(load_results(folder))
            continue
        more: dict[str, Any] = {"kernels": [1, *KERNELS.values()]} if call == "mlatt" else {}
        result = command.evaluate(
            str(checkpoint),
            attributions=labels,
            setting=setting,
            layers=layers,
            out=folder,
            batch_size=8,
            **more,
            **common,
        )
        assert result is not None  # one process
        results.append(result)
    return results


class GridScores:
    """Localization per grid of one network."""

    def __init__(self, name: str, results: list[Result], scale: Scale):
        import pandas as pd

        self.name = name
        tables = [result.per_image for result in results if result.per_image is not None]
        table = pd.concat(tables, ignore_index=True)
        table = table[table.metric == "localization"]
        plain = {label: method for method, label in methods(scale).items()}
        self.table = self._plain(table, plain).fillna({"value": 0.0})
        assert results[0].path is not None
        smoothed = pd.read_parquet(results[0].path / "smoothing.parquet")
        self.smoothed = self._plain(smoothed, plain).fillna({"localization": 0.0})

    def _plain(self, table: pd.DataFrame, plain: dict[str, str]) -> pd.DataFrame:
        names = {label: label.partition("(")[0] for label in table["attribution"].unique()} | plain
        return table.assign(attribution=table["attribution"].map(names))

    def of(self, setting: str, method: str, layer: str) -> Floats:
        """A mean per grid, in the grids' order."""
        own = self.table
        own = own[(own.setting == setting) & (own.attribution == method) & (own.layer == layer)]
        return own.groupby("index")["value"].mean().sort_index().to_numpy()

    def smooth(self, method: str, kernel: int, layer: str = "input") -> Floats:
        """(grids, cells) of GridPG after smoothing."""
        own = self.smoothed
        own = own[(own.setting == "gridpg") & (own.attribution == method) & (own.layer == layer)]
        return own[own.kernel == kernel].pivot(index="index", columns="cell", values="localization").to_numpy()

    def quantities(self) -> Quantities:
        """All of section 2 for this network."""
        return {
            f"{self.name}: {key}": found for key, found in (self._levels() | self._gaps() | self._smoothing()).items()
        }

    def _levels(self) -> Quantities:
        """Means that have to lie in a range."""
        wanted = [("difull", method, layer) for method in GRADIENT for layer in LAYERS]
        wanted += [("gridpg", method, "input") for method in GRADIENT]
        wanted += [(setting, "rise", layer) for setting in ("gridpg", "difull") for layer in ("input", "final")]
        wanted.append(("difull", "occlusion", "input"))
        found = {" ".join(key): equivalent(self.of(*key), UNIT, [whole(self.name)]) for key in wanted}
        if self.name in (BASE, NO_BATCHNORM):
            distance = np.abs(self.of("gridpg", "grad|abs", "final") - 0.25)
            found["gradient from uniform"] = largest(distance, UNIT, [whole(self.name)])
        return found

    def _gaps(self) -> Quantities:
        """Differences between methods and between settings."""
        models, found = [whole(self.name)], {}
        reference = self.of("gridpg", "gradcam", "final")
        for method in ("ixg", "ig"):
            gap = self.of("gridpg", method, "final") - reference
            found[f"gridpg {method} - gradcam final"] = equivalent(gap, UNIT, models)
            for layer in LAYERS:
                gap = self.of("dipart", method, layer) - self.of("difull", method, layer)
                found[f"{method} dipart - difull {layer}"] = equivalent(gap, UNIT, models)
        for method in (*POOLED, "layercam"):
            difull, gridpg = (self.of(setting, method, "final") for setting in ("difull", "gridpg"))
            found[f"{method} difull - gridpg final"] = unpaired(difull, gridpg, UNIT, models)
        found["layercam difull - gridpg final"]["p"] = None  # "does not" is a range, not a sign
        return found

    def _smoothing(self) -> Quantities:
        """What smoothing adds to localization, and to its correlation with Grad-CAM's."""
        models, found = [whole(self.name)], {}
        reference = self.smooth("gradcam", 1, "final")
        for method, kernel in KERNELS.items():
            plain, smoothed = self.smooth(method, 1), self.smooth(method, kernel)
            grids = np.arange(len(plain))
            gain = paired(smoothed.mean(axis=1), plain.mean(axis=1), grids, UNIT, models)
            found[f"{method} smoothed - plain"] = gain if method == "ig" else gain | {"p": None}

            def correlation(rows: np.ndarray, values: Floats = reference) -> Floats:
                drawn = [torch.from_numpy(each[rows].reshape(len(rows), -1)) for each in (values, reference)]
                return spearman_rows(*drawn).numpy()

            found[f"{method} correlation"] = resampled(
                lambda rows, a=smoothed, b=plain, f=correlation: f(rows, a) - f(rows, b), len(grids), UNIT, models
            ) | {
                "plain": float(correlation(grids[None], plain)[0]),
                "smoothed": float(correlation(grids[None], smoothed)[0]),
                "kernel": kernel,
            }
        return found


def whole(name: str) -> str:
    """What the record calls the checkpoint that has seen whole images only, on which grids are scored."""
    return f"{name} (whole images)"
