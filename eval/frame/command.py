"""The frame of every evaluation: start, prepare, work on each batch, merge, summarize, write, show."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.frame.options import ModelOptions
from eval.frame.protocol import Evaluation
from faithfulness.core.cli import run_command
from faithfulness.core.errors import InputError
from faithfulness.core.flags import flags_of, make_options
from faithfulness.core.stopping import is_first

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
            return list_methods()
        result = self.carry_out(options, line=line)
        if result is None and options.shard is not None and is_first():
            print(f"shard {options.shard} is finished; once all are: python -m eval.merge --out {options.out}")
        return 0 if result is None else self.show(result)

    def show(self, result: Result) -> int:
        """Print a result; returns the exit status."""
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
        return self.carry_out(options, dict(callables or {}))

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
            options: the command's other flags, by name; one device, and quiet, unless they say otherwise.
        Returns:
            The result, on the first process; None on the others.
        Raises:
            InputError: options, a model or data that can't be used.
        """
        if attributions is not None:
            options["attributions"], callables = told_apart(attributions)
        else:
            callables = {}
        here = {"quiet": True} | ({"devices": 1} if "devices" in flags_of(self.options) else {})
        return self.carry_out(make_options(self.options, model=model, data=data, **here | options), callables)

    def carry_out(
        self,
        options: ModelOptions,
        callables: dict[str, Callable[..., Any]] | None = None,
        line: str | None = None,
        complete: bool = False,
    ) -> Result | None:
        """Run the protocol, as `run` does.

        Args:
            line: the command line; with it, results go somewhere even without `out`.
            complete: all parts must be in `out` already, as when shards are merged.
        """
        options.check()
        options.check_out()

        import torch

        import checkpoints
        from eval.frame.loading import borrowed
        from eval.frame.run import Run
        from eval.frame.session import Session

        task = {"classification": checkpoints.CLASSIFICATION, "segmentation": checkpoints.SEGMENTATION}[self.task]
        with ExitStack() as owned, torch.random.fork_rng(devices=[]):
            others = [getattr(options, "baseline", None), *(getattr(options, "choose_with", None) or [])]
            for given in (options.model, *others):
                owned.enter_context(borrowed(given))
            run = Run.start(options, task, callables, owned if line else None)
            run.complete = complete
            if line and options.out is None:
                options.out = Path("runs", self.name, slug(run.checkpoint.name))
                options.check_out()
            session = owned.enter_context(Session.open(self.name, run, line))
            with run.progress.phase("preparing"):
                evaluation = self.evaluation(run)
            part = session.work(evaluation)
            if options.shard_of[1] > 1 and not complete:
                return None
            whole = run.merge(part)
            if whole is None:
                return None
            with run.progress.phase("summarizing"):
                outcome = evaluation.summarize(whole)
            return session.finish(outcome, whole.made)


def list_methods() -> int:
    """What `--list-attributions` prints; the exit status."""
    from faithfulness.attribution.describe import attribution_table
    from faithfulness.attribution.published import published_table

    print(attribution_table(), published_table(), sep="\n\n")
    return 0


def told_apart(attributions: Any) -> tuple[list[str], dict[str, Callable[..., Any]]]:
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


def slug(name: str) -> str:
    """A model's name as the name of a folder."""
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name).strip("-.") or "model"


def _briefly(files: Sequence[str]) -> list[str]:
    """Files at the top by name, folders by theirs."""
    return list(dict.fromkeys(["summary.json", *(f"{name.split('/')[0]}/" if "/" in name else name for name in files)]))
