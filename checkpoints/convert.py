"""Turn a published weight file into a checkpoint, with the deletion that it was trained on."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from checkpoints.licenses import OTHER, known_license
from checkpoints.lineage import UNKNOWN
from faithfulness.core.cli import named_first, run_command
from faithfulness.core.errors import InputError
from faithfulness.core.files import check_out, files_in
from faithfulness.core.flags import check_values

if TYPE_CHECKING:
    from checkpoints.format import Checkpoint
    from checkpoints.weights import WeightFile
    from faithfulness.core.deletion import DeletionSpec


_RECORD = "training.json"
_FILES = {"model.safetensors", "config.json", _RECORD, "README.md"}
_LARGEST_GRID = 256


@dataclass(kw_only=True)
class ConvertOptions:
    """Turn a published weight file into a checkpoint, with the deletion that it was trained on.

    The file may stand first, without its flag. Its weights may be named as timm, torchvision or the published networks
    name them; a pickle that would run code is refused.

    Args:
        file: the weights, as downloaded: what torch.save wrote, or safetensors.
        arch: timm's or this suite's name of the network; by default what the file's own args say.
        out: a new folder for the checkpoint.
        grid: rows and columns of the grid that it was trained with; by default what the file says.
        fill: what deleted cells were filled with; by default what the file says.
        deletion_probability: share of images with a deletion; by default what the file says, or 0.5.
        no_deletion: it was trained on whole images only.
        license: of the weights, as the Hugging Face hub spells it.
        overwrite: replace a converted checkpoint that is there.

    Example:
        python -m checkpoints.convert resnet50_best.pth.tar --arch resnet50 --out converted/resnet50
        python -m eval.idsds --model converted/resnet50 --data imagenet:PATH
    """

    GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {
        "how it saw deletion": ("grid", "fill", "deletion-probability", "no-deletion"),
    }

    file: Path
    out: Path
    arch: str | None = None
    grid: list[int] | None = None
    fill: str | None = None
    deletion_probability: float | None = None
    no_deletion: bool = False
    license: str = "unknown"
    overwrite: bool = False

    def __post_init__(self) -> None:
        check_values(self)
        self.file, self.out = Path(self.file).expanduser(), Path(self.out).expanduser()
        if self.no_deletion and any(value is not None for value in (self.grid, self.fill, self.deletion_probability)):
            raise InputError("--no-deletion goes with none of --grid, --fill and --deletion-probability")
        sides = [2, 2] if self.grid is None else self.grid
        if len(sides) != 2 or not all(1 <= side <= _LARGEST_GRID for side in sides):
            raise InputError(
                f"--grid: expected rows and columns of 1 … {_LARGEST_GRID}, got {' '.join(map(str, sides))}"
            )
        if self.license not in (UNKNOWN, OTHER):
            known_license(self.license, "--license")


def convert(options: ConvertOptions) -> int:
    """Read, rename, and write the four files of a checkpoint; returns the exit status."""
    if not options.file.is_file():
        raise InputError(f"no weight file at {options.file}")
    _check_folder(options)
    from checkpoints.format import save_checkpoint
    from checkpoints.load import CLASSIFIERS, Request, open_file
    from checkpoints.published import is_published

    request = Request(options.arch, None, False, None, {}, None)
    checkpoint, file = open_file(CLASSIFIERS, options.file, str(options.file), request)
    deletion = _deletion(options, checkpoint.deletion, published=is_published(file.arguments))
    training = {
        "license": options.license,
        "converted_from": _source(options, checkpoint.architecture, checkpoint.sha256, file),
    }
    if is_published(file.arguments) and checkpoint.classes:
        training["data"] = {"name": "imagenet"}
    if not is_published(file.arguments):
        training["cautions"] = [caution_images(checkpoint)]
        print(f"caution: {training['cautions'][0]}", file=sys.stderr)
    save_checkpoint(options.out, checkpoint.model, deletion=deletion, classes=checkpoint.classes, training=training)
    print(f"{checkpoint.architecture}, {checkpoint.model.num_classes} classes, {_told(deletion)} -> {options.out}")
    return 0


def caution_images(checkpoint: Checkpoint[Any]) -> str:
    """That the file doesn't say how its images were shown, and what stands there instead."""
    shown = checkpoint.model.data_config
    images = f"{shown['input_size'][-1]} px, {shown.get('interpolation')}, crop {shown.get('crop_pct')}"
    return (
        f"the file doesn't say how images were shown to it; recorded is timm's default for {checkpoint.architecture} "
        f"({images}), which may not be how it was trained"
    )


def _check_folder(options: ConvertOptions) -> None:
    """Raise InputError unless the folder is new or empty, or a converted checkpoint that may be replaced."""
    held = files_in(options.out) if options.out.is_dir() else []
    if not held or not set(held) <= _FILES or not _is_converted(options.out):
        check_out(options.out, inputs=[options.file])
    elif not options.overwrite:
        raise InputError(
            f"--out {options.out} already holds a converted checkpoint; choose another folder, or pass --overwrite to "
            "replace it"
        )


def _is_converted(folder: Path) -> bool:
    """Whether a checkpoint is as it was converted; one that was trained from it since says with which settings."""
    try:
        record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(record, dict) and "converted_from" in record and "settings" not in record


def _deletion(options: ConvertOptions, told: DeletionSpec | None, published: bool) -> DeletionSpec | None:
    """What the flags say, and where they say nothing what the file does; InputError where neither does."""
    from faithfulness.core.deletion import DeletionSpec
    from faithfulness.core.grid import PatchGrid

    if options.no_deletion:
        return None
    given = (options.grid, options.fill, options.deletion_probability)
    if told is None and (options.grid is None or options.fill is None):
        raise InputError(
            f"{options.file} doesn't say which deletion it was trained on; pass --grid and --fill, or --no-deletion"
        )
    if told is not None and given == (None, None, None):
        return told
    known = told or DeletionSpec()
    share = known.probability if options.deletion_probability is None else options.deletion_probability
    return DeletionSpec(PatchGrid(*options.grid) if options.grid else known.grid, options.fill or known.fill, share)


def _source(options: ConvertOptions, architecture: str, digest: str | None, file: WeightFile) -> dict[str, Any]:
    """Where the weights come from, without a place on anybody's disk."""
    from checkpoints.published import without_places

    arguments = without_places(file.arguments) if file.arguments is not None else None
    return {
        "file": options.file.name,
        "sha256": digest,
        "architecture": architecture,
        "arguments": arguments,
        **file.told,
    }


def _told(deletion: DeletionSpec | None) -> str:
    if deletion is None:
        return "trained on whole images"
    rows, cols, share = deletion.grid.rows, deletion.grid.cols, deletion.probability
    return f"trained with a cell of {rows}×{cols} filled with {deletion.fill} in {share:g} of the images"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    return run_command(ConvertOptions, convert, named_first(words, "--file"))


if __name__ == "__main__":
    sys.exit(main())
