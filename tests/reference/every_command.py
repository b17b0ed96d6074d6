"""A small run of every protocol, as its command runs it: FOLDER, the name of the results, batch size, precisions.

FOLDER holds the checkpoints `resnet` and `segmenter` and compositions; results go to FOLDER/OUT by name.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from checkpoints import save_checkpoint, save_segmenter
from difull import make_compositions
from eval import aggatt, dea, difull, idsds, incremental, mlatt
from eval.frame.session import Session
from faithfulness.core import DeletionSpec
from faithfulness.data import open_data
from tests.reference.networks import small_resnet
from tests.reference.tiny_models import tiny_segmenter
from tests.reference.undrawn import write_words

MAPS = ["ixg", "ixg-sg(samples=2)", "gradcam"]
"""One of pixels, one that draws noise, one that is brought to image size and has flat stretches."""
COMMANDS = {
    "idsds": (idsds, ["--limit", "6", "--attributions", *MAPS]),
    "incremental": (incremental, ["--limit", "2", "--attributions", *MAPS, "--steps", "8", "--fill", "random"]),
    "difull": (difull, ["--attributions", "ixg", "gradcam", "--layers", "input", "final", "--bilinear"]),
    "mlatt": (
        mlatt,
        ["--attributions", "gradcam", "--layers", "final", "--kernels", "17", "--setting", "gridpg"],
    ),
    "aggatt": (aggatt, ["--attributions", "ixg-sg(samples=2)"]),
    "dea": (
        dea,
        [
            *("--limit", "1", "--attributions", "ega", "dea(grid=2)", "--fractions", "0.02", "0.1"),
            *("--min-iou", "0", "--min-area", "0", "--max-area", "1", "--region", "annotated"),
        ],
    ),
}

KEYS = ["setting", "scale", "cell", "index", "class", "attribution", "layer", "metric", "kernel"]


def prepare(folder: Path, grids: int = 2) -> None:
    """Write what the runs read: untrained networks whose outputs and maps are those of no special case, and grids."""
    classes = [str(digit) for digit in range(10)]
    save_checkpoint(folder / "resnet", small_resnet(10), deletion=DeletionSpec(), classes=classes, training={})
    names = ["background", *classes]
    save_segmenter(folder / "segmenter", tiny_segmenter(), deletion=DeletionSpec(), classes=names, training={})
    data = open_data("digits", "val")
    labels = np.array([data.label(index) for index in range(40)])
    (folder / "compositions").mkdir()
    for kind in ("distinct", "corners"):
        make_compositions(labels, np.arange(40), 2, grids, kind).save(folder / "compositions" / f"{kind}.parquet")


def values(run: Path) -> np.ndarray:
    """The per-image values of a run, in order of what they are of."""
    if run.name == "aggatt":  # writes no table, but the mean maps of its bins
        with np.load(run / "bins.npz") as bins:
            maps = np.concatenate([bins[key].ravel() / np.nanmax(bins[key]) for key in sorted(bins)])
        scores = [entry["mean"] for entry in json.loads((run / "summary.json").read_text())["scores"]]
        return np.concatenate([maps, scores])
    table = pd.read_parquet(run / "per_image.parquet")
    table = table[table["metric"] != "seconds_per_map"]
    return table.sort_values([key for key in KEYS if key in table])["value"].to_numpy()


def main(folder: Path, out: str, precision: str, batch: str, *more: str) -> int:
    """Run them all, with further arguments; the first status that isn't 0."""
    for name, (command, arguments) in COMMANDS.items():
        model = folder / ("segmenter" if name == "dea" else "resnet")
        where = ["--model", str(model), "--out", str(folder / out / precision / name), "--precision", precision]
        if name in ("difull", "mlatt", "aggatt"):
            where += ["--compositions", str(folder / "compositions")]
        status = command.main([*where, *arguments, "--batch-size", batch, *more])
        if status:
            return status
    return 0


if __name__ == "__main__":
    Session.draw = write_words  # pictures aren't compared
    folder, out, batch, *precisions = sys.argv[1:]
    sys.exit(max(main(Path(folder), out, precision, batch) for precision in precisions))
