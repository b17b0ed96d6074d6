"""Score attributions on segmentation: deletion on and off target, insertion, mass, stability, cost.

python -m eval.dea --model runs/segmenter --attributions gpa ega dea region
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torchmetrics.classification import MulticlassJaccardIndex

from backbones import SegmentationTarget
from core import FILLS, LEAKING_FILLS, InputError
from core.checks import check_logits, check_maps
from core.cli import run_command
from core.errors import unknown_name
from core.results import Score, summarize_scores, write_per_image, write_summary
from core.statistics import mean_interval
from data.segmentation import VOID
from dea import FRACTIONS, deletion_curves, insertion_scores, mean_stability, off_target_mass, select_pairs, stability
from dea.pairs import REASONS
from eval import dea_report
from eval.dea_sweep import sweep_attributions, sweep_rows
from eval.options import EvaluationOptions
from eval.report import caution_count
from eval.runner import SEGMENTATION, ImageBatch, Method, Runner, make_methods

DEFAULT = ("gpa", "ega", "region", "dea", "ig(steps=20)", "gradcam", "random")
SMALL_FRACTIONS = tuple(percent / 200 for percent in range(1, 9))
"""For `digits`, where a region covers some 5 % of the image: 0.5, 1, …, 4 %."""
NOT_ASKED = "class not asked for"
EXAMPLES = 6
"""How many pairs the sheet of examples shows."""
Callables = dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]]


@dataclass(kw_only=True)
class DeaOptions(EvaluationOptions):
    """Score attributions of a segmentation network by deletion, insertion, stability and cost.

    Args:
        model: checkpoint folder, torchvision:NAME, timm:NAME, hf-hub:ORG/NAME, or weight file (with --arch).
        data: digits, voc:PATH or sbd:PATH.
        fractions: shares of the pixels to delete, e.g. 0.05 0.1; by default 5 … 50 %, for digits 0.5 … 4 %.
        fill: what deleted pixels become: mean (of the kept pixels), zeros, random or blur (which leaks).
        region: explain the predicted or the annotated pixels of a class.
        classes: names of the classes to explain; all but the background by default.
        min_area: the least share of the image that a region covers.
        max_area: the largest share.
        min_iou: the least IoU of the class's predicted and annotated pixels.
        sweep: vary grid, fill, λ, gradient source and fusion of dea too, one at a time.
        list_attributions: print the registered attributions and stop.
    """

    protocol_name: ClassVar[str] = "dea"

    fractions: list[float] | None = None
    fill: str = "mean"
    region: Literal["predicted", "annotated"] = "predicted"
    classes: list[str] | None = None
    min_area: float = 0.01
    max_area: float = 0.9
    min_iou: float = 0.5
    sweep: bool = False
    list_attributions: bool = False
    attributions: list[str] = field(default_factory=lambda: list(DEFAULT))
    batch_size: int = 16
    chunk: int = 64

    def check(self) -> None:
        super().check()
        self.fill = FILLS.resolve(self.fill)
        if self.fractions is not None and (
            not self.fractions or not all(0 < fraction <= 1 for fraction in self.fractions)
        ):
            raise InputError(f"--fractions must lie in (0, 1], got {self.fractions}")
        for name in ("min_area", "max_area", "min_iou"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"--{name.replace('_', '-')} must lie in [0, 1], got {getattr(self, name)}")

    @property
    def shares(self) -> tuple[float, ...]:
        """The fractions asked for, or those that suit the data."""
        if self.fractions is not None:
            return tuple(self.fractions)
        return SMALL_FRACTIONS if self.data.partition(":")[0] == "digits" else FRACTIONS


class PairBatch(NamedTuple):
    """The (image, class) pairs of a batch of images: what a method explains."""

    images: Tensor
    regions: Tensor
    classes: Tensor
    indices: Tensor
    area: Tensor
    iou: Tensor


class Example(NamedTuple):
    """A pair for the sheet of examples: image in [0, 1], region, and each method's map."""

    key: tuple[int, int]
    name: str
    image: Tensor
    region: Tensor
    maps: dict[str, Tensor]


class DeaEvaluation:
    """One run: pairs are chosen from every batch, and each method explains and is scored on the same ones."""

    def __init__(self, options: DeaOptions, callables: Callables | None):
        self.options = options
        self.callables = callables or {}
        self.runner = Runner.start(options, SEGMENTATION)
        checkpoint = self.runner.checkpoint
        self.model = checkpoint.backbone
        self.target = SegmentationTarget(self.model)
        self.wanted = self._wanted()
        aimed = replace(checkpoint, backbone=self.target)
        self.methods = make_methods(
            options.attributions, options.layers, aimed, options.chunk, self.callables, published=options.published
        )
        self.shown = len(self.methods)
        if options.sweep:
            named = {method.label for method in self.methods}
            variants = [label for _, _, label in sweep_attributions() if label not in named]
            self.methods += make_methods(variants, ["input"], aimed, options.chunk, published=options.published)
        self.rows: list[pd.DataFrame] = []
        self.curves: dict[str, list[dict[str, Any]]] = {}
        self.examples: list[Example] = []
        self.counts: dict[str, int] = dict.fromkeys(("kept", *REASONS, NOT_ASKED), 0)
        self.mean_iou = MulticlassJaccardIndex(self.model.num_classes, ignore_index=VOID).to(self.runner.fabric.device)

    def _wanted(self) -> Tensor | None:
        if self.options.classes is None:
            return None
        names = self.runner.data.classes
        for name in self.options.classes:
            if name not in names[1:]:
                raise unknown_name(f"class of {self.runner.data.name}", name, names[1:])
        wanted = [names.index(name) for name in self.options.classes]
        return torch.tensor(wanted, device=self.runner.fabric.device)

    def run(self) -> dict[str, Any] | None:
        """Score all batches; returns the summary on the first process, None on the others."""
        for batch in self.runner.batches():
            pairs = self.choose(batch)
            if len(pairs.images):
                for method in self.methods:
                    self.score(method, pairs)
        mean_iou = float(self.mean_iou.compute())
        cost = [(method.seconds, method.maps, method.passes) for method in self.methods]
        own = (self.rows, self.curves, self.examples, self.counts, cost, len(self.runner.corrupt))
        gathered = self.runner.gather(own)
        return None if gathered is None else self.finish(gathered, mean_iou)

    def choose(self, batch: ImageBatch) -> PairBatch:
        """The pairs of a batch that pass the filters."""
        options = self.options
        name = self.runner.checkpoint.name
        with torch.no_grad(), self.runner.full_precision():
            predictions = torch.cat(
                [check_logits(self.model(part), name).argmax(dim=1) for part in batch.images.split(options.chunk)]
            )
        self.mean_iou.update(predictions, batch.labels)
        pairs = select_pairs(
            batch.labels,
            predictions,
            min_area=options.min_area,
            max_area=options.max_area,
            min_iou=options.min_iou,
            region=options.region,
        )
        keep = torch.ones_like(pairs.classes, dtype=torch.bool)
        if self.wanted is not None:
            keep = torch.isin(pairs.classes, self.wanted)
        for reason, count in (pairs.counts | {"kept": int(keep.sum()), NOT_ASKED: int((~keep).sum())}).items():
            self.counts[reason] += count
        image = pairs.image[keep]
        return PairBatch(
            batch.images[image],
            pairs.regions[keep],
            pairs.classes[keep],
            batch.indices[image],
            pairs.area[keep],
            pairs.iou[keep],
        )

    def _explain(self, method: Method, images: Tensor, regions: Tensor, classes: Tensor) -> Tensor:
        with self.runner.autocast():
            if method.label in self.callables:
                maps = method.explain(images, regions, classes)
            else:
                maps = method.explain(images, self.target.aim(regions, classes))
        maps = check_maps(maps, images, f"attribution {method.label}")
        return maps.sum(dim=1, keepdim=True)

    def score(self, method: Method, pairs: PairBatch) -> None:
        """All metrics of a method on a batch of pairs; the maps in the chosen precision, the drops in full."""
        images, regions, classes = pairs[:3]
        with self.runner.timed(method, len(images)):
            maps = self._explain(method, images, regions, classes)
        options = self.options
        common = {"upsample": method.upsample, "chunk": options.chunk}
        what = (self.model, images, regions, classes, maps, options.shares, options.fill)
        with self.runner.full_precision():
            deleted = deletion_curves(*what, **common)
            kept = insertion_scores(*what, **common)
        check_logits(torch.cat([deleted.target, kept], dim=1), self.runner.checkpoint.name)
        same = stability(lambda *given: self._explain(method, *given), images, regions, classes, seed=options.seed)
        values = {
            "target_deletion_drop": deleted.target.mean(dim=1),
            "off_target_deletion_drop": deleted.off_target.mean(dim=1),
            "insertion": kept.mean(dim=1),
            "off_target_mass": off_target_mass(maps, regions),
            "stability": mean_stability(same),
            **{f"stability_{name}": found for name, found in same.items()},
        }
        self._add(method, pairs, values)
        label = dea_report.name_of(method.label, method.layer)
        for name, curve in (("target", deleted.target), ("off_target", deleted.off_target), ("insertion", kept)):
            self.curves.setdefault(name, []).append(
                {"name": label, "index": pairs.indices.cpu(), "class": classes.cpu(), "values": curve.cpu()}
            )
        if method in self.methods[: self.shown]:
            self._keep_examples(label, pairs, maps)

    def _add(self, method: Method, pairs: PairBatch, values: dict[str, Tensor]) -> None:
        columns = {
            "index": pairs.indices.cpu().numpy(),
            "class": pairs.classes.cpu().numpy(),
            "area": pairs.area.cpu().numpy(),
            "iou": pairs.iou.cpu().numpy(),
            "attribution": method.label,
            "layer": method.layer,
        }
        self.rows += [
            pd.DataFrame({**columns, "metric": metric, "value": found.cpu().numpy()})
            for metric, found in values.items()
        ]

    def _keep_examples(self, label: str, pairs: PairBatch, maps: Tensor) -> None:
        for position in (pairs.indices < EXAMPLES).nonzero().flatten().tolist():
            key = (int(pairs.indices[position]), int(pairs.classes[position]))
            found = next((example for example in self.examples if example.key == key), None)
            if found is None:
                image = dea_report.visible(pairs.images[position], self.model.data_config)
                name = f"{key[0]}: {self.runner.data.classes[key[1]]}"
                found = Example(key, name, image, pairs.regions[position].cpu(), {})
                self.examples.append(found)
            found.maps[label] = maps[position].float().cpu()

    def finish(self, gathered: list[tuple[Any, ...]], mean_iou: float) -> dict[str, Any]:
        """Put the processes' parts together and write the run."""
        rows, curves, examples, counts, costs, corrupt = zip(*gathered, strict=True)
        parts = [part for rank in rows for part in rank]
        totals = {reason: sum(part[reason] for part in counts) for reason in self.counts}
        if not parts:
            reasons = ", ".join(f"{count} {reason}" for reason, count in totals.items() if count)
            raise InputError(
                f"no (image, class) pair of {self.runner.data.name} passes the filters "
                f"({reasons or 'no images'}; {sum(corrupt)} corrupt)"
            )
        table = pd.concat(parts).sort_values(["metric", "attribution", "layer", "index", "class"], kind="stable")
        scores = self.scores(table, list(costs))
        comparisons = self.comparisons(table)
        options = self.options
        settings = {
            "fractions": list(options.shares),
            "fill": options.fill,
            "fill_leaks": options.fill in LEAKING_FILLS,
            "region": options.region,
            "filters": {"min_area": options.min_area, "max_area": options.max_area, "min_iou": options.min_iou},
            "methods": {
                dea_report.name_of(method.label, method.layer): getattr(method.explain, "settings", {})
                for method in self.methods
            },
            **self.runner.describe_settings(),
        }
        names = [dea_report.name_of(method.label, method.layer) for method in self.methods[: self.shown]]
        extra = {"sweep": sweep_rows(scores)} if options.sweep else {}
        with options.result_folder() as folder:
            write_per_image(folder, table)
            summary = write_summary(
                folder,
                protocol=options.protocol_name,
                model=self.runner.checkpoint.describe() | {"mean_iou": mean_iou},
                data=self.runner.describe_data()
                | {
                    "n_corrupt": sum(corrupt),
                    "n_pairs": totals["kept"],
                    "dropped": {reason: count for reason, count in totals.items() if reason != "kept"},
                    "mean_region_area": float(table.drop_duplicates(["index", "class"])["area"].mean()),
                },
                settings=settings,
                scores=scores,
                comparisons=comparisons,
                cautions=caution_count(totals["kept"], "pairs") + dea_report.caution_iou(mean_iou),
                **extra,
            )
            merged = dea_report.merge_curves(list(curves), names)
            pairs = [example for rank in examples for example in rank]
            dea_report.draw(folder / "plots", summary, merged, names, sorted(pairs, key=lambda e: e.key)[:EXAMPLES])
        dea_report.print_report(summary, names)
        print(f"results: {options.out}/summary.json, per_image.parquet, plots/")
        return summary

    def scores(self, table: pd.DataFrame, costs: list[list[tuple[Any, ...]]]) -> list[Score]:
        """A score per method and metric, the methods in order of their target deletion drop."""
        found: list[list[Score]] = []
        for number, method in enumerate(self.methods):
            own = table[(table.attribution == method.label) & (table.layer == method.layer)]
            seconds, maps, passes = _sum_costs([cost[number] for cost in costs])
            common: dict[str, Any] = {
                "attribution": method.label,
                "layer": method.layer,
                "seed": self.options.seed,
                "undefined_as": None,
                "seconds": seconds,
                "forward_passes": passes[0],
                "backward_passes": passes[1],
            }
            one: list[Score] = []
            for metric, values in own.groupby("metric", sort=False):
                higher = True if str(metric).startswith("stability_") else None
                one.append(
                    summarize_scores(values["value"].to_numpy(), metric=str(metric), higher_is_better=higher, **common)
                )
            total = math.nan if None in passes else sum(passes)
            for metric, value in (("seconds_per_map", seconds / maps), ("passes_per_map", total)):
                score = summarize_scores(np.array([value]), metric=metric, **common)
                one.append(replace(score, n=maps, n_undefined=maps if math.isnan(value) else 0))
            found.append(sorted(one, key=lambda score: dea_report.METRICS.index(score.metric)))
        return [score for one in sorted(found, key=lambda one: -one[0].mean) for score in one]

    def comparisons(self, table: pd.DataFrame) -> list[dict[str, Any]]:
        """Paired differences of `dea` (else the first method) from each other method, with bootstrap intervals."""
        wide = table.pivot(index=["index", "class"], columns=["metric", "attribution", "layer"], values="value")
        keys = [(method.label, method.layer) for method in self.methods]
        reference = next((key for key in keys if key[0] == "dea"), keys[0])
        rows = []
        for metric in dea_report.COMPARED:
            for other in keys:
                if other == reference:
                    continue
                difference = (wide[(metric, *reference)] - wide[(metric, *other)]).dropna().to_numpy()
                rows.append(
                    {
                        "metric": metric,
                        "attribution": dea_report.name_of(*reference),
                        "other": dea_report.name_of(*other),
                        "difference": float(difference.mean()) if len(difference) else math.nan,
                        "ci95": mean_interval(difference, self.options.seed),
                        "n": len(difference),
                    }
                )
        return rows


def _sum_costs(costs: list[tuple[float, int, tuple[float | None, float | None]]]) -> tuple[float, int, tuple[Any, Any]]:
    """Seconds and maps of all processes; the passes of one that has made a map."""
    seconds, maps = sum(cost[0] for cost in costs), sum(cost[1] for cost in costs)
    return seconds, maps, next(cost[2] for cost in costs if cost[1])


def evaluate(options: DeaOptions, callables: Callables | None = None) -> dict[str, Any] | None:
    """Run the protocol and write its results; returns the summary (None on other processes).

    `callables` are the user's own attributions by name: `f(images, regions, classes) -> (P, C, h, w)`.
    """
    if options.list_attributions:
        from attribution import list_attributions

        print("\n".join(list_attributions()))
        return None
    return DeaEvaluation(options, callables).run()


if __name__ == "__main__":
    sys.exit(run_command(DeaOptions, evaluate))
