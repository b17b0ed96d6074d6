"""safetensors with metadata, the same bytes for the same content."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from checkpoints.scrub import OF_MACHINE, Scrubber
from faithfulness.core.files import jsonable


def save_weights(path: Path, state: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write tensors and texts about them. The library writes texts in an order that is another one each time."""
    save_file(state, path, metadata=metadata)
    with path.open("r+b") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
        header["__metadata__"] = dict(sorted(metadata.items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) > length:
            raise RuntimeError(f"the header of {path} would need {len(text)} bytes, it has {length}")
        stream.seek(8)
        stream.write(text.ljust(length))


def read_metadata(path: Path) -> dict[str, str]:
    """The texts in a file of weights; none in one of another writer's."""
    with safe_open(path, "numpy") as file:
        return dict(file.metadata() or {})


def metadata_of(config: dict[str, Any], training: dict[str, Any]) -> dict[str, str]:
    """What a file of weights says of itself: format, architecture, classes, deletion, and by which settings it came."""
    told = {
        "format": "pt",
        "architecture": config["architecture"],
        "num_classes": str(config["num_classes"]),
        "task": config.get("task") or "classification",
        "deletion": json.dumps(config.get("deletion"), sort_keys=True),
    }
    return told | ({"settings_sha256": settings_digest(training)} if training.get("settings") else {})


def settings_digest(training: dict[str, Any]) -> str:
    """Of the settings of a training without local paths: a released record has the same.

    Left out is where it ran, and what it began from, which is known by its own digest.
    """
    without = (*OF_MACHINE, "model", "arch")
    told = {name: value for name, value in training.get("settings", {}).items() if name not in without}
    content = Scrubber({}).clean(json.loads(json.dumps(jsonable(told), default=str)))
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
