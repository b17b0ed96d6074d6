"""Whether the published findings on grids hold for demo-size models on embedded data.

    python -m benchmarks.findings_grids --out runs/findings    # trains and scores four models: an hour on two cores
    python -m benchmarks.findings_grids --out runs/smoke --models resnet --train-images 512 --grids 8 --confidence 0

Findings of Rao, Böhle, Schiele (CVPR 2022, and the journal version). Each is a contrast of mean
localization scores with a 95% bootstrap interval over grids, and one of three verdicts per model: it
holds, it doesn't, or the interval doesn't tell. A finding that does not hold is reported as such.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from eval.mlatt import COMMAND, MlattOptions
from faithfulness.core.checks import check_count
from faithfulness.core.cli import run_command
from faithfulness.core.errors import InputError, unknown_name
from faithfulness.core.files import write_json
from faithfulness.core.results import environment
from faithfulness.core.statistics import mean_interval
from faithfulness.core.tables import format_table
from faithfulness.report import number
from training.patch_finetune import finetune
from training.recipe import EMBEDDED

MODELS: dict[str, dict[str, Any]] = {
    "resnet": {"model": EMBEDDED.model, "model_args": EMBEDDED.model_args},
    "resnet_nobn": {"model": "resnet10_nobn_small", "epochs": 8, "lr": 4e-3},
    "vgg": {"model": "vgg8_small", "epochs": 8, "lr": 2e-3},
    "vit": {"model": "vit_conv_small", "epochs": 30, "lr": 3e-3},
}
"""How each model is trained, where it isn't the embedded recipe."""
GRADIENT = ("grad|abs", "ixg", "ig")
POOLED = ("gradcam", "gradcampp")
MASKS = 100
"""RISE's masks; published 1000."""
RISE = f"rise(masks={MASKS}, cells=6)"
METHODS = (*GRADIENT, *POOLED, "layercam", "occlusion", RISE)
KERNEL = 129
"""Smoothing kernel at 448 px; for S-IxG the journal version's 65 is alike at this size."""


@dataclass
class Scores:
    """Localization of one model: mean over the scored cells of each grid, by setting, method, layer and kernel."""

    table: pd.DataFrame
    correlations: list[dict[str, Any]]
    seed: int

    def of(self, setting: str, method: str, layer: str, kernel: int = 1) -> np.ndarray:
        """Per-grid means (N,), in the grids' order."""
        rows = self.table.loc[(setting, method, layer, kernel)]
        return rows.groupby("index")["localization"].mean().sort_index().to_numpy()

    def spearman(self, method: str, kernel: int) -> dict[str, Any]:
        """Correlation with Grad-CAM at Final on GridPG, at the input."""
        wanted = ("gridpg", method, "input", kernel)
        keys = ("setting", "attribution", "layer", "kernel")
        return next(row for row in self.correlations if tuple(row[key] for key in keys) == wanted)

    def claim(self, values: np.ndarray, low: float, high: float, what: str) -> dict[str, Any]:
        """A quantity's mean and interval, and whether it lies between low and high."""
        interval = mean_interval(values, self.seed)
        inside, outside = low <= interval[0] and interval[1] <= high, interval[1] < low or interval[0] > high
        verdict = "holds" if inside else "does not hold" if outside else "undecided"
        return {"quantity": what, "mean": float(values.mean()), "ci95": interval, "expected": [low, high]} | {
            "verdict": verdict
        }


def gradient_on_difull(scores: Scores) -> list[dict[str, Any]]:
    return [
        scores.claim(scores.of("difull", method, layer), 0.95, 1.0, f"{method} at {layer} on DiFull")
        for method in GRADIENT
        for layer in ("input", "middle", "final")
    ]


def gradient_on_gridpg(scores: Scores) -> list[dict[str, Any]]:
    return [
        scores.claim(scores.of("gridpg", method, "input"), 0.15, 0.40, f"{method} at input on GridPG (uniform: 0.25)")
        for method in GRADIENT
    ]


def match_gradcam(scores: Scores) -> list[dict[str, Any]]:
    reference = scores.of("gridpg", "gradcam", "final")
    return [
        scores.claim(
            scores.of("gridpg", method, "final") - reference, -0.1, 0.1, f"{method} - gradcam at final on GridPG"
        )
        for method in ("ixg", "ig")
    ]


def pooled_cams(scores: Scores) -> list[dict[str, Any]]:
    return [
        scores.claim(
            _shift(scores.of("difull", method, "final"), scores.of("gridpg", method, "final")),
            -1.0,
            0.0,
            f"{method} at final: DiFull - GridPG",
        )
        for method in POOLED
    ]


def layercam(scores: Scores) -> list[dict[str, Any]]:
    shift = _shift(scores.of("difull", "layercam", "final"), scores.of("gridpg", "layercam", "final"))
    return [scores.claim(shift, 0.0, 1.0, "layercam at final: DiFull - GridPG")]


def rise(scores: Scores) -> list[dict[str, Any]]:
    return [
        scores.claim(scores.of(setting, RISE, layer), 0.0, 0.5, f"RISE at {layer} on {setting}")
        for setting in ("difull", "gridpg")
        for layer in ("input", "final")
    ]


def occlusion(scores: Scores) -> list[dict[str, Any]]:
    return [scores.claim(scores.of("difull", "occlusion", "input"), 0.9, 1.0, "occlusion at input on DiFull")]


def smoothing_ig(scores: Scores) -> list[dict[str, Any]]:
    gain = scores.of("gridpg", "ig", "input", KERNEL) - scores.of("gridpg", "ig", "input")
    return [
        scores.claim(gain, 0.0, 1.0, f"IG at input on GridPG: smoothed (K = {KERNEL}) - plain"),
        _correlation_gain(scores, "ig"),
    ]


def smoothing_ixg(scores: Scores) -> list[dict[str, Any]]:
    gain = scores.of("gridpg", "ixg", "input", KERNEL) - scores.of("gridpg", "ixg", "input")
    return [
        scores.claim(gain, -1.0, 0.1, f"IxG at input on GridPG: smoothed (K = {KERNEL}) - plain"),
        _correlation_gain(scores, "ixg"),
    ]


def dipart_like_difull(scores: Scores) -> list[dict[str, Any]]:
    return [
        scores.claim(
            scores.of("dipart", method, layer) - scores.of("difull", method, layer),
            -0.1,
            0.1,
            f"{method} at {layer}: DiPart - DiFull",
        )
        for method in ("ixg", "ig")
        for layer in ("input", "middle", "final")
    ]


def constant_gradient(scores: Scores) -> list[dict[str, Any]]:
    values = scores.of("gridpg", "grad|abs", "final")
    claim = scores.claim(np.abs(values - 0.25), 0.0, 1e-3, "|gradient at final on GridPG - 0.25|")
    return [claim | {"spread": float(np.ptp(values))}]


def _correlation_gain(scores: Scores, method: str) -> dict[str, Any]:
    """The two correlations beside each other; they are told, not judged."""
    plain, smoothed = scores.spearman(method, 1), scores.spearman(method, KERNEL)
    what = f"Spearman of {method} with Grad-CAM at final, K = {KERNEL} (plain {number(plain['spearman'], 2)})"
    return {"quantity": what, "mean": smoothed["spearman"], "ci95": smoothed["ci95"], "plain": plain} | {
        "verdict": "told only"
    }


def _shift(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Differences of values on different grids, paired in no particular order, so that the spread of both is kept."""
    count = min(len(a), len(b))
    return a[:count] - b[:count]


EVERY = tuple(MODELS)
FINDINGS: dict[str, tuple[str, tuple[str, ...], Callable[[Scores], list[dict[str, Any]]]]] = {
    "gradient_on_difull": ("gradient methods near 1 on DiFull at every layer", EVERY, gradient_on_difull),
    "gradient_on_gridpg": ("gradient methods near uniform on GridPG at the input", EVERY, gradient_on_gridpg),
    "match_gradcam": ("IG and IxG match Grad-CAM at Final", EVERY, match_gradcam),
    "pooled_cams": ("pooled CAMs do worse on DiFull than on GridPG at Final", EVERY, pooled_cams),
    "layercam": ("Layer-CAM does not", EVERY, layercam),
    "rise": ("RISE poor everywhere", EVERY, rise),
    "occlusion": ("occlusion near 1 on DiFull at the input", EVERY, occlusion),
    "smoothing_ig": ("smoothing lifts IG on GridPG at the input", EVERY, smoothing_ig),
    "smoothing_ixg": ("S-IxG fails with BatchNorm", ("resnet",), smoothing_ixg),
    "dipart_like_difull": ("DiPart ≈ DiFull", EVERY, dipart_like_difull),
    "constant_gradient": (
        "gradient scores constant at Final before global pooling",
        ("resnet", "resnet_nobn"),
        constant_gradient,
    ),
}


def score_model(model: Path, out: Path, grids: int, confidence: float, seed: int) -> Scores:
    """Run ML-Att on a model, and read what it wrote."""
    options = MlattOptions(
        model=str(model),
        out=out,
        overwrite=True,
        grids=grids,
        confidence=confidence,
        seed=seed,
        attributions=list(METHODS),
        kernels=[1, KERNEL],
    )
    summary = COMMAND.run(options).summary
    assert summary is not None
    table = pd.read_parquet(out / "smoothing.parquet")
    return Scores(
        table.set_index(["setting", "attribution", "layer", "kernel"]).sort_index(), summary["correlations"], seed
    )


def main(
    out: Path = Path("runs/findings"),
    train_images: int | None = None,
    grids: int = 100,
    confidence: float = 0.99,
    models: list[str] | None = None,
    seed: int = 0,
) -> None:
    """Train what isn't trained yet, score it, and write findings.json.

    Args:
        out: folder for checkpoints, runs and findings.json.
        train_images: of each training run.
        grids: per setting.
        confidence: least confidence of the images in grids; a small model may need less.
        models: some of resnet, resnet_nobn, vgg, vit; all by default.
        seed: keys everything random.
    """
    check_count("--grids", grids)
    if not 0 <= confidence <= 1:
        raise InputError(f"--confidence must lie in [0, 1], got {confidence}")
    for name in models or []:
        if name not in MODELS:
            raise unknown_name("model", name, MODELS)
    rows = []
    for name in models or list(MODELS):
        folder = out / "models" / name
        if not (folder / "model.safetensors").is_file():
            finetune(
                out=folder,
                **MODELS[name],
                train_images=train_images,
                seed=seed,
                overwrite=True,
                deletion_probability=0.0,
                composite_prob=0.0,
            )
        try:
            scores = score_model(folder, out / "mlatt" / name, grids, confidence, seed)
        except InputError as error:
            rows.append({"model": name, "finding": "all", "claims": [], "verdict": f"not tested: {error}"})
            continue
        for key, (text, on, test) in FINDINGS.items():
            if name in on:
                claims = test(scores)
                rows.append({"model": name, "finding": key, "text": text, "claims": claims, "verdict": _all(claims)})
    settings = {"train_images": train_images, "models": MODELS, "grids": grids, "confidence": confidence, "seed": seed}
    write_json(out / "findings.json", {"settings": settings, "findings": rows, "environment": environment()})
    print_findings(rows)
    print(f"results: {out}/findings.json")


def _all(claims: list[dict[str, Any]]) -> str:
    """A finding holds if all its claims do, and doesn't if one doesn't."""
    verdicts = {claim["verdict"] for claim in claims}
    return next((verdict for verdict in ("does not hold", "undecided") if verdict in verdicts), "holds")


def print_findings(rows: list[dict[str, Any]]) -> None:
    """A line per claim, with the finding's verdict on its first."""
    lines = []
    for row in rows:
        if not row["claims"]:
            lines.append((row["model"], row["finding"], row["verdict"], "", "", ""))
        for place, claim in enumerate(row["claims"]):
            interval = f"[{number(claim['ci95'][0])}, {number(claim['ci95'][1])}]"
            head = (row["model"], row["text"], row["verdict"]) if place == 0 else ("", "", "")
            lines.append((*head, f"{claim['quantity']}: {claim['verdict']}", number(claim["mean"]), interval))
    print(format_table(("model", "finding", "verdict", "quantity", "mean", "95% interval"), lines, "<<<<>>"))


if __name__ == "__main__":
    sys.exit(run_command(main))
