"""Time of every attribution method: batched, one image at a time, and against the passes it needs.

    python -m benchmarks.attribution --model resnet18 --input-size 224 --images 64 --device cuda --out runs/benchmark

`overhead` is the batched time per map over the floor: its own number of forward and backward passes
times the time of one pass in a full sub-batch, and the pass that makes the activations. The target is
at most 1.15 for methods of more than ten passes, at batch sizes that fill the machine.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.checks import check_numbers, measuring
from faithfulness.attribution import AttributionSpec, create_attribution, expand_attributions, gradient
from faithfulness.attribution.base import Attribution
from faithfulness.attribution.spec import parameters_of
from faithfulness.backbones import create_backbone
from faithfulness.core.cli import run_command
from faithfulness.core.errors import InputError
from faithfulness.core.files import write_json
from faithfulness.core.results import environment


def seconds(action: Callable[[], Any], repeats: int, device: str) -> float:
    """The median time of an action, in seconds.

    On one CPU thread the process's own time counts, so that neighbors on the machine don't.
    """
    on_gpu = device != "cpu"
    clock = time.perf_counter if on_gpu or torch.get_num_threads() > 1 else time.process_time
    times = []
    for _ in range(repeats):
        if on_gpu:
            torch.cuda.synchronize(device)
        start = clock()
        action()
        if on_gpu:
            torch.cuda.synchronize(device)
        times.append(clock() - start)
    return statistics.median(times)


def pass_seconds(explain: Attribution, images: Tensor, targets: Tensor, timer: Callable[[Any], float]) -> float:
    """One pass per image in a full sub-batch: forward, or forward and backward if the method needs gradients."""
    stem, rest = explain.split
    with torch.no_grad():
        activations = stem(images)
        rest(activations[:1])
    if explain.passes.backward:
        if explain.from_images:
            return timer(lambda: gradient(rest, stem(images).detach(), targets)) / len(images)
        return timer(lambda: gradient(rest, activations, targets)) / len(images)

    @torch.no_grad()
    def forward() -> Tensor:
        return explain.model(images) if explain.from_images else rest(activations)

    return timer(forward) / len(images)


def measure(
    spec: AttributionSpec,
    model: Any,
    layer: str | None,
    images: Tensor,
    targets: Tensor,
    chunk: int,
    single: int,
    repeats: int,
) -> dict[str, Any]:
    """A row of the table: times in milliseconds per map."""
    device = images.device.type

    def timer(action: Callable[[], Any]) -> float:
        return seconds(action, repeats, device)

    options = {"chunk": chunk} if "chunk" in parameters_of(spec.name) else {}
    explain: Any = create_attribution(spec, model, layer, **options)
    explain(images[:1], targets[:1])  # to warm up, and so that the passes are counted
    batched = timer(lambda: explain(images, targets)) / len(images)
    alone = timer(lambda: [explain(images[i : i + 1], targets[i : i + 1]) for i in range(single)]) / single
    full = torch.arange(chunk, device=images.device) % len(images)
    row = {
        "attribution": spec.label,
        "layer": explain.layer,
        "forward": explain.passes.forward,
        "backward": explain.passes.backward,
        "batched_ms": batched * 1e3,
        "one_at_a_time_ms": alone * 1e3,
        "speedup": alone / batched,
        "floor_ms": math.nan,
        "overhead": math.nan,
    }
    passes = explain.passes.forward
    if isinstance(explain, Attribution) and passes > 0:
        with torch.no_grad():
            stem = timer(lambda: explain.split.stem(images)) / len(images)
        floor = stem + passes * pass_seconds(explain, images[full], targets[full], timer)
        row |= {"floor_ms": floor * 1e3, "overhead": batched / floor}
    return row


def check_device(device: str) -> None:
    """Raise InputError for a device that times can't be taken on here."""
    try:
        found = torch.device(device)
        usable = found.type == "cpu" or (found.type == "cuda" and (found.index or 0) < torch.cuda.device_count())
    except RuntimeError:
        usable = False
    if not usable:
        cards = torch.cuda.device_count()
        raise InputError(f"--device: expected cpu{', or cuda with a card that is here' if cards else ''}, got {device}")


def print_row(row: dict[str, Any]) -> None:
    print(
        f"{row['attribution']:<14}{row['layer']:<8}{row['forward']:>7g}{row['backward']:>7g}"
        f"{row['batched_ms']:>10.2f}{row['one_at_a_time_ms']:>10.2f}{row['speedup']:>9.1f}"
        f"{row['floor_ms']:>10.2f}{row['overhead']:>10.2f}",
        flush=True,
    )


def main(
    model: str = "resnet10t",
    input_size: int = 64,
    num_classes: int = 10,
    attributions: list[str] | None = None,
    layer: str | None = None,
    images: int = 16,
    chunk: int = 64,
    single: int = 1,
    repeats: int = 3,
    device: str = "cpu",
    seed: int = 0,
    out: Path | None = None,
) -> None:
    """Time attribution methods on a network with random weights.

    Args:
        model: a timm name.
        input_size: side of the random images in pixels.
        num_classes: logits of the network.
        attributions: attributions as text; every one that runs if not given.
        layer: where to explain; each method's own default if not given.
        images: size of the batch.
        chunk: images per pass.
        single: images that are also explained one at a time.
        repeats: runs of which the median counts.
        device: cpu or cuda.
        seed: of weights and images.
        out: folder for attribution.json.
    """
    sizes = {"images": images, "chunk": chunk, "single": single, "repeats": repeats, "input_size": input_size}
    check_numbers(seed, num_classes=num_classes, **sizes)
    check_device(device)
    with measuring(out, "attribution"):
        torch.manual_seed(seed)
        network = create_backbone(model, num_classes, input_size=input_size).eval().to(device)
        batch = torch.randn(images, 3, input_size, input_size, device=device)
        targets = torch.randint(num_classes, (images,), device=device)
        settings = {"model": model, "input_size": input_size, "images": images, "chunk": chunk, "device": device}
        settings["threads"] = torch.get_num_threads()
        print(f"{'attribution':<14}{'layer':<8}{'fwd':>7}{'bwd':>7}{'ms/map':>10}", end="")
        print(f"{'alone':>10}{'speedup':>9}{'floor':>10}{'overhead':>10}")
        rows = []
        for spec in expand_attributions(attributions or ["all"], network, layer):
            rows.append(measure(spec, network, layer, batch, targets, chunk, min(single, images), repeats))
            print_row(rows[-1])
        if out is not None:
            write_json(out / "attribution.json", {"settings": settings, "rows": rows, "environment": environment()})


if __name__ == "__main__":
    sys.exit(run_command(main))
