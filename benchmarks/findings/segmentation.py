"""DEA and its baselines on a segmenter, and what the findings ask of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.findings.family import Scale
from benchmarks.findings.quantities import Quantities, largest, paired
from benchmarks.findings.steps import Steps, weights_of

if TYPE_CHECKING:
    from eval.frame.result import Result

BASELINES = ("ega", "gpa")
SEGMENTER = Path("checkpoints/released/digits-segmenter")
NAME = "segmenter"


def score_segmenter(scale: Scale, steps: Steps) -> Result:
    """DEA and both baselines on the shipped segmenter; InputError where an earlier call scored otherwise."""
    from eval import load_results
    from eval.dea import evaluate

    folder = steps.out / "dea"
    model = Path(__file__).resolve().parents[2] / SEGMENTER
    flags: dict[str, Any] = {"attributions": ["dea", *BASELINES], "limit": scale.pairs_of}

    def make() -> None:
        evaluate(str(model), **flags, out=folder, accelerator="cpu")

    steps.once("dea", flags | {"model": weights_of(model)}, folder / "summary.json", make)
    return load_results(folder)


def segmentation_quantities(result: Result) -> Quantities:
    """Differences of DEA from both baselines on the same pairs of image and class."""
    import numpy as np

    assert result.per_image is not None
    keys = ["index", "class"]
    found: Quantities = {}

    def differences(metric: str, baseline: str) -> dict[str, object]:
        own = result.per_image[result.per_image.metric == metric]  # type: ignore[index]
        wide = own.pivot_table(index=keys, columns="attribution", values="value")[["dea", baseline]].dropna()
        images = wide.index.get_level_values("index").to_numpy()
        return paired(wide["dea"].to_numpy(), wide[baseline].to_numpy(), images, "images", [NAME])

    for metric in ("target_deletion_drop", "off_target_deletion_drop"):
        found |= {f"dea: {metric} - {baseline}": differences(metric, baseline) for baseline in BASELINES}
    scores = result.scores
    stable = scores[scores.metric == "stability"].set_index("attribution")["mean"]
    best = max(BASELINES, key=lambda name: stable[name])
    found["dea: stability - best baseline"] = differences("stability", best) | {"p": None, "best": best}
    passes = scores[scores.metric == "passes_per_map"].set_index("attribution")["mean"]
    for baseline in BASELINES:
        more = np.array([passes["dea"] - passes[baseline]])
        found[f"dea: passes - {baseline}"] = largest(more, "count of passes", [])
    return found
