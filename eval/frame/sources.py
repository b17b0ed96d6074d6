"""What a report says of each result beside its scores: where it is from, its pictures, its evidence and verdicts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.frame.board import Row
from eval.frame.comparable import Compared, damaged, shown
from eval.frame.result import title_of
from faithfulness.report import method_label, metric_name, page, short_labels

PICTURES, SUMMARIES = "pictures", "summaries"
"""Where copies of both lie, beside the page."""
_KINDS = (".png", ".svg")
_ODD = re.compile(r"[^A-Za-z0-9.+-]+")
TESTS = ("structure", "taint", "derivative", "intervention")
"""How `eval.leakage` looks for leaks."""


@dataclass(frozen=True)
class Picture:
    """A picture of a result.

    Attributes:
        file: its copy beside the page.
        origin: the file that is copied.
        name: of that file, without ending.
        letter, of: the result's letter, and its model and data.
    """

    file: str
    origin: Path
    name: str
    letter: str
    of: str
    caption: str
    alt: str

    @property
    def is_sheet(self) -> bool:
        """Whether it shows single images, to be opened at will."""
        return self.name.startswith(page.SHEET)


@dataclass(frozen=True)
class Source:
    """A result, as the page names it; `content` is that of its summary."""

    letter: str
    kind: str
    title: str
    where: str
    summary: str
    command: str | None
    facts: list[tuple[str, str]]
    cautions: list[str]
    pictures: list[Picture]
    content: dict[str, Any]


def source_of(result: Compared) -> Source:
    """All that is said of a result; InputError where its summary is damaged there."""
    summary = result.summary
    command = summary.get("command")
    if not isinstance(command, str | None):
        raise damaged(result, "command")
    parts = ("model", "data", "settings", "environment")
    facts = [(part, "; ".join(facts_of(summary[part]))) for part in parts]
    title = title_of(summary)
    return Source(
        letter=result.letter,
        kind=result.kind,
        title=title,
        where=str(result.result.path / "summary.json") if result.result.path else result.where,
        summary=f"{SUMMARIES}/{result.letter}.json",
        command=command,
        facts=facts,
        cautions=result.cautions,
        pictures=list(_pictures(result, title)),
        content=summary,
    )


def facts_of(entries: dict[str, Any]) -> Iterator[str]:
    """Entries of a section in words, what isn't set left out."""
    for name, value in entries.items():
        if value is not None and value != [] and name != "methods":
            yield f"{name.replace('_', ' ')} {shown(value)}"


def _pictures(result: Compared, title: str) -> Iterator[Picture]:
    """The pictures in a result's folder, those of all images before those of single ones."""
    folder = result.result.path / "plots" if result.result.path else None
    files = sorted(folder.iterdir()) if folder and folder.is_dir() else []
    chosen: dict[str, Path] = {}
    for file in files:
        if file.suffix.lower() in _KINDS and file.is_file() and not file.is_symlink():
            chosen.setdefault(file.stem, file)  # of a picture in several formats, one
    names, best = list(page.PICTURES), _best(result)
    found = []
    for number, (stem, file) in enumerate(chosen.items()):
        name = f"{result.letter}-{number}-{_ODD.sub('_', stem)[:80]}{file.suffix.lower()}"
        caption = page.about_picture(stem)
        alt = (
            f"{caption}: {result.kind}, {title}. {best}The numbers are in the leaderboard, from result {result.letter}."
        )
        found.append(Picture(f"{PICTURES}/{name}", file, stem, result.letter, title, caption, alt))

    def place(picture: Picture) -> tuple[bool, int]:
        known = [number for number, begin in enumerate(names) if picture.name.startswith(begin)]
        return picture.is_sheet, known[-1] if known else len(names)

    yield from sorted(found, key=place)


def _best(result: Compared) -> str:
    """The best method by the first metric, in words; nothing where there is none."""
    score: dict[str, Any] = next(iter(result.summary["scores"]), {"mean": None})
    if score["mean"] is None:
        return ""
    method = method_label(score["attribution"], score["layer"])
    return f"First by {metric_name(score['metric'])}: {method}, {score['mean']:.3f}. "


def sheets_of(row: Row, sources: Iterable[Source]) -> list[Picture]:
    """The example sheets that show a row's method: those of it alone, else those of all methods."""
    found = []
    for source in sources:
        if source.letter in row.sources:
            name = short_labels(score["attribution"] for score in source.content["scores"])[row.attribution]
            stem = "".join(letter if letter.isalnum() or letter in "-+" else "_" for letter in name).strip("_")
            sheets = [picture for picture in source.pictures if picture.is_sheet]
            own = [picture for picture in sheets if picture.name.endswith(f"-{row.layer}-{stem}")]
            found += own or [picture for picture in sheets if picture.name == page.SHEET]
    return found


def evidence_rows(results: Sequence[Compared]) -> list[dict[str, Any]]:
    """How each model takes deletion, and its baseline."""
    names = ("accuracy", "accuracy_deleted", "agreement", "separability")
    rows = []
    for result in results:
        evidence = result.summary.get("evidence", {})
        if not isinstance(evidence, dict) or not all(isinstance(entry, dict) for entry in evidence.values()):
            raise damaged(result, "evidence")
        for which, entry in evidence.items():
            numbers = {name: entry.get(name) for name in names}
            if not all(value is None or isinstance(value, int | float) for value in numbers.values()):
                raise damaged(result, "evidence")
            numbers = {name: None if value is None else float(value) for name, value in numbers.items()}
            who = result.summary["model"]["name"] if which == "model" else f"{which} {entry.get('name', '')}"
            whole, deleted = numbers["accuracy"], numbers["accuracy_deleted"]
            gap = None if whole is None or deleted is None else whole - deleted
            rows.append({"name": who, **numbers, "gap": gap, "letter": result.letter})
    return rows


def leakage_rows(results: Sequence[Compared]) -> list[dict[str, Any]]:
    """The verdict on each subject."""
    rows = []
    for result in results:
        proofs = result.summary.get("proofs", [])
        if not isinstance(proofs, list) or not all(isinstance(proof, dict) for proof in proofs):
            raise damaged(result, "proofs")
        for proof in proofs:
            statements = proof.get("statements", proof)
            if not isinstance(statements, dict):
                raise damaged(result, "proofs")
            rows.append(
                {
                    "subject": str(proof.get("subject", "")),
                    "model": result.summary["model"]["name"],
                    "verdict": str(proof.get("verdict", "")),
                    "passed": proof.get("passed") is True,
                    "statements": {name: str(statements.get(name, "–")) for name in TESTS},
                    "letter": result.letter,
                }
            )
    return rows
