"""The flags that every training shares: same flag, same meaning."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

import checkpoints
from checkpoints.scrub import OF_MACHINE
from faithfulness import core, data
from faithfulness.core.flags import check_values, flags_of
from faithfulness.core.hardware import check_devices
from faithfulness.core.plugin_files import file_of, is_in_file
from faithfulness.core.stopping import is_first
from training.folder import check_folder
from training.ranges import check_hardware, check_numbers
from training.recipe import OFF, Recipe, recipe_for


@dataclass(kw_only=True)
class TrainingOptions:
    """What to train, on what, where to, and how.

    Args:
        out: checkpoint folder to write.
        model: timm name, checkpoint folder, weight file (with --arch), hf-hub:ORG/NAME, or path/to/file.py:function.
        data: digits, imagefolder:PATH, imagenet:PATH, hfds:PATH or hfds:ORG/NAME, or path/to/file.py:function.
        pretrained: start from timm's weights (needs a network or timm's cache).
        arch: timm name of a weight file's architecture, or path/to/file.py:function that makes it.
        model_args: further arguments of timm's model, or of the function.
        input_size: side of the images in pixels; the model's own by default, 64 for digits.
        grid: rows and columns of the deletion grid; 4 4 by default.
        fill: zeros, mean, random or blur (which leaks the deleted pixels).
        deletion_probability: share of the images that lose a cell.
        epochs: passes over the training images; this and the flags below default to the recipe.
        batch_size: images per step, over all devices together.
        accumulate: parts that a batch is computed in, one after the other, where a device's share doesn't fit into its
            memory; the gradient is that of the whole, but BatchNorm's statistics are those of each part.
        lr: learning rate (of step 0 for `step`, the peak for `onecycle`).
        optimizer: sgd or adamw.
        momentum: of sgd.
        weight_decay: weight decay.
        schedule: step (×0.1 every --step-epochs) or onecycle.
        step_epochs: epochs between two steps of the schedule.
        clip: the largest norm of the gradient of all weights together; a longer one is shortened.
        ema: decay per step of a moving average of the weights, such as 0.999; the average is what is validated, chosen
            as the best and written.
        train_images: how many scenes to draw, for digits.
        val_images: how many validation scenes to draw, for digits.
        accelerator: as in Lightning.
        devices: how many devices per node, or auto.
        num_nodes: how many nodes.
        strategy: auto, or ddp for several processes.
        precision: 32-true (IEEE), tf32, bf16-mixed or 16-mixed.
        compile: train with the network compiled by torch.compile; the weights are those of the plain network.
        workers: loader processes of each of the two loaders; by default what the processors bear, for files, and none
            for digits and for data of one's own.
        seed: keys every random choice.
        resume: go on from the last epoch of the run in --out.
        overwrite: replace the run in --out.
        quiet: say nothing but the result.
        skip_corrupt: count corrupt images (and masks) and go on.
    """

    GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {
        "model": ("model", "pretrained", "arch", "model_args", "input_size"),
        "data": ("data", "train_images", "val_images", "skip_corrupt"),
        "deletion": ("grid", "fill", "deletion_probability"),
        "output": ("out", "resume", "overwrite", "quiet"),
        "hardware": ("accelerator", "devices", "num_nodes", "strategy", "precision", "compile", "workers"),
    }
    SEGMENTS: ClassVar[bool] = False
    """Whether the recipes are those of segmentation."""

    out: Path = Path("runs/finetuned")
    model: str | Any | None = None
    data: str | Any = "digits"
    pretrained: bool = False
    arch: str | Any | None = None
    model_args: dict[str, Any] | None = None
    input_size: int | None = None
    grid: list[int] | None = None
    fill: str = "zeros"
    deletion_probability: float = 0.5
    epochs: int | None = None
    batch_size: int | None = None
    accumulate: int = 1
    lr: float | None = None
    optimizer: Literal["sgd", "adamw"] | None = None
    momentum: float | None = None
    weight_decay: float | None = None
    schedule: Literal["step", "onecycle"] | None = None
    step_epochs: int | None = None
    clip: float | None = None
    ema: float | None = None
    train_images: int | None = None
    val_images: int | None = None
    accelerator: str = "auto"
    devices: int | str = "auto"
    num_nodes: int = 1
    strategy: Literal["auto", "ddp"] = "auto"
    precision: Literal["32-true", "tf32", "bf16-mixed", "16-mixed"] = "32-true"
    compile: bool = False
    workers: int | None = None
    seed: int = 0
    resume: bool = False
    overwrite: bool = False
    quiet: bool = False
    skip_corrupt: bool = False

    def __post_init__(self) -> None:
        self.out = Path(self.out)
        with suppress(RuntimeError):  # a home that there isn't
            self.out = self.out.expanduser()

    @property
    def task(self) -> checkpoints.Task:
        """How this training opens its data, and loads and saves its models."""
        return checkpoints.SEGMENTATION if self.SEGMENTS else checkpoints.CLASSIFICATION

    def check(self) -> None:
        """Raise InputError for flags that contradict what they mean; needs no model and no data."""
        check_values(self)
        check_numbers(self)
        check_devices(self.devices, self.accelerator)
        check_hardware(self)
        self.deletion()

    def begin(self) -> None:
        """Refuse bad flags, and a folder that must not be written, before anything slow is loaded."""
        check_values(self)
        check_numbers(self)
        if is_first():
            check_folder(self.out, self.inputs(), self.resume, self.overwrite)
        self.check()

    def deletion(self) -> core.DeletionSpec:
        """The deletion that the images are trained with; on a 4×4 grid by default."""
        grid = core.PatchGrid(4, 4) if self.grid is None else core.PatchGrid.of(self.grid)
        return core.DeletionSpec(grid, self.fill, self.deletion_probability)

    def recipe(self, rendered: bool) -> Recipe:
        """The recipe that suits the data, with whatever was given in its place."""
        recipe = recipe_for(rendered, self.SEGMENTS)
        given = {name: value for name, value in vars(self).items() if name != "model"}
        arguments = {**(recipe.model_args if self.model is None else {}), **(self.model_args or {})}
        return recipe.override(**{**given, "model": named(self.model), "model_args": arguments})

    def settings(self, recipe: Recipe) -> dict[str, Any]:
        """What a run records of itself: the flags, with what the recipe decided; objects by their names.

        Of `OFF`, only what is on.
        """
        ours = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        given = {name: value for name, value in ours.items() if name not in ("out", "resume", "overwrite", "quiet")}
        grid = self.deletion().grid
        all_of_it = {**given, "data": named(self.data), "arch": named(self.arch), **asdict(recipe)}
        said = {name: value for name, value in all_of_it.items() if name not in OFF or value != OFF[name]}
        return said | {"grid": [grid.rows, grid.cols]}

    def command(self, settings: Mapping[str, Any]) -> str | None:
        """The command line that says all of `settings` but where it ran; None where a model or data came as objects."""
        if not all(isinstance(given, str | Path | None) for given in (self.model, self.data, self.arch)):
            return None
        module = type(self).__module__
        if module == "__main__":
            module = getattr(sys.modules[module].__spec__, "name", module)
        words = ["python", "-m", module]
        for name, flag in flags_of(type(self)).items():
            value = settings.get(name)
            if name in OF_MACHINE or value is None or value is False:
                continue
            if isinstance(value, Mapping):
                for key, entry in value.items():
                    words += [f"{flag.spelling}.{key}", _word(entry)]
            elif value is True:
                words.append(flag.spelling)
            else:
                words += [flag.spelling, *map(_word, value if isinstance(value, list | tuple) else [value])]
        return shlex.join(words)

    def resolved(self) -> dict[str, Any]:
        """All flags with what the recipe decides filled in, but its network, which `remarks` names.

        Opens no data: of text it goes by the kind, so a file of one's own counts as data that aren't rendered. What
        the network decides (its input size, its loss) stays None, and so do the workers, which change no result.
        """
        self.check()
        rendered = data.is_rendered(self.data, self.task.kinds)
        of_network = {"loss": getattr(self, "loss", None)} if hasattr(self, "loss") else {}
        flags = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        decided = self.settings(self.recipe(rendered)) | of_network
        own = ("model", "model_args", "workers")
        return {name: value if name in own else decided.get(name, value) for name, value in flags.items()}

    def remarks(self) -> list[str]:
        """What `--print-config` says beside the settings: the network that is trained where none is named."""
        if self.model is not None:
            return []
        recipe = self.recipe(data.is_rendered(self.data, self.task.kinds))
        arguments = ", ".join(f"{name}={value}" for name, value in recipe.model_args.items())
        return [f"without a model, the recipe takes {recipe.model}" + (f" with {arguments}" if arguments else "")]

    def inputs(self) -> list[str]:
        """Paths and names of what is read, of which --out must keep clear."""
        texts = [text for text in (self.model, self.data, self.arch) if isinstance(text, str | Path)]
        return [file_of(str(text)) if is_in_file(text) else str(text) for text in texts]


def _word(value: Any) -> str:
    """A value as it stands on a command line."""
    return json.dumps(value) if isinstance(value, list | tuple | dict | bool) else str(value)


def named(given: Any) -> str | None:
    """What a record calls a model, a data set or their code: text as it is, an object by its name."""
    if given is None or isinstance(given, str):
        return given
    if isinstance(given, Path):
        return str(given)
    if isinstance(given, Mapping):  # one data set per split
        return named(next(iter(given.values()), None))
    name = getattr(given, "name", None) or getattr(given, "__name__", None)
    return name if isinstance(name, str) else type(given).__name__
