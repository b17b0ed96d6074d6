"""The flags that evaluations share: same flag, same meaning."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from faithfulness.core.errors import InputError
from faithfulness.core.files import check_formats, check_out
from faithfulness.core.flags import check_values
from faithfulness.core.hardware import MOST_PROCESSES, check_devices

Precision = Literal["32-true", "64-true", "bf16-mixed", "16-mixed", "tf32"]
LARGEST = 2**31
INPUTS = ("model", "baseline", "choose_with", "compositions", "deletions")
"""Flags, of any evaluation, that name what is read: `--out` must keep clear of it, as of the data's folder."""


@dataclass(kw_only=True)
class ModelOptions:
    """What to evaluate, on what, and where the results go.

    Args:
        model: checkpoint folder, weight file (with --arch), timm:NAME, hf-hub:ORG/NAME, or file.py:function that
            returns a network.
        data: digits, imagefolder:PATH, imagenet:PATH, hfds:PATH or hfds:ORG/NAME (parquet, as on the Hugging Face
            Hub), or file.py:function that returns a data set of (image, label).
        split: which split of the data.
        limit: look at the first N images only, the same N for every model and method; all by default.
        chunk: the most images in one pass, which bounds the memory; by default as many as fit into a GPU, at most 256,
            and as a processor is fastest with.
        out: folder for summary.json, per_image.parquet and plots; runs/COMMAND/MODEL by default. An interrupted run
            there is gone on with, and a finished one if only methods are added.
        overwrite: replace the run in --out.
        format: kinds of picture files, any of png, pdf and svg.
        quiet: say nothing until the end.
        pretrained: timm's weights for timm:NAME; untrained otherwise.
        arch: timm name of a weight file's architecture, or file.py:function of a checkpoint of one's own network.
        model_args: further arguments of timm's model; none by default.
        input_size: side of the images in pixels; the model's own by default, 64 for digits.
        accelerator: auto, cpu, cuda, ...
        precision: 32-true (IEEE), 64-true, tf32, bf16-mixed or 16-mixed; drops are taken in 32 bits at least.
        seed: keys everything random.
        skip_corrupt: count corrupt images and go on.
    """

    GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {
        "model": ("model", "baseline", "arch", "pretrained", "model_args", "input_size"),
        "data": ("data", "split", "limit", "skip_corrupt"),
        "attributions": ("attributions", "layers", "published", "list_attributions"),
        "output": ("out", "overwrite", "format", "quiet"),
        "hardware": (
            *("accelerator", "devices", "num_nodes", "shard", "precision", "workers"),
            *("batch_size", "chunk", "seed"),
        ),
    }
    protocol_name: ClassVar[str] = ""
    """What `summary.json` calls the protocol: `--overwrite` replaces a run of the same, and nothing else."""
    batch_size: ClassVar[int] = 64
    devices: ClassVar[int | str] = 1
    num_nodes: ClassVar[int] = 1
    workers: ClassVar[int | None] = 0
    shard: ClassVar[str | None] = None
    published: ClassVar[str | None] = None
    most: ClassVar[int] = 256
    """The largest `chunk` that is taken by default."""

    model: str | Any = ""
    data: str | Any = "digits"
    split: str = "val"
    limit: int | None = None
    chunk: int | None = None
    out: Path | None = None
    overwrite: bool = False
    format: list[str] = field(default_factory=lambda: ["png"])
    quiet: bool = False
    pretrained: bool = False
    arch: str | Any | None = None
    model_args: dict[str, Any] | None = None
    input_size: int | None = None
    accelerator: str = "auto"
    precision: Precision = "32-true"
    seed: int = 0
    skip_corrupt: bool = False

    def __post_init__(self) -> None:
        try:
            self.out = None if self.out is None else Path(self.out).expanduser()
        except RuntimeError as error:
            raise InputError(f"--out {self.out}: {error}") from error

    @property
    def inputs(self) -> list[str]:
        """What is read, as the flags have it; networks and data sets given as objects are no files."""
        given = [getattr(self, name, None) for name in (*INPUTS, "data")]
        flat = [item for value in given for item in (value if isinstance(value, list) else [value])]
        return [str(item) for item in flat if isinstance(item, str | Path) and str(item)]

    def check_out(self, goes_on: bool = True) -> None:
        """Raise InputError unless the results may go to `--out`; `goes_on` if an interrupted run may be there."""
        if self.out is not None:
            check_out(self.out, self.overwrite, kind=self.protocol_name, inputs=self.inputs, goes_on=goes_on)

    @property
    def shard_of(self) -> tuple[int, int]:
        """Which share of the batches this job has, from 0, and of how many."""
        if self.shard is None:
            return 0, 1
        number, _, count = self.shard.partition("/")
        return int(number) - 1, int(count)

    def check(self) -> None:
        """Raise InputError for values that no evaluation can use."""
        check_values(self)
        check_formats(self.format)
        if isinstance(self.model, str) and not self.model:
            raise InputError(
                "--model is needed: a checkpoint folder, timm:NAME, hf-hub:ORG/NAME, file.py:function, or a file "
                "with --arch"
            )
        ones = ("limit", "batch_size", "chunk", "num_nodes", "input_size")
        for name, least in (*((name, 1) for name in ones), ("workers", 0)):
            value, end = getattr(self, name), MOST_PROCESSES if name in ("workers", "num_nodes") else LARGEST
            if value is not None and not least <= value < end:
                most = "" if value < least else f" and below {end}"
                raise InputError(f"--{name.replace('_', '-')} must be at least {least}{most}, got {value}")
        if not 0 <= self.seed < LARGEST:
            raise InputError(f"--seed must lie in 0 … {LARGEST - 1}, got {self.seed}")
        check_devices(self.devices, self.accelerator, self.num_nodes)
        if self.shard is not None:
            found = re.fullmatch(r"([1-9][0-9]{0,5})/([1-9][0-9]{0,5})", self.shard, re.ASCII)
            if found is None or int(found[1]) > int(found[2]):
                raise InputError(f"--shard must be K/N, with K from 1 to N, got {self.shard}")


@dataclass(kw_only=True)
class EvaluationOptions(ModelOptions):
    """What to evaluate, on what, where, and how.

    Args:
        attributions: methods, e.g. ixg "ig(steps=20)|abs" gradcam@middle, or path/to/file.py:function.
        published: the parameters that the methods had in a publication, idsds (Hesse et al.) or difull (Rao et
            al.), for all that isn't given; see the READMEs of both. This suite's own by default.
        layers: layers to explain at (input, middle, final, or a tap's name); each method's own by default.
        list_attributions: print the registered attributions and stop.
        batch_size: images per batch; results don't depend on how batches are spread over devices.
        devices: how many devices per node, or auto for all.
        num_nodes: how many nodes.
        shard: K/N computes the K-th of N shares, for job arrays; eval.merge puts them together. All by default.
        workers: loader processes; by default the processors that are left, for files, and 0 for data that are drawn.
    """

    attributions: list[str] = field(default_factory=list)
    published: Literal["idsds", "difull"] | None = None  # type: ignore[misc]
    layers: list[str] | None = None
    list_attributions: bool = False
    batch_size: int = 64  # type: ignore[misc]
    devices: int | str = "auto"  # type: ignore[misc]
    num_nodes: int = 1  # type: ignore[misc]
    shard: str | None = None  # type: ignore[misc]
    workers: int | None = None  # type: ignore[misc]
