"""One call of `eval.idsds` in a process of its own: what it takes, as JSON. `benchmarks.scaling` starts it.

python -m benchmarks.scored --images 512 --methods 4 --grid 4
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from eval.frame import Command, Outcome, Part
from eval.idsds import IdsdsOptions, SingleDeletion, report_idsds
from faithfulness.core.cli import run_command
from faithfulness.data.digits import DigitScenes

DISTINCT = 256
"""How many scenes are drawn: embedded digits keep what they have drawn, which isn't what is measured."""
CHEAP = "sg(samples=1, noise={})"
"""A method of one forward and one backward pass: any number of them, all of one cost."""


class Scenes(DigitScenes):
    """Any number of embedded scenes, the first ones over and over, so that the data take no more memory for more."""

    def scene(self, index: int) -> Any:
        return super().scene(index % DISTINCT)

    def label(self, index: int) -> int:
        return super().label(index % DISTINCT)


class Timed(SingleDeletion):
    """IDSDS, whose summary is timed by itself: what is done once, at the end, for all images and methods.

    Attributes:
        clock: what it is timed by; `taken`: the seconds that it took.
        kept: bytes that the parts of all batches hold, which grow with the images.
    """

    clock: Any = None
    taken = 0.0
    kept = 0

    def summarize(self, part: Part) -> Outcome:
        """As it is, under the clock."""
        self.kept = bytes_of(part)
        start = self.clock()
        outcome = super().summarize(part)
        self.taken = self.clock() - start
        return outcome


def bytes_of(part: Part) -> int:
    """What the tables of a part hold: every array, and what Python keeps of it."""
    arrays = [array for pieces in part.tables.values() for piece in pieces for array in piece.values()]
    return sum(owner(array).nbytes + sys.getsizeof(array[:0]) for array in arrays)


def owner(array: NDArray[Any]) -> NDArray[Any]:
    """The array whose memory this one shows, which may be larger, or smaller where a value holds for all rows."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def peak_memory() -> int:
    """The most bytes that were resident in this process.

    Linux hands the peak of whoever starts a process on to it (`getrusage`); the one of its own memory is in `/proc`.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text(encoding="ascii").splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main(
    model: str = "checkpoints/released/digits-resnet10t",
    input_size: int | None = None,
    images: int = 64,
    methods: int = 1,
    grid: int = 4,
    batch_size: int = 64,
    chunk: int | None = None,
    device: str = "cpu",
    seed: int = 0,
) -> None:
    """Score images once, and say what it took.

    Args:
        model: checkpoint folder or timm:NAME.
        input_size: side of the images in pixels; the model's own by default.
        images: how many.
        methods: how many, all of one cost; the controls come on top.
        grid: rows, and columns, of cells.
        batch_size: images of a batch.
        chunk: the most images in a pass; as many as fit by default.
        device: cpu or cuda.
        seed: of untrained weights.
    """
    # On one thread of a processor its own time counts, so that neighbors on the machine don't.
    clock = time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    made: list[Timed] = []

    def evaluation(run: Any) -> Timed:
        made.append(Timed(run))
        made[-1].clock = clock
        return made[-1]

    command = Command(IdsdsOptions, evaluation, report_idsds)

    def score(count: int) -> Any:
        return command.evaluate(
            model,
            Scenes("val", input_size, count=count),
            protocol="single",
            attributions=[CHEAP.format(number / 100) for number in range(1, methods + 1)],
            input_size=input_size,
            grid=[grid, grid],
            batch_size=batch_size,
            chunk=chunk,
            accelerator=device,
            seed=seed,
        )

    score(min(images, 8))
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    before, start = peak_memory(), clock()
    result = score(images)
    found = {"seconds": clock() - start, "summary_seconds": made[-1].taken}
    found |= {"start_bytes": before, "peak_bytes": peak_memory(), "part_bytes": made[-1].kept}
    found["table_bytes"] = int(result.per_image.memory_usage(deep=True).sum())
    if device == "cuda":
        found["gpu_peak_bytes"] = torch.cuda.max_memory_allocated()
    print(json.dumps(found))


if __name__ == "__main__":
    sys.exit(run_command(main))
