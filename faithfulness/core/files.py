"""Files that are whole or absent, and folders that a command may write."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from faithfulness.core.errors import InputError, unknown_name
from faithfulness.core.locks import LOCK


def jsonable(value: Any) -> Any:
    """What strict JSON can hold: NaN and infinity as null, lists for tuples, plain numbers for numpy's."""
    if isinstance(value, dict):
        return {key: jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_json(path: Path, content: Any) -> None:
    """Write strict, readable JSON, whole or not at all."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(jsonable(content), indent=2, allow_nan=False) + "\n", encoding="utf-8")


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, renamed to it when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


_EPOCHS = ("settings.json", "lightning/*", "logs/*", "deletions/*")
_WEIGHTS = ("model.safetensors", "config.json", "training.json", "README.md")
OF_TRAINING = (*_EPOCHS, *_WEIGHTS, *(f"last/{name}" for name in _WEIGHTS))
"""The files that a training run writes; `*` spans folders."""
PARTS, RUN = "parts", "parts/run.json"
"""Where an evaluation keeps its finished parts, and what it says of itself there."""
_OF_PARTS = (RUN, "parts/*.parts", "parts/.*", ".new/*")
PICTURES = ("png", "pdf", "svg")
"""The kinds of picture files."""
OF_EVALUATION = (
    "summary.json",
    "per_image.parquet",
    "smoothing.parquet",
    "bins.npz",
    "plots/*.png",
    "compositions/*.parquet",
)
"""The files of an evaluation whose summary doesn't list them, as of earlier ones."""
COMPARISON, REPORT, EXPLANATION = "compare.json", "report.json", "explain.json"
RECORDS = {"compare": COMPARISON, "report": REPORT, "explain": EXPLANATION}
"""Kinds of commands that write no evaluation -> where each says what it is, which files are its own (`files`), and
whether they are all there (`finished`)."""
NEW = ".new"
"""Where a result is put together, inside its folder."""
_KILLED = re.compile(
    rf"{re.escape(LOCK)}|{PARTS}/\..*|{re.escape(NEW)}/.*|\.({'|'.join(RECORDS)})\.json\.[a-z0-9_]{{8}}", re.DOTALL
)


def check_formats(formats: Sequence[str]) -> None:
    """Raise InputError unless `--format` names kinds of picture files, at least one."""
    if not formats:
        raise InputError(f"--format takes one or more of {', '.join(PICTURES)}, got none")
    for name in formats:
        if name not in PICTURES:
            raise unknown_name("--format", name, PICTURES)


def check_out(
    out: Path,
    overwrite: bool = False,
    *,
    kind: str | None = None,
    inputs: Iterable[str | Path | None] = (),
    goes_on: bool = False,
) -> None:
    """Refuse an output folder that a command must not write, before anything is read or removed.

    Args:
        out: may be new or empty; with `overwrite` it may hold a run of the same `kind`, and that only.
        kind: a protocol's name, or `training`; None stands for any evaluation's.
        inputs: what the command reads, as its flags have it (PATH, KIND:PATH, names): `out` must be
            none of these, nor inside one, nor above one, however they are spelled or linked.
        goes_on: whether a run of the same kind that keeps its parts may be there, to go on with.
    Raises:
        InputError: what is in the way.
    """
    try:
        target = out.expanduser().resolve()
        target.exists()
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"--out {str(out)[:80]!r} is no name of a folder: {str(error).splitlines()[0]}") from error
    for given, path in _paths_of(inputs):
        splits = [(path / name).resolve() for name in ("train", "val") if ":" in given and (path / name).is_dir()]
        parts = splits or [path]
        inside = any(part in (target, *target.parents) for part in parts)  # beside the splits of a data set is fine
        if target in (path, *parts) or inside or any(target in part.parents for part in (path, *parts)):
            how = "is" if path == target else "lies inside" if inside else "is above"
            raise InputError(f"--out {out} {how} {given}, which is read; choose another folder")
    above = next(folder for folder in (target, *target.parents) if folder.exists())
    if not above.is_dir():
        raise InputError(f"--out {out} is a file" if above == target else f"--out {out}: {above} is a file")
    if not os.access(above if above != target else target.parent, os.W_OK):
        raise InputError(f"--out {out}: no permission to write in {above}")
    if above != target or all(map(is_leftover, files_in(target))):
        return
    held = kind_of_run(target)
    if held is None or (held == "training" if kind is None else held != kind):
        raise InputError(f"--out {out} already holds {_describe_run(target)}; choose another folder")
    if not overwrite and goes_on and (target / RUN).is_file():
        return
    begun = held in RECORDS and _read_json(target / RECORDS[held]).get("finished") is False
    if not overwrite and not begun:
        raise InputError(
            f"--out {out} already holds {_describe_run(target)}; choose another folder, or pass --overwrite to "
            "replace it"
        )
    foreign = next((path for path in files_in(target) if not _is_own(path, held, target)), None)
    if foreign is not None:
        raise InputError(f"--out {out} holds {foreign}, which no run wrote; choose another folder")


def _paths_of(inputs: Iterable[str | Path | None]) -> Iterator[tuple[str, Path]]:
    """What flags name that exists, as written and resolved: PATH, and PATH of KIND:PATH."""
    for given in map(str, filter(None, inputs)):
        kind, _, rest = given.partition(":")
        for text in (given, "" if kind in ("timm", "torchvision", "hf-hub") else rest):
            try:
                there = bool(text) and Path(text).expanduser().exists()
            except (OSError, ValueError, RuntimeError):  # too long for a name, or none at all
                there = False
            if there:
                yield given, Path(text).expanduser().resolve()


def kind_of_run(folder: Path) -> str | None:
    """The kind of run in a folder, a protocol's name or `training`; None for anything else, a bare checkpoint too."""
    if (folder / "settings.json").is_file():
        return "training"
    if any((folder / name).exists() for name in _WEIGHTS[:3]):
        return None
    others = ((file, {"protocol"}) for file in (RUN, *RECORDS.values()))
    for name, needs in (("summary.json", {"schema", "protocol"}), *others):
        content = _read_json(folder / name)
        if needs <= content.keys():
            return str(content["protocol"])
    return None


def _read_json(file: Path) -> dict[str, Any]:
    """The object in a file; an empty one where there is none that can be read."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _describe_run(folder: Path) -> str:
    kind = kind_of_run(folder)
    if kind == "training":
        return "a training run"
    if kind is None:
        weights = (folder / _WEIGHTS[0]).exists()
        return "a checkpoint" if weights else "files that are not a run's"
    summary = _read_json(folder / "summary.json")
    try:
        return f"a run ({kind} of {summary['model']['name']} on {summary['data']['name']})"
    except (KeyError, TypeError):
        return f"a run ({kind})"


def _is_own(path: str, kind: str, folder: Path) -> bool:
    """Whether a run of that kind wrote a file: its record lists it, or it is called as such runs call theirs."""
    if is_leftover(path) or (kind != "training" and any(fnmatchcase(path, pattern) for pattern in _OF_PARTS)):
        return True
    if kind in RECORDS:
        return path == RECORDS[kind] or path in listed_files(folder / RECORDS[kind])
    listed = _read_json(folder / "summary.json").get("files")
    if kind != "training" and isinstance(listed, list) and listed:
        return path in listed
    return any(fnmatchcase(path, pattern) for pattern in (OF_TRAINING if kind == "training" else OF_EVALUATION))


def is_leftover(path: str) -> bool:
    """Whether a file in a run's folder is what a run leaves that is killed, before it has said what it is or later."""
    return _KILLED.fullmatch(path) is not None


def listed_files(record: Path) -> list[str]:
    """The files that a record says are its folder's own, but for names that lead out of it, by a link too."""
    names = _read_json(record).get("files")
    kept = [name for name in names if isinstance(name, str) and name.isprintable()] if isinstance(names, list) else []
    inside = [name for name in kept if not Path(name).is_absolute() and ".." not in Path(name).parts]
    return [name for name in inside if not any((record.parent / each).is_symlink() for each in Path(name).parents)]


def files_in(folder: Path) -> list[str]:
    """Everything below a folder that isn't itself a folder, sorted; links count as files and aren't followed."""
    found = []
    for root, folders, files in os.walk(folder):
        links = (name for name in folders if (Path(root) / name).is_symlink())
        found += [(Path(root) / name).relative_to(folder).as_posix() for name in (*files, *links)]
    return sorted(found)


def sha256_file(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
