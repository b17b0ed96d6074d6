"""Parquet folders as the Hugging Face Hub has them, small."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tests.reference.hostile_pictures import encoded

CLASSES = ["cat", "dog", "eel"]
PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def painted(row: int, kind: str = "PNG") -> bytes:
    """A picture that tells its row: its red is ten times that."""
    return encoded(Image.new("RGB", (40 + row, 36), (10 * row, 128, 30)), kind)


def features(names: list[str] | None = CLASSES, picture: str = "image", label: str = "label") -> bytes:
    """What `datasets` writes beside the columns."""
    kind: dict[str, Any] = (
        {"dtype": "int64", "_type": "Value"} if names is None else {"names": names, "_type": "ClassLabel"}
    )
    return json.dumps({"info": {"features": {picture: {"_type": "Image"}, label: kind}}}).encode()


def write_rows(
    file: Path,
    pictures: list[bytes | None],
    labels: Any,
    *,
    picture: str = "image",
    label: str = "label",
    meta: bytes | None = features(),
    group: int = 4,
) -> Path:
    """A file of pictures and labels, with a column more that is nobody's."""
    rows = pa.array([{"bytes": content, "path": f"{n}.png"} for n, content in enumerate(pictures)], PICTURE)
    table = pa.table({"id": np.arange(len(rows)), picture: rows, label: pa.array(labels)})
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata(meta and {b"huggingface": meta}), file, row_group_size=group)
    return file


def make_hfds(root: Path, count: int = 10, splits: tuple[str, ...] = ("train", "validation")) -> Path:
    """Splits of `count` pictures each, in two files; row r has the label r modulo 3."""
    half = count // 2
    for split in splits:
        for number, rows in enumerate((range(half), range(half, count))):
            pictures: list[bytes | None] = [painted(row) for row in rows]
            file = root / f"data/{split}-{number:05d}-of-00002.parquet"
            write_rows(file, pictures, [row % 3 for row in rows])
    return root
