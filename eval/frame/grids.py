"""One pass over all grids: every method of every setting and scale explains every scored head."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from checkpoints import Checkpoint
from difull import GridSetting
from eval.frame.cautions import caution_accuracy, caution_count
from eval.frame.compositions import composition_digest, prepare_compositions
from eval.frame.grid_batches import GridBatch, grid_batches, make_setting
from eval.frame.grid_options import kind_of
from eval.frame.identity import network_digest
from eval.frame.methods import Method, make_methods
from eval.frame.part import Part
from eval.frame.protocol import Pass, Step
from eval.frame.run import Run
from faithfulness.core.checks import check_logits
from faithfulness.core.errors import InputError
from faithfulness.core.statistics import mean_interval


@dataclass
class Case:
    """A setting at a scale, with the methods of every head that is scored."""

    name: str
    scale: int
    setting: GridSetting
    methods: dict[int, list[Method]]

    @property
    def title(self) -> str:
        """For tables and pictures."""
        return f"{type(self.setting).__name__} {self.scale}×{self.scale}"

    @property
    def stem(self) -> str:
        """For file names."""
        return f"{self.name}-{self.scale}x{self.scale}"


Observe = Callable[[Part, Case, int, Method, GridBatch, Tensor, Tensor], None]
"""(part, case, cell, method, batch, the classes (B,) that the head sees, its maps (B, C, h, w))."""


class Grids:
    """The grids of a run, and the cases that are looked at.

    Args:
        heads: cells whose heads are explained; all that are scored in a kind of composition by default.
        baseline: another model, whose heads see the same grids in its own size and normalization.
    """

    def __init__(self, run: Run[Any], heads: Sequence[int] | None = None, baseline: Any = None):
        self.run, options = run, run.options
        for name in options.setting:  # a method or layer that doesn't exist shows before the images are looked at
            self._methods(make_setting(name, run.checkpoint.model, options.scale[0]), 0, name)
        self.compositions, self.choice = prepare_compositions(run)
        self.cases = [self._case(name, scale, heads) for scale in options.scale for name in options.setting]
        self.baseline: Checkpoint[Any] | None = run.load_other(baseline) if baseline else None

    def _methods(self, setting: GridSetting, cell: int, title: str) -> list[Method]:
        options = self.run.options
        return make_methods(
            options.attributions,
            options.layers,
            setting,
            max(1, self.run.chunk // setting.cells),
            self.run.callables,
            cell=cell,
            place=f"{title} cell {cell}/",
            published=options.published,
        )

    def _case(self, name: str, scale: int, heads: Sequence[int] | None) -> Case:
        setting = make_setting(name, self.run.checkpoint.model, scale)
        heads = self.compositions[kind_of(name), scale].heads if heads is None else heads
        title = f"{type(setting).__name__} {scale}×{scale}"
        return Case(name, scale, setting, {cell: self._methods(setting, cell, title) for cell in heads})

    def passes(self, observe: Observe) -> Iterator[Pass]:
        """All grids, kind by kind; `observe` adds what a protocol keeps of a head's maps."""
        for (kind, scale), compositions in self.compositions.items():
            cases = [case for case in self.cases if (kind_of(case.name), case.scale) == (kind, scale)]
            what = f"{kind} grids of {scale}×{scale}"
            depends = composition_digest(compositions)
            yield Pass(what, grid_batches(self.run, compositions), list(self._steps(cases, observe)), depends)
            if self.baseline is not None:
                batches = grid_batches(self.run, compositions, self.baseline)
                steps = [self._baseline_step(case, self.baseline) for case in cases]
                yield Pass(f"{what}, baseline", batches, steps, [depends, network_digest(self.baseline)])

    def _steps(self, cases: Sequence[Case], observe: Observe) -> Iterator[Step]:
        for case in cases:
            yield Step(f"heads of {case.stem}", partial(self._see, case), case.stem, float(case.setting.cells))
            for cell, methods in case.methods.items():
                score = partial(self._explain, observe, case, cell)
                yield from (method.step(score, float(case.setting.cells)) for method in methods)

    def _see(self, case: Case, batch: GridBatch, done: Mapping[str, Part]) -> Part:
        """What each head of a case sees."""
        part = Part()
        with self.run.autocast():
            self.predict(part, case.setting, batch, self.run.checkpoint.name, f"accuracy of {case.stem}")
        return part

    def _explain(
        self, observe: Observe, case: Case, cell: int, method: Method, batch: GridBatch, done: Mapping[str, Part]
    ) -> Part:
        """A method's maps of one head."""
        part = Part()
        seen = done[f"heads of {case.stem}"].tensor(f"accuracy of {case.stem}", "predicted", batch.images.device)
        with self.run.autocast():
            maps = self.run.explain(part, method, batch.images, batch.labels[:, cell])
            observe(part, case, cell, method, batch, seen[:, cell], maps)
        return part

    def _baseline_step(self, case: Case, baseline: Checkpoint[Any]) -> Step:
        setting = make_setting(case.name, baseline.model, case.scale)

        def see(batch: GridBatch, done: Mapping[str, Part]) -> Part:
            part = Part()
            with self.run.autocast():
                self.predict(part, setting, batch, baseline.name, f"baseline of {case.stem}")
            return part

        return Step(f"heads of {case.stem}", see, case.stem, float(case.setting.cells))

    def predict(self, part: Part, setting: GridSetting, batch: GridBatch, name: str, table: str) -> Tensor:
        """The classes that a setting's heads see (B, n²); kept with the grids' numbers and labels."""
        chunk = max(1, self.run.chunk // setting.cells)
        with torch.no_grad():
            logits = torch.cat([setting.heads(images) for images in batch.images.split(chunk)])
        predicted = check_logits(logits, name).argmax(dim=2)
        part.add(table, index=batch.indices, label=batch.labels, predicted=predicted)
        return predicted

    def accuracy(self, part: Part) -> list[dict[str, Any]]:
        """Accuracy of every cell's head on the grids, per setting and scale, with its interval over grids."""
        rows = []
        for case in self.cases:
            row: dict[str, Any] = {"setting": case.name, "scale": case.scale}
            for name in ("accuracy", "baseline"):
                found = part.table(f"{name} of {case.stem}", "index")
                if not found:
                    continue
                right = (found["predicted"] == found["label"]).astype(np.float64)
                row.setdefault("n", len(right))
                row[name] = float(right.mean())
                row[f"{name}_ci95"] = mean_interval(right.mean(axis=1), self.run.options.seed)
                row[f"{name}_per_cell"] = right.mean(axis=0).tolist()
            rows.append(row)
        if not any("accuracy" in row for row in rows):
            raise InputError(f"no grid of {self.run.data.name} could be read")
        return rows

    def cautions(self, accuracy: list[dict[str, Any]]) -> list[str]:
        """What the numbers can't bear: few grids, heads nearer to chance than to certainty."""
        lines = {}
        for row in accuracy:
            lines |= dict.fromkeys(caution_count(row["n"], "grids"))
            heads = f"heads of {row['setting']} {row['scale']}×{row['scale']}"
            lines |= dict.fromkeys(caution_accuracy(heads, row["accuracy"], len(self.run.data.classes)))
        return list(lines)

    def describe(self, part: Part) -> dict[str, Any]:
        """The settings that every grid protocol records."""
        options = self.run.options
        names = [f"{kind} grids of {scale}×{scale}" for kind, scale in self.compositions]
        lost = {"n_corrupt": part.n_corrupt("images"), "n_grids_left_out": part.n_corrupt(*names)}
        return {
            "setting": options.setting,
            "scale": options.scale,
            "grids": {f"{kind} {scale}×{scale}": len(made) for (kind, scale), made in self.compositions.items()},
            "one_use": options.one_use,
            "confidence": options.confidence,
            "choice": self.choice | lost,
        }
