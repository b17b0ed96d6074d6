"""Explained pictures on the page of a report: their sheets, and where they are from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from eval.frame.sources import PICTURES, SUMMARIES, Picture, Source, facts_of
from faithfulness.core.errors import InputError
from faithfulness.core.files import EXPLANATION
from faithfulness.core.files import PICTURES as KINDS
from faithfulness.report.page import SHEET


def is_explanation(folder: Path) -> bool:
    """Whether a folder is one of `eval.explain`."""
    return (folder / EXPLANATION).is_file() and not (folder / "summary.json").exists()


def explanation_of(folder: Path, letter: str) -> Source:
    """What `eval.explain` wrote, for the page; InputError where it is damaged, or not finished."""
    try:
        content: Any = json.loads((folder / EXPLANATION).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        content = None
    _check(content, folder)
    images, model = content["images"], content["model"]["name"]
    count = f"{len(images)} picture{'' if len(images) == 1 else 's'}"
    return Source(
        letter=letter,
        kind="explain",
        title=f"{model} on {count} of one's own",
        where=str(folder / EXPLANATION),
        summary=f"{SUMMARIES}/{letter}.json",
        command=content.get("command"),
        facts=[(part, "; ".join(facts_of(content[part]))) for part in ("model", "settings", "environment")],
        cautions=content["cautions"],
        pictures=[found for place, entry in enumerate(images) for found in _sheet(folder, letter, place, entry, model)],
        content=content,
    )


def _check(content: Any, folder: Path) -> None:
    """Raise InputError unless the record of explained pictures has all that is looked at."""
    where = f"{folder}: {EXPLANATION}"
    if not isinstance(content, dict):
        raise InputError(f"{where} can't be read")
    if content.get("finished") is not True:
        raise InputError(f"{where} says that it isn't finished; the command that began it goes on")
    kinds = {"model": dict, "settings": dict, "environment": dict, "cautions": list, "images": list}
    wrong = [name for name, kind in kinds.items() if not isinstance(content.get(name), kind)]
    if not wrong:
        entries = content["images"]
        named = all(
            isinstance(each, dict) and all(isinstance(each.get(key), str) for key in _WORDS) for each in entries
        )
        wrong += [] if isinstance(content["model"].get("name"), str) else ["model name"]
        wrong += [] if named and all("/" not in each["name"] for each in entries) else ["images"]
        wrong += [] if all(isinstance(line, str) for line in content["cautions"]) else ["cautions"]
        wrong += [] if isinstance(content.get("command"), str | None) else ["command"]
    if wrong:
        raise InputError(f"{where} has no {wrong[0]} that can be read")


_WORDS = ("name", "predicted", "explained")


def _sheet(folder: Path, letter: str, place: int, entry: dict[str, Any], model: str) -> list[Picture]:
    """The sheet of a picture, in the first of its formats that a page can show."""
    files = [folder / "pictures" / f"{entry['name']}.{kind}" for kind in KINDS if kind != "pdf"]
    file = next((file for file in files if file.is_file() and not file.is_symlink()), None)
    if file is None:
        return []
    caption = f"{entry['name']}: predicted {entry['predicted']}"
    caption += f", explained {entry['explained']}" if entry["explained"] != entry["predicted"] else ""
    alt = f"{caption}, the maps of the methods over the picture. The numbers are in the summary of result {letter}."
    name = f"{PICTURES}/{letter}-{place}{file.suffix}"
    return [Picture(name, file, f"{SHEET}-{entry['name']}", letter, f"by {model}", caption, alt)]
