"""What a training says before it begins, and what came out at its end."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from faithfulness.core.progress import duration, size
from faithfulness.core.tables import format_table
from training.epochs import LOGS, TABLE
from training.fit import Fit
from training.recipe import OFF, Recipe


def plan(fit: Fit, network: str, precision: str) -> str:
    """A few lines: network, data, epochs, processes, where to."""
    out, module, batches, trainer = fit.shown, fit.module, fit.batches, fit.trainer
    recipe, deletion, world = module.recipe, module.deletion, trainer.world_size
    train, val = batches.train.source, batches.val.source
    steps = batches.steps_per_epoch
    rate = f"{recipe.optimizer}, learning rate {recipe.lr:g} ({recipe.schedule})"
    how = _how(recipe, module.part, recipe.epochs * steps)
    grid = f"{deletion.grid.rows}×{deletion.grid.cols}"
    where = trainer.strategy.root_device.type
    readers = " and ".join(map(str, batches.workers))
    processes = f"{world} process{'es' * (world > 1)} on {where}"
    return "\n".join(
        (
            f"training {network} on {train.name}: {len(train)} images, {len(val)} to validate, "
            f"{len(train.classes)} classes",
            f"{recipe.epochs} epochs of {steps} steps of {recipe.batch_size} images; {rate}; a share of "
            f"{deletion.probability:g} loses a cell of {grid}",
            *([how] if how else []),
            f"{processes}, {precision}; {readers} loader workers each; writes {out}",
            f"{size(float(_kept_bytes(fit)))} on each device for weights, gradients and the optimizer, and more for a "
            "batch; how long it takes is said as it goes on",
        )
    )


def _how(recipe: Recipe, part: int, steps: int) -> str:
    """What isn't so in every training of how a step is computed; empty if nothing."""
    first = 0.0 if recipe.ema is None else recipe.ema ** (steps - 1)
    said = {
        "accumulate": f"a step in {recipe.accumulate} parts, {part} images at once on each device",
        "clip": f"the gradient's norm is at most {recipe.clip}",
        "ema": f"a moving average of the weights ({recipe.ema}) is validated and kept"
        + (f"; caution: in {steps} steps {first:.0%} of it stay the weights of the first one" if first > 0.01 else ""),
        "compile": "torch compiles the network, which takes a while at the first step",
    }
    return "; ".join(text for name, text in said.items() if getattr(recipe, name) != OFF[name])


def _kept_bytes(fit: Fit) -> int:
    """What lies in memory all the time: the network's state, and per trained weight a gradient and the optimizer's."""
    module = fit.module
    copies = {"sgd": 2 if module.recipe.momentum else 1}.get(module.recipe.optimizer, 3)
    state = sum(tensor.nbytes for tensor in module.backbone.state_dict().values())
    state *= 1 if module.recipe.ema is None else 3  # the average, and while it is validated the weights beside it
    return state + copies * sum(weight.nbytes for weight in module.backbone.parameters() if weight.requires_grad)


def result(out: Path, measure: str, rows: list[dict[str, Any]], record: dict[str, Any]) -> str:
    """Where all is, and what the best epoch gave."""
    best = record["epoch"]
    metrics = record["metrics"]
    scores = f"{metrics[measure]:.3f} whole, {metrics[f'{measure}_deleted']:.3f} with a deleted cell"
    spent = duration(sum(row["seconds"] for row in rows))
    entries = (
        ("checkpoint", str(out), f"epoch {best + 1} of {len(rows)}, the best: {measure.replace('_', ' ')} {scores}"),
        ("last epoch", str(out / "last"), f"{spent} in all epochs"),
        ("logs", str(out / LOGS), f"{TABLE}, TensorBoard"),
        ("deletions", str(out / "deletions"), "what each epoch trained on"),
    )
    release = f"to hand it on: python -m checkpoints.release {shlex.quote(str(out))} --results RESULTS --out RELEASE"
    return f"{format_table(('what', 'where', ''), entries, '<<<')}\n{release}"
