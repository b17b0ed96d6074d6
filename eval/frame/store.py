"""Finished parts on disk: a file per batch, in which every part is found by what it depends on, and checked.

A file begins with a line of JSON, `{key: [offset, length, sha256]}`, offsets counted from the line's end; the packed
parts follow. Files are whole or absent; a part whose digest is another is as good as absent.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from eval.frame.part import Cost, Part
from faithfulness.core.files import atomic_file

ENDING = ".parts"


def pack(part: Part) -> bytes:
    """A part as bytes: a line of JSON, and its arrays as numpy writes them. Scalars that hold for all rows stay so."""
    stream, arrays = BytesIO(), []
    tables: dict[str, list[list[list[Any]]]] = {}
    for name, pieces in part.tables.items():
        tables[name] = []
        for piece in pieces:
            described = []
            for column, values in piece.items():
                one = len(values) > 1 and values.strides[0] == 0
                arrays.append(values[:1] if one else values)
                described.append([column, len(values) if one else None])
            tables[name].append(described)
    head = {
        "tables": tables,
        "counts": {name: int(count) for name, count in part.counts.items()},
        "costs": {name: [cost.seconds, cost.maps, cost.forward, cost.backward] for name, cost in part.costs.items()},
        "records": part.records,
        "corrupt": {name: sorted(indices) for name, indices in part.corrupt.items()},
        "made": {name: sorted(values) for name, values in part.made.items()},
        "seen": part.seen,
    }
    stream.write(json.dumps(head).encode() + b"\n")
    for values in arrays:
        npy.write_array(stream, np.ascontiguousarray(values), allow_pickle=False)
    return stream.getvalue()


def unpack(content: bytes) -> Part:
    """What `pack` made bytes of; ValueError or KeyError for anything else."""
    stream = BytesIO(content)
    head = json.loads(stream.readline())
    part = Part(
        counts=Counter(head["counts"]),
        costs={name: Cost(*values) for name, values in head["costs"].items()},
        records=head["records"],
        corrupt={name: set(indices) for name, indices in head["corrupt"].items()},
        made={name: set(values) for name, values in head["made"].items()},
        seen=head["seen"],
    )
    for name, pieces in head["tables"].items():
        part.tables[name] = []
        for described in pieces:
            piece = {}
            for column, count in described:
                values = npy.read_array(stream, allow_pickle=False)
                piece[column] = values if count is None else np.broadcast_to(values[0], (count, *values.shape[1:]))
            part.tables[name].append(piece)
    return part


def digest(content: Any) -> str:
    """What stands for JSON content: equal content, equal digest."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=True).encode()).hexdigest()[:32]


class Store:
    """The finished parts of runs in a folder.

    Args:
        folder: where the files lie, `OUT/parts`.
        common: what all parts depend on: the options of the run that change its result.
    """

    def __init__(self, folder: Path, common: Any):
        self.folder, self.common = folder, digest(common)
        self.found: dict[str, list[tuple[Path, int, int, str]]] = {}
        for path in sorted(folder.glob(f"*{ENDING}")):
            self._read_index(path)

    def _read_index(self, path: Path) -> None:
        try:
            with path.open("rb") as stream:
                line, size = stream.readline(), path.stat().st_size
                entries = {
                    key: (path, len(line) + start, length, sha)
                    for key, (start, length, sha) in json.loads(line).items()
                    if 0 <= start <= start + length <= size - len(line)
                }
        except (OSError, ValueError, TypeError, AttributeError, RecursionError):
            return
        for key, entry in entries.items():
            self.found.setdefault(key, []).append(entry)

    def files(self) -> list[Path]:
        """The files of this run and its like: of the same options."""
        return sorted(self.folder.glob(f"*-{self.common[:8]}-*{ENDING}"))

    def key(self, *depends: Any) -> str:
        """The name of a part in the folder."""
        return digest([self.common, *depends])

    def find(self, key: str) -> Part | None:
        """A part, if it is there and whole."""
        for path, start, length, sha in self.found.get(key, []):
            try:
                with path.open("rb") as stream:
                    stream.seek(start)
                    content = stream.read(length)
                if hashlib.sha256(content).hexdigest() == sha:
                    return unpack(content)
            except (OSError, ValueError, TypeError, KeyError, OverflowError, AttributeError):
                continue
        self.found.pop(key, None)
        return None

    def keep(self, name: str, parts: Mapping[str, Part]) -> None:
        """Write parts into one file, whole or not at all."""
        if not parts:
            return
        packed = {key: pack(part) for key, part in parts.items()}
        index, start = {}, 0
        for key, content in packed.items():
            index[key] = [start, len(content), hashlib.sha256(content).hexdigest()]
            start += len(content)
        path = self.folder / f"{name}-{self.common[:8]}-{digest(sorted(packed))[:8]}{ENDING}"
        with atomic_file(path) as temporary, temporary.open("wb") as stream:
            stream.write(json.dumps(index).encode() + b"\n")
            stream.writelines(packed.values())
