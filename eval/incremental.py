"""Score attributions by incremental deletion: the probability of the class while pixels go, step by step."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import idsds
from eval.frame import Command, EvaluationOptions, Outcome, Part, Pass, Step
from eval.frame.ranked import METHODS, add_values, ranked_outcome, report_ranking, scored_methods
from faithfulness import core
from faithfulness.core.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from eval.frame.batches import ImageBatch
    from eval.frame.methods import Method
    from eval.frame.run import Run


@dataclass(kw_only=True)
class IncrementalOptions(EvaluationOptions):
    """Score attributions by the mean probability of the target while pixels are deleted step by step.

    Args:
        fill: zeros, mean, random, blur or blur-published; the checkpoint's own by default, else zeros.
        order: which pixels go first: ascending attribution (higher is better) or descending (lower is better).
        steps: how many.
        reattribute: attribute anew at every step.
        output: what every method explains: the target's logit or its probability.

    Example:
        python -m eval.incremental --model runs/demo/checkpoint --limit 64 --attributions ixg gradcam
    """

    protocol_name: ClassVar[str] = "incremental"

    fill: str | None = None
    order: Literal["ascending", "descending"] = "ascending"
    steps: int = 32
    reattribute: bool = False
    output: Literal["logit", "probability"] = "logit"
    attributions: list[str] = field(default_factory=lambda: list(METHODS))

    def check(self) -> None:
        """Raise InputError for values that this protocol can't use."""
        super().check()
        if self.steps < 1:
            raise InputError(f"--steps must be at least 1, got {self.steps}")


class IncrementalDeletion:
    """The mean probability over the steps, per image and method."""

    def __init__(self, run: Run[IncrementalOptions]):
        self.run = run
        trained = run.checkpoint.deletion
        self.fill = core.FILLS.resolve(run.options.fill or (trained.fill if trained else "zeros"))
        self.methods = scored_methods(run, output=run.options.output)

    def passes(self) -> Iterator[Pass]:
        """All images."""
        steps = [method.step(self.score) for method in self.methods]
        yield Pass("images", self.run.batches(), [Step("prediction", self.predict, cost=1.0), *steps])

    def logits(self, images: Tensor) -> Tensor:
        """Finite logits (B, classes) in full precision, as drops are taken."""
        with self.run.full_precision():
            return idsds.whole_logits(self.run.checkpoint.model, images, self.run.checkpoint.name)

    def predict(self, batch: ImageBatch, done: Mapping[str, Part]) -> Part:
        """The classes that the model predicts."""
        part = Part()
        with self.run.autocast():
            part.add("predictions", predicted=self.run.predict(batch.images))
        return part

    def score(self, method: Method, batch: ImageBatch, done: Mapping[str, Part]) -> Part:
        """The curve of a method, and its mean."""
        run, options, part = self.run, self.run.options, Part()

        def explain(images: Tensor, targets: Tensor) -> Tensor:
            return run.explain(part, method, images, targets)

        with run.autocast():
            source: Any = {"explain": explain} if options.reattribute else {"maps": explain(batch.images, batch.labels)}
            curve = idsds.incremental_deletion(
                self.logits,
                batch.images,
                batch.labels,
                **source,
                steps=options.steps,
                order=options.order,
                fill=self.fill,
                upsample=method.upsample,
                chunk=run.chunk,
            )
        predicted = done["prediction"].tensor("predictions", "predicted")
        add_values(part, method, batch, "incremental_deletion", curve.double().mean(dim=1), predicted)
        return part

    def summarize(self, part: Part) -> Outcome:
        """Ranking and tests."""
        options = self.run.options
        settings = {"fill": self.fill, "fill_leaks": self.fill in core.LEAKING_FILLS}
        settings |= {name: getattr(options, name) for name in ("output", "order", "steps", "reattribute")}
        higher = options.order == "ascending"
        metric = "incremental_deletion"
        return ranked_outcome(self.run, part, self.methods, metric=metric, higher_is_better=higher, settings=settings)


def report_incremental(summary: dict[str, Any]) -> str:
    """The ranked table."""
    settings = summary["settings"]
    better = "higher" if settings["order"] == "ascending" else "lower"
    what = f"{settings['steps']} steps, {settings['order']} ({better} is better)"
    what += "" if settings["output"] == "logit" else f", of the {settings['output']}"
    what += f", methods as published ({settings['published']})" if settings["published"] else ""
    return report_ranking(summary, what + f", fill {settings['fill']}" + " (LEAKS)" * settings["fill_leaks"])


COMMAND = Command(IncrementalOptions, IncrementalDeletion, report_incremental)
main = COMMAND.main
evaluate = COMMAND.evaluate

if __name__ == "__main__":
    sys.exit(main())
