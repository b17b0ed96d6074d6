"""`eval.idsds` against the published loop restated, and against the floor: the passes that its definitions need.

    python -m benchmarks.idsds --model resnet18 --images 8 --masks 100          # one CPU thread
    python -m benchmarks.idsds --model resnet50 --images 64 --device cuda --out benchmarks/results

Same network, same images, same methods, one after the other in one process, round by round. What is timed of
`eval.idsds` is the call that a user makes, from Python. The floor is the number of passes times the best rate that the
network reaches in any batch size, with a gradient and without; for the precision of the run, and for drops for float32.
It is measured in every round as well, and compared within a round: a machine isn't equally fast at all times.
"""

from __future__ import annotations

import copy
import statistics
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from benchmarks import published_loop
from benchmarks.attribution import check_device, seconds
from benchmarks.checks import check_numbers, measuring
from eval.idsds import evaluate
from faithfulness.attribution import create_attribution
from faithfulness.backbones import create_backbone, fold_batchnorm
from faithfulness.core.cli import run_command
from faithfulness.core.errors import InputError
from faithfulness.core.files import write_json
from faithfulness.core.precision import use_precision
from faithfulness.core.results import environment
from faithfulness.core.tables import format_table

CELLS = 16
AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


class Kept(Dataset[tuple[Tensor, int]]):
    """Images that are in memory, normalized: what is timed is the evaluation, not the reading."""

    classes: list[str]

    def __init__(self, images: Tensor, targets: Tensor, classes: int):
        self.images, self.targets, self.classes = images, targets, [str(index) for index in range(classes)]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], int(self.targets[index])


def chosen(asked: list[str] | None, masks: int, cams: bool) -> list[str]:
    """The methods to time; InputError for others than the nine."""
    known = [name for name in published_loop.methods(masks) if cams or "cam" not in name]
    asked = [f"rise(masks={masks})" if name == "rise" else name for name in asked or []]
    if unknown := sorted(set(asked) - set(known)):
        raise InputError(f"--attributions: expected some of {' '.join(known)}, got {' '.join(unknown)}")
    return asked or known


def cam_layer(network: nn.Module) -> nn.Module | None:
    """Where the published loop hooks CAMs: a ResNet's last stage; None for networks without one."""
    return getattr(network, "layer4", None)


def best_rate(
    network: Callable[[Tensor], Tensor], image: Tensor, *, backward: bool, autocast: Any, repeats: int
) -> float:
    """Images a second of the best of several batch sizes, forward or forward and backward."""
    sizes = (8, 16, 32) if image.device.type == "cpu" else (64, 128, 256)

    def work(images: Tensor) -> None:
        with torch.set_grad_enabled(backward), autocast():
            output = network(images.requires_grad_(backward))
        if backward:
            torch.autograd.grad(output[:, 0].sum(), images)

    rates = []
    for size in sizes:
        images = image.expand(size, -1, -1, -1).contiguous(memory_format=torch.channels_last)
        work(images)
        rates.append(size / seconds(lambda images=images: work(images), repeats, image.device.type))
    return max(rates)


def floor(network: Any, names: list[str], image: Tensor, precision: str, repeats: int) -> dict[str, float]:
    """Seconds per image that the passes of the definitions take: of the drops, and of every method."""
    device, cast = image.device.type, AUTOCAST.get(precision)

    def mixed() -> torch.autocast:
        return torch.autocast(device, cast, enabled=cast is not None)

    def plain() -> torch.autocast:
        return torch.autocast(device, enabled=False)

    use_precision("32-true")
    network = copy.deepcopy(network).to(memory_format=torch.channels_last)  # the restated loop keeps its own
    folded = fold_batchnorm(network)
    found = {"drops": (CELLS + 1) / best_rate(folded, image, backward=False, autocast=plain, repeats=repeats)}
    use_precision(precision)
    rates = {
        backward: best_rate(network, image, backward=backward, autocast=mixed, repeats=repeats)
        for backward in (False, True)
    }
    for name in names:
        explain = create_attribution(name, network)
        explain(image, torch.zeros(1, dtype=torch.int64, device=image.device))
        # At a late layer the rest of the network costs next to nothing: what counts is the pass that leads there.
        passes = explain.passes.forward if explain.layer == "input" else 1.0
        found[name] = passes / rates[explain.passes.backward > 0 and explain.layer == "input"]
    return found


def ours(network: nn.Module, data: Kept, names: list[str], precision: Any, batch_size: int) -> dict[str, float]:
    """Mean score of each method, by the call that a user makes."""
    device = "cuda" if next(network.parameters()).is_cuda else "cpu"
    result = evaluate(
        network,
        data,
        protocol="single",
        attributions=names,
        accelerator=device,
        devices=1,
        precision=precision,
        batch_size=batch_size,
        workers=0,
    )
    assert result is not None  # one process
    return dict(zip(result.scores["attribution"], result.scores["mean"], strict=True))


def theirs(network: nn.Module, data: Kept, masks: int, names: list[str], batch_size: int) -> dict[str, float]:
    """The same by the restated loop, as torch computes unless it is told otherwise (convolutions in TF32 on a GPU).

    An image without a correlation, its map being 0 throughout, counts as 0, as it does in ours; one whose drops are
    all equal counts as 0 here, and is left out in ours.
    """
    device, known = next(network.parameters()).device, published_loop.methods(masks)
    use_precision("tf32" if device.type == "cuda" else "32-true")
    batches = [
        (images.to(device), targets.to(device))
        for images, targets in zip(data.images.split(batch_size), data.targets.split(batch_size), strict=True)
    ]
    layer = cam_layer(network)
    scores = {name: published_loop.score(known[name], network, layer, batches) for name in names}
    return {name: float(np.nan_to_num(values).mean()) for name, values in scores.items()}


def alternate(
    calls: dict[str, Callable[[Kept], dict[str, float]]],
    least: Callable[[], dict[str, float]],
    data: Kept,
    rounds: int,
    device: str,
) -> tuple[dict[str, list[float]], dict[str, list[float]], dict[str, dict[str, float]]]:
    """Seconds of each call and the parts of the floor, round by round, and the scores.

    One image warms up a processor; a GPU wants the batches that it is timed with.
    """
    few = len(data) if device == "cuda" else 1
    first = Kept(data.images[:few], data.targets[:few], len(data.classes))
    times: dict[str, list[float]] = {name: [] for name in calls}
    floors: dict[str, list[float]] = {}
    scores = {name: call(first) for name, call in calls.items()}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(seconds(lambda name=name, call=call: scores.update({name: call(data)}), 1, device))
        for name, value in least().items():
            floors.setdefault(name, []).append(value)
    return times, floors, scores


def summary(times: dict[str, list[float]], floors: dict[str, list[float]], images: int) -> dict[str, Any]:
    """Medians of seconds per image; how many times as fast as the restated loop, and over the floor, within a round."""
    per_image = {name: [value / images for value in found] for name, found in times.items()}
    per_image["floor"] = [sum(parts) for parts in zip(*floors.values(), strict=True)]
    own = per_image["ours"]

    def within_rounds(pairs: Iterable[tuple[float, float]]) -> float:
        return statistics.median(a / b for a, b in pairs)

    return {
        "seconds_per_image": {name: statistics.median(found) for name, found in per_image.items()},
        "rounds": per_image,
        "times_faster": within_rounds(zip(per_image["theirs"], own, strict=True)),
        "over_floor": within_rounds(zip(own, per_image["floor"], strict=True)),
        "floor": {name: statistics.median(found) for name, found in floors.items()},
    }


def measured(
    network: Any, data: Kept, names: list[str], masks: int, precision: str, batch_size: int, rounds: int
) -> tuple[dict[str, Any], dict[str, dict[str, float]]]:
    """What both loops and the floor took, and the scores that the loops found."""
    device = next(network.parameters()).device
    calls = {
        "ours": lambda data: ours(network, data, names, precision, batch_size),
        "theirs": lambda data: theirs(network.model, data, masks, names, batch_size),
    }
    one = data.images[:1].to(device)
    times, floors, scores = alternate(
        calls, lambda: floor(network, names, one, precision, 3), data, rounds, device.type
    )
    return summary(times, floors, len(data)), scores


def main(
    model: str = "resnet18",
    input_size: int = 224,
    num_classes: int = 1000,
    attributions: list[str] | None = None,
    masks: int = 1000,
    images: int = 8,
    batch_size: int = 8,
    rounds: int = 2,
    device: Literal["cpu", "cuda"] = "cpu",
    precision: Literal["32-true", "tf32", "bf16-mixed", "16-mixed"] = "32-true",
    seed: int = 0,
    out: Path | None = None,
) -> None:
    """Time `eval.idsds` and the published loop on a network with random weights.

    Args:
        model: a timm name; one without `layer4` leaves CAMs out.
        input_size: side of the random images in pixels.
        num_classes: logits of the network.
        attributions: of grad ixg ixg-sg ig ig-u gradcam gradcampp layercam rise; all that the network can carry if
            not given.
        masks: of RISE.
        images: how many.
        batch_size: of both loops.
        rounds: how often each is run; the median counts.
        device: cpu or cuda.
        precision: of `eval.idsds`; the published loop runs as torch does by itself.
        seed: of weights and images.
        out: folder for idsds-MODEL-MASKSmasks-DEVICE-PRECISION.json.
    """
    sizes = {"images": images, "batch_size": batch_size, "rounds": rounds, "masks": masks, "input_size": input_size}
    check_numbers(seed, num_classes=num_classes, **sizes)
    check_device(device)
    if device == "cpu" and precision in ("tf32", "16-mixed"):
        raise InputError(f"--precision {precision} needs a GPU; a processor computes in 32-true or bf16-mixed")
    with measuring(out, "idsds"):
        torch.manual_seed(seed)
        network = create_backbone(model, num_classes, input_size=input_size).eval().to(device)
        names = chosen(attributions, masks, cam_layer(network.model) is not None)
        data = Kept(torch.randn(images, 3, input_size, input_size), torch.arange(images) % num_classes, num_classes)
        found, scores = measured(network, data, names, masks, precision, batch_size, rounds)
        rows = [(name, f"{value:.4f}") for name, value in found["seconds_per_image"].items()]
        print(format_table(("", "s/image"), rows))
        print(f"{found['times_faster']:.2f} times as fast as the restated loop, {found['over_floor']:.2f} of the floor")
        if out is not None:
            settings = {"model": model, **sizes, "precision": precision, "seed": seed}
            settings["threads"] = torch.get_num_threads()
            card = torch.cuda.get_device_name() if device == "cuda" else "cpu"
            content = {"device": card, "settings": settings, **found, "scores": scores, "environment": environment()}
            write_json(out / f"idsds-{model}-{masks}masks-{device}-{precision}.json", content)


if __name__ == "__main__":
    sys.exit(run_command(main))
