"""What can be checked of a release by reading it: digests, the record, results, card; nothing of it is run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from checkpoints.release_files import (
    ATTRIBUTES,
    CARD,
    CONFIG,
    PER_IMAGE,
    RESULTS,
    SUMMARY,
    SUMS,
    TRAINING,
    WEIGHTS,
    files_of,
    read_json,
    read_sums,
    results_of,
)
from checkpoints.results import read_summary, texts_in
from checkpoints.scrub import left_over
from faithfulness.core.errors import InputError
from faithfulness.core.files import sha256_file

PASSED, FAILED, IMPOSSIBLE = "passed", "failed", "not possible"
NEEDED = (WEIGHTS, CONFIG, TRAINING, CARD)
_PLACES = re.compile(rf"{RESULTS}/[\w-]+/({re.escape(SUMMARY)}|{re.escape(PER_IMAGE)})|\w+\.py")
CLOSE = 1e-9
"""How far a mean may lie from that of the per-image values: both are float64, summed in another order."""


class Check(NamedTuple):
    """One line of the report."""

    name: str
    outcome: str
    detail: str


def check_sums(folder: Path) -> list[Check]:
    """Every file is there, as it was released, and no other; a line per file that isn't."""
    found = []
    try:
        listed = read_sums(folder)
    except InputError as error:
        return [Check("files", FAILED, str(error))]
    present = files_of(folder)
    for name in sorted({*listed, *present, *NEEDED}):
        path = folder / name
        if path.is_symlink():
            found.append(f"{name} is a link, which has no place in a release")
        elif any(parent.is_symlink() for parent in path.parents if folder in parent.parents):
            found.append(f"{name} lies behind a link")
        elif name not in present:
            found.append(f"{name} is missing")
        elif name not in listed:
            found.append(f"{name} was added: {SUMS} doesn't list it")
        elif name not in (*NEEDED, ATTRIBUTES) and not _PLACES.fullmatch(name):
            found.append(f"{name} has no place in a release")
        elif sha256_file(path) != listed[name]:
            found.append(f"{name} was changed: its digest isn't the one in {SUMS}")
    return [Check("files", FAILED, text) for text in found] or [Check("files", PASSED, f"{len(listed)} in {SUMS}")]


def check_record(folder: Path) -> Check:
    """The training record is of these weights, and what they say of themselves is what the records say."""
    from checkpoints.format import read_folder
    from checkpoints.header import metadata_of, read_metadata

    try:
        config, _, digest = read_folder(folder)
        training = read_json(folder / TRAINING)
    except InputError as error:
        return Check("record", FAILED, str(error))
    if training.get("sha256") != digest:
        return Check(
            "record", FAILED, f"{TRAINING} is of weights {str(training.get('sha256'))[:12]}…, not {digest[:12]}…"
        )
    told, expected = read_metadata(folder / WEIGHTS), metadata_of(config, training)
    for name, text in expected.items():
        if name in told and told[name] != text:
            return Check("record", FAILED, f"{WEIGHTS} says {name} {told[name][:60]}, the records {text[:60]}")
    lacks = "" if "architecture" in told else "; the weights say nothing of themselves"
    return Check("record", PASSED, f"weights {digest[:12]}…, {config['architecture']}{lacks}")


def check_results(folder: Path) -> Iterator[Check]:
    """Every result is of these weights, and its means follow from its per-image values."""
    digest = sha256_file(folder / WEIGHTS)
    for name in results_of(folder):
        place = folder / RESULTS / name
        try:
            summary = read_summary(place)
            scored = str(summary["model"].get("sha256"))
            if scored != digest:
                yield Check(name, FAILED, f"is of other weights: {scored[:12]}…, not {digest[:12]}…")
                continue
            rows = _check_means(place, summary)
        except InputError as error:
            yield Check(name, FAILED, str(error))
            continue
        means = f"{len(summary['scores'])} means follow from {rows} values"
        yield Check(name, PASSED, f"of these weights; {means if rows else 'it has no values by image'}")


def _check_means(place: Path, summary: dict[str, Any]) -> int:
    """How many per-image values there are; InputError where a mean isn't theirs."""
    import numpy as np

    table = read_table(place)
    if table is None or not summary["scores"]:
        return 0 if table is None else len(table)
    keys = ["attribution", "layer", "metric", *(key for key in ("setting", "scale") if key in table)]
    if not {"value", *keys} <= {*table.columns}:
        raise InputError(f"{place / PER_IMAGE} holds no values by {', '.join(keys)}")
    for score in summary["scores"]:
        if not isinstance(score.get("mean"), int | float):
            continue
        rows = table
        for key in keys:
            rows = rows[rows[key] == score.get(key)]
        values = rows["value"].to_numpy(dtype=np.float64)
        if not len(values):
            if (table["metric"] == score["metric"]).any():
                raise InputError(f"no per-image values of {score['attribution']}, {score['metric']}")
            continue  # what isn't kept by image, as the time that a map takes
        means = {float(np.nan_to_num(values).mean()), float(np.nanmean(values)) if np.isfinite(values).any() else 0.0}
        if len(values) != score["n"] or min(abs(mean - score["mean"]) for mean in means) > CLOSE:
            shown = " or ".join(f"{mean:.6f}" for mean in sorted(means))
            raise InputError(
                f"{score['metric']} of {score['attribution']}: the summary says {score['mean']:.6f} of {score['n']}, "
                f"the per-image values give {shown} of {len(values)}"
            )
    return len(table)


def read_table(place: Path) -> Any:
    """The per-image values in a folder; None if there are none, InputError if they can't be read."""
    import pandas as pd

    if not (place / PER_IMAGE).is_file():
        return None
    try:
        return pd.read_parquet(place / PER_IMAGE)
    except (OSError, ValueError) as error:
        raise InputError(f"can't read {place / PER_IMAGE}: {str(error).splitlines()[0]}") from error


def check_card(folder: Path) -> Check:
    """The Hub can read the card, and it says what the records say."""
    from huggingface_hub import ModelCard

    try:
        card = ModelCard.load(folder / CARD)
        license = read_json(folder / TRAINING).get("license")
        summaries = [read_summary(folder / RESULTS / name) for name in results_of(folder)]
    except (OSError, ValueError) as error:  # InputError is one
        return Check("card", FAILED, str(error).splitlines()[0])
    told = card.data.get("license_name") or card.data.get("license")
    if told != license:
        return Check("card", FAILED, f"license {told}, {TRAINING} has {license}")
    known = {
        (score["metric"], score["attribution"], score["layer"], score["mean"])
        for summary in summaries
        for score in summary["scores"]
    }
    indexed = [entry for entry in card.data.get("eval_results") or [] if entry.metric_args]
    for entry in indexed:
        named = (entry.metric_type, entry.metric_args.get("attribution"), entry.metric_args.get("layer"))
        if (*named, entry.metric_value) not in known:
            return Check("card", FAILED, f"{entry.metric_name} is {entry.metric_value} in the card, and in no result")
    return Check("card", PASSED, f"license {license}; {len(indexed)} means as in the results")


def check_paths(folder: Path) -> Check:
    """No file names a folder of whoever released it."""
    for name in files_of(folder):
        if (found := left_over(texts_in(folder / name), [])) is not None:
            return Check("paths", FAILED, f"{name} names the local path {found}")
    return Check("paths", PASSED, "no local path in any file")
