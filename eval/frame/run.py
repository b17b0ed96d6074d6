"""A model and its data on this process's device: loading, batches, precision, clock, gathering. No protocol."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from lightning.fabric import Fabric
from lightning.fabric.strategies.ddp import DDPStrategy
from torch import Tensor
from torch.utils.data import Dataset

from checkpoints import Checkpoint, Task
from eval.frame.batches import Items, Placement, SampleBatches
from eval.frame.loading import check_classes, load_named
from eval.frame.memory import fitting_chunk
from eval.frame.methods import Method
from eval.frame.options import ModelOptions
from eval.frame.part import Cost, Part, merged
from eval.frame.protocol import Pass
from eval.frame.store import Store
from eval.frame.work import carry_out
from faithfulness.attribution import forget, seconds_shared
from faithfulness.backbones import fold_batchnorm
from faithfulness.core.checks import check_logits, check_maps
from faithfulness.core.errors import InputError, is_out_of_memory
from faithfulness.core.hardware import choose_port, share_workers
from faithfulness.core.precision import ieee, use_precision
from faithfulness.core.progress import Progress, silence_lightning
from faithfulness.core.stopping import is_first, watching_others
from faithfulness.data import KeyedSamples, normalize
from faithfulness.report import visible

Options = TypeVar("Options", bound=ModelOptions)


@dataclass
class Run(Generic[Options]):
    """What a protocol is given: the options, a loaded model, its data. Other processes have other batches.

    Attributes:
        callables: the user's own attributions by name.
        progress: where to say what is going on.
        chunk: the most images in one pass.
        store: the finished parts on disk; None where they aren't kept.
        complete: whether all parts must be there already, as when shards are merged.
        corrupt: which samples this process could not read, however often it tried, by what they are.
    """

    options: Options
    checkpoint: Checkpoint[Any]
    data: Any
    fabric: Fabric
    task: Task
    callables: dict[str, Any] = field(default_factory=dict)
    progress: Progress = field(default_factory=lambda: Progress(quiet=True))
    chunk: int = 1
    store: Store | None = None
    complete: bool = False
    corrupt: dict[str, set[int]] = field(default_factory=dict, init=False)

    @classmethod
    def start(
        cls, options: Options, task: Task, callables: dict[str, Any] | None = None, owned: ExitStack | None = None
    ) -> Run[Options]:
        """Open the data, load the model, start the processes; as long as `owned`, they are watched."""
        progress = Progress(options.quiet or not is_first())
        with progress.phase("opening the data"):
            data = task.open_data(options.data, options.split, seed=options.seed)
        with progress.phase("loading the model"):
            checkpoint = load_named(options.model, options, task, data, model_args=options.model_args)
        data = data.at_size(checkpoint.model.input_size[0])
        check_classes(checkpoint, data)
        processes = processes_of(options)
        silence_lightning()
        if processes > 1:
            choose_port()
        fabric = Fabric(
            accelerator=options.accelerator,
            devices=options.devices,
            num_nodes=options.num_nodes,
            strategy=DDPStrategy(timeout=timedelta(days=1)) if processes > 1 else "auto",  # one may have done before
            precision=use_precision(options.precision),  # type: ignore[arg-type]
        )
        if owned is not None:
            owned.enter_context(watching_others(lambda: getattr(fabric.strategy.launcher, "procs", [])))
        fabric.launch()
        run = cls(options, checkpoint, data, fabric, task, callables or {}, progress)
        run.place(checkpoint.model)
        run.chunk = options.chunk or fitting_chunk(checkpoint.model, fabric.device, options.most)
        return run

    def place(self, model: torch.nn.Module) -> None:
        """Bring a model onto this process's device, in evaluation mode."""
        model.eval().to(self.fabric.device)
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        model.to(torch.float64 if self.options.precision == "64-true" else torch.float32)

    def load_other(self, text: Any) -> Checkpoint[Any]:
        """Another model to look at the same images, each as its own `data_config` says; ready to run."""
        own_size = isinstance(text, str) and (text.startswith("hf-hub:") or Path(text).expanduser().is_dir())
        other = load_named(text, self.options, self.task, self.data, own_size=own_size)
        check_classes(other, self.data)
        self.place(other.model)
        return other

    def folded(self, checkpoint: Checkpoint[Any]) -> Any:
        """Its network for passes without a gradient: batch normalization folded, where that changes nothing."""
        with self.full_precision():
            return fold_batchnorm(checkpoint.model)

    @property
    def count(self) -> int:
        """How many images are evaluated, before corrupt ones are taken out."""
        return min(len(self.data), self.options.limit or len(self.data))

    def samples(self, checkpoint: Checkpoint[Any] | None = None) -> KeyedSamples:
        """The data's images, sized for the model (or for another one: rendered data is rendered anew)."""
        model = (checkpoint or self.checkpoint).model
        data = self.data.at_size(model.input_size[0])
        return self.task.samples(data, model.data_config, training=False, skip_corrupt=self.options.skip_corrupt)

    def batches(
        self,
        samples: Dataset[Any] | None = None,
        count: int | None = None,
        batch_size: int | None = None,
        checkpoint: Checkpoint[Any] | None = None,
        what: str = "images",
        make: Callable[[Any], Any] = lambda batch: batch,
    ) -> SampleBatches:
        """This process's batches of images, or of other samples: (B, ..., C, H, W), normalized for the model.

        What can't be read is counted under the name `what`; `make` turns an `ImageBatch` into what is worked on.
        """
        total = self.count if count is None else count
        size = batch_size or self.options.batch_size
        numbers = self.mine(-(-total // size))
        return SampleBatches(
            self.samples(checkpoint) if samples is None else samples,
            total,
            size,
            numbers,
            self.placement(checkpoint),
            self.workers(len(numbers)),
            what,
            what.split()[0] if what == "images" else "grids",
            make,
        )

    def all_batches(self, checkpoint: Checkpoint[Any] | None = None) -> SampleBatches:
        """As `batches` of images, but of all shards: what every one of them must know."""
        batches = self.batches(checkpoint=checkpoint)
        batches.numbers = range(-(-self.count // batches.size))[self.fabric.global_rank :: self.fabric.world_size]
        return batches

    def items(self, items: list[Any], unit: str) -> Items:
        """Things to be looked at one by one, which are JSON; this process's of them."""
        return Items(items, self.mine(len(items)), unit, unit)

    def mine(self, count: int) -> range:
        """Which of so many batches are this shard's, and of those this process's."""
        shard, shards = self.options.shard_of
        return range(shard, count, shards)[self.fabric.global_rank :: self.fabric.world_size]

    def workers(self, batches: int) -> int:
        """Loader processes for so many batches of this process."""
        if self.options.workers is not None:
            return self.options.workers
        local = self.fabric.world_size // self.options.num_nodes
        return share_workers([batches], local)[0] if self.data.workers else 0

    def placement(self, checkpoint: Checkpoint[Any] | None = None) -> Placement:
        """How images come to the device."""
        dtype = torch.float64 if self.options.precision == "64-true" else torch.float32
        return Placement(self.fabric.device, dtype, (checkpoint or self.checkpoint).model.data_config)

    def one(self, pixels: Tensor) -> Tensor:
        """A sample's pixels (..., C, H, W) as a batch of one on the device, normalized for the model."""
        device, dtype, data_config = self.placement()
        return normalize(pixels[None].to(device), data_config, dtype)

    def carry_out(self, work: Pass) -> Part:
        """Do what isn't done yet of a pass; its whole part on this process."""

        def made() -> dict[str, int]:
            return {
                "chunk": self.chunk,
                "batch_size": self.options.batch_size,
                "processes": self.fabric.world_size,
            }

        part = carry_out(work, self.store, self.progress, made, self.within_memory, self.complete)
        for name, indices in part.corrupt.items():
            self.corrupt.setdefault(name, set()).update(indices)
        return part

    def within_memory(self, work: Callable[[], Part]) -> Part:
        """What `work` gives; where the device runs out of memory, with half as many images a pass, from then on."""
        while True:
            try:
                return work()
            except RuntimeError as error:
                if self.chunk == 1 or not is_out_of_memory(error):
                    raise
            self.chunk = -(-self.chunk // 2)
            forget()
            torch.cuda.empty_cache()
            self.progress.say(f"out of memory; going on with {self.chunk} images a pass")

    def autocast(self) -> AbstractContextManager[Any]:
        """The chosen precision."""
        return self.fabric.autocast()

    @contextmanager
    def full_precision(self) -> Iterator[None]:
        """IEEE float32 at least, whatever `--precision` says: what is subtracted, in fewer digits, ties."""
        with self.autocast(), torch.autocast(self.fabric.device.type, enabled=False), ieee():
            yield

    def explain(self, part: Part, method: Method, images: Tensor, *targets: Tensor) -> Tensor:
        """A method's maps (B, C, h, w) of a batch, finite.

        The time that it takes alone goes to the part's costs: with what it was given by methods before it.
        """
        self._synchronize()
        start, before, chunk = time.perf_counter(), seconds_shared(), getattr(method.explain, "chunk", None)
        maps = method.explain(images, *targets)
        self._synchronize()
        seconds = time.perf_counter() - start + seconds_shared() - before
        if chunk != (now := getattr(method.explain, "chunk", None)):
            self.progress.say(f"{method.label}: out of memory; going on with {now} images a pass")
        cost = Cost(seconds, len(images), *method.passes)
        part.costs[method.key] = part.costs.get(method.key, Cost()) + cost
        place = f" in {method.place.strip(' /')}" if method.place else ""
        return check_maps(maps, images, f"attribution {method.label}{place}")

    def visible(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) as the data give them, in [0, 1]: pixels, or what a data set of one's own normalized."""
        if not images.is_floating_point():
            return images.float() / 255
        return torch.from_numpy(visible(images, self.checkpoint.model.data_config)).float()

    def predict(self, images: Tensor) -> Tensor:
        """The classes (B,) that the model predicts, in full precision, at most `chunk` images at a time.

        Raises InputError where its logits are NaN or infinite.
        """
        model, name = self.checkpoint.model, self.checkpoint.name
        with self.full_precision(), torch.no_grad():
            logits = [check_logits(model(part), name) for part in images.split(self.chunk)]
        return torch.cat(logits).argmax(dim=1)

    def _synchronize(self) -> None:
        if self.fabric.device.type == "cuda":
            torch.cuda.synchronize(self.fabric.device)

    def merge(self, part: Part) -> Part | None:
        """The parts of all processes as one, in order of rank, on the first process; None on the others."""
        part.merge(Part(corrupt=self.corrupt))
        if self.fabric.world_size == 1:
            return part
        received: list[Any] | None = [None] * self.fabric.world_size if self.fabric.global_rank == 0 else None
        torch.distributed.gather_object(part, received)
        return None if received is None else merged(received)

    def share(self, content: Any) -> list[Any]:
        """Every process's content, in order of rank, on all of them."""
        received: list[Any] = [content] * self.fabric.world_size
        if self.fabric.world_size > 1:
            torch.distributed.all_gather_object(received, content)
        return received

    def on_first(self, work: Callable[[], None]) -> None:
        """Let the first process do something; its refusal is the refusal of all."""
        failed: Exception | None = None
        if self.fabric.global_rank == 0:
            try:
                work()
            except Exception as error:  # whatever it is, the others mustn't wait
                failed = error
        refused = self.share(None if failed is None else str(failed))[0]
        if failed is not None:
            raise failed
        if refused is not None:
            raise InputError(refused)

    @property
    def title(self) -> str:
        """Model and data, for the head of pictures."""
        return f"{self.checkpoint.name} on {self.data.name} ({self.data.split})"

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
            "limit": options.limit,
            "batch_size": options.batch_size,
            "chunk": self.chunk,
            "published": options.published,
            "input_size": list(self.checkpoint.model.input_size),
            "device": self.fabric.device.type,
            "processes": self.fabric.world_size,
        }


def processes_of(options: ModelOptions) -> int:
    """How many processes the options ask for."""
    here = options.devices
    if here == "auto":
        here = torch.cuda.device_count() if options.accelerator in ("auto", "cuda", "gpu") else 1
    return max(1, int(here)) * options.num_nodes
