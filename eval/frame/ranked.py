"""Protocols that give every image one value per method: their table, ranking, paired tests and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from eval.frame.cautions import FEW, caution_accuracy, caution_count, caution_lines
from eval.frame.part import Cost, Part
from eval.frame.protocol import Outcome

if TYPE_CHECKING:
    import pandas as pd

    from eval.frame.batches import ImageBatch
    from eval.frame.methods import Method
    from eval.frame.run import Run
    from faithfulness.core.results import Score

METHODS = ("grad", "ixg", "ixg-sg", "ig", "ig-u", "gradcam", "occlusion")
"""What is scored if nothing is named."""
CONTROLS = ("random", "edge")
CONTROL = "edge"
"""The control that never sees the model: a method not above it explains no more than contours do."""
TEST = "Wilcoxon signed-rank (zeros after Pratt), Holm-corrected"


def scored_methods(run: Run[Any], controls: Sequence[str] = CONTROLS, output: str | None = None) -> list[Method]:
    """The methods that the options name, the user's callables, and the controls that aren't among them."""
    from eval.frame.methods import make_methods

    options, model = run.options, run.checkpoint.model
    common = {"published": options.published, "output": output}
    methods = make_methods(options.attributions, options.layers, model, run.chunk, run.callables, **common)
    known = {(method.label, method.layer) for method in methods}
    missing = [name for name in controls if (name, "input") not in known]
    return methods + (make_methods(missing, ["input"], model, run.chunk, **common) if missing else [])


def add_values(
    part: Part, method: Method, batch: ImageBatch, metric: str, values: Any, predicted: Any, usable: Any = None
) -> None:
    """Add a method's values (B,) of a batch, NaN where undefined; images that aren't `usable` are left out.

    Args:
        predicted: (B,) classes that the model predicts.
    """
    kept = slice(None) if usable is None else usable
    part.add(
        "per_image",
        index=batch.indices[kept],
        label=batch.labels[kept],
        predicted=predicted[kept],
        attribution=method.label,
        layer=method.layer,
        metric=metric,
        value=values[kept],
    )


def ranked_outcome(
    run: Run[Any],
    part: Part,
    methods: Sequence[Method],
    *,
    metric: str,
    higher_is_better: bool,
    settings: dict[str, Any],
) -> Outcome:
    """The scores best first, paired tests, comparisons with the control, cautions, and the pictures of all that."""
    import pandas as pd

    from faithfulness import report
    from faithfulness.core.errors import InputError
    from faithfulness.core.statistics import compare_with_control, pair_winners, paired_tests

    n_corrupt = part.n_corrupt("images")
    if not part.tables.get("per_image"):
        raise InputError(f"no image of {run.data.name} could be read ({n_corrupt} corrupt)")
    if not any(len(piece["index"]) for piece in part.tables["per_image"]):
        raise InputError(f"no image of {run.data.name} can be scored: no deletion changes any output")
    table = pd.DataFrame(part.table("per_image")).sort_values(["attribution", "layer", "index"], kind="stable")
    scores = _scores(table, methods, part.costs, run.options.seed, metric, higher_is_better)
    columns = _columns(table, scores)
    names, p_values = paired_tests(columns)
    compared = compare_with_control(CONTROL, columns, higher_is_better, tested=p_values)
    images = table.drop_duplicates("index")
    accuracy = float((images["predicted"] == images["label"]).mean())
    title = run.title
    rows = [score.to_dict() for score in scores]
    return Outcome(
        scores=scores,
        settings=settings,
        data={"n_corrupt": n_corrupt},
        sections={
            "tests": {"test": TEST, "names": names, "p": p_values.tolist(), f"against_{CONTROL}": compared},
            "cautions": caution_count(len(images)) + caution_accuracy("the model", accuracy, len(run.data.classes)),
        },
        per_image=table,
        pictures={
            "ranking": lambda: report.ranking(rows, list(columns), title=title),
            "distribution": lambda: report.distributions(
                columns, metric, title=title, higher_is_better=higher_is_better
            ),
            "tests": lambda: report.test_matrix(
                names,
                p_values,
                title=f"{report.metric_name(metric, higher_is_better)}: {title}",
                better=pair_winners(columns, p_values, higher_is_better),
            ),
        },
    )


def _scores(
    table: pd.DataFrame,
    methods: Sequence[Method],
    costs: dict[str, Cost],
    seed: int,
    metric: str,
    higher_is_better: bool,
) -> list[Score]:
    """A score per method, best first."""
    from faithfulness.core.results import summarize_scores

    found = []
    for method in methods:
        values = table[(table.attribution == method.label) & (table.layer == method.layer)]["value"].to_numpy()
        cost = costs.get(method.key, Cost())
        score = summarize_scores(
            values,
            attribution=method.label,
            layer=method.layer,
            metric=metric,
            seed=seed,
            higher_is_better=higher_is_better,
            seconds=cost.seconds,
            forward_passes=cost.forward,
            backward_passes=cost.backward,
        )
        found.append(score)
    return sorted(found, key=lambda score: score.sort_key)


def _columns(table: pd.DataFrame, scores: Sequence[Score]) -> dict[str, np.ndarray]:
    """Per-image values of each method, best first, undefined ones as 0, in one order of images."""
    from faithfulness.report import method_label

    groups = dict(iter(table.groupby(["attribution", "layer"], sort=False)))
    return {
        method_label(score.attribution, score.layer): np.nan_to_num(
            groups[score.attribution, score.layer].sort_values("index")["value"].to_numpy()
        )
        for score in scores
    }


def not_above_control(label: str, tests: dict[str, Any]) -> bool:
    """Whether the paired test doesn't show a method above the control, which never saw the model."""
    found = tests[f"against_{CONTROL}"].get(label)
    return found is not None and label != "random" and not found["above"]


def report_ranking(summary: dict[str, Any], what: str, notes: Sequence[str] = ()) -> str:
    """The ranked table of an evaluation, with what to keep in mind.

    Args:
        what: what the scores are of, for the head: cells, fill, and so on.
        notes: lines of the protocol's own, below the table.
    """
    from faithfulness.core.tables import format_table
    from faithfulness.report import method_label, number

    data = summary["data"]
    rows = []
    for rank, score in enumerate(summary["scores"], start=1):
        flagged = score["n"] >= FEW and not_above_control(
            method_label(score["attribution"], score["layer"]), summary["tests"]
        )
        per_image = score["seconds"] / score["n"] * 1000 if score["n"] and score["seconds"] is not None else None
        rows.append(
            (
                f"{rank:2d} {score['attribution']}",
                score["layer"],
                number(score["mean"]),
                f"[{number(score['ci95'][0])}, {number(score['ci95'][1])}]",
                number(score["mean_defined"]),
                str(score["n"]),
                str(score["n_undefined"]),
                number(per_image, 2),
                f"{number(score['forward_passes'], 0)}+{number(score['backward_passes'], 0)}",
                f"not above {CONTROL}" if flagged else "",
            )
        )
    header = ("attribution", "layer", "mean", "95% interval", "defined", "n", "undefined", "ms/image", "passes", "")
    left_out = [f"{data['n_corrupt']} corrupt images skipped"] if data.get("n_corrupt") else []
    if summary["scores"][0]["n"] < FEW:
        left_out.append(f"fewer than {FEW} images: no method is marked as not above {CONTROL}, whether or not it is")
    return "\n".join(
        [
            f"\n{summary['scores'][0]['metric']} of {summary['model']['name']} on {data['name']} ({data['split']}), "
            + what,
            format_table(header, rows),
            *filter(None, ["; ".join([*notes, *left_out])]),
            *caution_lines(summary),
        ]
    )
