"""Digests of what a result depends on: the suite's code, networks, methods from outside; and how two runs differ."""

from __future__ import annotations

import hashlib
import sys
from functools import cache
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.frame.store import digest
from faithfulness.attribution import parse_attribution
from faithfulness.attribution.guard import fingerprint
from faithfulness.attribution.plugins import attribution_factory, is_foreign
from faithfulness.core.errors import InputError
from faithfulness.core.files import jsonable, sha256_file
from faithfulness.core.plugin_files import file_of, is_in_file
from faithfulness.core.shadows import ROOT

if TYPE_CHECKING:
    from checkpoints import Checkpoint
    from faithfulness.attribution import AttributionSpec

PACKAGES = ("faithfulness", "idsds", "difull", "dea", "checkpoints", "eval")


@cache
def code_digest() -> str:
    """Of the suite's own source, so that a part which other code made is not taken for this code's."""
    found = hashlib.sha256()
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            found.update(file.relative_to(ROOT).as_posix().encode() + b"\0" + file.read_bytes())
    return found.hexdigest()[:16]


def network_digest(checkpoint: Checkpoint[Any]) -> str:
    """Of a network's weights, its make-up and plain settings, its own code, and how it takes images."""
    model = checkpoint.model
    states = [[path, type(module).__qualname__, _plain(module)] for path, module in model.named_modules()]
    code = file_digest(checkpoint.path)
    return digest([fingerprint(model), repr(model), states, jsonable(dict(model.data_config)), code])


def _plain(module: object) -> list[tuple[str, Any]]:
    """The plain settings of a module, by name."""
    return sorted(
        (name, value)
        for name, value in vars(module).items()
        if isinstance(value, bool | int | float | str) and not name.startswith("_") and name != "training"
    )


def file_digest(text: object) -> str | None:
    """Of the file in `path/to/file.py:function`, and of what it has imported from its folder; None for other text."""
    if not is_in_file(text):
        return None
    try:
        path = Path(file_of(str(text))).expanduser().resolve()
    except (OSError, ValueError, RuntimeError):  # no name of a file, which is said when it is loaded
        return None
    loaded = {str(getattr(module, "__file__", None) or "") for module in list(sys.modules.values())}
    beside = [Path(file) for file in loaded if file and path.parent in Path(file).parents and not _is_ours(Path(file))]
    files = sorted({path, *beside})
    return digest([[str(file), sha256_file(file)] for file in files if file.is_file()])


def _is_ours(file: Path) -> bool:
    return any(ROOT / package in file.parents for package in (*PACKAGES, "tests", ".venv"))


def source_digest(spec: AttributionSpec) -> str | None:
    """Of the source of a method from outside: of a file that is named, or of an installed package.

    "" for the suite's own. None for a method that a program has registered: its function may hold anything.
    """
    factory = attribution_factory(spec.name)
    if not is_foreign(factory):
        return ""
    if is_in_file(spec.name):
        return file_digest(spec.name)
    package = str(getattr(factory, "__module__", "")).partition(".")[0]
    installed = packages_distributions().get(package)
    return f"{package} {version(installed[0])}" if installed and package != "__main__" else None


def canonical(name: str) -> str:
    """An attribution as tables call it, however it is spelled; text that names several stays as it is."""
    try:
        spec = parse_attribution(name)
    except InputError:
        return name
    return spec.label + (f"@{spec.layer}" if spec.layer else "")


def is_text(options: Any) -> bool:
    """Whether what is read is all named, so that another process can read it again."""
    given = [getattr(options, name, None) for name in ("model", "data", "arch", "baseline", "choose_with")]
    flat = [item for value in given for item in (value if isinstance(value, list) else [value])]
    return all(item is None or isinstance(item, str | Path) for item in flat)


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What two runs' settings differ in: `fill zeros, now mean`."""
    found = []
    for name in sorted(before.keys() | now.keys()):
        old, new = before.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            found += [f"{name} {line}" for line in differences(old, new)]
        elif old != new:
            found.append(f"{name} {_shown(old)}, now {_shown(new)}")
    return found


def _shown(value: Any) -> str:
    text = "none" if value is None else " ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 60 else text[:57] + "…"
