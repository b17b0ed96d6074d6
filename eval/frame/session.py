"""A run from the first part to the result: its folder, its work, its end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from eval.frame import folder
from eval.frame.identity import canonical, differences, file_digest, is_text
from eval.frame.part import Part
from eval.frame.plan import estimate_text, plan_text
from eval.frame.protocol import Evaluation, Outcome
from eval.frame.result import Result, summary_of
from eval.frame.run import Run
from eval.frame.settings import settings_of
from eval.frame.store import Store
from faithfulness.core.errors import InputError
from faithfulness.core.files import PARTS
from faithfulness.core.plugin_files import is_in_file
from faithfulness.core.results import ordered_rows, write_per_image
from faithfulness.core.stopping import STOPS


@dataclass
class Session:
    """A run at work.

    Attributes:
        name: the protocol's.
        line: the command line, if there was one.
        record: what `run.json` says; None where no parts are kept.
    """

    name: str
    run: Run[Any]
    line: str | None
    record: folder.RunRecord | None = None

    @classmethod
    @contextmanager
    def open(cls, name: str, run: Run[Any], line: str | None) -> Iterator[Session]:
        """Make the folder this run's for as long as the block lasts; parts are kept if all that is read has a name."""
        session, out = cls(name, run, line), run.options.out
        if out is None:
            yield session
            return
        with ExitStack() as held:
            run.on_first(lambda: session.begin(out, held))
            common = run.share(None if session.record is None else [session.record.settings, session.record.attempt])[0]
            run.store = None if common is None else Store(out / PARTS, common)
            try:
                yield session
            except (*STOPS, OSError, MemoryError, RuntimeError) as error:
                if run.store is not None:
                    error.add_note(f"{run.progress.last}what is finished is in {out}; the same command goes on")
                raise

    def begin(self, out: Path, held: ExitStack) -> None:
        """The first process's part of the start: the lock, and the record."""
        options, keeps = self.run.options, is_text(self.run.options)
        shard = options.shard if options.shard_of[1] > 1 and not self.run.complete else None
        missing = folder.missing_folders(out)
        held.callback(folder.remove_empty, missing)
        held.enter_context(folder.writing(out, shard))
        options.check_out(goes_on=keeps)
        if not keeps:
            return
        with self.run.progress.phase("looking at what is in --out"):
            settings = settings_of(self.run)
        if self.run.complete:
            self.check_merged(out, settings)
        given = {entry.name: getattr(options, entry.name) for entry in fields(options)}
        flags = {name: str(value) if isinstance(value, Path) else value for name, value in given.items()}
        names = [*map(canonical, getattr(options, "attributions", None) or []), *self.run.callables]
        layers = getattr(options, "layers", None)
        methods = [f"{name}@{layer}" for layer in layers for name in names] if layers else names
        sources = {name: file_digest(name) for name in getattr(options, "attributions", None) or [] if is_in_file(name)}
        record = folder.RunRecord(self.name, settings, methods, flags, self.line, sources)
        before = folder.Beginning(out)
        self.record = folder.begin(out, record, options.overwrite, alone=shard is None)
        if shard is None:
            held.push(lambda kind, error, trace: before.restore() if kind else None)

    def check_merged(self, out: Path, settings: dict[str, Any]) -> None:
        """What is put together must be this model's, on these data; the kind of device may be another."""
        before = folder.RunRecord.read(out)
        if before is None:
            raise InputError(f"{out} holds no parts of an evaluation")
        settings["device"], settings["CUDA"] = (before.settings.get(name) for name in ("device", "CUDA"))
        other = differences(before.settings, settings)
        if other:
            raise InputError(f"the parts in {out} were computed with something else: {'; '.join(other[:3])}")

    def work(self, evaluation: Evaluation) -> Part:
        """All passes."""
        run, part = self.run, Part()
        passes = list(evaluation.passes())
        lost = next((step.name for work in passes for step in work.steps if step.depends is None), None)
        if lost is not None and run.options.shard_of[1] > 1:
            raise InputError(f"--shard keeps parts for eval.merge, and {lost} can't be kept: what it is can't be told")
        if not run.progress.quiet and not run.complete:
            run.progress.say(plan_text(self.name, run, passes))
            run.progress.say(estimate_text(run, passes))
        for work in passes:
            part.merge(run.carry_out(work))
        return part

    def finish(self, outcome: Outcome, made: Mapping[str, set[int]]) -> Result:
        """Write the result, and give it back; `made` is with what its parts were computed."""
        run, out = self.run, self.run.options.out
        summary = summary_of(self.name, run, outcome, self.line, made)
        if self.record is not None:
            summary["settings"]["device"] = self.record.settings["device"]
        per_image = None if outcome.per_image is None else ordered_rows(outcome.per_image)
        if out is not None:

            def write(new: Path) -> None:
                for name, write_file in outcome.files.items():
                    (new / name).parent.mkdir(parents=True, exist_ok=True)
                    write_file(new / name)
                if per_image is not None:
                    write_per_image(new, per_image)
                self.draw(outcome, new / "plots")

            folder.finish(out, self.record, run.store, write, summary)
        return Result(summary, per_image, out)

    def draw(self, outcome: Outcome, plots: Path) -> None:
        """The pictures."""
        from faithfulness.report import save_figure

        with self.run.progress.phase("drawing pictures"):
            for name, draw in outcome.pictures.items():
                figure = draw()
                for kind in dict.fromkeys(self.run.options.format):
                    save_figure(figure, plots / f"{name}.{kind}")
