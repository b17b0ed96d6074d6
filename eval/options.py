"""The flags that every evaluation shares: same flag, same meaning."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from core.errors import InputError
from core.results import atomic_directory, check_out

Precision = Literal["32-true", "64-true", "bf16-mixed", "16-mixed", "tf32"]
INPUTS = ("model", "baseline", "choose_with", "compositions", "deletions")
"""Flags, of any evaluation, that name what is read: `--out` must keep clear of it, as of the data's folder."""


@dataclass(kw_only=True)
class EvaluationOptions:
    """What to evaluate, on what, where, and how.

    Args:
        model: checkpoint folder, weight file (with --arch), timm:NAME, or hf-hub:ORG/NAME.
        data: digits, imagefolder:PATH or imagenet:PATH.
        split: which split of the data.
        attributions: methods, e.g. ixg "ig(steps=20)|abs" gradcam@middle.
        published: the parameters that the methods had in a publication, idsds (Hesse et al.) or difull (Rao et
            al.), for all that isn't given; see the READMEs of both.
        layers: layers to explain at (input, middle, final, or a tap's name); each method's own by default.
        limit: score the first N images only, the same N for every model and method.
        batch_size: images per batch; results don't depend on how batches are spread over devices.
        chunk: the most images in one pass of a method; bounds the memory.
        out: folder for summary.json, per_image.parquet and plots.
        overwrite: replace the run in --out.
        pretrained: timm's weights for timm:NAME; untrained otherwise.
        arch: timm name of a weight file's architecture.
        model_args: further arguments of timm's model.
        input_size: side of the images in pixels; the model's own by default, 64 for digits.
        accelerator: auto, cpu, cuda, ...
        devices: how many devices per node.
        num_nodes: how many nodes.
        precision: 32-true (IEEE), 64-true, tf32, bf16-mixed or 16-mixed; drops are taken in 32 bits at least.
        workers: loader processes.
        seed: keys everything random.
        skip_corrupt: count corrupt images and go on.
    """

    protocol_name: ClassVar[str] = ""
    """What `summary.json` calls the protocol: `--overwrite` replaces a run of the same, and nothing else."""

    model: str = ""
    data: str = "digits"
    split: str = "val"
    attributions: list[str] = field(default_factory=list)
    published: Literal["idsds", "difull"] | None = None
    layers: list[str] | None = None
    limit: int | None = None
    batch_size: int = 64
    chunk: int = 256
    out: Path = Path("runs/evaluation")
    overwrite: bool = False
    pretrained: bool = False
    arch: str | None = None
    model_args: dict[str, Any] | None = None
    input_size: int | None = None
    accelerator: str = "auto"
    devices: int = 1
    num_nodes: int = 1
    precision: Precision = "32-true"
    workers: int = 0
    seed: int = 0
    skip_corrupt: bool = False

    @property
    def inputs(self) -> list[str]:
        """What is read, as the flags have it."""
        given = [getattr(self, name, None) for name in INPUTS]
        flat = [item for value in given for item in (value if isinstance(value, list) else [value])]
        return [str(item) for item in (*flat, self.data) if item]

    def check_out(self) -> None:
        """Raise InputError unless the results may go to `--out`."""
        check_out(self.out, self.overwrite, kind=self.protocol_name, inputs=self.inputs)

    def result_folder(self) -> AbstractContextManager[Path]:
        """A folder that takes the place of `--out` once it is complete."""
        return atomic_directory(self.out, self.overwrite, kind=self.protocol_name, inputs=self.inputs)

    def check(self) -> None:
        """Raise InputError for values that no evaluation can use."""
        if not self.model:
            raise InputError(
                "--model is needed: a checkpoint folder, timm:NAME, hf-hub:ORG/NAME, or a file with --arch"
            )
        for name in ("limit", "batch_size", "chunk", "devices", "num_nodes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
