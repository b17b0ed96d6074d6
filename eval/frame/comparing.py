"""All that is said of some results: protocol by protocol, between protocols, over models, beside the publication."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.frame.agreement import (
    beside_published,
    between_protocols,
    is_idsds,
    published_notes,
    why_not_published,
    with_accuracy,
)
from eval.frame.comparable import Compared, read_all
from eval.frame.paired import compare_kind, correct
from eval.frame.result import Result
from faithfulness.core.errors import InputError
from faithfulness.core.results import environment


def compared(given: Sequence[str | Path | Result], across_layers: bool, seed: int) -> dict[str, Any]:
    """The content of `compare.json`, but for schema and protocol; InputError where nothing can be compared."""
    if not given:
        raise InputError("expected folders of results, got none")
    results = read_all(given)
    kinds: dict[str, list[Compared]] = {}
    for result in results:
        kinds.setdefault(result.kind, []).append(result)
    protocols = [compare_kind(members, across_layers, seed) for members in kinds.values() if len(members) > 1]
    correct([row for found in protocols for pair in found["comparisons"] for row in pair["rows"]])
    agreements = between_protocols(results, seed)
    published, notes = _published(results)
    by_name = {row[side] for row in agreements for side in ("a", "b")}
    unsure = [each.letter for each in results if each.letter in by_name and not each.summary["model"].get("sha256")]
    if unsure:
        notes.append(f"{' and '.join(unsure)} are taken for one model by name, as no digest of their weights is kept")
    if not protocols and not agreements and not published:
        raise InputError(_nothing(results))
    return {
        "seed": seed,
        "across_layers": across_layers,
        "results": [described(result) for result in results],
        "protocols": protocols,
        "agreement": agreements,
        "accuracy": with_accuracy(results),
        "published": published,
        "notes": notes,
        "environment": environment(),
    }


def described(result: Compared) -> dict[str, Any]:
    """Which result a letter stands for."""
    model, data = result.summary["model"], result.summary["data"]
    return {
        "result": result.letter,
        "path": result.where,
        "protocol": result.kind,
        "model": {name: model.get(name) for name in ("name", "architecture", "sha256", "accuracy")},
        "data": {name: data.get(name) for name in ("name", "split", "n_images", "fingerprint")},
        "cautions": result.cautions,
    }


def _published(results: Sequence[Compared]) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows of the results of published models, and why others have none, IDSDS only."""
    rows: list[dict[str, Any]] = []
    notes: dict[str, None] = {}
    for result in results:
        reason = why_not_published(result)
        if reason is None:
            rows += beside_published(result)
            notes |= dict.fromkeys(published_notes(result))
        elif is_idsds(result):
            notes[f"no published numbers beside {result.letter}: {reason}"] = None
    return rows, list(notes)


def _nothing(results: Sequence[Compared]) -> str:
    """Why there is nothing to say."""
    if len(results) == 1:
        reason = why_not_published(results[0]) or "no method of theirs is in it"
        return f"expected two results or more, got one, and no published numbers: {reason}"
    of = ", ".join(f"{result.kind} of {result.summary['model']['name']} in {result.where}" for result in results[:3])
    return f"nothing to compare: no two results are of one protocol, and none of one model by two ({of})"
