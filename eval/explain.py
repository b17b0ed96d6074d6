"""Explain pictures of one's own: every map over the picture, the class that is predicted, the sums over cells."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from eval.frame.options import EvaluationOptions
from eval.frame.ranked import METHODS
from faithfulness.core.cli import run_command
from faithfulness.core.errors import InputError
from faithfulness.core.files import EXPLANATION
from faithfulness.core.flags import make_options

if TYPE_CHECKING:
    from eval.frame.command import Attributions
    from eval.frame.explained import Explained

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
        self.image = [Path(path).expanduser() for path in self.image]
        missing = next((path for path in self.image if not path.is_file()), None)
        if missing is not None:
            found = "got a folder" if missing.is_dir() else "there is none"
            raise InputError(f"--image {missing}: expected a picture file, {found}")


def explain(
    model: Any,
    images: Any,
    *,
    attributions: Attributions | None = None,
    target: str | int | None = None,
    **options: Any,
) -> Explained:
    """Explain pictures: `explain(net, "photo.jpg", attributions=["ixg", "gradcam"]).plot()`.

    Args:
        model: any `nn.Module` with logits, a `Backbone`, a `Checkpoint`, or what `--model` takes. It comes back as it
            was.
        images: one or several pictures: files, PIL images, or uint8 (3, H, W).
        attributions: one or several, names or functions `f(images, targets) -> (B, C, h, w)`.
        target: the class to explain, by name or number; the predicted one by default.
        options: the command's other flags, by name; nothing is written without `out`.
    Raises:
        InputError: pictures, a model or options that can't be used.
    """
    from eval.frame.command import told_apart
    from eval.frame.explanation import as_picture

    given = list(images) if isinstance(images, list | tuple) else [images]
    pictures = [as_picture(each) for each in given]
    callables = {}
    if attributions is not None:
        options["attributions"], callables = told_apart(attributions)
    files = [Path(picture) for picture in pictures if isinstance(picture, Path)]
    known = {"quiet": True, "target": None if target is None else str(target), "image": files}
    return carry_out(make_options(ExplainOptions, model=model, **known | options), pictures, callables)


def carry_out(
    options: ExplainOptions,
    pictures: Sequence[Any],
    callables: Mapping[str, Callable[..., Any]] | None = None,
    line: str | None = None,
) -> Explained:
    """Explain every picture, and write where there is a place for it; with a command `line` there is one always."""
    options.check()
    options.check_out(goes_on=False)
    if not pictures:
        raise InputError("--image is needed: one or more picture files")
    from contextlib import ExitStack

    import torch

    from eval.frame.command import slug
    from eval.frame.explained import Explained, summary_of, write
    from eval.frame.explanation import Explainer, names_of, start
    from eval.frame.loading import borrowed
    from faithfulness.core.locks import locked

    with ExitStack() as held, torch.random.fork_rng(devices=[]):
        held.enter_context(borrowed(options.model))
        run = start(options, callables or {})
        if line and options.out is None:
            options.out = Path("runs", KIND, slug(run.checkpoint.name))
            options.check_out(goes_on=False)
        work = Explainer(run)
        if options.out is not None:
            held.enter_context(locked(options.out))
        found = [work.picture(each, name) for each, name in zip(pictures, names_of(pictures), strict=True)]
        explained = Explained(summary_of(work, found, line), found)
        if options.out is not None:
            with run.progress.phase("drawing pictures"):
                write(options.out, explained, options.format)
    return explained


def run(options: ExplainOptions, line: str) -> int:
    """Explain and show; returns the exit status."""
    from eval.frame.command import list_methods

    if options.list_attributions:
        return list_methods()
    explained = carry_out(options, [Path(path).expanduser() for path in options.image], line=line)
    print(explained)
    print(f"results: {explained.path} ({EXPLANATION}, pictures/, maps/)")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    line = shlex.join(["python", "-m", f"eval.{KIND}", *arguments])
    return run_command(ExplainOptions, lambda options: run(options, line), arguments)


if __name__ == "__main__":
    sys.exit(main())
