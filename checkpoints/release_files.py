"""What a release is: a checkpoint folder with results, whose files all stand in SHA256SUMS.

model.safetensors, config.json, training.json, README.md    the checkpoint, without local paths
results/NAME/summary.json, results/NAME/per_image.parquet   each evaluation of it
SHA256SUMS                                                  digests of all the others, as `sha256sum --check` reads them
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from faithfulness.core.errors import InputError
from faithfulness.core.files import atomic_file, files_in, sha256_file

SUMS, RESULTS = "SHA256SUMS", "results"
WEIGHTS, CONFIG, TRAINING, CARD = "model.safetensors", "config.json", "training.json", "README.md"
CODE = re.compile(r"[A-Za-z_]\w*\.py", re.ASCII)
"""The name of a file of code in a release: as a module has it."""
SUMMARY, PER_IMAGE = "summary.json", "per_image.parquet"
OF_HUB = (".gitattributes", ".cache/huggingface/")
"""What the Hub adds to a folder, and `hf download --local-dir` to a copy of it."""
LONGEST = 2**26
"""Bytes of a text file that is read."""


def write_sums(folder: Path) -> None:
    """SHA256SUMS over all files of a folder."""
    lines = [f"{sha256_file(folder / name)}  {name}\n" for name in files_in(folder) if name != SUMS]
    with atomic_file(folder / SUMS) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")


def read_sums(folder: Path) -> dict[str, str]:
    """File -> digest, of SHA256SUMS; InputError for none, or one that names files outside of the folder."""
    path = folder / SUMS
    if not path.is_file() or path.is_symlink():
        raise InputError(f"{folder} is no release: it has no {SUMS}; expected what checkpoints.release wrote")
    if path.stat().st_size > LONGEST:
        raise InputError(f"{path} is longer than {LONGEST} bytes")
    found = {}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        match = re.fullmatch(r"([0-9a-f]{64})  (.+)", line)
        if match is None:
            raise InputError(f"{path}, line {number}: expected a digest, two spaces and a name, got {line[:80]!r}")
        name = match[2]
        if Path(name).is_absolute() or ".." in Path(name).parts or not name.isprintable():
            raise InputError(f"{path}, line {number}: {name[:80]!r} is no file of the release")
        found[name] = match[1]
    return found


def files_of(folder: Path) -> list[str]:
    """All that lies in a release but its sums, links included; without what the Hub and its downloader add."""
    return [name for name in files_in(folder) if name != SUMS and not name.startswith(OF_HUB)]


def results_of(folder: Path) -> list[str]:
    """The names of a release's results."""
    return sorted(path.parent.name for path in (folder / RESULTS).glob(f"*/{SUMMARY}"))


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file of strict JSON; InputError for anything else, NaN included."""

    def refuse(word: str) -> None:
        raise ValueError(f"it holds {word}")

    try:
        if path.stat().st_size > LONGEST:
            raise ValueError(f"more than {LONGEST} bytes")
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"can't read {path}: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds {type(content).__name__}, expected an object")
    return content
