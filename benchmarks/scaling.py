"""What `eval.idsds` costs against the number of images, of methods and of cells, its memory, and two processes.

    python -m benchmarks.scaling                                  # images, methods, cells on one CPU thread: 12 min
    python -m benchmarks.scaling --only processes                 # one and two processes, where each has a core: 13 min
    python -m benchmarks.scaling --device cuda --model timm:resnet18 --input-size 224 --out benchmarks/results

Every call runs in a process of its own, since memory that a process once had is counted for good. Images, methods and
cells cost the same whichever one they are, so that times on a line mean that nothing grows faster; `growth` is what the
last ones cost over what the first ones did. Parts that are run alone go into the same file.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from faithfulness.core.cli import run_command
from faithfulness.core.errors import InputError

MODEL = "checkpoints/released/digits-resnet10t"
FASTER = 1.25
"""Growth above this is named: times of the same work differ by some percent."""
Row = dict[str, Any]


def start(words: Sequence[str], threads: int) -> str:
    """What a command of Python prints, run with so many threads; InputError with what it says where it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    found = subprocess.run([sys.executable, "-m", *words], env=environment, capture_output=True, text=True, check=False)
    if found.returncode:
        said = found.stderr.strip().splitlines() or ["nothing said"]
        raise InputError(f"{words[0]} ended with status {found.returncode}: {said[-1].removeprefix('error: ')}")
    return found.stdout


def scored(common: dict[str, Any], threads: int, **sizes: int) -> Row:
    """What one call takes, in a process of its own."""
    flags = {name: value for name, value in {**common, **sizes}.items() if value is not None}
    words = [word for name, value in flags.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    return sizes | json.loads(start(["benchmarks.scored", *words], threads).splitlines()[-1])


def marginal(x: Sequence[float], y: Sequence[float]) -> list[float]:
    """What one more costs, between each two neighbors."""
    return [(b[1] - a[1]) / (b[0] - a[0]) for a, b in pairwise(zip(x, y, strict=True))]


def growth(x: Sequence[float], y: Sequence[float]) -> float | None:
    """What one more costs at the end over what it did at first: 1 on a line. None for fewer than three sizes."""
    costs = marginal(x, y)
    return costs[-1] / costs[0] if len(costs) > 1 and costs[0] > 0 else None


def over(name: str, rows: list[Row], x: Sequence[int]) -> dict[str, Any]:
    """The rows of a sweep, with what one more costs and how that grows; `x` are the sizes that times are against."""
    seconds = [row["seconds"] for row in rows]
    return {
        "rows": rows,
        f"seconds_per_{name}": marginal(x, seconds),
        "growth": growth(x, seconds),
        "summary_growth": growth(x, [row["summary_seconds"] for row in rows]),
    }


def against_images(call: Any, images: Sequence[int], methods: tuple[int, int] = (1, 8)) -> dict[str, Any]:
    """Time and memory against images, with few methods and with more: what an image keeps, and what a method's row.

    Memory is told by the last two sizes: what is bounded, as the images that the evidence looks at, is full by then.
    """
    sweeps = {str(count): over("image", [call(images=n, methods=count) for n in images], images) for count in methods}
    memory: dict[str, Any] = {}
    for kind in ("peak_bytes", "gpu_peak_bytes", "part_bytes", "table_bytes"):
        if kind in sweeps[str(methods[0])]["rows"][0]:
            held = {count: [row[kind] for row in sweep["rows"]] for count, sweep in sweeps.items()}
            slopes = {count: marginal(images, held[count])[-1] for count in held}
            few, many = (slopes[str(count)] for count in methods)
            memory[kind] = {"per_image": slopes, "per_image_and_method": (many - few) / (methods[1] - methods[0])}
    return {"methods": sweeps, "memory": memory}


def wall(words: Sequence[str], threads: int) -> tuple[float, list[float]]:
    """Seconds that the command takes, start and end included, and the means that it finds."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        start([*words, "--out", str(Path(folder, "run"))], threads)
        seconds = time.perf_counter() - began
        summary = json.loads(Path(folder, "run", "summary.json").read_text(encoding="utf-8"))
    return seconds, [score["mean"] for score in sorted(summary["scores"], key=lambda score: score["attribution"])]


def processes(common: dict[str, Any], threads: int, devices: int, images: int, attributions: list[str] | None) -> Row:
    """Wall time of the command in one and in several processes, for all images and for a quarter of them.

    The difference is what scoring takes: starts and ends, which no process shares with another one, are in both.
    `machine`, on processors, is the same of as many commands that run at once, all with all images, and know nothing
    of each other: how much more than one of them they score in its time. Where processors share a core, a cache or
    the memory's bandwidth, that is below `devices`, and no program gains more.
    """
    from faithfulness.core.hardware import processors

    words = ["eval.idsds", "--protocol", "single", "--data", "digits", "--split", "train", "--quiet"]
    flags = {**common, "accelerator": common["device"]}
    del flags["device"]
    words += [f"--{name.replace('_', '-')}={value}" for name, value in flags.items() if value is not None]
    words += ["--attributions", *attributions] if attributions else []
    load, few = os.getloadavg()[0], max(1, images // 4)
    rows, means = [], []
    for count in (1, devices):
        found = [wall([*words, "--devices", str(count), "--limit", str(n)], threads) for n in (few, images)]
        rows.append({"processes": count, "few_seconds": found[0][0], "seconds": found[1][0]})
        means.append(found[1][1])
    scoring = [row["seconds"] - row["few_seconds"] for row in rows]
    return {
        "rows": rows,
        "images": [few, images],
        "attributions": attributions,
        "speedup": rows[0]["seconds"] / rows[1]["seconds"],
        "speedup_of_scoring": scoring[0] / scoring[1],
        "machine": at_once(words, threads, devices, (few, images), scoring[0]) if common["device"] == "cpu" else None,
        "same_means": means[0] == means[1],
        "processors": processors(),
        "load_before": load,
    }


def at_once(words: list[str], threads: int, count: int, images: tuple[int, int], alone: float) -> float:
    """How many times as much as one command, which scores in `alone` seconds, so many at once get scored."""
    seconds = []
    with ThreadPoolExecutor(count) as pool:
        for limit in images:
            calls = [
                pool.submit(wall, [*words, "--devices", "1", "--limit", str(limit)], threads) for _ in range(count)
            ]
            seconds.append(max(call.result()[0] for call in calls))
    return count * alone / (seconds[1] - seconds[0])


PARTS = ("images", "methods", "cells", "processes")


def main(
    model: str = MODEL,
    input_size: int | None = None,
    images: list[int] | None = None,
    methods: list[int] | None = None,
    grids: list[int] | None = None,
    sample: int = 64,
    only: list[Literal["images", "methods", "cells", "processes"]] | None = None,
    devices: int = 2,
    share: int = 2048,
    attributions: list[str] | None = None,
    batch_size: int = 64,
    chunk: int | None = 64,
    device: Literal["cpu", "cuda"] = "cpu",
    threads: int = 1,
    seed: int = 0,
    out: Path | None = None,
) -> None:
    """Measure what evaluations of growing size take.

    Args:
        model: checkpoint folder or timm:NAME.
        input_size: side of the images in pixels; the model's own by default.
        images: numbers of images, ascending; 512 2048 8192 by default.
        methods: numbers of methods, ascending; 4 16 64 by default.
        grids: rows, and columns, of cells, ascending; 2 4 8 by default.
        sample: images that methods and cells are measured with.
        only: some of images, methods, cells and processes; all but processes by default, for which the machine must
            be quiet.
        devices: processes that are held against one.
        share: images that the processes share.
        attributions: what the processes score; the command's own choice by default.
        batch_size: images of a batch.
        chunk: the most images in a pass.
        device: cpu or cuda.
        threads: of each process.
        seed: of untrained weights.
        out: folder for scaling-MODEL-DEVICE.json; what isn't measured now stays in it.
    """
    from benchmarks.attribution import check_device
    from benchmarks.checks import measuring

    sizes = {"images": images or [512, 2048, 8192], "methods": methods or [4, 16, 64], "grids": grids or [2, 4, 8]}
    check(sizes, {"sample": sample, "share": share, "batch-size": batch_size, "threads": threads})
    common = {"model": model, "input_size": input_size, "batch_size": batch_size, "chunk": chunk, "device": device}
    common["seed"] = seed
    asked = [part for part in PARTS if part in (only or PARTS[:-1])]
    check_device(device)
    if "processes" in asked:
        check_processes(device, devices)
    with measuring(out, "scaling"):
        before = {} if out is None else read(out, common)
        measured = sweeps(asked, common, threads, sample, sizes)
        if "processes" in asked:
            measured["processes"] = processes(common, threads, devices, share, attributions)
        print("\n".join(lines_of(measured)))
        if out is not None:
            keep(out, before, measured, {**common, "threads": threads, "sample": sample})


def check(sizes: dict[str, list[int]], counts: dict[str, int]) -> None:
    """Raise InputError for numbers that can't be measured, or whose growth can't be told."""
    from faithfulness.core.checks import check_count

    for name, count in counts.items():
        check_count(f"--{name}", count)
    for name, values in sizes.items():
        for value in values:
            check_count(f"--{name}", value)
        if len(values) < 2 or values != sorted(set(values)):
            raise InputError(f"--{name}: expected two numbers or more, ascending, got {' '.join(map(str, values))}")


def check_processes(device: str, devices: int) -> None:
    """Raise InputError where not every process has a processor, or a card, of its own."""
    from faithfulness.core.hardware import processors

    if device == "cuda":
        import torch

        here, what = torch.cuda.device_count(), "cards"
    else:
        here, what = processors(), "processors"
    if not 2 <= devices <= here:
        raise InputError(f"--devices: expected 2 or more, and no more than the {here} {what} here, got {devices}")


def sweeps(
    asked: Sequence[str], common: dict[str, Any], threads: int, sample: int, sizes: dict[str, list[int]]
) -> dict[str, Any]:
    """What is asked of images, methods and cells; a line is printed for every call."""
    measured: dict[str, Any] = {}

    def call(**changed: int) -> Row:
        found = scored(common, threads, **{"images": sample, "methods": 1, "grid": 4, **changed})
        print(line(found), flush=True)
        return found

    if asked != ["processes"]:
        print("images  methods  cells        s  at the end   peak MB  before MB")
    if "images" in asked:
        measured["images"] = against_images(call, sizes["images"])
    if "methods" in asked:
        measured["methods"] = over("method", [call(methods=count) for count in sizes["methods"]], sizes["methods"])
    if "cells" in asked:
        cells = [side * side for side in sizes["grids"]]
        measured["cells"] = over("cell", [call(grid=side) for side in sizes["grids"]], cells)
    return measured


def line(row: Row) -> str:
    """A call's row of the table."""
    memory = f"{row['peak_bytes'] / 1e6:10.0f}{row['start_bytes'] / 1e6:11.0f}"
    on_card = f", {row['gpu_peak_bytes'] / 1e6:.0f} MB of the card's" if "gpu_peak_bytes" in row else ""
    sizes = f"{row['images']:6d}{row['methods']:9d}{row['grid'] ** 2:7d}"
    return f"{sizes}{row['seconds']:9.2f}{row['summary_seconds']:12.2f}{memory}{on_card}"


def lines_of(measured: dict[str, Any]) -> list[str]:
    """What the sweeps come to, in words."""
    found = []
    for count, sweep in measured.get("images", {}).get("methods", {}).items():
        found.append(growth_text(f"images, {count} method{'s' * (count != '1')}", "image", sweep))
    for kind, slopes in measured.get("images", {}).get("memory", {}).items():
        each = ", ".join(f"{slope:.0f} with {count}" for count, slope in slopes["per_image"].items())
        found.append(f"{kind} per image: {each} methods; {slopes['per_image_and_method']:.0f} per image and method")
    there = [name for name in ("method", "cell") if f"{name}s" in measured]
    found += [growth_text(f"{name}s", name, measured[f"{name}s"]) for name in there]
    if pair := measured.get("processes"):
        one, more = pair["rows"]
        found.append(
            f"{more['processes']} processes: {one['seconds']:.1f} s → {more['seconds']:.1f} s, {pair['speedup']:.2f} "
            f"times as fast; scoring alone {pair['speedup_of_scoring']:.2f} times; "
            f"means {'equal' if pair['same_means'] else 'DIFFER'}; load before {pair['load_before']:.1f}"
        )
        if pair["machine"] is not None:
            gained = f"{pair['machine']:.2f} times as much as one"
            found.append(f"{more['processes']} commands at once that share nothing score {gained}")
    return found


def growth_text(what: str, unit: str, sweep: dict[str, Any]) -> str:
    """What one more costs, and whether that grows."""
    costs = ", ".join(f"{seconds * 1e3:.2f}" for seconds in sweep[f"seconds_per_{unit}"])
    text = f"{what}: {costs} ms for one more"
    for name, value in (("", sweep["growth"]), ("at the end ", sweep["summary_growth"])):
        if value is not None:
            text += f"; {name}growth {value:.2f}" + (", faster than linear" if value > FASTER else "")
    return text


def path_of(out: Path, settings: dict[str, Any]) -> Path:
    """The file that parts of one model on one device go into."""
    return out / f"scaling-{short_name(settings['model'])}-{settings['device']}.json"


def read(out: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The parts that the file has already; InputError where it holds something else."""
    path = path_of(out, settings)
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"--out: {path} is no record of this command") from error


def keep(out: Path, before: dict[str, Any], measured: dict[str, Any], settings: dict[str, Any]) -> None:
    """Write what was measured, each part with its settings and environment, beside the parts that there were before."""
    from faithfulness.core.files import write_json
    from faithfulness.core.results import environment

    how = {"device": device_name(settings["device"]), "settings": settings, "environment": environment()}
    content = before | {part: found | how for part, found in measured.items()}
    write_json(path_of(out, settings), {part: content[part] for part in PARTS if part in content})


def short_name(model: str) -> str:
    """A model's name in that of a file: its folder's, or timm's."""
    from eval.frame.command import slug

    return slug(Path(model.removeprefix("timm:")).name)


def device_name(device: str) -> str:
    """The card's name, or cpu."""
    if device == "cpu":
        return device
    import torch

    return torch.cuda.get_device_name()


if __name__ == "__main__":
    sys.exit(run_command(main))
