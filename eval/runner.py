"""Feeds models with data: loading, devices, batches, timing, gathering. It knows no protocol."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.fabric import Fabric
from torch import Tensor
from torch.utils.data import Dataset

from attribution import Guarded, create_attribution, expand_attributions
from attribution.spec import with_defaults
from checkpoints import Checkpoint, load_model, load_segmenter
from core.errors import InputError
from core.precision import ieee, use_precision
from data import (
    IndexedData,
    KeyedBatches,
    KeyedSamples,
    Samples,
    SegmentationSamples,
    make_loader,
    normalize,
    open_data,
    open_segmentation_data,
)
from eval.options import EvaluationOptions


@dataclass(frozen=True)
class Task:
    """How a task's data are opened and read, and its models loaded."""

    open_data: Callable[..., IndexedData]
    samples: Callable[..., KeyedSamples]
    load_model: Callable[..., Checkpoint[Any]]


CLASSIFICATION = Task(open_data, Samples, load_model)
SEGMENTATION = Task(open_segmentation_data, SegmentationSamples, load_segmenter)


class ImageBatch(NamedTuple):
    """Normalised images on the device, their labels (B,) or (B, H, W), and their indices in the data set."""

    images: Tensor
    labels: Tensor
    indices: Tensor


@dataclass
class Method:
    """An attribution that is being evaluated, and what it has cost so far."""

    label: str
    layer: str
    explain: Any
    seconds: float = 0.0
    maps: int = 0

    @property
    def upsample(self) -> str:
        """How its maps are brought to image size."""
        return getattr(self.explain, "upsample", "bilinear")

    @property
    def passes(self) -> tuple[float | None, float | None]:
        """Forward and backward passes per map, where the method knows."""
        found = getattr(self.explain, "passes", None)
        return (None, None) if found is None else (float(found.forward), float(found.backward))


@dataclass
class Runner:
    """A model and its data on this process's device; the other processes have other batches."""

    options: EvaluationOptions
    checkpoint: Checkpoint[Any]
    data: Any
    fabric: Fabric
    task: Task = CLASSIFICATION
    corrupt: set[int] = field(default_factory=set, init=False)
    """Which samples this process could not read, however often it tried."""

    @classmethod
    def start(cls, options: EvaluationOptions, task: Task = CLASSIFICATION) -> Runner:
        """Check the options, load model and data, start the processes."""
        options.check()
        options.check_out()
        classes = len(task.open_data(options.data, options.split).classes)
        checkpoint = load_named(
            options.model, options, task, classes, input_size=options.input_size, model_args=options.model_args
        )
        data = task.open_data(options.data, options.split, size=checkpoint.backbone.input_size[0], seed=options.seed)
        check_classes(checkpoint, data)
        several = options.devices * options.num_nodes > 1
        fabric = Fabric(
            accelerator=options.accelerator,
            devices=options.devices,
            num_nodes=options.num_nodes,
            strategy="ddp" if several else "auto",
            precision=use_precision(options.precision),  # type: ignore[arg-type]
        )
        fabric.launch()
        runner = cls(options, checkpoint, data, fabric, task)
        runner.place(checkpoint.backbone)
        return runner

    def place(self, model: torch.nn.Module) -> None:
        """Bring a model onto this process's device, in evaluation mode."""
        model.eval().to(self.fabric.device)
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.options.precision == "64-true":
            model.double()

    def load_other(self, text: str) -> Checkpoint[Any]:
        """Another model to look at the same images, each as its own `data_config` says; ready to run."""
        size = None if _brings_its_size(text) else self.options.input_size
        other = load_named(text, self.options, self.task, len(self.data.classes), input_size=size)
        check_classes(other, self.data)
        self.place(other.backbone)
        return other

    @property
    def count(self) -> int:
        """How many images are evaluated, before corrupt ones are taken out."""
        return min(len(self.data), self.options.limit or len(self.data))

    def samples(self, checkpoint: Checkpoint[Any] | None = None) -> KeyedSamples:
        """The data's images, sized for the model (or for another one: rendered data is rendered anew)."""
        backbone, options, data = (checkpoint or self.checkpoint).backbone, self.options, self.data
        if backbone.input_size != self.checkpoint.backbone.input_size:
            data = self.task.open_data(options.data, options.split, size=backbone.input_size[0], seed=options.seed)
        return self.task.samples(data, backbone.data_config, training=False, skip_corrupt=options.skip_corrupt)

    def batches(
        self,
        samples: Dataset[Any] | None = None,
        count: int | None = None,
        batch_size: int | None = None,
        checkpoint: Checkpoint[Any] | None = None,
    ) -> Iterator[ImageBatch]:
        """This process's batches of images, or of other samples: (B, ..., C, H, W), normalised for the model."""
        config = (checkpoint or self.checkpoint).backbone.data_config
        samples = self.samples(checkpoint) if samples is None else samples
        keys = KeyedBatches(
            self.count if count is None else count,
            batch_size or self.options.batch_size,
            shuffle=False,
            rank=self.fabric.global_rank,
            world=self.fabric.world_size,
        )
        dtype = torch.float64 if self.options.precision == "64-true" else torch.float32
        for batch in make_loader(samples, keys, self.options.workers):
            self.corrupt.update(batch["corrupt"].tolist())
            if "image" not in batch:
                continue
            batch = {key: value.to(self.fabric.device, non_blocking=True) for key, value in batch.items()}
            images = normalize(batch["image"], config, dtype)
            yield ImageBatch(images, batch["label"], batch["index"])

    def autocast(self) -> AbstractContextManager[Any]:
        """The chosen precision."""
        return self.fabric.autocast()

    @contextmanager
    def full_precision(self) -> Iterator[None]:
        """IEEE float32 at least, whatever `--precision` says: what is subtracted, in fewer digits, ties."""
        with self.autocast(), torch.autocast(self.fabric.device.type, enabled=False), ieee():
            yield

    @contextmanager
    def timed(self, method: Method, maps: int) -> Iterator[None]:
        """Add the block's seconds to a method, once the device has finished."""
        self._synchronize()
        start = time.perf_counter()
        yield
        self._synchronize()
        method.seconds += time.perf_counter() - start
        method.maps += maps

    def _synchronize(self) -> None:
        if self.fabric.device.type == "cuda":
            torch.cuda.synchronize(self.fabric.device)

    def gather(self, content: Any) -> list[Any] | None:
        """Every process's content, in order of rank, on the first process; None on the others."""
        if self.fabric.world_size == 1:
            return [content]
        received: list[Any] | None = [None] * self.fabric.world_size if self.fabric.global_rank == 0 else None
        torch.distributed.gather_object(content, received)
        return received

    def share(self, content: Any) -> list[Any]:
        """Every process's content, in order of rank, on all of them."""
        received: list[Any] = [content] * self.fabric.world_size
        if self.fabric.world_size > 1:
            torch.distributed.all_gather_object(received, content)
        return received

    def describe_data(self) -> dict[str, Any]:
        """The `data` entry of `summary.json`."""
        return {
            "name": self.data.name,
            "split": self.data.split,
            "n_images": self.count,
            "fingerprint": self.data.fingerprint(),
        }

    def describe_settings(self) -> dict[str, Any]:
        """The settings that every evaluation records."""
        options = self.options
        return {
            "precision": options.precision,
            "seed": options.seed,
            "batch_size": options.batch_size,
            "chunk": options.chunk,
            "published": options.published,
            "input_size": list(self.checkpoint.backbone.input_size),
            "device": self.fabric.device.type,
            "processes": self.fabric.world_size,
        }


def _brings_its_size(text: str, model_args: dict[str, Any] | None = None) -> bool:
    named = Path(text).expanduser().is_dir() or text.startswith("hf-hub:")
    return named or "img_size" in (model_args or {})


def load_named(
    text: str, options: EvaluationOptions, task: Task, classes: int, *, input_size: int | None, **own: Any
) -> Checkpoint[Any]:
    """Load what `--model`, or a flag like it, names; untrained weights are drawn by the seed.

    A `timm:NAME` gets as many classes as the data, unless it is pretrained, and 64 px for digits.
    """
    digits = options.data.partition(":")[0] == "digits" and not _brings_its_size(text, own.get("model_args"))
    torch.manual_seed(options.seed)
    return task.load_model(
        text,
        arch=options.arch,
        num_classes=None if options.pretrained else classes,
        pretrained=options.pretrained,
        input_size=input_size or (64 if digits else None),
        **own,
    )


def check_classes(checkpoint: Checkpoint[Any], data: IndexedData) -> None:
    """The data must have the checkpoint's classes: as many, and by the same names if it names them."""
    classes = checkpoint.backbone.num_classes
    if classes != len(data.classes):
        raise InputError(f"{checkpoint.name} has {classes} classes, {data.name} ({data.split}) has {len(data.classes)}")
    if checkpoint.classes and checkpoint.classes != data.classes:
        first = next((a, b) for a, b in zip(checkpoint.classes, data.classes, strict=True) if a != b)
        raise InputError(
            f"{checkpoint.name} has other classes than {data.name}: {first[0]!r} where the data has {first[1]!r}"
        )


def make_methods(
    names: list[str],
    layers: list[str] | None,
    checkpoint: Checkpoint[Any],
    chunk: int,
    callables: dict[str, Any] | None = None,
    *,
    model: torch.nn.Module | None = None,
    cell: int | None = None,
    published: str | None = None,
    output: str | None = None,
) -> list[Method]:
    """Build the attributions that text names, at each layer, and take in the user's own callables.

    `model` is what they explain, the checkpoint's network by default; `cell` the head of a grid setting;
    `published` and `output` hold for the methods that the text doesn't give their own.
    """
    explained: torch.nn.Module = checkpoint.backbone if model is None else model
    methods = []
    defaults = {"chunk": chunk, "published": published, "output": output}
    for layer in layers or [None]:
        for spec in expand_attributions(names, explained, layer, cell=cell, defaults=defaults):
            explain = create_attribution(spec, explained, layer, cell=cell, **with_defaults(spec, defaults))
            methods.append(Method(spec.label, getattr(explain, "layer", "input"), explain))
    given = (callables or {}).items()
    methods += [Method(name, "input", Guarded(explain, explained, name)) for name, explain in given]
    seen = [(method.label, method.layer) for method in methods]
    repeated = {f"{label} at {layer}" for label, layer in seen if seen.count((label, layer)) > 1}
    if repeated:
        raise InputError(f"the same attribution twice: {', '.join(sorted(repeated))}")
    return methods
