"""The folder of a run: who may write it, what it holds while the run lasts, and what takes whose place at its end.

`OUT/parts` holds `run.json`, what the run is, and finished parts. The result, `summary.json` and the files that it
lists, comes beside them once all parts are there: `summary.json` is written last, so a folder that has one is whole.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from eval.frame.identity import differences
from eval.frame.store import ENDING, Store
from faithfulness.core.errors import InputError
from faithfulness.core.files import NEW, PARTS, RUN, files_in, listed_files, write_json
from faithfulness.core.locks import LOCK, locked

_PART = r".+-[0-9]{6}-[0-9a-f]{8}-[0-9a-f]{8}x*\.parts"
_TEMPORARY = re.compile(rf"\.(run\.json|{_PART})\.[a-z0-9_]{{8}}")
"""What a killed run leaves of files that it was writing."""


@dataclass(frozen=True)
class RunRecord:
    """What `run.json` says.

    Attributes:
        protocol: whose run it is.
        settings: all that its result depends on, but for the methods.
        methods: what it looks at.
        options: the flags, as `eval.merge` needs them.
        command: the command line.
        sources: digests of the files that methods are in.
        attempt: how often a finished run was replaced by the same one; no part of an earlier one is taken over.
        finished: whether its result is there.
    """

    protocol: str
    settings: dict[str, Any]
    methods: list[str]
    options: dict[str, Any]
    command: str | None = None
    sources: dict[str, str | None] = field(default_factory=dict)
    attempt: int = 0
    finished: bool = False

    @classmethod
    def read(cls, out: Path) -> RunRecord | None:
        """The record in a folder; None if there is none that can be read."""
        try:
            found = cls(**json.loads((out / RUN).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, RecursionError):
            return None
        kinds = {"protocol": str, "settings": dict, "methods": list, "options": dict, "sources": dict, "attempt": int}
        return found if all(isinstance(getattr(found, name), kind) for name, kind in kinds.items()) else None

    def write(self, out: Path) -> None:
        """Write it into a folder."""
        write_json(out / RUN, vars(self))


def begin(out: Path, record: RunRecord, overwrite: bool, alone: bool = True) -> RunRecord:
    """Make the folder this run's: it is new, an earlier run is gone on with, or `overwrite` lets it be replaced.

    A finished run is gone on with if it looked at fewer methods, or the same. One that is to be replaced stays until
    the new result is there.

    Args:
        alone: nobody else writes here, so whatever a killed run left half written can go.
    Returns:
        What `run.json` says now.
    Raises:
        InputError: the folder is another run's; says in what they differ.
    """
    before = RunRecord.read(out)
    if before is None and (out / RUN).exists() and (out / "summary.json").exists() and not overwrite:
        raise InputError(f"--out {out} already holds a run, whose {RUN} can't be read; pass --overwrite to replace it")
    begun = before is not None and (before.finished or any((out / PARTS).glob(f"*{ENDING}")))
    if before is not None and begun:
        other = differences(before.settings, record.settings)
        if before.finished:
            other += [f"{name} left out" for name in before.methods if name not in record.methods]
            other += [
                f"{name} was edited" for name, sha in before.sources.items() if record.sources.get(name, sha) != sha
            ]
        anew = overwrite and before.finished
        if (other or anew) and not overwrite:
            shown = "; ".join(other[:3]) + (" …" if len(other) > 3 else "")
            raise InputError(
                f"--out {out} already holds a run: {shown}; choose another folder, or pass --overwrite to replace it"
            )
        same = not other and set(before.methods) == set(record.methods)
        record = replace(record, attempt=before.attempt + anew, finished=before.finished and same and not anew)
    if alone:
        clear(out / NEW)
        for file in (out / PARTS).iterdir():
            if _TEMPORARY.fullmatch(file.name) and file.is_file():
                file.unlink(missing_ok=True)
    record.write(out)
    return record


class Beginning:
    """`run.json` and the parts of a folder as they are, before a run begins there."""

    def __init__(self, out: Path):
        self.out = out
        self.parts = self._parts()
        self.record = (out / RUN).read_bytes() if (out / RUN).is_file() else None

    def _parts(self) -> list[Path]:
        return sorted((self.out / PARTS).glob(f"*{ENDING}"))

    def restore(self) -> None:
        """Put `run.json` back, unless parts have been finished since."""
        if self._parts() != self.parts:
            return
        if self.record is None:
            (self.out / RUN).unlink(missing_ok=True)
        else:
            (self.out / RUN).write_bytes(self.record)


def missing_folders(out: Path) -> list[Path]:
    """Those that a run will make, the innermost first."""
    return [folder for folder in (out / PARTS, out, *out.parents) if not folder.exists()]


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove folders that a run has made, and put nothing into."""
    for folder in folders:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


@contextmanager
def writing(out: Path, shard: str | None) -> Iterator[None]:
    """Nobody else writes to the folder; shards write side by side."""
    with ExitStack() as held:
        held.enter_context(locked(out / PARTS, LOCK, shared=shard is not None, of=out))
        if shard is not None:
            held.enter_context(locked(out / PARTS, f".shard-{shard.replace('/', '-of-')}{LOCK}", of=out))
        yield


def finish(
    out: Path, record: RunRecord | None, store: Store | None, write: Callable[[Path], None], summary: dict[str, Any]
) -> None:
    """Put the result into the folder, in the place of an earlier one, whose parts go too.

    Args:
        record: what `run.json` says, and `store`, the parts; None where none are kept.
        write: puts all files but the summary into a folder.
        summary: `summary.json`; `files` is filled in.
    """
    new = out / NEW
    clear(new)
    new.mkdir(parents=True)
    try:
        write(new)
        made = files_in(new)
        summary["files"] = sorted([*made, "summary.json"])
        write_json(new / "summary.json", summary)
        check_targets(out, summary["files"])
        for name in listed_files(out / "summary.json"):
            if name not in summary["files"] and (out / name).is_file():
                (out / name).unlink()
        (out / "summary.json").unlink(missing_ok=True)
        for name in [*made, "summary.json"]:
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(new / name, out / name)
        if record is not None:
            replace(record, finished=True).write(out)
        else:
            (out / RUN).unlink(missing_ok=True)
        kept = store.files() if store is not None else []
        for file in (out / PARTS).glob(f"*{ENDING}"):
            if file not in kept and re.fullmatch(_PART, file.name) and file.is_file():
                file.unlink()
    finally:
        shutil.rmtree(new, ignore_errors=True)
    for name in ("plots", "compositions", PARTS):
        if (out / name).is_dir() and not any((out / name).iterdir()):
            (out / name).rmdir()


def clear(path: Path) -> None:
    """Remove a folder of ours, or whatever has its name; what a link leads to stays."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


def check_targets(out: Path, names: Iterable[str]) -> None:
    """Raise InputError where something is in the way of a file of the result; nothing has been removed by then."""
    for name in names:
        above = [out / parent for parent in Path(name).parents if parent != Path()]
        odd = [folder for folder in above if folder.is_symlink() or (folder.exists() and not folder.is_dir())]
        odd += [out / name] if (out / name).is_dir() else []
        if odd:
            raise InputError(f"{odd[0]} is in the way of the result; move it, and the same command goes on")
