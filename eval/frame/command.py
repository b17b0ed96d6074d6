"""The frame of every evaluation: start, prepare, score each batch, merge, summarize, write, show."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.frame.options import ModelOptions
from eval.frame.part import Part
from eval.frame.protocol import Evaluation, Outcome
from faithfulness.core.cli import run_command
from faithfulness.core.errors import InputError
from faithfulness.core.flags import make_options

if TYPE_CHECKING:
    from eval.frame.result import Result
    from eval.frame.run import Run

One = str | Callable[..., Any]
Attributions = One | Sequence[One] | Mapping[str, One]
"""Names as `--attributions` takes them, and functions of one's own."""


@dataclass(frozen=True)
class Command:
    """A protocol as a command and as a function.

    Args:
        options: its flags.
        evaluation: makes the `Evaluation` from a `Run`.
        report: `summary.json`'s content -> the text for the terminal.
        task: classification or segmentation.
        status: `summary.json`'s content -> exit status.
    """

    options: type[ModelOptions]
    evaluation: Callable[[Run[Any]], Evaluation]
    report: Callable[[dict[str, Any]], str]
    task: str = "classification"
    status: Callable[[dict[str, Any]], int] = lambda summary: 0

    def main(self, arguments: Sequence[str] | None = None) -> int:
        """Run the command line; returns the exit status."""
        arguments = sys.argv[1:] if arguments is None else list(arguments)
        module = self.options.__module__ if self.options.__module__ != "__main__" else f"eval.{self.name}"
        line = shlex.join(["python", "-m", module, *arguments])
        return run_command(self.options, lambda options: self._show(options, line), arguments)

    @property
    def name(self) -> str:
        """What `summary.json` calls the protocol."""
        return self.options.protocol_name

    def _show(self, options: ModelOptions, line: str) -> int:
        """Run and print; without `--out`, results go to `runs/COMMAND/MODEL`."""
        if getattr(options, "list_attributions", False):
            from faithfulness.attribution.describe import attribution_table
            from faithfulness.attribution.published import published_table

            print(attribution_table(), published_table(), sep="\n\n")
            return 0
        result = self._run(options, line=line)
        if result is None:
            return 0
        print(self.report(result.summary))
        print(f"results: {result.path} ({', '.join(_briefly(result.summary['files']))})")
        return self.status(result.summary)

    def run(self, options: ModelOptions, callables: Mapping[str, Callable[..., Any]] | None = None) -> Result | None:
        """Run the protocol with these options; nothing is written without `out`, and nothing printed.

        Args:
            callables: the user's own attributions by name, `f(images, targets) -> (B, C, h, w)`.
        Returns:
            The result, on the first process; None on the others.
        Raises:
            InputError: options, a model or data that can't be used.
        """
        return self._run(options, dict(callables or {}))

    def evaluate(
        self,
        model: Any,
        data: Any = "digits",
        *,
        attributions: Attributions | None = None,
        **options: Any,
    ) -> Result | None:
        """Run the protocol on a network in one call; nothing is written without `out`, and nothing printed.

        Args:
            model: any `nn.Module` with logits, a `Backbone`, or what `--model` takes. It comes back as it was.
            data: any torch `Dataset` of (image, label), or what `--data` takes.
            attributions: one or several, names or functions `f(images, targets) -> (B, C, h, w)`, or
                `f(model, images, targets)`, as on grids, where the model is a head; a mapping names functions.
            options: the command's other flags, by name.
        Returns:
            The result, on the first process; None on the others.
        Raises:
            InputError: options, a model or data that can't be used.
        """
        if attributions is not None:
            options["attributions"], callables = _told_apart(attributions)
        else:
            callables = {}
        return self._run(make_options(self.options, model=model, data=data, **options), callables)

    def _run(
        self, options: ModelOptions, callables: dict[str, Callable[..., Any]] | None = None, line: str | None = None
    ) -> Result | None:
        import torch

        import checkpoints
        from eval.frame.run import Run, borrowed

        task = {"classification": checkpoints.CLASSIFICATION, "segmentation": checkpoints.SEGMENTATION}[self.task]
        with ExitStack() as owned, torch.random.fork_rng(devices=[]):
            others = [getattr(options, "baseline", None), *(getattr(options, "choose_with", None) or [])]
            for given in (options.model, *others):
                owned.enter_context(borrowed(given))
            run = Run.start(options, task, callables)
            if line and options.out is None:
                options.out = Path("runs", self.name, _slug(run.checkpoint.name))
                options.check_out()
            evaluation = self.evaluation(run)
            part = Part()
            for work in evaluation.passes():
                for batch in work.batches:
                    part.merge(work.score(batch))
            whole = run.merge(part)
            if whole is None:
                return None
            return self._write(run, evaluation.summarize(whole), line)

    def _write(self, run: Run[Any], outcome: Outcome, line: str | None) -> Result:
        from eval.frame.result import Result, summary_of
        from faithfulness.core.files import files_in, write_json
        from faithfulness.core.results import ordered_rows, write_per_image
        from faithfulness.report import save_figure

        summary = summary_of(self.name, run, outcome, line)
        per_image = None if outcome.per_image is None else ordered_rows(outcome.per_image)
        options = run.options
        if options.out is not None:
            with options.result_folder() as folder:
                for name, write in outcome.files.items():
                    (folder / name).parent.mkdir(parents=True, exist_ok=True)
                    write(folder / name)
                if per_image is not None:
                    write_per_image(folder, per_image)
                for name, draw in outcome.pictures.items():
                    save_figure(draw(), folder / "plots" / f"{name}.png")
                summary["files"] = sorted([*files_in(folder), "summary.json"])
                write_json(folder / "summary.json", summary)
        return Result(summary, per_image, options.out)


def _told_apart(attributions: Any) -> tuple[list[str], dict[str, Callable[..., Any]]]:
    """Names, and functions by name."""
    if isinstance(attributions, str) or callable(attributions):
        attributions = [attributions]
    items = attributions.items() if isinstance(attributions, Mapping) else ((None, item) for item in attributions)
    names, functions = [], {}
    for name, item in items:
        if isinstance(item, str):
            if name is not None:
                raise InputError(f"a mapping names functions, got {item!r} for {name}; list methods by their own names")
            names.append(item)
        else:
            name = name or getattr(item, "__name__", type(item).__name__)
            if name in functions:
                raise InputError(f"two attributions are called {name}; pass a mapping of names to functions")
            functions[name] = item
    return names, functions


def _slug(name: str) -> str:
    """A model's name as the name of a folder."""
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name).strip("-.") or "model"


def _briefly(files: Sequence[str]) -> list[str]:
    """Files at the top by name, folders by theirs."""
    return list(dict.fromkeys(["summary.json", *(f"{name.split('/')[0]}/" if "/" in name else name for name in files)]))
