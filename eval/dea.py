"""Score attributions on segmentation: deletion on and off target, insertion, mass, stability, cost (DEA)."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np

import dea
from eval.frame import Command, EvaluationOptions, Outcome, Part, Pass, Step
from eval.frame.cautions import caution_count, caution_iou
from faithfulness import core
from faithfulness.core.errors import InputError, unknown_name

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from eval.frame.batches import ImageBatch
    from eval.frame.methods import Method
    from eval.frame.run import Run

DEFAULT = ("gpa", "ega", "region", "dea", "ig(steps=20)", "gradcam", "random")
NOT_ASKED = "class not asked for"
INSERTED = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
"""Shares of kept pixels that the picture of insertion shows besides the scored ones: from nothing to all."""
EXAMPLES = 6
"""Of how many images pairs are kept for the sheet of examples."""


@dataclass(kw_only=True)
class DeaOptions(EvaluationOptions):
    """Score attributions of a segmentation network by deletion, insertion, stability and cost.

    Args:
        model: checkpoint folder, torchvision:NAME, timm:NAME, hf-hub:ORG/NAME, weight file (with --arch), or
            file.py:function that returns a network.
        data: digits, voc:PATH, sbd:PATH, or file.py:function that returns a data set of (image, mask).
        fractions: shares of the pixels to delete, e.g. 0.05 0.1; by default 5 … 50 %, for digits 0.5 … 4 %.
        fill: what deleted pixels become: mean (of the kept pixels), zeros, random or blur (which leaks).
        region: explain the predicted or the annotated pixels of a class.
        classes: names of the classes to explain; all but the background by default.
        min_area: the least share of the image that a region covers.
        max_area: the largest share.
        min_iou: the least IoU of the class's predicted and annotated pixels.
        sweep: vary grid, fill, λ, gradient source and fusion of dea too, one at a time.

    Example:
        python -m eval.dea --model runs/segmenter --attributions gpa ega dea region
    """

    protocol_name: ClassVar[str] = "dea"
    most: ClassVar[int] = 64

    fractions: list[float] | None = None
    fill: str = "mean"
    region: Literal["predicted", "annotated"] = "predicted"
    classes: list[str] | None = None
    min_area: float = 0.01
    max_area: float = 0.9
    min_iou: float = 0.5
    sweep: bool = False
    attributions: list[str] = field(default_factory=lambda: list(DEFAULT))
    batch_size: int = 16

    def check(self) -> None:
        """Raise InputError for values that this protocol can't use."""
        super().check()
        self.fill = core.FILLS.resolve(self.fill)
        if self.fractions is not None and (
            not self.fractions or not all(0 < fraction <= 1 for fraction in self.fractions)
        ):
            raise InputError(f"--fractions must lie in (0, 1], got {self.fractions}")
        for name in ("min_area", "max_area", "min_iou"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"--{name.replace('_', '-')} must lie in [0, 1], got {getattr(self, name)}")


class PairBatch(NamedTuple):
    """The (image, class) pairs of a batch of images: what a method explains."""

    images: Tensor
    regions: Tensor
    classes: Tensor
    indices: Tensor
    area: Tensor
    iou: Tensor


def pack_masks(masks: Tensor) -> NDArray[Any]:
    """Masks bool (P, H, W) as bits (P, bytes)."""
    return np.packbits(masks.flatten(1).cpu().numpy(), axis=1)


def unpacked(part: Part, batch: ImageBatch) -> PairBatch:
    """The pairs that were chosen of a batch."""
    import torch

    device, (height, width) = batch.images.device, batch.images.shape[-2:]
    pairs = part.table("pairs")
    bits = np.unpackbits(pairs["region"], axis=1, count=height * width).astype(bool)
    regions = torch.from_numpy(bits.reshape(len(bits), height, width)).to(device)
    image, classes, area, iou = (part.tensor("pairs", name, device) for name in ("image", "class", "area", "iou"))
    return PairBatch(batch.images[image], regions, classes, batch.indices[image], area, iou)


class SegmentationEvidence:
    """Pairs are chosen from every batch, and each method explains and is scored on the same ones."""

    def __init__(self, run: Run[DeaOptions]):
        from eval.frame.methods import make_methods
        from eval.frame.sweep import sweep_attributions

        self.run, options = run, run.options
        self.model = run.checkpoint.model
        self.target = dea.SegmentationTarget(self.model)
        self.fractions = tuple(options.fractions or run.data.fractions or dea.FRACTIONS)
        self.wanted = self.classes_asked_for()
        common: dict[str, Any] = {"published": options.published, "arguments": 3}
        named = (options.attributions, options.layers, self.target, run.chunk, run.callables)
        self.shown = make_methods(*named, **common)
        self.methods = list(self.shown)
        if options.sweep:
            known = {method.label for method in self.shown}
            variants = [label for _, _, label in sweep_attributions() if label not in known]
            self.methods += make_methods(variants, ["input"], self.target, run.chunk, **common)

    def classes_asked_for(self) -> list[int] | None:
        """The classes that are explained; None for all."""
        if self.run.options.classes is None:
            return None
        names = self.run.data.classes
        for name in self.run.options.classes:
            if name not in names[1:]:
                raise unknown_name(f"class of {self.run.data.name}", name, names[1:])
        return [names.index(name) for name in self.run.options.classes]

    def passes(self) -> Iterator[Pass]:
        """All images."""
        maps = 1.0 + len(dea.PERTURBATIONS)
        steps = [method.step(self.score, maps) for method in self.methods]
        yield Pass("images", self.run.batches(), [Step("pairs", self.choose, cost=1.0), *steps])

    def score(self, method: Method, batch: ImageBatch, done: Mapping[str, Part]) -> Part:
        """Score a method on the pairs of a batch."""
        part, pairs = Part(), unpacked(done["pairs"], batch)
        if len(pairs.images):
            self.score_method(part, method, pairs)
        return part

    def choose(self, batch: ImageBatch, done: Mapping[str, Part]) -> Part:
        """The pairs of a batch that pass the filters."""
        part, options, name = Part(), self.run.options, self.run.checkpoint.name
        with self.run.full_precision():
            predictions = dea.predicted_classes(self.model, batch.images, chunk=self.run.chunk, name=name)
        part.add("confusion", matrix=dea.confusion(predictions, batch.labels, self.model.num_classes)[None])
        pairs = dea.select_pairs(
            batch.labels,
            predictions,
            min_area=options.min_area,
            max_area=options.max_area,
            min_iou=options.min_iou,
            region=options.region,
        )
        keep = dea.asked_for(pairs.classes, self.wanted)
        part.counts.update(pairs.counts | {"kept": int(keep.sum()), NOT_ASKED: int((~keep).sum())})
        chosen = {"image": pairs.image[keep], "class": pairs.classes[keep], "region": pack_masks(pairs.regions[keep])}
        part.add("pairs", **chosen, area=pairs.area[keep], iou=pairs.iou[keep])
        self.keep_examples(part, unpacked(part, batch))
        return part

    def explain(self, part: Part, method: Method, images: Tensor, regions: Tensor, classes: Tensor) -> Tensor:
        """Maps (P, 1, h, w) in the chosen precision; a function of the user's own is given regions and classes."""
        own = method.label in self.run.callables
        targets = (regions, classes) if own else (self.target.aim(regions, classes),)
        with self.run.autocast():
            return self.run.explain(part, method, images, *targets).sum(dim=1, keepdim=True)

    def score_method(self, part: Part, method: Method, pairs: PairBatch) -> None:
        """All metrics of a method on a batch of pairs; the maps in the chosen precision, the drops in full."""
        options, (images, regions, classes) = self.run.options, pairs[:3]
        maps = self.explain(part, method, images, regions, classes)
        common = {"upsample": method.upsample, "chunk": self.run.chunk}
        what = (self.model, images, regions, classes, maps)
        with self.run.full_precision():
            deleted = dea.deletion_curves(*what, self.fractions, options.fill, **common)
            kept = dea.insertion_scores(*what, self.fractions, options.fill, **common)
            shown = dea.insertion_scores(*what, INSERTED, options.fill, **common)
        core.check_logits(deleted.target, self.run.checkpoint.name)
        core.check_logits(kept, self.run.checkpoint.name)
        same = dea.stability(
            lambda *given: self.explain(Part(), method, *given), images, regions, classes, seed=options.seed
        )
        values = {
            "target_deletion_drop": deleted.target.mean(dim=1),
            "off_target_deletion_drop": deleted.off_target.mean(dim=1),
            "insertion": kept.mean(dim=1),
            "off_target_mass": dea.off_target_mass(maps, regions),
            "stability": dea.mean_stability(same),
            **{f"stability_{name}": found for name, found in same.items()},
        }
        pair = {"index": pairs.indices, "class": classes}
        named = {"area": pairs.area, "iou": pairs.iou, "attribution": method.label, "layer": method.layer}
        for metric, found in values.items():
            part.add("per_image", **pair, **named, metric=metric, value=found)
        curves = {"target": deleted.target, "off_target": deleted.off_target, "insertion": kept, "inserted": shown}
        part.add(f"curves of {method.key}", **pair, **curves)
        first = pairs.indices < EXAMPLES
        if method in self.shown and first.any():
            part.add(
                f"example maps of {method.key}",
                map=maps[first].float(),
                **{name: column[first] for name, column in pair.items()},
            )

    def keep_examples(self, part: Part, pairs: PairBatch) -> None:
        """Images and regions of the sheet of examples."""
        shown = pairs.indices < EXAMPLES
        if shown.any():
            columns = {"index": pairs.indices[shown], "class": pairs.classes[shown]}
            part.add("examples", **columns, image=pairs.images[shown].float(), region=pairs.regions[shown])

    def summarize(self, part: Part) -> Outcome:
        """Scores, paired differences, the sweep, curves and examples."""
        import pandas as pd

        from eval.frame import segmentation

        options, n_corrupt = self.run.options, part.n_corrupt("images")
        dropped = {reason: part.counts[reason] for reason in (*dea.REASONS, NOT_ASKED)}
        if not part.tables.get("per_image"):
            reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.items() if count)
            raise InputError(
                f"no (image, class) pair of {self.run.data.name} passes the filters "
                f"({reasons or 'no images'}; {n_corrupt} corrupt)"
            )
        order = ["metric", "attribution", "layer", "index", "class"]
        table = pd.DataFrame(part.table("per_image")).sort_values(order, kind="stable")
        scores = segmentation.pair_scores(table, self.methods, part.costs, options.seed)
        mean_iou = dea.mean_iou(part.table("confusion")["matrix"].sum(axis=0))
        kept = part.counts["kept"]
        sections = {
            "comparisons": segmentation.comparisons(table, self.methods, options.seed),
            "cautions": caution_count(table["index"].nunique()) + caution_iou(mean_iou),
        }
        if options.sweep:
            from eval.frame.sweep import sweep_rows

            sections["sweep"] = sweep_rows(scores)
        return Outcome(
            scores=scores,
            settings=self.settings(),
            model={"mean_iou": mean_iou},
            data={
                "n_corrupt": n_corrupt,
                "n_pairs": kept,
                "dropped": dropped,
                "mean_region_area": float(table.drop_duplicates(["index", "class"])["area"].mean()),
            },
            sections=sections,
            per_image=table,
            pictures=segmentation.pictures(self.run, part, scores, self.shown, self.fractions, INSERTED, kept),
        )

    def settings(self) -> dict[str, Any]:
        """What `summary.json` records of the options."""
        options = self.run.options
        return {
            "fractions": list(self.fractions),
            "fill": options.fill,
            "fill_leaks": options.fill in core.LEAKING_FILLS,
            "region": options.region,
            "filters": {name: getattr(options, name) for name in ("min_area", "max_area", "min_iou")},
            "shown": [method.name for method in self.shown],
            "methods": {method.name: getattr(method.explain, "settings", {}) for method in self.methods},
        }


def report_dea(summary: dict[str, Any]) -> str:
    """The ranked table, the paired differences, the sweep, and what to keep in mind."""
    from eval.frame.segmentation_text import report

    return report(summary)


COMMAND = Command(DeaOptions, SegmentationEvidence, report_dea, task="segmentation")
main = COMMAND.main
evaluate = COMMAND.evaluate

if __name__ == "__main__":
    sys.exit(main())
