"""What can be checked of a release by reading it: digests, the record, results, card; nothing of it is run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from checkpoints.release_files import (
    CARD,
    CODE,
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
from checkpoints.verify_means import PER_SAMPLE, departure
from faithfulness.core.errors import InputError
from faithfulness.core.files import sha256_file

PASSED, FAILED, IMPOSSIBLE = "passed", "failed", "not possible"
NEEDED = (WEIGHTS, CONFIG, TRAINING, CARD)
_PLACES = re.compile(rf"{RESULTS}/[\w-]+/({re.escape(SUMMARY)}|{re.escape(PER_IMAGE)})|{CODE.pattern}", re.ASCII)


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
        elif name not in NEEDED and not _PLACES.fullmatch(name):
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
    """How many per-image values there are; InputError where a score isn't theirs, or they are gone."""
    _check_evidence(summary)
    table = read_table(place)
    if table is None and (
        PER_IMAGE in (summary.get("files") or ()) or (summary["scores"] and summary["protocol"] in PER_SAMPLE)
    ):
        raise InputError(f"{PER_IMAGE} is missing, and {summary['protocol']} has one")
    if table is None or not summary["scores"]:
        return 0 if table is None else len(table)
    keys = ["attribution", "layer", "metric", *(key for key in ("setting", "scale") if key in table)]
    if not {"value", *keys} <= {*table.columns}:
        raise InputError(f"{place / PER_IMAGE} holds no values by {', '.join(keys)}")
    seed = summary["settings"].get("seed")
    for score in summary["scores"]:
        rows = table
        for key in keys:
            rows = rows[rows[key] == score.get(key)]
        if not len(rows):
            if str(score["metric"]).endswith("_per_map"):
                continue  # what a map costs isn't kept by image
            raise InputError(f"no per-image values of {score['attribution']}, {score['metric']}")
        found = departure(score, rows, seed if type(seed) is int and seed >= 0 else 0)
        if found is not None:
            raise InputError(f"{score['metric']} of {score['attribution']}: {found}")
    return len(table)


def _check_evidence(summary: dict[str, Any]) -> None:
    """Raise InputError where a summary says the accuracy of its model twice, and not alike."""
    evidence = summary.get("evidence")
    told = evidence.get("model") if isinstance(evidence, dict) else None
    for key in ("accuracy", "accuracy_deleted"):
        mine = summary["model"].get(key)
        if isinstance(told, dict) and key in told and told[key] != mine:
            raise InputError(f"{key} of the model is {mine}, and {told[key]} in the evidence")


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
    """The Hub can read the card, and its metadata, tables and headings are what the records give.

    The rest is prose, which another version of this suite may word otherwise. What no record has is taken from the
    card: the name on the Hub, and the data sets' there.
    """
    from huggingface_hub import ModelCard

    try:
        text = (folder / CARD).read_text(encoding="utf-8")
        card = ModelCard(text)
        told = card.data.get("license_name") or card.data.get("license")
        license = read_json(folder / TRAINING).get("license")
        if told != license:
            return Check("card", FAILED, f"license {told}, {TRAINING} has {license}")
        found = min((_lines_apart(text, made) for made in _cards(folder, text, card)), key=len)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:  # InputError is a ValueError
        return Check("card", FAILED, (str(error).splitlines() or [type(error).__name__])[0])
    if found:
        return Check("card", FAILED, f"it isn't what the records give: {found[0][:100]}")
    means = sum(bool(entry.metric_args) for entry in card.data.get("eval_results") or [])
    return Check("card", PASSED, f"license {license}; metadata and tables as in the records, {means} means")


def _cards(folder: Path, text: str, card: Any) -> Iterator[str]:
    """The card as the records give it: never pushed, or pushed to a place that the card names."""
    from checkpoints.licenses import license_fields
    from checkpoints.release_card import Facts, release_card

    config, training = read_json(folder / CONFIG), read_json(folder / TRAINING)
    summaries = {name: read_summary(folder / RESULTS / name) for name in results_of(folder)}
    heading = re.search(r"^# (.+)$", card.content.split("---", 2)[-1], re.MULTILINE)
    name = next((str(summary["model"].get("name")) for summary in summaries.values()), heading[1] if heading else "")
    file = next(iter(sorted(folder.glob("*.py"))), None) if config.get("own") else None
    made_by = re.search(rf"{re.escape(file.name)}:\w+", text) if file else None
    code = made_by[0] if made_by else None
    named, parent, datasets = license_fields(training["license"]), training.get("parent_license"), card.data.datasets
    # `read_results` numbers results as they were given; the order of folders is another one from ten on.
    ordered = dict(sorted(summaries.items(), key=lambda item: text.find(f"`{RESULTS}/{item[0]}/`")))
    pushed = {hub for hub in re.findall(r"hf-hub:([\w.-]+/[\w.-]+)", text) if hub.partition("/")[2] == name}
    for hub in (None, *sorted(pushed)):
        yield release_card(Facts(name, hub, config, training, ordered, named, parent, datasets, code))


def _lines_apart(told: str, made: str) -> list[str]:
    """Entries of the metadata, rows and headings that are in one of two cards only."""
    from huggingface_hub import ModelCard

    mine, other = ModelCard(told).data.to_dict(), ModelCard(made).data.to_dict()
    apart = [key for key in sorted({*mine, *other}) if mine.get(key) != other.get(key)]
    rows = [[line for line in text.splitlines() if line.startswith(("|", "#"))] for text in (told, made)]
    return [
        *(f"{key} in its metadata" for key in apart),
        *(line for line in rows[0] if line not in rows[1]),
        *(f"it lacks {line}" for line in rows[1] if line not in rows[0]),
        *(["the order of its tables"] if sorted(rows[0]) == sorted(rows[1]) and rows[0] != rows[1] else []),
        *(["a row stands there twice"] if len(rows[0]) != len(rows[1]) else []),
    ]


def check_paths(folder: Path) -> Check:
    """No file names a folder of whoever released it."""
    for name in files_of(folder):
        if (found := left_over(texts_in(folder / name), [])) is not None:
            return Check("paths", FAILED, f"{name} names the local path {found}")
    return Check("paths", PASSED, "no local path in any file")
