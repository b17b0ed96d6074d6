"""Files of the user's that are found in place of this suite's packages, because their folder is searched first.

Stands alone: the packages of commands run it by its path, before anything of the suite is imported by name.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The folder in which all packages of this suite lie."""
NEEDS = {
    "eval": ("faithfulness", "idsds", "difull", "dea", "checkpoints", "eval"),
    "training": ("faithfulness", "difull", "checkpoints", "training"),
    "checkpoints": ("faithfulness", "checkpoints"),
}
"""Package of commands -> packages that its commands import."""


def hidden_packages(packages: tuple[str, ...]) -> dict[str, Path]:
    """Package -> the file or folder that is found in its place."""
    found = {name: _location(name) for name in packages}
    return {name: path for name, path in found.items() if path and path.resolve() != ROOT / name}


def command_name(package: str, module: str) -> str:
    """What the console command calls a module: `idsds` for `eval.idsds`, `finetune` for `training.patch_finetune`."""
    name = module.removeprefix("patch_") if package == "training" else module
    return name.replace("_", "-")


def refuse_shadows(package: str, way_out: str) -> None:
    """End with status 2, and one line that names the file, if one hides what the commands of `package` import."""
    for name, path in hidden_packages(NEEDS[package]).items():
        print(f"error: {path} hides this suite's package {name}; {way_out}", file=sys.stderr)
        raise SystemExit(2)


def refuse_as_command(package: str) -> None:
    """`refuse_shadows` while Python looks for the module of `python -m package.module`; else nothing."""
    for word in sys.orig_argv if sys.argv[:1] == ["-m"] else ():
        if module := re.fullmatch(rf"(?:-\w*m)?{package}\.(\w+)", word):
            refuse_shadows(package, f"run faithfulness {command_name(package, module[1])} …, or from another folder")


def _location(name: str) -> Path | None:
    """The file of a module, or the folder of a package."""
    spec = importlib.util.find_spec(name)
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    return Path(spec.origin) if spec.origin else None
