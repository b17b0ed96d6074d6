"""Score attributions by in-domain single deletion (IDSDS)."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import idsds
from eval.frame import Command, EvaluationOptions, Outcome, Part, Pass, Step
from eval.frame.cautions import caution_baseline
from eval.frame.ranked import METHODS, add_values, ranked_outcome, report_ranking, scored_methods
from faithfulness import core
from faithfulness.core.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from checkpoints import Checkpoint
    from eval.frame.batches import ImageBatch
    from eval.frame.methods import Method
    from eval.frame.run import Run
    from faithfulness.core import DeletionSpec

EXAMPLES = 6
"""How many images the sheet of examples shows."""


@dataclass(kw_only=True)
class IdsdsOptions(EvaluationOptions):
    """Score attributions by the correlation of their cell sums with the drops that deletion causes.

    Args:
        protocol: in-domain (a checkpoint trained with deletion) or single (any model); incremental deletion is a
            command of its own, eval.incremental.
        baseline: a model trained without deletion, for the in-domain evidence; none by default.
        grid: rows and columns; the checkpoint's own by default, else 4 4.
        fill: zeros, mean, random, blur or blur-published; the checkpoint's own by default, else zeros.
        output: what the drops are drops of and what every method explains: the target's logit or its probability.
            RISE scores its masks by the probability in either case, unless it is told softmax=False.
        allow_out_of_domain: score with another grid or fill than the checkpoint was trained with.

    Example:
        python -m eval.idsds --model runs/demo/checkpoint --attributions ixg ig "gradcam@layer3"
        python -m eval.idsds --model timm:resnet18 --pretrained --data imagenet:PATH --protocol single
    """

    protocol_name: ClassVar[str] = "idsds"

    protocol: Literal["in-domain", "single"] = "in-domain"
    baseline: str | Any | None = None
    grid: list[int] | None = None
    fill: str | None = None
    output: Literal["logit", "probability"] = "logit"
    allow_out_of_domain: bool = False
    attributions: list[str] = field(default_factory=lambda: list(METHODS))

    def check(self) -> None:
        """Raise InputError for values that this protocol can't use, also for flags that have no effect."""
        super().check()
        if self.protocol == "single" and self.allow_out_of_domain:
            raise InputError("--allow-out-of-domain has no effect with --protocol single")

    @property
    def metric(self) -> str:
        """The protocol's metric name."""
        return "idsds" if self.protocol == "in-domain" else "single_deletion"


def deletion_of(options: IdsdsOptions, trained: DeletionSpec | None, name: str) -> DeletionSpec:
    """The deletion to score with; InputError if the model wasn't trained with it and had to be."""
    grid = (
        core.PatchGrid.of(options.grid) if options.grid is not None else trained.grid if trained else core.PatchGrid()
    )
    asked = core.DeletionSpec(grid, options.fill or (trained.fill if trained else "zeros"), 1.0)
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


class SingleDeletion:
    """Every batch is deleted once, and all methods are scored against those drops."""

    def __init__(self, run: Run[IdsdsOptions]):
        self.run, options, checkpoint = run, run.options, run.checkpoint
        self.deletion = deletion_of(options, checkpoint.deletion, checkpoint.path or checkpoint.name)
        self.deletion.grid.check(*checkpoint.model.input_size)
        self.methods = scored_methods(run, output=options.output)
        self.probed = idsds.probe_images(run.count, options.seed)
        self.baseline = run.load_other(options.baseline) if options.baseline else None
        if self.baseline:
            try:
                self.deletion.grid.check(*self.baseline.model.input_size)
            except InputError as error:
                raise InputError(f"--baseline {options.baseline} can't lose the same cells: {error}") from error

    @cached_property
    def network(self) -> Any:
        """What the drops are measured on."""
        return self.run.folded(self.run.checkpoint)

    @cached_property
    def baseline_network(self) -> Any:
        """The baseline's counterpart."""
        assert self.baseline is not None
        return self.run.folded(self.baseline)

    def passes(self) -> Iterator[Pass]:
        """All images; then, for the evidence, what the baseline makes of them."""
        passes = 1.0 + self.deletion.grid.cells
        steps = [method.step(self.score) for method in self.methods]
        yield Pass("images", self.run.batches(), [Step("deletion", self.delete, cost=passes), *steps])
        if self.baseline:
            from eval.frame.identity import network_digest

            batches, digest = self.run.batches(checkpoint=self.baseline), network_digest(self.baseline)
            yield Pass("baseline", batches, [Step("deletion", self.delete_baseline, cost=passes)], digest)

    def logits(self, network: Any, name: str, images: Tensor) -> tuple[Tensor, Tensor]:
        """Finite logits of whole images (B, classes), and of each without each cell (B, cells, classes)."""
        return idsds.finite_logits(network, images, self.deletion, chunk=self.run.chunk, name=name)

    def delete(self, batch: ImageBatch, done: Mapping[str, Part]) -> Part:
        """The drops of each image, taken in full precision, and what the model makes of deletion."""
        run, part = self.run, Part()
        with run.autocast(), run.full_precision():
            whole, deleted = self.logits(self.network, run.checkpoint.name, batch.images)
            self.observe(part, "model", run.checkpoint, batch, whole, deleted)
            outputs = [idsds.outputs_of(logits, run.options.output) for logits in (whole, deleted)]
            drops, scale = (
                measure(outputs[0], outputs[1], batch.labels) for measure in (idsds.drops_of, idsds.drop_scale)
            )
        usable = ~core.is_constant(drops, scale)
        part.counts["constant_drops"] += int((~usable).sum())
        part.add("drops", drops=drops, scale=scale, predicted=whole.argmax(dim=1), usable=usable)
        self.keep_examples(part, batch, drops, whole.argmax(dim=1))
        return part

    def score(self, method: Method, batch: ImageBatch, done: Mapping[str, Part]) -> Part:
        """Correlate a method's cell sums with the drops of each image."""
        run, part, device = self.run, Part(), batch.images.device
        columns = ("drops", "scale", "predicted", "usable")
        drops, scale, predicted, usable = (done["deletion"].tensor("drops", name, device) for name in columns)
        size = (batch.images.shape[-2], batch.images.shape[-1])
        with run.autocast():
            maps = run.explain(part, method, batch.images, batch.labels)
            sums = self.deletion.grid.sum(maps, size, method.upsample)
            values = idsds.rank_correlation(drops, sums, scale)
        add_values(part, method, batch, run.options.metric, values, predicted, usable)
        self.keep_maps(part, method, batch, maps, sums)
        return part

    def delete_baseline(self, batch: ImageBatch, done: Mapping[str, Part]) -> Part:
        """The baseline's predictions and features, in full precision."""
        part, baseline = Part(), self.baseline
        assert baseline is not None
        with self.run.full_precision():
            logits = self.logits(self.baseline_network, baseline.name, batch.images)
            self.observe(part, "baseline", baseline, batch, *logits)
        return part

    def observe(
        self, part: Part, name: str, checkpoint: Checkpoint[Any], batch: ImageBatch, whole: Tensor, deleted: Tensor
    ) -> None:
        """Keep predictions of a batch, and of the probe's images the features with and without one keyed cell."""
        predictions = {"whole": whole.argmax(dim=1), "deleted": deleted.argmax(dim=2)}
        part.add(f"predictions of {name}", index=batch.indices, label=batch.labels, **predictions)
        seed = self.run.options.seed
        probe = idsds.probe_features(checkpoint.model, self.deletion, batch.images, batch.indices, self.probed, seed)
        if probe:
            part.add(f"probe of {name}", **probe)

    def keep_examples(self, part: Part, batch: ImageBatch, drops: Tensor, predicted: Tensor) -> None:
        """The images of the sheet of examples, with their drops and what they are taken for."""
        shown = batch.indices < EXAMPLES
        if shown.any():
            part.add(
                "examples",
                index=batch.indices[shown],
                label=batch.labels[shown],
                predicted=predicted[shown],
                image=batch.images[shown].float(),
                drops=drops[shown].float(),
            )

    def keep_maps(self, part: Part, method: Method, batch: ImageBatch, maps: Tensor, sums: Tensor) -> None:
        """A method's maps and cell sums of these images."""
        shown = batch.indices < EXAMPLES
        if shown.any():
            part.add(
                f"example maps of {method.key}",
                index=batch.indices[shown],
                map=maps[shown].sum(dim=1).float(),
                sums=sums[shown].float(),
            )

    def summarize(self, part: Part) -> Outcome:
        """Ranking, tests and evidence."""
        options, grid, fill = self.run.options, self.deletion.grid, self.deletion.fill
        settings = {
            "protocol": options.protocol,
            "grid": [grid.rows, grid.cols],
            "fill": fill,
            "output": options.output,
            "fill_leaks": fill in core.LEAKING_FILLS,
            "n_constant_drops": part.counts["constant_drops"],
        }
        outcome = ranked_outcome(
            self.run,
            part,
            self.methods,
            metric=options.metric,
            higher_is_better=idsds.METRICS[options.metric],
            settings=settings,
        )
        evidence = {"model": self.evidence(part, "model")}
        if self.baseline:
            evidence["baseline"] = {"name": self.baseline.name} | self.evidence(part, "baseline")
        outcome.model = {key: evidence["model"][key] for key in ("accuracy", "accuracy_deleted")}
        outcome.sections["evidence"] = evidence
        outcome.sections["cautions"] += caution_baseline(evidence)
        outcome.pictures |= self.pictures(part, outcome, evidence)
        return outcome

    def evidence(self, part: Part, name: str) -> dict[str, Any]:
        """The in-domain evidence of a model."""
        tables = (part.table(f"{what} of {name}", "index") for what in ("predictions", "probe"))
        return idsds.evidence_of(next(tables), next(tables)).to_dict()

    def pictures(self, part: Part, outcome: Outcome, evidence: dict[str, Any]) -> dict[str, Any]:
        """The evidence per cell, and the sheet of examples."""
        from faithfulness import report

        grid, title = self.deletion.grid, self.run.title
        found = {"evidence": lambda: report.evidence(evidence, grid, title=f"Is deletion in-domain? {title}")}
        images = part.table("examples", "index")
        if images:
            order = {(score.attribution, score.layer): rank for rank, score in enumerate(outcome.scores)}
            methods = sorted(self.methods, key=lambda method: order[method.label, method.layer])
            labels = [report.method_label(method.label, method.layer) for method in methods]
            kept = [
                {**entry, "method": label}
                for method, label in zip(methods, labels, strict=True)
                for entry in self.example_entries(images, part.table(f"example maps of {method.key}", "index"), method)
            ]
            found["examples"] = lambda: report.examples(kept, labels, grid, title=f"Examples: {title}")
        return found

    def example_entries(self, images: dict[str, Any], maps: dict[str, Any], method: Method) -> Iterator[dict[str, Any]]:
        """Image by image: index, name of the class, image, drops, a method's map as it is summed, and its cell sums."""
        from eval.frame.methods import as_summed
        from faithfulness.report import visible

        for row, index in enumerate(images["index"]):
            image = visible(images["image"][row], self.run.checkpoint.model.data_config)
            entry = {"image": image, "drops": images["drops"][row]}
            entry |= {name: self.run.data.classes[images[name][row]] for name in ("label", "predicted")}
            shown = as_summed(maps["map"][row], image.shape[-2:], method.upsample)
            yield {**entry, "index": int(index), "map": shown, "sums": maps["sums"][row]}


def report_idsds(summary: dict[str, Any]) -> str:
    """The ranked table, and how the model takes deletion beside the baseline."""
    from faithfulness.core.tables import format_table
    from faithfulness.report import number

    settings, evidence = summary["settings"], summary["evidence"]
    what = f"{settings['grid'][0]}×{settings['grid'][1]} cells"
    what += "" if settings["output"] == "logit" else f", of the {settings['output']}"
    what += f", methods as published ({settings['published']})" if settings["published"] else ""
    what += f", fill {settings['fill']}" + (" (LEAKS the deleted pixels)" if settings["fill_leaks"] else "")
    constant = settings["n_constant_drops"]
    ranking = report_ranking(summary, what, [f"{constant} images left out (no drop differs)"] if constant else [])
    rows = [
        (
            "this model" if name == "model" else str(entry["name"]),
            number(entry["accuracy"]),
            number(entry["accuracy_deleted"]),
            number(entry["accuracy"] - entry["accuracy_deleted"]),
            number(entry["agreement"]),
            number(entry["separability"]),
        )
        for name, entry in evidence.items()
    ]
    header = ("", "accuracy", "one cell deleted", "gap", "agreement", "separability")
    return f"{ranking}\n\nIs deletion in-domain?\n{format_table(header, rows)}"


COMMAND = Command(IdsdsOptions, SingleDeletion, report_idsds)
main = COMMAND.main
evaluate = COMMAND.evaluate

if __name__ == "__main__":
    sys.exit(main())
