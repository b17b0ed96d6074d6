"""Score attributions by in-domain single deletion.

python -m eval.idsds --model runs/demo/checkpoint --attributions ixg ig gradcam
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from backbones import TimmBackbone
from checkpoints import load_model
from core import LEAKING_FILLS, DeletionSpec, InputError, PatchGrid
from core.checks import check_maps
from core.cli import run_command
from core.keyed import make_keys
from core.ranking import is_constant
from core.results import Score, atomic_directory, summarize_scores, write_per_image, write_summary
from core.statistics import paired_tests
from eval import plots
from eval.options import EvaluationOptions
from eval.report import print_attributions, print_ranking
from eval.runner import ImageBatch, Method, Runner, check_classes, make_methods
from idsds import (
    cell_sums,
    deleted_logits,
    domain_evidence,
    drop_scale,
    drops_of,
    incremental_deletion,
    rank_correlation,
)

CONTROLS = ("random", "edge")
DEFAULT = ("grad", "ixg", "ixg-sg", "ig", "ig-u", "gradcam", "occlusion")
EXAMPLES = 6
"""How many images the sheet of examples shows."""


@dataclass(kw_only=True)
class IdsdsOptions(EvaluationOptions):
    """Score attributions by the correlation of their cell sums with the drops that deletion causes.

    Args:
        protocol: in-domain (a checkpoint trained with deletion), single (any model), or incremental.
        baseline: a model trained without deletion, for the in-domain evidence.
        grid: rows and columns; the checkpoint's own by default.
        fill: zeros, mean, random or blur; the checkpoint's own by default.
        allow_out_of_domain: score with another grid or fill than the checkpoint was trained with.
        order: which pixels incremental deletion takes first: ascending or descending attribution.
        steps: of incremental deletion.
        reattribute: attribute anew at every step of incremental deletion.
        list_attributions: print the registered attributions and stop.
    """

    protocol: Literal["in-domain", "single", "incremental"] = "in-domain"
    baseline: str | None = None
    grid: list[int] | None = None
    fill: str | None = None
    allow_out_of_domain: bool = False
    order: Literal["ascending", "descending"] = "ascending"
    steps: int = 32
    reattribute: bool = False
    list_attributions: bool = False
    attributions: list[str] = field(default_factory=lambda: list(DEFAULT))

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


class DomainRecord:
    """Collects what the in-domain evidence is made of, for one model."""

    def __init__(self, backbone: TimmBackbone, deletion: DeletionSpec, seed: int):
        self.backbone, self.deletion, self.seed = backbone, deletion, seed
        self.columns: dict[str, list[Tensor]] = {}

    def add(self, batch: ImageBatch, whole: Tensor, deleted: Tensor) -> None:
        """Keep predictions of a batch, and its features with and without one keyed cell."""
        cells = self.deletion.sample_cells(self.seed, 0, batch.indices)
        shown = self.deletion.delete(batch.images, cells, make_keys(self.seed, batch.indices))
        with torch.no_grad():
            features = [self.backbone.embed(images).float().cpu() for images in (batch.images, shown)]
        row = {
            "index": batch.indices.cpu(),
            "label": batch.labels.cpu(),
            "whole": whole.argmax(dim=1).cpu(),
            "deleted": deleted.argmax(dim=2).cpu(),
            "features": torch.stack(features, dim=1),
        }
        for name, value in row.items():
            self.columns.setdefault(name, []).append(value)

    def merged(self) -> dict[str, Tensor]:
        """One tensor per column."""
        return {name: torch.cat(pieces) for name, pieces in self.columns.items()}


def _evidence(records: list[dict[str, Tensor]]) -> dict[str, Any]:
    records = [record for record in records if record]
    columns = {name: torch.cat([record[name] for record in records]) for name in records[0]}
    order = columns["index"].argsort()
    columns = {name: value[order] for name, value in columns.items()}
    features = columns["features"]
    return domain_evidence(
        columns["whole"], columns["deleted"], columns["label"], features[:, 0], features[:, 1]
    ).to_dict()


class IdsdsEvaluation:
    """One run: every batch is deleted once, and all methods are scored against those drops."""

    def __init__(self, options: IdsdsOptions, callables: dict[str, Callable[[Tensor, Tensor], Tensor]] | None):
        self.options = options
        self.runner = Runner.start(options)
        checkpoint = self.runner.checkpoint
        self.deletion = deletion_of(options, checkpoint.deletion, options.model)
        self.deletion.grid.check(*checkpoint.backbone.input_size)
        names = [*options.attributions, *(name for name in CONTROLS if name not in options.attributions)]
        self.methods = make_methods(names, options.layers, checkpoint, options.chunk, callables)
        self.rows: list[pd.DataFrame] = []
        self.examples: list[dict[str, Any]] = []
        self.constant_drops = 0
        self.record = DomainRecord(checkpoint.backbone, self.deletion, options.seed)
        self.baseline: DomainRecord | None = None
        if options.baseline:
            baseline = load_model(options.baseline, input_size=checkpoint.backbone.input_size[0])
            check_classes(baseline, self.runner.data)
            self.runner.place(baseline.backbone)
            self.baseline = DomainRecord(baseline.backbone, self.deletion, options.seed)

    def run(self) -> dict[str, Any] | None:
        """Score all batches; returns the summary on the first process, None on the others."""
        for batch in self.runner.batches():
            with self.runner.autocast():
                if self.options.protocol == "incremental":
                    self.score_incremental(batch)
                else:
                    self.score_single(batch)
        cost = [(method.seconds, method.maps) for method in self.methods]
        baseline = self.baseline.merged() if self.baseline else {}
        own = (self.rows, self.record.merged(), baseline, cost, self.constant_drops, self.runner.corrupt, self.examples)
        gathered = self.runner.gather(own)
        return None if gathered is None else self.finish(gathered)

    def _logits(self, backbone: TimmBackbone, images: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            whole = torch.cat([backbone(part) for part in images.split(self.options.chunk)])
        deleted = deleted_logits(backbone, images, self.deletion.grid, self.deletion.fill, chunk=self.options.chunk)
        return whole, deleted

    def score_single(self, batch: ImageBatch) -> None:
        """Correlate every method's cell sums with the drops of each image."""
        whole, deleted = self._logits(self.record.backbone, batch.images)
        self.record.add(batch, whole, deleted)
        if self.baseline:
            self.baseline.add(batch, *self._logits(self.baseline.backbone, batch.images))
        drops = drops_of(whole.float() if whole.dtype != torch.float64 else whole, deleted, batch.labels)
        scale = drop_scale(whole, deleted, batch.labels)
        usable = ~is_constant(drops, scale)
        self.constant_drops += int((~usable).sum())
        size = (batch.images.shape[-2], batch.images.shape[-1])
        for method in self.methods:
            maps = self._explain(method, batch)
            sums = cell_sums(maps, self.deletion.grid, size, method.upsample)
            self._add(method, batch, rank_correlation(drops, sums, scale), whole, usable)
            self._keep_examples(method, batch, maps, sums, drops)

    def score_incremental(self, batch: ImageBatch) -> None:
        """Mean probability over the steps of incremental deletion, per method."""
        backbone = self.record.backbone
        with torch.no_grad():
            whole = torch.cat([backbone(part) for part in batch.images.split(self.options.chunk)])
        for method in self.methods:
            again = self.options.reattribute
            source: Any = {"explain": method.explain} if again else {"maps": self._explain(method, batch)}
            curve = incremental_deletion(
                backbone,
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
        evidence = {"model": _evidence(list(records))} if single else {}
        if self.baseline and single:
            evidence["baseline"] = {"name": self.options.baseline} | _evidence(list(baselines))
        model = self.runner.checkpoint.describe()
        if single:
            model |= {key: evidence["model"][key] for key in ("accuracy", "accuracy_deleted")}
        names, p_values = paired_tests(self._columns(table, scores))
        options = self.options
        settings = {
            "protocol": options.protocol,
            "grid": [self.deletion.grid.rows, self.deletion.grid.cols],
            "fill": self.deletion.fill,
            "fill_leaks": self.deletion.fill in LEAKING_FILLS,
            "n_constant_drops": sum(constant),
            **self.runner.describe_settings(),
        }
        if not single:
            settings |= {"order": options.order, "steps": options.steps, "reattribute": options.reattribute}
        with atomic_directory(options.out, options.overwrite) as folder:
            write_per_image(folder, table)
            summary = write_summary(
                folder,
                protocol="idsds",
                model=model,
                data=self.runner.describe_data() | {"n_corrupt": sum(corrupt)},
                settings=settings,
                scores=scores,
                tests={"test": "Wilcoxon signed-rank, Holm-corrected", "names": names, "p": p_values.tolist()},
                evidence=evidence,
            )
            labels = plots.score_labels(scores)
            plots.ranking(folder / "plots" / "ranking.png", scores, labels, options.metric)
            plots.distributions(folder / "plots" / "distribution.png", self._columns(table, scores), options.metric)
            plots.test_matrix(folder / "plots" / "tests.png", names, p_values)
            if single:
                plots.evidence(folder / "plots" / "evidence.png", evidence, self.deletion.grid)
                kept = [example for rank in examples for example in rank]
                plots.examples(folder / "plots" / "examples.png", kept, labels, self.deletion.grid)
        print_ranking(summary)
        print(f"results: {options.out}/summary.json, per_image.parquet, plots/")
        return summary

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
