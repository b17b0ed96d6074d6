"""The whole study, in the order of what matters most; what is known so far stands on disk after every step."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.findings.family import FAMILY, GRIDS, Scale, train
from benchmarks.findings.judging import verdicts_of
from benchmarks.findings.quantities import Quantities, rounded
from benchmarks.findings.steps import Steps
from faithfulness.core.files import write_json
from faithfulness.core.results import environment

if TYPE_CHECKING:
    import pandas as pd

    from benchmarks.findings.grids import GridScores
    from eval.frame.result import Result

SCHEMA = 2
RECORD, PARTIAL = "findings.json", "findings-partial.json"
"""Of all steps; and of a run that isn't through, which leaves a record of all steps alone."""
LEARNED, SEGMENTED = 0.8, 0.5
"""The least accuracy, and mean IoU, of a network of which a claim is decided."""


@dataclass
class Study:
    """What is known so far.

    Attributes:
        scale: its size, called `size`. out: where checkpoints, results and the record go.
        budget: seconds after which nothing new is begun.
    """

    size: str
    scale: Scale
    out: Path
    budget: float
    models: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, Any] = field(default_factory=dict)
    quantities: Quantities = field(default_factory=dict)
    cautions: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tables: dict[str, pd.DataFrame] = {}
        self.wholes: dict[str, Path] = {}
        self.checkpoints: dict[str, Path] = {}
        self.made = Steps(self.out)
        self.grids: dict[str, GridScores] = {}
        self.began, self.environment = time.monotonic(), environment()
        self.seconds: dict[str, float] = {}

    def run(self) -> dict[str, Any]:
        """All steps, or as many as the budget allows; the record. InputError where an earlier call did otherwise."""
        for name, step in self.steps():
            if time.monotonic() - self.began > self.budget:
                self.cautions.append(f"stopped before {name}: {self.budget:.0f} s are over")
                return self.finish(PARTIAL)
            began = time.monotonic()
            self.say(name)
            step()
            self.seconds[name] = time.monotonic() - began
            self.write(PARTIAL)
        record = self.finish(RECORD)
        (self.out / PARTIAL).unlink()
        return record

    def finish(self, name: str) -> dict[str, Any]:
        """The record, and where it is."""
        record = self.write(name)
        self.say(f"record: {self.out / name}")
        return record

    def steps(self) -> Iterator[tuple[str, Any]]:
        """Networks with their IDSDS, then grids, then segmentation; each is one that an earlier call may have done."""
        for name in self.scale.models:
            yield f"{name}: training, IDSDS", lambda name=name: self.add_network(name)
        yield "identity", self.add_identity
        yield "segmentation", self.add_segmentation
        for name in GRIDS:
            if name in self.scale.models:
                yield f"{name}: grids", lambda name=name: self.add_grids(name)

    def say(self, text: str) -> None:
        """A line with the time since the beginning."""
        print(f"[{time.monotonic() - self.began:5.0f} s] {text}", flush=True)

    def add_network(self, name: str) -> None:
        """Train a network and score it; then what can be said of all so far."""
        from benchmarks.findings.deletion import deletion_quantities, score, table_of

        self.wholes[name], self.checkpoints[name] = train(name, self.scale, self.made, self.say)
        result = score(name, self.checkpoints[name], self.scale, self.made)
        evidence = result.summary["evidence"]["model"]
        self.models[name] = {"network": FAMILY[name].model, "least": LEARNED} | {
            key: evidence[key] for key in ("accuracy", "accuracy_deleted", "separability")
        }
        self.tables[name] = table_of(result, self.scale)
        self.scores[f"IDSDS {name}"] = scores_of(result)
        accuracy = {each: found["accuracy"] for each, found in self.models.items()}
        self.quantities |= deletion_quantities(self.tables, accuracy, LEARNED)

    def add_identity(self) -> None:
        from benchmarks.findings.deletion import identity_quantities

        self.quantities |= identity_quantities(self.checkpoints, self.scale)

    def add_segmentation(self) -> None:
        from benchmarks.findings.segmentation import NAME, score_segmenter, segmentation_quantities

        result = score_segmenter(self.scale, self.made)
        mean_iou = result.summary["model"]["mean_iou"]
        self.models[NAME] = {"network": result.summary["model"]["architecture"], "accuracy": mean_iou}
        self.models[NAME] |= {"least": SEGMENTED}
        self.scores["DEA"] = scores_of(result)
        self.quantities |= segmentation_quantities(result)

    def add_grids(self, name: str) -> None:
        """Grids of a network that has seen whole images only; one without enough sure images is said, not scored."""
        from benchmarks.findings.grids import GridScores, TooFewImagesError, contrast_quantities, score_grids, whole

        checkpoint = self.wholes[name]
        training = json.loads((checkpoint / "training.json").read_text(encoding="utf-8"))
        self.models[whole(name)] = {"network": FAMILY[name].model, "least": LEARNED}
        self.models[whole(name)] |= {"accuracy": training["metrics"]["accuracy"]}
        try:
            results = score_grids(name, checkpoint, self.scale, self.made)
        except TooFewImagesError as error:
            self.cautions.append(f"no grids of {name}: {error}")
            return
        for result in results:
            self.scores.setdefault(f"grids {name}", []).extend(scores_of(result))
        self.grids[name] = GridScores(name, results, self.scale)
        self.quantities |= self.grids[name].quantities() | contrast_quantities(self.grids)

    def write(self, name: str) -> dict[str, Any]:
        """The record, with its verdicts, on disk."""
        steps = dict(sorted(self.made.commits.items()))
        all_commits = {self.environment["commit"], *(commit for commits in steps.values() for commit in commits)}
        record = {
            "schema": SCHEMA,
            "size": self.size,
            "settings": asdict(self.scale),
            "models": self.models,
            "cautions": self.cautions,
            "quantities": self.quantities,
            "scores": self.scores,
            "seconds": self.seconds,
            "environment": self.environment,
            "steps": steps,
            "commits": sorted(all_commits),
        }
        record = rounded(record)
        record["verdicts"] = verdicts_of(record)
        write_json(self.out / name, record)
        return record


def scores_of(result: Result) -> list[dict[str, Any]]:
    """The means of a result, with their intervals."""
    kept = ("setting", "attribution", "layer", "metric", "mean", "ci95", "n", "n_undefined")
    drop = ("stability_", "impossible")
    rows = [row for row in result.summary["scores"] if not row["metric"].startswith(drop)]
    return [{key: row[key] for key in kept if key in row} for row in rows]
