"""A small run of every protocol, as its command runs it: FOLDER, the name of the results, batch size, precisions.

FOLDER holds the checkpoints `resnet` and `segmenter` and compositions; results go to FOLDER/OUT by name.
"""

import sys
from pathlib import Path

from matplotlib.figure import Figure

from core.cli import run_command
from eval.aggatt import AggattOptions
from eval.aggatt import evaluate as aggatt
from eval.dea import DeaOptions
from eval.dea import evaluate as dea
from eval.difull import DifullOptions
from eval.difull import evaluate as difull
from eval.idsds import IdsdsOptions
from eval.idsds import evaluate as idsds
from eval.mlatt import MlattOptions
from eval.mlatt import evaluate as mlatt

MAPS = ["ixg", "ixg-sg(samples=2)", "gradcam"]
"""One of pixels, one that draws noise, one that is brought to image size and has flat stretches."""
COMMANDS = {
    "idsds": (IdsdsOptions, idsds, ["--limit", "6", "--attributions", *MAPS]),
    "incremental": (
        IdsdsOptions,
        idsds,
        ["--limit", "2", "--attributions", *MAPS, "--protocol", "incremental", "--steps", "8", "--fill", "random"],
    ),
    "difull": (DifullOptions, difull, ["--attributions", "ixg", "gradcam", "--layers", "input", "final", "--bilinear"]),
    "mlatt": (
        MlattOptions,
        mlatt,
        ["--attributions", "gradcam", "--layers", "final", "--kernels", "17", "--setting", "gridpg"],
    ),
    "aggatt": (AggattOptions, aggatt, ["--attributions", "ixg-sg(samples=2)"]),
    "dea": (
        DeaOptions,
        dea,
        [
            *("--limit", "1", "--attributions", "ega", "dea(grid=2)", "--fractions", "0.02", "0.1"),
            *("--min-iou", "0", "--min-area", "0", "--max-area", "1", "--region", "annotated"),
        ],
    ),
}


def main(folder: Path, out: str, precision: str, batch: str) -> int:
    """Run them all; the first status that isn't 0."""
    for name, (options, evaluate, arguments) in COMMANDS.items():
        model = folder / ("segmenter" if name == "dea" else "resnet")
        where = ["--model", str(model), "--out", str(folder / out / precision / name), "--precision", precision]
        if name in ("difull", "mlatt", "aggatt"):
            where += ["--compositions", str(folder / "compositions")]
        status = run_command(options, evaluate, [*where, *arguments, "--batch-size", batch])
        if status:
            return status
    return 0


if __name__ == "__main__":
    Figure.savefig = lambda self, file, **settings: Path(file).touch()  # pictures aren't compared, and take longest
    folder, out, batch, *precisions = sys.argv[1:]
    sys.exit(max(main(Path(folder), out, precision, batch) for precision in precisions))
