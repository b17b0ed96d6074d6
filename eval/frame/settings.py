"""What a run's result depends on, in JSON: by that finished parts are found again, and two runs are told apart."""

from __future__ import annotations

from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from eval.frame.identity import code_digest, file_digest, network_digest
from eval.frame.run import Run
from faithfulness.core.files import jsonable, sha256_file
from faithfulness.core.plugin_files import is_in_file
from faithfulness.core.results import environment

HARMLESS = frozenset(
    {
        *("out", "overwrite", "format", "quiet", "shard", "list_attributions"),
        *("accelerator", "devices", "num_nodes", "workers", "batch_size", "chunk"),
        *("attributions", "layers"),  # they say which parts are wanted, and change none
        *("model", "data", "arch"),  # what they name is looked at itself
    }
)
"""Options that change no part of a result: where it goes, who computes it, in what portions."""
FILES = ("compositions", "deletions")
"""Options that name files which are read: their contents count."""
_LIBRARIES = ("torch", "torchvision", "timm", "numpy", "scipy", "pillow", "scikit-learn")


def settings_of(run: Run[Any]) -> dict[str, Any]:
    """All that a run's result depends on, but for the methods that it looks at."""
    options = run.options
    given = {entry.name: getattr(options, entry.name) for entry in fields(options) if entry.name not in HARMLESS}
    given |= {name: _content(given[name]) for name in FILES if given.get(name)}
    named = [getattr(options, name, None) for name in ("model", "data", "arch", "baseline", "choose_with")]
    texts = [text for value in named for text in (value if isinstance(value, list) else [value])]
    sources = {str(text): file_digest(text) for text in texts if is_in_file(text)}
    made = environment() | {name: version(name) for name in ("pillow", "scikit-learn")}
    return jsonable(
        {
            **{name: str(value) if isinstance(value, Path) else value for name, value in given.items()},
            "model": {"name": run.checkpoint.name, "digest": network_digest(run.checkpoint)},
            "deletion": run.checkpoint.deletion.to_dict() if run.checkpoint.deletion else None,
            "data": run.describe_data() | {"state": run.data.state(run.count)},
            "code of one's own": sources,
            "device": run.fabric.device.type,
            "CUDA": torch.version.cuda if run.fabric.device.type == "cuda" else None,
            "libraries": {name: made.get(name) for name in _LIBRARIES},
            "code": code_digest(),
        }
    )


def _content(given: Any) -> Any:
    """The files that are named, and those below folders, with digests of what they hold."""
    found = {}
    for path in [given] if isinstance(given, str | Path) else given:
        path = Path(path).expanduser()
        for file in sorted(path.rglob("*.parquet")) if path.is_dir() else [path]:
            found[str(file)] = sha256_file(file) if file.is_file() else None
    return found
