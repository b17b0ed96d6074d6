"""GridPG, DiFull and DiPart of some networks, at ML-Att's layers, and what the findings ask of them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
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
from benchmarks.findings.steps import Steps, weights_of
from faithfulness.core.errors import InputError
from faithfulness.core.statistics import spearman_rows

if TYPE_CHECKING:
    import pandas as pd

    from eval.frame.result import Result

UNIT = "grids"
CELLS = 2
"""Per side of a grid."""
STEPS = 20
"""Of integrated gradients on grids, as published."""


def methods(scale: Scale) -> dict[str, str]:
    """Plain name -> label."""
    names = (*GRADIENT[:2], *POOLED, "layercam")
    return {**{name: name for name in names}, "ig": f"ig(steps={STEPS})", "rise": f"rise(masks={scale.masks}, cells=6)"}


class TooFewImagesError(InputError):
    """Of no grid has a network enough sure images."""


def choose_grids(checkpoint: Path, scale: Scale, steps: Steps, folder: Path, key: str) -> None:
    """Compose grids of the images of validation that the network is sure of, each image in one grid of a kind.

    As many as that gives, up to the scale's. Raises TooFewImagesError where it isn't one.
    """
    from benchmarks.findings.inputs import inputs_of
    from checkpoints import load_model
    from difull import choose_confident, make_compositions
    from difull.compositions import KINDS, count_possible

    def make() -> None:
        model = load_model(checkpoint).model.eval()
        images, classes = inputs_of(model, torch.float32)
        with torch.no_grad():
            sure = torch.cat([model(batch) for batch in images.split(64)]).double().softmax(dim=1)
        labels = classes.numpy()
        for kind in KINDS:
            try:
                chosen = choose_confident(sure, labels, scale.confidence, scale=CELLS, kind=kind, reuse=False)
            except InputError as error:
                raise TooFewImagesError(str(error)) from error
            count = min(scale.grids, count_possible(labels[chosen], CELLS, kind, reuse=False))
            made = make_compositions(labels, chosen, CELLS, count, kind, reuse=False)
            made.save(folder / f"{kind}.parquet")

    given = {"grids": scale.grids, "confidence": scale.confidence, "model": weights_of(checkpoint)}
    steps.once(key, given, folder / f"{KINDS[-1]}.parquet", make)


def score_grids(name: str, checkpoint: Path, scale: Scale, steps: Steps) -> list[Result]:
    """All methods at all layers on GridPG and DiFull; occlusion on DiFull, IG and IxG on DiPart.

    Raises InputError where an earlier call scored otherwise, and TooFewImagesError.
    """
    from eval import difull, load_results, mlatt

    known, chosen = methods(scale), f"grids/{name}/chosen"
    choose_grids(checkpoint, scale, steps, steps.out / chosen, chosen)
    common: dict[str, Any] = {"one_use": True, "accelerator": "cpu", "batch_size": 8}
    common["compositions"] = [str(steps.out / chosen)]
    rise = known["rise"]
    wanted = [label for label in known.values() if label != rise]
    calls = {
        "mlatt": (mlatt, wanted, ["gridpg", "difull"], list(LAYERS)),
        "rise": (difull, [rise], ["gridpg", "difull"], list(LAYERS)),
        "occlusion": (difull, ["occlusion(kernel=16, stride=8)"], ["difull"], ["input"]),
        "dipart": (difull, ["ixg", known["ig"]], ["dipart"], list(LAYERS)),
    }
    results = []
    for call, (command, labels, setting, layers) in calls.items():
        key = f"grids/{name}/{call}"
        folder = steps.out / key
        flags: dict[str, Any] = {"attributions": labels, "setting": setting, "layers": layers}
        flags |= {"kernels": [1, *KERNELS.values()]} if call == "mlatt" else {}
        given = flags | {"grids": scale.grids, "confidence": scale.confidence, "model": weights_of(checkpoint)}
        make = partial(command.evaluate, str(checkpoint), **flags, **common, out=folder)
        steps.once(key, given, folder / "summary.json", make)
        results.append(load_results(folder))
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

    def gain(self, method: str) -> Floats:
        """What smoothing adds to the mean localization of every grid."""
        return (self.smooth(method, KERNELS[method]) - self.smooth(method, 1)).mean(axis=1)

    def _levels(self) -> Quantities:
        """Means that have to lie in a range."""
        wanted = [("difull", method, layer) for method in GRADIENT for layer in LAYERS]
        wanted += [("gridpg", method, "input") for method in GRADIENT]
        wanted += [(setting, "rise", layer) for setting in ("gridpg", "difull") for layer in LAYERS]
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


def contrast_quantities(scored: Mapping[str, GridScores]) -> Quantities:
    """What smoothing adds to IxG without BatchNorm, minus with it: grids of two networks, not pairs."""
    if not {NO_BATCHNORM, BASE} <= scored.keys():
        return {}
    without, with_it = (scored[name].gain("ixg") for name in (NO_BATCHNORM, BASE))
    models = [whole(name) for name in (NO_BATCHNORM, BASE)]
    return {f"ixg smoothing gain: {NO_BATCHNORM} - {BASE}": unpaired(without, with_it, UNIT, models)}


def whole(name: str) -> str:
    """What the record calls the checkpoint that has seen whole images only, on which grids are scored."""
    return f"{name} (whole images)"
