"""A small run of every protocol, as its command runs it: FOLDER, the name of the results, batch size, precisions.

FOLDER holds the checkpoints `resnet` and `segmenter` and compositions; results go to FOLDER/OUT by name.
"""

import sys
from pathlib import Path

from matplotlib.figure import Figure

from eval import aggatt, dea, difull, idsds, incremental, mlatt

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


def main(folder: Path, out: str, precision: str, batch: str) -> int:
    """Run them all; the first status that isn't 0."""
    for name, (command, arguments) in COMMANDS.items():
        model = folder / ("segmenter" if name == "dea" else "resnet")
        where = ["--model", str(model), "--out", str(folder / out / precision / name), "--precision", precision]
        if name in ("difull", "mlatt", "aggatt"):
            where += ["--compositions", str(folder / "compositions")]
        status = command.main([*where, *arguments, "--batch-size", batch])
        if status:
            return status
    return 0


if __name__ == "__main__":
    Figure.savefig = lambda self, file, **settings: Path(file).touch()  # pictures aren't compared, and take longest
    folder, out, batch, *precisions = sys.argv[1:]
    sys.exit(max(main(Path(folder), out, precision, batch) for precision in precisions))
