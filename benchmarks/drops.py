"""The drops of IDSDS alone: how fast `eval.idsds` takes them, beside the best rates of the network's inference.

    python -m benchmarks.drops --model resnet18 --images 32 --batch-size 8                      # one CPU thread
    python -m benchmarks.drops --model resnet50 --images 4096 --device cuda --compile --out benchmarks/results

What is timed is the call that a user makes, with the control `random` as its only method, for all images and for a
quarter of them: the difference is free of what a run takes once. Drops are taken in IEEE float32, by a network whose
batch normalization is folded, and so are the rates; in fewer bits, or compiled, they say what exactness costs.
"""

from __future__ import annotations

import copy
import statistics
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import torch

from benchmarks.attribution import check_device, seconds
from benchmarks.checks import check_numbers, measuring
from benchmarks.idsds import CELLS, Kept, best_rate, ours
from faithfulness.backbones import create_backbone, fold_batchnorm
from faithfulness.core.cli import run_command
from faithfulness.core.errors import InputError
from faithfulness.core.files import write_json
from faithfulness.core.precision import use_precision
from faithfulness.core.results import environment
from faithfulness.core.tables import format_table
from idsds.evidence import PROBE_IMAGES

IMAGENET_VAL = 50_000


def inference_rates(network: Any, image: torch.Tensor, compiled: bool, repeats: int) -> dict[str, float]:
    """Images a second of plain inference, the best of several batch sizes: by precision, compiled if asked."""
    folded: Any = fold_batchnorm(network)
    found = {}
    for precision in ("32-true", *(["tf32"] if image.is_cuda else []), "bf16-true"):
        use_precision(precision)
        dtype = torch.bfloat16 if precision == "bf16-true" else torch.float32
        cast = copy.deepcopy(folded).to(dtype, memory_format=torch.channels_last)
        runs: dict[str, Callable[..., Any]] = {"": cast}
        if compiled:
            torch._dynamo.reset()  # of one function it compiles eight versions at most, and then none
            runs[", compiled"] = torch.compile(cast, dynamic=False)
        for suffix, run in runs.items():
            found[precision + suffix] = best_rate(
                run, image.to(dtype), backward=False, autocast=nullcontext, repeats=repeats
            )
    return found


def passes_of(images: int) -> int:
    """Forward passes: whole, without each cell, and two of each image that the evidence looks at."""
    return (CELLS + 1) * images + 2 * min(images, PROBE_IMAGES)


def summary(
    few: list[float], whole: list[float], rates: list[dict[str, float]], images: tuple[int, int]
) -> dict[str, Any]:
    """Passes a second and their share of each rate, within a round; minutes for ImageNet's validation images.

    Raises InputError where the times don't tell more images from fewer.
    """
    passes = passes_of(images[1]) - passes_of(images[0])
    spent = [more - less for less, more in zip(few, whole, strict=True)]
    if min(spent) <= 0:
        raise InputError(f"--images: {images[1]} took no longer than {images[0]}; take more")
    reached = [passes / seconds for seconds in spent]
    rate = statistics.median(reached)
    return {
        "passes_per_second": rate,
        "rates": {name: statistics.median(found[name] for found in rates) for name in rates[0]},
        "share": {
            name: statistics.median(own / found[name] for own, found in zip(reached, rates, strict=True))
            for name in rates[0]
        },
        "minutes_for_imagenet_val": passes_of(IMAGENET_VAL) / rate / 60,
        "times": {"few": few, "all": whole},
    }


def show(found: dict[str, Any]) -> None:
    """The rates, and what the drops reach of each."""
    rows = [(name, f"{rate:.4g}", f"{found['share'][name]:.2f}") for name, rate in found["rates"].items()]
    print(format_table(("inference", "images/s", "drops reach"), rows))
    minutes = f"{found['minutes_for_imagenet_val']:.3g} min for {IMAGENET_VAL} images"
    print(f"drops: {found['passes_per_second']:.4g} passes/s; by this rate {minutes}, the evidence's passes among them")


def main(
    model: str = "resnet18",
    input_size: int = 224,
    num_classes: int = 1000,
    images: int = 32,
    batch_size: int = 8,
    rounds: int = 3,
    repeats: int = 3,
    compile: bool = False,
    device: Literal["cpu", "cuda"] = "cpu",
    seed: int = 0,
    out: Path | None = None,
) -> None:
    """Time the drops of a network with random weights.

    Args:
        model: a timm name.
        input_size: side of the random images in pixels.
        num_classes: logits of the network.
        images: how many, four batches or a multiple; a quarter of them is timed, too.
        batch_size: of the evaluation.
        rounds: how often each is timed; the median counts.
        repeats: passes of which the median is a rate.
        compile: rates of a compiled network as well.
        device: cpu or cuda.
        seed: of weights and images.
        out: folder for drops-MODEL-DEVICE.json, or drops-MODEL-DEVICE-compiled.json.
    """
    sizes = {"images": images, "batch_size": batch_size, "rounds": rounds, "repeats": repeats, "input_size": input_size}
    check_numbers(seed, num_classes=num_classes, **sizes)
    if images % (4 * batch_size):
        raise InputError(f"--images: expected a multiple of four batches of {batch_size}, got {images}")
    check_device(device)
    with measuring(out, "drops"):
        torch.manual_seed(seed)
        network = create_backbone(model, num_classes, input_size=input_size).eval().to(device)
        data = Kept(torch.randn(images, 3, input_size, input_size), torch.arange(images) % num_classes, num_classes)
        part = Kept(data.images[: images // 4], data.targets[: images // 4], num_classes)
        one = data.images[:1].to(device)

        def drops(of: Kept) -> float:
            return seconds(lambda: ours(network, of, ["random"], "32-true", batch_size), 1, device)

        drops(part)  # to warm up
        few, whole, rates = [], [], []
        for _ in range(rounds):
            few.append(drops(part))
            whole.append(drops(data))
            rates.append(inference_rates(network, one, compile, repeats))
        found = summary(few, whole, rates, (len(part), images))
        show(found)
        if out is not None:
            settings = {"model": model, "num_classes": num_classes, **sizes, "compile": compile, "seed": seed}
            settings["threads"] = torch.get_num_threads()
            card = torch.cuda.get_device_name() if device == "cuda" else "cpu"
            content = {"device": card, "settings": settings, **found, "environment": environment()}
            write_json(out / f"drops-{model}-{device}{'-compiled' * compile}.json", content)


if __name__ == "__main__":
    sys.exit(run_command(main))
