"""Explain pictures of one's own: every map over the picture, the class that is predicted, the sums over cells."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from eval.frame.options import EvaluationOptions
from eval.frame.ranked import METHODS
from faithfulness.core.cli import run_command
from faithfulness.core.errors import InputError
from faithfulness.core.files import EXPLANATION

KIND = "explain"
"""What `explain.json` says that it is."""


@dataclass(kw_only=True)
class ExplainOptions(EvaluationOptions):
    """Explain pictures of your own: maps over each picture, the predicted class, and the sums over cells.

    Args:
        image: picture files; they are turned upright, resized and cropped as the model's own pictures were.
        target: the class to explain, by name or number; the predicted one by default.
        grid: rows and columns of the cells; the checkpoint's own by default, else 4 4.
        fill: what a deleted cell becomes, for the true drops; the checkpoint's own by default, else zeros.
        out: folder for explain.json, pictures and maps; runs/explain/MODEL by default.
        overwrite: replace what is in --out.

    Example:
        python -m eval.explain --model runs/demo/checkpoint --image photo.jpg --attributions ixg gradcam
        python -m eval.explain --model timm:resnet18 --pretrained --image a.jpg b.png --layers final
    """

    GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {"picture": ("image", "target")} | EvaluationOptions.GROUPS
    protocol_name: ClassVar[str] = KIND
    data: ClassVar[str] = ""  # type: ignore[misc]
    split: ClassVar[str] = ""  # type: ignore[misc]
    limit: ClassVar[int | None] = None  # type: ignore[misc]
    skip_corrupt: ClassVar[bool] = False  # type: ignore[misc]
    batch_size: ClassVar[int] = 1  # type: ignore[misc]
    devices: ClassVar[int | str] = 1  # type: ignore[misc]
    num_nodes: ClassVar[int] = 1  # type: ignore[misc]
    workers: ClassVar[int | None] = 0  # type: ignore[misc]
    shard: ClassVar[str | None] = None  # type: ignore[misc]

    image: list[Path] = field(default_factory=list)
    target: str | None = None
    grid: list[int] | None = None
    fill: str | None = None
    attributions: list[str] = field(default_factory=lambda: list(METHODS))

    @property
    def inputs(self) -> list[str]:
        """What is read, which `--out` must keep clear of; pictures may lie beside it."""
        return [text for text in super().inputs if text] + [str(path) for path in self.image]

    def check(self) -> None:
        """Raise InputError for values that can't be used."""
        super().check()
        if not self.image:
            raise InputError("--image is needed: one or more picture files")
        self.image = [Path(path).expanduser() for path in self.image]
        missing = next((path for path in self.image if not path.is_file()), None)
        if missing is not None:
            found = "got a folder" if missing.is_dir() else "there is none"
            raise InputError(f"--image {missing}: expected a picture file, {found}")


def explain(options: ExplainOptions) -> int:
    """Explain every picture, write, and show; returns the exit status."""
    from contextlib import ExitStack

    import torch

    from eval.frame.command import list_methods, slug
    from eval.frame.explanation import Explanation, names_of, start, table_of, write
    from faithfulness.core.locks import locked

    if options.list_attributions:
        return list_methods()
    options.check()
    options.check_out(goes_on=False)
    with ExitStack() as held, torch.random.fork_rng(devices=[]):
        run = start(options)
        if options.out is None:
            options.out = Path("runs", KIND, slug(run.checkpoint.name))
            options.check_out(goes_on=False)
        work = Explanation(run)
        out = options.out
        held.enter_context(locked(out))
        found = [work.picture(path, name) for path, name in zip(options.image, names_of(options.image), strict=True)]
        write(out, work, found)
    print(table_of(found))
    print(f"results: {out} ({EXPLANATION}, pictures/, maps/)")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    return run_command(ExplainOptions, explain, arguments)


if __name__ == "__main__":
    sys.exit(main())
