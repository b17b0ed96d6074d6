"""`training.patch_finetune` against a bare loop of the same network, and against its loader alone.

    python -m benchmarks.training --model resnet18 --batch-size 8                  # one CPU thread
    python -m benchmarks.training --data digits --batch-size 64                    # the embedded recipe
    python -m benchmarks.training --model resnet50 --batch-size 256 --device cuda --precision bf16-mixed --workers 12

Same network, optimizer, schedule, precision and batch size, one after the other in one process, round by round. The
bare loop has its normalized images in the device's memory: no Lightning, no reading, no deletion, no record. What is
timed of ours are the steps of an epoch, whatever happens in between; validation and checkpoints are left out.
Photographs are JPEGs of ImageNet's form that are written into a temporary folder first; embedded scenes have been drawn
in the epoch before.
"""

from __future__ import annotations

import copy
import io
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

import checkpoints
from benchmarks.attribution import check_device
from benchmarks.checks import check_numbers, measuring
from benchmarks.idsds import AUTOCAST
from faithfulness.backbones import create_backbone
from faithfulness.core.checks import check_count
from faithfulness.core.cli import run_command
from faithfulness.core.files import write_json
from faithfulness.core.hardware import MOST_PROCESSES
from faithfulness.core.precision import use_precision
from faithfulness.core.results import environment
from faithfulness.core.tables import format_table
from faithfulness.data import KeyedBatches, make_loader
from training.module import PatchFineTuner
from training.optimization import loss_function, make_optimizer
from training.patch_finetune import PatchOptions
from training.recipe import EMBEDDED, Recipe
from training.run import run_training

Precision = Literal["32-true", "tf32", "bf16-mixed", "16-mixed"]
CLASSES = {"photographs": 2, "digits": 10}
DISTINCT, WARM = 64, 2
"""How many photographs differ (the others are links); steps that aren't timed."""


@dataclass(frozen=True)
class Setting:
    """What all three loops share. `data` is as `--data` takes it."""

    network: Any
    data: str
    batch_size: int
    steps: int
    device: str
    precision: Precision
    compile: bool
    workers: int
    seed: int

    @property
    def epochs(self) -> int:
        """Scenes are drawn in the first one, and are in memory after that."""
        return 2 if self.data == "digits" else 1

    @property
    def images(self) -> int:
        """Of an epoch, untimed steps included."""
        return self.batch_size * (self.steps + WARM)

    def options(self, out: Path) -> PatchOptions:
        """As the command would have them."""
        return PatchOptions(
            model=self.network,
            data=self.data,
            out=out,
            epochs=self.epochs,
            batch_size=self.batch_size,
            train_images=self.images,
            val_images=self.batch_size,
            accelerator=self.device,
            devices=1,
            precision=self.precision,
            compile=self.compile,
            workers=self.workers,
            seed=self.seed,
            overwrite=True,
            quiet=True,
        )

    def now(self) -> float:
        """Seconds on the clock: of this process's processor on one CPU thread, so that neighbors don't count."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        alone = self.device == "cpu" and torch.get_num_threads() == 1 and not self.workers
        return time.process_time() if alone else time.perf_counter()


class Timed(PatchFineTuner):
    """Looks at the clock once it is warm, and after the last step; those of the last epoch count."""

    setting: Setting
    began = ended = 0.0

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == WARM - 1:
            self.began = self.setting.now()
        if batch_idx == WARM + self.setting.steps - 1:
            self.ended = self.setting.now()


def ours(setting: Setting, folder: Path) -> float:
    """Seconds per step of the training that the command runs."""
    made: list[Timed] = []

    def make(*arguments: Any, **about: Any) -> Timed:
        made.append(Timed(*arguments, **about))
        made[0].setting = setting
        return made[0]

    with redirect_stdout(io.StringIO()):
        run_training(setting.options(folder / "run"), make)
    return (made[0].ended - made[0].began) / setting.steps


def bare(setting: Setting, recipe: Recipe) -> float:
    """Seconds per step of forward, backward and optimizer on a batch that is there."""
    use_precision(setting.precision)
    network = copy.deepcopy(setting.network).to(setting.device, memory_format=torch.channels_last).train()
    steps = setting.steps + WARM
    optimizer, schedule = make_optimizer(recipe, network, steps * setting.epochs, steps)
    loss_of = loss_function(recipe.loss)
    run: Callable[..., Any] = torch.compile(network.forward, dynamic=False) if setting.compile else network
    scaler = torch.amp.GradScaler(setting.device, enabled=setting.precision == "16-mixed")
    images = torch.randn(setting.batch_size, 3, *network.input_size, device=setting.device)
    labels = torch.arange(setting.batch_size, device=setting.device) % 2
    cast = AUTOCAST.get(setting.precision)
    began = 0.0
    for step in range(steps):
        if step == WARM:
            began = setting.now()
        with torch.autocast(setting.device, cast, enabled=cast is not None):
            loss = loss_of(run(images), labels)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        schedule.step()
    return (setting.now() - began) / setting.steps


def reading(setting: Setting) -> float:
    """Seconds per batch of the loader that feeds the training, with nobody else at work."""
    task, network = checkpoints.CLASSIFICATION, setting.network
    data = task.open_data(setting.data, "train", seed=setting.seed, count=setting.images)
    data = data.at_size(network.input_size[0])
    samples = task.samples(data, network.data_config, training=True, seed=setting.seed, skip_corrupt=False)
    batches = KeyedBatches(len(samples), setting.batch_size, shuffle=True, seed=setting.seed)
    loader = make_loader(samples, batches, setting.workers)
    began = ended = 0.0
    for epoch in range(setting.epochs):
        batches.set_epoch(epoch)
        for step, _ in enumerate(loader):
            if step == WARM - 1:
                began = setting.now()
        ended = setting.now()
    return (ended - began) / setting.steps


def write_photographs(root: Path, images: int, validation: int, seed: int) -> None:
    """JPEGs of 500 × 375 pixels and some 110 KB, as ImageNet's are, in folders of classes."""
    generator = np.random.default_rng(seed)
    originals = []
    for split, count in (("train", images), ("val", validation)):
        for number in range(count):
            path = root / split / f"class{number % CLASSES['photographs']}" / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            if len(originals) == DISTINCT:
                os.link(originals[number % DISTINCT], path)
                continue
            coarse = Image.fromarray(generator.integers(256, size=(19, 25, 3), dtype=np.uint8))
            smooth = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC), dtype=np.float32)
            pixels = (smooth + generator.normal(0, 12, smooth.shape)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(path, quality=90)
            originals.append(path)


def measure(setting: Setting, folder: Path, rounds: int) -> dict[str, list[float]]:
    """Seconds per step of the three loops, round by round."""
    recipe = setting.options(folder).recipe(setting.data == "digits")
    recipe = recipe.override(loss=getattr(setting.network, "training_loss", None))
    calls = {
        "ours": lambda: ours(setting, folder),
        "bare": lambda: bare(setting, recipe),
        "loader": lambda: reading(setting),
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(call())
    return times


def summary(times: dict[str, list[float]], batch_size: int, workers: int) -> dict[str, Any]:
    """Medians, rates, and how many times as long as the bare loop ours takes, with its reading and without.

    Workers read while the network computes; what is left of reading then can't be told apart.
    """
    median = {name: statistics.median(found) for name, found in times.items()}
    apart = [(own - read) / alone for own, alone, read in zip(*times.values(), strict=True)]
    return {
        "seconds_per_step": median,
        "images_per_second": {name: batch_size / value for name, value in median.items()},
        "over_bare": statistics.median(own / alone for own, alone in zip(times["ours"], times["bare"], strict=True)),
        "over_bare_without_reading": None if workers else statistics.median(apart),
        "times": times,
    }


def show(found: dict[str, Any]) -> None:
    """A table of the three loops, and what it comes to."""
    rates = found["images_per_second"]
    rows = [(name, f"{value:.4f}", f"{rates[name]:.4g}") for name, value in found["seconds_per_step"].items()]
    print(format_table(("", "s/step", "images/s"), rows))
    apart = found["over_bare_without_reading"]
    said = "" if apart is None else f", {apart:.3f} without reading"
    print(f"{found['over_bare']:.3f} of the bare loop's time per step{said}")


def main(
    model: str | None = None,
    data: Literal["photographs", "digits"] = "photographs",
    input_size: int | None = None,
    batch_size: int = 8,
    steps: int = 8,
    rounds: int = 5,
    device: Literal["cpu", "cuda"] = "cpu",
    precision: Precision = "32-true",
    compile: bool = False,
    workers: int = 0,
    seed: int = 0,
    out: Path | None = None,
) -> None:
    """Time training on a network with random weights.

    Args:
        model: a timm name; resnet18 for photographs, the recipe's network for digits if not given.
        data: photographs, which are cropped at random as they are read, or digits, the embedded scenes.
        input_size: side of the images in pixels; 224, and 64 for digits, if not given.
        batch_size: of all loops.
        steps: that are timed in each round.
        rounds: how often each loop is run; the median counts.
        device: cpu or cuda.
        precision: of both loops, as in `training.patch_finetune`.
        compile: compile the network in both loops.
        workers: loader processes.
        seed: of weights and images.
        out: folder for training-MODEL-DEVICE.json.
    """
    check_numbers(seed, batch_size=batch_size, steps=steps, rounds=rounds, input_size=input_size)
    check_count("--workers", workers, most=MOST_PROCESSES, least=0)
    check_device(device)
    digits = data == "digits"
    given = EMBEDDED.model_args if digits and model is None else {}
    model = model or (EMBEDDED.model if digits else "resnet18")
    with measuring(out, "training"):
        torch.manual_seed(seed)
        network = create_backbone(model, CLASSES[data], input_size=input_size or (64 if digits else 224), **given)
        setting = Setting(network, data, batch_size, steps, device, precision, compile, workers, seed)
        with tempfile.TemporaryDirectory() as name:
            if not digits:
                write_photographs(Path(name) / "data", setting.images, max(batch_size, 2), seed)
                setting = replace(setting, data=f"imagefolder:{name}/data")
            found = summary(measure(setting, Path(name), rounds), batch_size, workers)
        show(found)
        if out is not None:
            settings = {
                "model": model, "data": data, "input_size": network.input_size[0], "batch_size": batch_size,
                "steps": steps, "rounds": rounds, "precision": precision, "compile": compile, "workers": workers,
                "seed": seed, "threads": torch.get_num_threads(),
            }  # fmt: skip
            card = torch.cuda.get_device_name() if device == "cuda" else "cpu"
            content = {"device": card, "settings": settings, **found, "environment": environment()}
            write_json(out / f"training-{model}-{device}.json", content)


if __name__ == "__main__":
    sys.exit(run_command(main))
