"""Score attributions by in-domain single deletion.

python -m eval.idsds --model runs/demo/checkpoint --attributions ixg ig gradcam
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from core import LEAKING_FILLS, DeletionSpec, InputError, PatchGrid
from core.checks import check_logits, check_maps
from core.cli import run_command
from core.ranking import is_constant
from core.results import Score, summarize_scores, write_per_image, write_summary
from core.statistics import compare_with_control, paired_tests
from eval import plots
from eval.domain import DomainRecord, evidence_of
from eval.options import EvaluationOptions
from eval.report import (
    CONTROL,
    TEST,
    caution_accuracy,
    caution_baseline,
    caution_count,
    print_attributions,
    print_ranking,
)
from eval.runner import ImageBatch, Method, Runner, make_methods
from idsds import cell_sums, drop_scale, drops_of, incremental_deletion, outputs_of, rank_correlation

CONTROLS = ("random", "edge")
DEFAULT = ("grad", "ixg", "ixg-sg", "ig", "ig-u", "gradcam", "occlusion")
_STEPWISE = ("order", "steps", "reattribute")
NO_EFFECT = {
    "in-domain": _STEPWISE,
    "single": (*_STEPWISE, "allow_out_of_domain"),
    "incremental": ("baseline", "grid", "allow_out_of_domain"),
}
"""Protocol -> flags that belong to another one."""
EXAMPLES = 6
"""How many images the sheet of examples shows."""


@dataclass(kw_only=True)
class IdsdsOptions(EvaluationOptions):
    """Score attributions by the correlation of their cell sums with the drops that deletion causes.

    Args:
        protocol: in-domain (a checkpoint trained with deletion), single (any model), or incremental.
        baseline: a model trained without deletion, for the in-domain evidence.
        grid: rows and columns; the checkpoint's own by default.
        fill: zeros, mean, random, blur or blur-published; the checkpoint's own by default.
        output: what the drops are drops of and what every method explains: the target's logit or its probability.
            RISE scores its masks by the probability in either case, unless it is told softmax=False.
        allow_out_of_domain: score with another grid or fill than the checkpoint was trained with.
        order: which pixels incremental deletion takes first: ascending or descending attribution.
        steps: of incremental deletion.
        reattribute: attribute anew at every step of incremental deletion.
        list_attributions: print the registered attributions and stop.
    """

    protocol_name: ClassVar[str] = "idsds"

    protocol: Literal["in-domain", "single", "incremental"] = "in-domain"
    baseline: str | None = None
    grid: list[int] | None = None
    fill: str | None = None
    output: Literal["logit", "probability"] = "logit"
    allow_out_of_domain: bool = False
    order: Literal["ascending", "descending"] = "ascending"
    steps: int = 32
    reattribute: bool = False
    list_attributions: bool = False
    attributions: list[str] = field(default_factory=lambda: list(DEFAULT))

    def check(self) -> None:
        """Raise InputError for values that this protocol can't use, also for flags that belong to another one."""
        super().check()
        for name in NO_EFFECT[self.protocol]:
            if getattr(self, name) != type(self).__dataclass_fields__[name].default:
                raise InputError(f"--{name.replace('_', '-')} has no effect with --protocol {self.protocol}")
        if self.steps < 1:
            raise InputError(f"--steps must be at least 1, got {self.steps}")

    @property
    def metric(self) -> str:
        """The protocol's metric name."""
        return {"in-domain": "idsds", "single": "single_deletion", "incremental": "incremental_deletion"}[self.protocol]


def deletion_of(options: IdsdsOptions, trained: DeletionSpec | None, name: str) -> DeletionSpec:
    """The deletion to score with; InputError if the model wasn't trained with it and had to be."""
    grid = _grid(options.grid) or (trained.grid if trained else PatchGrid())
    asked = DeletionSpec(grid, options.fill or (trained.fill if trained else "zeros"), 1.0)
    if options.protocol != "in-domain" or options.allow_out_of_domain:
        return asked
    if trained is None or trained.probability == 0:
        raise InputError(
            f"{name} was not trained with deletion, so deleting is out of its domain; use --protocol single, "
            "fine-tune it with training.patch_finetune, or pass --allow-out-of-domain"
        )
    if (asked.grid, asked.fill) != (trained.grid, trained.fill):
        raise InputError(
            f"{name} was trained with a {trained.grid.rows}×{trained.grid.cols} grid and fill {trained.fill}, "
            f"asked for {grid.rows}×{grid.cols} and {asked.fill}; pass --allow-out-of-domain to score it all the same"
        )
    return asked


def _grid(values: list[int] | None) -> PatchGrid | None:
    if values is None:
        return None
    if len(values) not in (1, 2):
        raise InputError(f"--grid takes rows and columns, got {values}")
    return PatchGrid(values[0], values[-1])


class IdsdsEvaluation:
    """One run: every batch is deleted once, and all methods are scored against those drops."""

    def __init__(self, options: IdsdsOptions, callables: dict[str, Callable[[Tensor, Tensor], Tensor]] | None):
        self.options = options
        self.runner = Runner.start(options)
        checkpoint = self.runner.checkpoint
        self.deletion = deletion_of(options, checkpoint.deletion, options.model)
        self.deletion.grid.check(*checkpoint.backbone.input_size)
        common = {"published": options.published, "output": options.output}
        self.methods = make_methods(
            options.attributions, options.layers, checkpoint, options.chunk, callables, **common
        )
        known = {(method.label, method.layer) for method in self.methods}
        controls = [name for name in CONTROLS if (name, "input") not in known]
        self.methods += make_methods(controls, ["input"], checkpoint, options.chunk, **common)
        self.rows: list[pd.DataFrame] = []
        self.examples: list[dict[str, Any]] = []
        self.constant_drops = 0
        self.record = DomainRecord(checkpoint, self.deletion, options, self.runner.count)
        self.other = self.runner.load_other(options.baseline) if options.baseline else None
        self.baseline: DomainRecord | None = None
        if self.other:
            self.baseline = DomainRecord(self.other, self.deletion, options, self.runner.count)
            try:
                self.deletion.grid.check(*self.other.backbone.input_size)
            except InputError as error:
                raise InputError(f"--baseline {options.baseline} can't lose the same cells: {error}") from error

    def run(self) -> dict[str, Any] | None:
        """Score all batches; returns the summary on the first process, None on the others."""
        for batch in self.runner.batches():
            with self.runner.autocast():
                if self.options.protocol == "incremental":
                    self.score_incremental(batch)
                else:
                    self.score_single(batch)
        if self.baseline:
            for batch in self.runner.batches(checkpoint=self.other):
                with self.runner.full_precision():
                    self.baseline.add(batch, *self.baseline.logits(batch.images))
        cost = [(method.seconds, method.maps) for method in self.methods]
        baseline = self.baseline.merged() if self.baseline else {}
        own = (
            self.rows,
            self.record.merged(),
            baseline,
            cost,
            self.constant_drops,
            len(self.runner.corrupt),
            self.examples,
        )
        gathered = self.runner.gather(own)
        return None if gathered is None else self.finish(gathered)

    def score_single(self, batch: ImageBatch) -> None:
        """Correlate every method's cell sums with the drops of each image, which are taken in full precision."""
        with self.runner.full_precision():
            whole, deleted = self.record.logits(batch.images)
            self.record.add(batch, whole, deleted)
            outputs = [outputs_of(logits, self.options.output) for logits in (whole, deleted)]
            drops, scale = (measure(outputs[0], outputs[1], batch.labels) for measure in (drops_of, drop_scale))
        usable = ~is_constant(drops, scale)
        self.constant_drops += int((~usable).sum())
        size = (batch.images.shape[-2], batch.images.shape[-1])
        for method in self.methods:
            maps = self._explain(method, batch)
            sums = cell_sums(maps, self.deletion.grid, size, method.upsample)
            self._add(method, batch, rank_correlation(drops, sums, scale), whole, usable)
            self._keep_examples(method, batch, maps, sums, drops)

    def score_incremental(self, batch: ImageBatch) -> None:
        """Mean probability over the steps of incremental deletion, per method; full precision, as the drops."""

        def model(images: Tensor) -> Tensor:
            with self.runner.full_precision(), torch.no_grad():
                return check_logits(self.record.backbone(images), self.record.name)

        whole = torch.cat([model(part) for part in batch.images.split(self.options.chunk)])
        for method in self.methods:

            def explain(images: Tensor, targets: Tensor, method: Method = method) -> Tensor:
                return self._explain(method, batch._replace(images=images, labels=targets))

            again = self.options.reattribute
            source: Any = {"explain": explain} if again else {"maps": explain(batch.images, batch.labels)}
            curve = incremental_deletion(
                model,
                batch.images,
                batch.labels,
                **source,
                steps=self.options.steps,
                order=self.options.order,
                fill=self.deletion.fill,
                upsample=method.upsample,
                chunk=self.options.chunk,
            )
            self._add(method, batch, curve.double().mean(dim=1), whole, torch.ones_like(batch.labels, dtype=torch.bool))

    def _explain(self, method: Method, batch: ImageBatch) -> Tensor:
        with self.runner.timed(method, len(batch.images)):
            maps = method.explain(batch.images, batch.labels)
        return check_maps(maps, batch.images, f"attribution {method.label}")

    def _add(self, method: Method, batch: ImageBatch, values: Tensor, whole: Tensor, usable: Tensor) -> None:
        table = pd.DataFrame(
            {
                "index": batch.indices.cpu().numpy(),
                "label": batch.labels.cpu().numpy(),
                "predicted": whole.argmax(dim=1).cpu().numpy(),
                "attribution": method.label,
                "layer": method.layer,
                "metric": self.options.metric,
                "value": values.cpu().numpy(),
            }
        )
        self.rows.append(table[usable.cpu().numpy()])

    def _keep_examples(self, method: Method, batch: ImageBatch, maps: Tensor, sums: Tensor, drops: Tensor) -> None:
        for position in (batch.indices < EXAMPLES).nonzero().flatten().tolist():
            self.examples.append(
                {
                    "index": int(batch.indices[position]),
                    "label": self.runner.data.classes[int(batch.labels[position])],
                    "method": method.label if method.layer == "input" else f"{method.label}@{method.layer}",
                    "image": batch.images[position].float().cpu().numpy(),
                    "map": maps[position].sum(dim=0).float().cpu().numpy(),
                    "sums": sums[position].float().cpu().numpy(),
                    "drops": drops[position].float().cpu().numpy(),
                }
            )

    def scores(self, table: pd.DataFrame, costs: list[list[tuple[float, int]]]) -> list[Score]:
        """A score per method, best first."""
        found = []
        for number, method in enumerate(self.methods):
            values = table[(table.attribution == method.label) & (table.layer == method.layer)]["value"].to_numpy()
            forward, backward = method.passes
            found.append(
                summarize_scores(
                    values,
                    attribution=method.label,
                    layer=method.layer,
                    metric=self.options.metric,
                    seed=self.options.seed,
                    higher_is_better=self.options.protocol != "incremental" or self.options.order == "ascending",
                    seconds=sum(cost[number][0] for cost in costs),
                    forward_passes=forward,
                    backward_passes=backward,
                )
            )
        return sorted(found, key=lambda score: score.mean if not score.higher_is_better else -score.mean)

    def finish(self, gathered: list[tuple[Any, ...]]) -> dict[str, Any]:
        """Put the processes' parts together and write the run."""
        rows, records, baselines, costs, constant, corrupt, examples = zip(*gathered, strict=True)
        parts = [part for rank in rows for part in rank]
        if not parts:
            raise InputError(f"no image of {self.runner.data.name} could be read ({sum(corrupt)} corrupt)")
        table = pd.concat(parts).sort_values(["attribution", "layer", "index"], kind="stable")
        scores = self.scores(table, list(costs))
        single = self.options.protocol != "incremental"
        evidence = {"model": evidence_of(list(records))} if single else {}
        if self.baseline and single:
            evidence["baseline"] = {"name": self.options.baseline} | evidence_of(list(baselines))
        model = self.runner.checkpoint.describe()
        if single:
            model |= {key: evidence["model"][key] for key in ("accuracy", "accuracy_deleted")}
        options = self.options
        columns = self._columns(table, scores)
        names, p_values = paired_tests(columns)
        compared = compare_with_control(CONTROL, columns, scores[0].higher_is_better)
        settings = {
            "protocol": options.protocol,
            "grid": [self.deletion.grid.rows, self.deletion.grid.cols],
            "fill": self.deletion.fill,
            "output": options.output,
            "fill_leaks": self.deletion.fill in LEAKING_FILLS,
            "n_constant_drops": sum(constant),
            **self.runner.describe_settings(),
        }
        cautions = caution_count(table["index"].nunique()) + caution_accuracy(
            "the model", self._accuracy(table), len(self.runner.data.classes)
        )
        cautions += caution_baseline(evidence)
        if not single:
            settings |= {"order": options.order, "steps": options.steps, "reattribute": options.reattribute}
        with options.result_folder() as folder:
            write_per_image(folder, table)
            summary = write_summary(
                folder,
                protocol=options.protocol_name,
                model=model,
                data=self.runner.describe_data() | {"n_corrupt": sum(corrupt)},
                settings=settings,
                scores=scores,
                tests={"test": TEST, "names": names, "p": p_values.tolist(), f"against_{CONTROL}": compared},
                cautions=cautions,
                evidence=evidence,
            )
            labels = plots.score_labels(scores)
            plots.ranking(folder / "plots" / "ranking.png", scores, labels, options.metric)
            plots.distributions(folder / "plots" / "distribution.png", columns, options.metric)
            plots.test_matrix(folder / "plots" / "tests.png", names, p_values)
            if single:
                plots.evidence(folder / "plots" / "evidence.png", evidence, self.deletion.grid)
                kept = [example for rank in examples for example in rank]
                plots.examples(folder / "plots" / "examples.png", kept, labels, self.deletion.grid)
        print_ranking(summary)
        print(f"results: {options.out}/summary.json, per_image.parquet, plots/")
        return summary

    def _accuracy(self, table: pd.DataFrame) -> float:
        """Share of the scored images that the model classifies rightly."""
        images = table.drop_duplicates("index")
        return float((images["predicted"] == images["label"]).mean())

    def _columns(self, table: pd.DataFrame, scores: list[Score]) -> dict[str, np.ndarray]:
        """Per-image values of each method, best first, undefined ones as 0, in one order of images."""
        labels = plots.score_labels(scores)
        return {
            label: np.nan_to_num(
                table[(table.attribution == score.attribution) & (table.layer == score.layer)]
                .sort_values("index")["value"]
                .to_numpy()
            )
            for label, score in zip(labels, scores, strict=True)
        }


def evaluate(
    options: IdsdsOptions, callables: dict[str, Callable[[Tensor, Tensor], Tensor]] | None = None
) -> dict[str, Any] | None:
    """Run the protocol and write its results; returns the summary (None on other processes).

    `callables` are the user's own attributions by name: `f(images, targets) -> (B, C, h, w)`.
    """
    if options.list_attributions:
        print_attributions()
        return None
    return IdsdsEvaluation(options, callables).run()


if __name__ == "__main__":
    sys.exit(run_command(IdsdsOptions, evaluate))
