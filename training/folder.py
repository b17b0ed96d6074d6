"""The folder of a training run: who may write it, what replaces what, and what a run that goes on must share."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from checkpoints.scrub import OF_MACHINE
from faithfulness.core.errors import InputError
from faithfulness.core.files import OF_TRAINING, check_out, files_in
from faithfulness.core.locks import locked
from training.recipe import OFF

SETTINGS = "settings.json"
BEGAN = "began"
"""What `settings.json` calls that which training began from besides flags: data, weights, code, versions, device."""
COMMIT = "commit"
"""What `began` calls the commit of this suite: another one is said, not refused."""
_TEMPORARY = re.compile(r"\.(.+)\.[a-z0-9_]{8}")
_AT_ONCE = ("lightning/best.ckpt", "lightning/last.ckpt", "logs/epochs.csv", "deletions/epoch*.parquet")
"""The files of a run's subfolders that are whole or absent, so that a killed run may leave their temporary names."""


def check_folder(out: Path, inputs: list[str], resume: bool, overwrite: bool) -> None:
    """Refuse a folder that isn't ours to write, before anything is loaded. Nothing is changed yet."""
    ours = (out / SETTINGS).is_file()
    if resume and ours:
        _read_settings(out)
    elif resume and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"--resume: {out} holds no training run")
    elif ours and not overwrite:
        raise InputError(f"--out {out} already holds a training run; pass --resume, --overwrite, or another folder")
    else:
        check_out(out, overwrite, kind="training", inputs=inputs)
    aside = replaced_by(out)
    if aside.exists() and not (resume or overwrite):
        raise InputError(
            f"{aside} holds the run that an interrupted --overwrite was to replace; rename it to {out}, remove it, or "
            "pass --overwrite to replace it"
        )


def check_same(out: Path, settings: dict[str, Any]) -> str:
    """Raise InputError where the run in `out` has other settings, of those that change what comes out.

    Returns what is to be said of it all the same, if anything.
    """
    if not (out / SETTINGS).is_file():
        return ""
    before, now = _read_settings(out), _as_read(settings)
    began, begins = before.pop(BEGAN, None), now.pop(BEGAN)
    if not isinstance(began, dict):
        raise InputError(f"--resume: the run in {out} is of an earlier version; pass --overwrite to begin anew")
    commits = [str(each.pop(COMMIT, "unknown")) for each in (began, begins)]
    before, now = ({**OFF, **flags, **_flat(origin)} for flags, origin in ((before, began), (now, begins)))
    for key in sorted((before.keys() | now.keys()) - {*OF_MACHINE}):
        if before.get(key) != now.get(key):
            raise InputError(
                f"--resume with another {key}: the run in {out} has {before.get(key)!r}, asked {now.get(key)!r}"
            )
    if commits[0] == commits[1]:
        return ""
    return (
        f"caution: the run in {out} began with commit {commits[0]:.12} of this suite, and goes on with {commits[1]:.12}"
    )


def _flat(origin: dict[str, Any]) -> dict[str, Any]:
    """With a key per version, so that what differs is named."""
    versions = origin.get("versions")
    named = {f"version of {name}": text for name, text in versions.items()} if isinstance(versions, dict) else {}
    return {key: value for key, value in origin.items() if key != "versions"} | named


def digest_settings(settings: dict[str, Any]) -> str:
    """By which a checkpoint is known to be of a run."""
    counted = {key: value for key, value in _as_read(settings).items() if key not in OF_MACHINE}
    counted[BEGAN] = {key: value for key, value in counted.get(BEGAN, {}).items() if key != COMMIT}
    return hashlib.sha256(json.dumps(counted, sort_keys=True).encode()).hexdigest()


def _as_read(settings: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(settings, default=str))


def _read_settings(out: Path) -> dict[str, Any]:
    try:
        content = json.loads((out / SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"--resume: {out / SETTINGS} can't be read ({str(error).splitlines()[0]:.80})") from error
    if not isinstance(content, dict):
        raise InputError(f"--resume: {out / SETTINGS} holds {type(content).__name__}, expected settings")
    return content


def replaced_by(out: Path) -> Path:
    """Where the run in `out` is while another one replaces it."""
    return out.resolve().with_name(f".{out.resolve().name}.replaced")


@contextmanager
def only_writer(out: Path) -> Iterator[None]:
    """Inside the block no other run writes to the folder; what killed ones left there, half written, is removed.

    The lock lies beside the folder, which is renamed where a run replaces another.
    """
    target = out.resolve()
    with locked(target.parent, f".{target.name}.lock", of=out):
        remove_leftovers(target)
        yield


def remove_leftovers(target: Path) -> None:
    """Remove the temporary names of a run's files that nobody is writing any more."""
    for path in target.rglob(".*"):
        found = _TEMPORARY.fullmatch(path.name)
        if found is None or path.is_symlink() or not path.is_file():
            continue
        meant = (path.parent.relative_to(target) / found[1]).as_posix()
        whole = (*_AT_ONCE, *(pattern for pattern in OF_TRAINING if "*" not in pattern))
        if any(fnmatchcase(meant, pattern) for pattern in whole):
            path.unlink(missing_ok=True)


def _remove_run(out: Path) -> None:
    """Remove a run's files, and the folders that are empty then; what else somebody has put there stays."""
    remove_leftovers(out)
    for name in files_in(out):
        if any(fnmatchcase(name, pattern) for pattern in OF_TRAINING):
            (out / name).unlink(missing_ok=True)
    for folder, _, _ in os.walk(out, topdown=False):
        with suppress(OSError):  # not empty
            os.rmdir(folder)


@contextmanager
def replacing(out: Path, resume: bool) -> Iterator[None]:
    """Put the run in `out` aside, and remove it once the block has ended well.

    A block that fails before its first epoch puts it back, or leaves nothing where there was nothing; one that
    fails later leaves it aside, beside what there is of the new run, and says where.

    Args:
        out: resolved, so that a link stays where it is.
    """
    aside, new = replaced_by(out), not resume or not (out / SETTINGS).is_file()
    if not resume and (out / SETTINGS).is_file():
        if not aside.exists():
            out.rename(aside)
        elif (out / "training.json").is_file():
            shutil.rmtree(aside)
            out.rename(aside)
        else:  # what a replacement left that was killed; the run that it was to replace is still aside
            shutil.rmtree(out)
    stood = out.exists()
    try:
        yield
    except BaseException as error:
        nothing = not (out / "lightning" / "last.ckpt").exists()
        if nothing and (new or aside.exists()):
            _remove_run(out)
        if nothing and aside.exists() and not out.exists():
            aside.rename(out)
        elif nothing and new and stood:
            out.mkdir(exist_ok=True)
        elif aside.exists():
            note = f"the run that {out} held before is in {aside}"
            error.add_note(note)
            if isinstance(error, InputError):
                print(note, file=sys.stderr)
        raise
    shutil.rmtree(aside, ignore_errors=True)
