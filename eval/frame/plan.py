"""What a run is about to do, before it does it: what is looked at, where, and what it will take."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from eval.frame.memory import pass_bytes
from eval.frame.protocol import Pass
from eval.frame.work import done_before
from faithfulness.core.hardware import processors
from faithfulness.core.progress import duration, size

if TYPE_CHECKING:
    from eval.frame.run import Run

_TRIAL = {"cpu": 2, "cuda": 64}
"""Images of the pass by whose time the rest is estimated."""


def plan_text(protocol: str, run: Run[Any], passes: Sequence[Pass]) -> str:
    """Model, data, methods, passes, and what they run on; a line each."""
    options, checkpoint, device = run.options, run.checkpoint, run.fabric.device
    weights = sum(each.numel() for each in checkpoint.model.parameters())
    steps = list(dict.fromkeys(step.name for work in passes for step in work.steps))
    workers = max([getattr(work.batches, "workers", 0) for work in passes], default=0)
    shard, shards = options.shard_of
    count = processors()
    own = f"{device.type}, {count} processor{'s' * (count > 1)}"
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else own
    return "\n".join(
        [
            f"{protocol} of {checkpoint.name} ({checkpoint.architecture}, {size_of(weights)} weights) "
            f"on {run.data.name} ({run.data.split}), {run.count} images",
            f"steps: {', '.join(steps[:12])}{f' and {len(steps) - 12} more' if len(steps) > 12 else ''}",
            f"on {where}; {run.fabric.world_size} process{'es' if run.fabric.world_size > 1 else ''}, "
            f"precision {options.precision}, at most {run.chunk} images in a pass, {workers} loader workers"
            + (f"; shard {shard + 1} of {shards}" if shards > 1 else ""),
        ]
    )


def estimate_text(run: Run[Any], passes: Sequence[Pass]) -> str:
    """How much of each pass is done already, and about how long the rest takes; a line for each."""
    lines, seconds = [], None
    for work in passes:
        total, found, cost = done_before(work, run.store)
        text = f"{work.name}: {total} {work.batches.unit}" + (f", {found} of them done before" if found else "")
        if found < total and (cost > 0 or math.isnan(cost)):
            seconds = seconds_per_image(run) if seconds is None else seconds
            known = sum(step.cost for step in work.steps if not math.isnan(step.cost))
            taken = cost if not math.isnan(cost) else (total - found) * known
            least = "at least" if math.isnan(cost) else "about"
            text += (
                f"; {least} {duration(taken * seconds)}, {size(pass_bytes(run.checkpoint.model, run.chunk))} for a pass"
            )
        lines.append(text)
    return "\n".join(lines)


def seconds_per_image(run: Run[Any]) -> float:
    """Of a forward pass, measured."""
    model, device = run.checkpoint.model, run.fabric.device
    count = min(_TRIAL.get(device.type, 2), run.chunk)
    dtype = next((each.dtype for each in model.parameters() if each.is_floating_point()), torch.float32)
    images = torch.zeros(count, *model.data_config["input_size"], dtype=dtype, device=device)
    start = 0.0
    with run.autocast(), torch.no_grad():
        for _ in range(2):  # the first one warms up
            start = time.perf_counter()
            model(images).sum().item()
    return (time.perf_counter() - start) / count


def size_of(count: int) -> str:
    """A count as people say it: 11.7 M."""
    return f"{count / 1e6:.1f} M" if count >= 1e5 else f"{count / 1e3:.1f} k"
