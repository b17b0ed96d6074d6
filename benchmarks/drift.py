"""How far scores, cell sums and orders of `eval.idsds` move between precisions; `benchmarks.precision` shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import idsds
from eval.frame import Command, Outcome, Part
from eval.frame.result import Result
from eval.idsds import IdsdsOptions, SingleDeletion, report_idsds
from faithfulness.core.comparison import agreement, paired_differences, resampled_means
from faithfulness.core.ranking import quantize_rows
from faithfulness.core.statistics import holm, spearman_rows

REFERENCE = "32-true"
FAR = 0.05
"""A score that moves by more than this has moved, to a reader of two digits."""
Values = NDArray[np.floating]


class Kept(SingleDeletion):
    """IDSDS that keeps the cell sums of all images, and the drops as they would be in the run's own precision.

    Attributes:
        whole: the parts of all batches, once they are summarized.
    """

    whole: Part

    def delete(self, batch: Any, done: Mapping[str, Part]) -> Part:
        """As it is; beside it the drops that aren't taken in full precision."""
        part = super().delete(batch, done)
        with self.run.autocast():
            logits = self.logits(self.network, self.run.checkpoint.name, batch.images)
        drops, scale = (measure(*logits, batch.labels) for measure in (idsds.drops_of, idsds.drop_scale))
        part.add("rounded drops", drops=drops.double(), scale=scale.double())
        return part

    def keep_maps(self, part: Part, method: Any, batch: Any, maps: Tensor, sums: Tensor) -> None:
        """The cell sums of every image, not of the examples alone."""
        super().keep_maps(part, method, batch, maps, sums)
        part.add(f"sums of {method.name}", sums=sums)

    def summarize(self, part: Part) -> Outcome:
        """As it is; the parts stay."""
        self.whole = part
        return super().summarize(part)


@dataclass(frozen=True)
class Drops:
    """Drops (images, cells), and the logits' magnitude (images,) that their rounding goes by."""

    drops: Values
    scale: Values

    @classmethod
    def of(cls, part: Part, table: str) -> Drops:
        """Those of a table."""
        found = part.table(table)
        return cls(found["drops"], found["scale"])

    @property
    def ties(self) -> NDArray[np.integer]:
        """Pairs of cells of each image (images,) whose drops a score takes as equal."""
        ranked = quantize_rows(torch.from_numpy(self.drops), torch.from_numpy(self.scale)).numpy()
        rows, columns = np.triu_indices(ranked.shape[1], 1)
        return (ranked[:, rows] == ranked[:, columns]).sum(axis=1)


@dataclass(frozen=True)
class Scored:
    """What a run in one precision gave, images in one order.

    Attributes:
        scores: of each method (images,), NaN where undefined.
        sums: of each method (images, cells).
        drops: as they are scored with; `rounded` as they would be in the run's own precision.
        seconds: what each method's maps took.
    """

    result: Result
    scores: dict[str, Values]
    sums: dict[str, Values]
    drops: Drops
    rounded: Drops
    seconds: dict[str, float]


def score(model: Any, precision: str, **options: Any) -> Scored:
    """Score in one precision; `options` are those of `eval.idsds.evaluate`."""
    made: list[Kept] = []

    def evaluation(run: Any) -> Kept:
        made.append(Kept(run))
        return made[0]

    command = Command(IdsdsOptions, evaluation, report_idsds)
    result = command.evaluate(model, protocol="single", precision=precision, **options)
    assert result is not None  # one process
    assert result.per_image is not None
    groups = dict(iter(result.per_image.groupby(["attribution", "layer"])))
    costs = {(row["attribution"], row["layer"]): row["seconds"] for row in result.summary["scores"]}
    tables, methods = made[0].whole, made[0].methods
    places = {method.name: (method.label, method.layer) for method in methods}
    return Scored(
        result,
        {name: groups[place].sort_values("index")["value"].to_numpy(float) for name, place in places.items()},
        {name: tables.table(f"sums of {name}")["sums"] for name in places},
        Drops.of(tables, "drops"),
        Drops.of(tables, "rounded drops"),
        {name: costs[place] for name, place in places.items()},
    )


def compared(reference: Scored, other: Scored, seed: int = 0) -> dict[str, Any]:
    """All that moves from the reference to the other: a row per method, the order of methods, and the drops."""
    names = list(reference.scores)
    a, b = (np.nan_to_num(np.stack([run.scores[name] for name in names])) for run in (other, reference))
    found = paired_differences(a, b, np.arange(a.shape[1]), seed=seed)
    p_values = holm(np.array([each.p for each in found]))
    rows = [
        {
            "method": name,
            "mean_reference": each.mean_b,
            "mean": each.mean_a,
            "difference": each.difference,
            "ci95": list(each.ci95),
            "p_holm": float(p),
            "share_moved": float((np.abs(a[row] - b[row]) > FAR).mean()),
            "cells_spearman": spread_of(reference.sums[name], other.sums[name]),
            "n_undefined": [int(np.isnan(run.scores[name]).sum()) for run in (reference, other)],
            "seconds": [run.seconds[name] for run in (reference, other)],
        }
        for row, (name, each, p) in enumerate(zip(names, found, p_values, strict=True))
    ]
    draws = [resampled_means(each, np.ones_like(each), seed) for each in (a, b)]
    order = agreement(a.mean(axis=1), b.mean(axis=1), draws[0], draws[1])
    return {"methods": by_mean(rows), "order": asdict(order), "drops": drops_compared(reference, other)}


def by_mean(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, best in the reference first."""
    return sorted(rows, key=lambda row: -row["mean_reference"])


def spread_of(a: Values, b: Values) -> dict[str, float]:
    """Mean and least Spearman correlation of rows, and in how many it is defined."""
    found = spearman_rows(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    found = found[~np.isnan(found)]
    return {
        "mean": float(found.mean()) if len(found) else np.nan,
        "least": float(found.min()) if len(found) else np.nan,
        "n": len(found),
    }


def drops_compared(reference: Scored, other: Scored) -> dict[str, Any]:
    """Whether the drops are those of the reference, bit for bit; ties among them, and what the precision would cost."""
    same = [
        np.array_equal(*(getattr(run.drops, name) for run in (reference, other)))
        and len({getattr(run.drops, name).dtype for run in (reference, other)}) == 1
        for name in ("drops", "scale")
    ]
    cells = reference.drops.drops.shape[1]
    return {
        "identical": all(same),
        "pairs_of_cells": len(reference.drops.drops) * cells * (cells - 1) // 2,
        "ties": int(other.drops.ties.sum()),
        "ties_if_rounded": int(other.rounded.ties.sum()),
        "images_with_ties": float((other.drops.ties > 0).mean()),
        "images_with_ties_if_rounded": float((other.rounded.ties > 0).mean()),
        "spearman_if_rounded": spread_of(reference.drops.drops.astype(np.float64), other.rounded.drops),
    }
