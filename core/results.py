"""Where a run's numbers go: `summary.json`, `per_image.parquet` and plots, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from core.errors import InputError
from core.statistics import mean_interval

SCHEMA = 1
METRICS = {
    "idsds": True,
    "single_deletion": True,
    "incremental_deletion": True,
    "localization": True,
    "impossible_attribution": False,
    "target_deletion_drop": True,
    "off_target_deletion_drop": False,
    "insertion": True,
    "off_target_mass": False,
    "stability": True,
    "seconds_per_map": False,
    "passes_per_map": False,
}
"""Metric name -> whether a higher value is better."""


@dataclass(frozen=True)
class Score:
    """One row of the result table: a metric of an attribution at a layer over a data set.

    `mean` counts undefined images as 0 where the metric says so; `mean_defined` leaves them out.
    """

    attribution: str
    layer: str
    metric: str
    mean: float
    mean_defined: float
    ci95: tuple[float, float]
    n: int
    n_undefined: int
    higher_is_better: bool
    seconds: float | None = None
    forward_passes: float | None = None
    backward_passes: float | None = None


def summarize_scores(
    values: NDArray[np.floating],
    *,
    attribution: str,
    layer: str,
    metric: str,
    seed: int,
    undefined_as: float | None = 0.0,
    higher_is_better: bool | None = None,
    **costs: Any,
) -> Score:
    """The `Score` of per-image values (NaN = undefined), with a bootstrap interval of its mean.

    `undefined_as` is what an undefined image counts for in `mean`; None leaves it out there too.
    """
    values = np.asarray(values, dtype=np.float64)
    defined = values[~np.isnan(values)]
    counted = defined if undefined_as is None else np.nan_to_num(values, nan=undefined_as)
    return Score(
        attribution=attribution,
        layer=layer,
        metric=metric,
        mean=float(counted.mean()) if len(counted) else math.nan,
        mean_defined=float(defined.mean()) if len(defined) else math.nan,
        ci95=mean_interval(counted, seed),
        n=len(values),
        n_undefined=len(values) - len(defined),
        higher_is_better=METRICS[metric] if higher_is_better is None else higher_is_better,
        **costs,
    )


def _jsonable(value: Any) -> Any:
    """NaN and infinity as null: strict JSON has neither."""
    if isinstance(value, dict):
        return {key: _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_json(path: Path, content: Any) -> None:
    """Write strict, readable JSON, whole or not at all."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(_jsonable(content), indent=2, allow_nan=False) + "\n", encoding="utf-8")


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


RESULT = ("summary.json", "per_image.parquet", "plots/*.png")
_EPOCHS = ("settings.json", "lightning/*", "logs/*", "deletions/*")
_WEIGHTS = ("model.safetensors", "config.json", "training.json", "README.md")
FILES: dict[str, tuple[str, ...]] = {
    "idsds": RESULT,
    "difull": (*RESULT, "compositions/*.parquet"),
    "mlatt": (*RESULT, "compositions/*.parquet", "smoothing.parquet"),
    "aggatt": (*RESULT, "compositions/*.parquet", "bins.npz"),
    "leakage": RESULT,
    "dea": RESULT,
    "training": (*_EPOCHS, *_WEIGHTS, *(f"last/{name}" for name in _WEIGHTS)),
}
"""Kind of run -> the files that it writes; `*` spans folders. Any other file in a run's folder is somebody's own."""


def check_out(
    out: Path, overwrite: bool = False, *, kind: str | None = None, inputs: Iterable[str | Path | None] = ()
) -> None:
    """Refuse an output folder that a command must not write, before anything is read or removed.

    Args:
        out: may be new or empty; with `overwrite` it may hold a run of the same `kind`, and that only.
        kind: a protocol's name or `training`, as in `FILES`; None stands for any evaluation's.
        inputs: what the command reads, as its flags have it (PATH, KIND:PATH, names): `out` must be
            none of these, nor inside one, nor above one, however they are spelled or linked.
    Raises:
        InputError: what is in the way.
    """
    target = out.expanduser().resolve()
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
    if above != target or not any(target.iterdir()):
        return
    held = kind_of_run(target)
    if held is None or (held == "training" if kind is None else held != kind):
        raise InputError(f"--out {out} already holds {_describe_run(target)}; choose another folder")
    if not overwrite:
        raise InputError(
            f"--out {out} already holds {_describe_run(target)}; choose another folder; pass --overwrite to replace it"
        )
    foreign = next((path for path in _files_in(target) if not _is_of(held, path.relative_to(target))), None)
    if foreign is not None:
        raise InputError(f"--out {out} holds {foreign.relative_to(target)}, which no run wrote; choose another folder")


def _paths_of(inputs: Iterable[str | Path | None]) -> Iterator[tuple[str, Path]]:
    """What flags name that exists, as written and resolved: PATH, and PATH of KIND:PATH."""
    for given in map(str, filter(None, inputs)):
        kind, _, rest = given.partition(":")
        for text in (given, "" if kind in ("timm", "torchvision", "hf-hub") else rest):
            if text and Path(text).expanduser().exists():
                yield given, Path(text).expanduser().resolve()


def kind_of_run(folder: Path) -> str | None:
    """The kind of run in a folder, as in `FILES`; None for anything else, a bare checkpoint too."""
    if (folder / "settings.json").is_file():
        return "training"
    if any((folder / name).exists() for name in _WEIGHTS[:3]):
        return None
    try:
        protocol = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["protocol"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return protocol if protocol in FILES else None


def _describe_run(folder: Path) -> str:
    kind = kind_of_run(folder)
    if kind == "training":
        return "a training run"
    if kind is None:
        weights = (folder / _WEIGHTS[0]).exists()
        return "a checkpoint" if weights else "files that are not a run's"
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        return f"a run ({kind} of {summary['model']['name']} on {summary['data']['name']})"
    except (KeyError, TypeError):
        return f"a run ({kind})"


def _files_in(folder: Path) -> Iterator[Path]:
    """Everything below a folder that isn't itself a folder; links count as files and aren't followed."""
    for root, folders, files in os.walk(folder):
        links = (name for name in folders if (Path(root) / name).is_symlink())
        yield from (Path(root) / name for name in (*files, *links))


def _is_of(kind: str, path: Path) -> bool:
    return any(fnmatchcase(path.as_posix(), pattern) for pattern in FILES[kind])


@contextmanager
def atomic_directory(
    out: Path, overwrite: bool = False, *, kind: str | None = None, inputs: Iterable[str | Path | None] = ()
) -> Iterator[Path]:
    """A temporary folder beside `out` that takes its place when the block ends well. Arguments as in `check_out`."""
    inputs = list(inputs)
    check_out(out, overwrite, kind=kind, inputs=inputs)
    out = out.expanduser().resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        check_out(out, overwrite, kind=kind, inputs=inputs)  # hours may have passed
        swap_directory(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def swap_directory(new: Path, out: Path) -> None:
    """Put a complete folder in the place of another, which is removed only once the new one is there.

    Both must lie on one file system. The old folder steps aside by a rename, so whatever interrupts
    this, each of the two is whole under some name.
    """
    if not out.exists():
        new.rename(out)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{out.name}.replaced.", dir=out.parent))
    out.rename(aside)
    try:
        new.rename(out)
    except BaseException:
        if not out.exists():
            aside.rename(out)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def write_summary(
    folder: Path,
    *,
    protocol: str,
    model: dict[str, Any],
    data: dict[str, Any],
    settings: dict[str, Any],
    scores: list[Score],
    **extra: Any,
) -> dict[str, Any]:
    """Write `summary.json` in the suite's schema and return its content."""
    summary = {
        "schema": SCHEMA,
        "protocol": protocol,
        "model": model,
        "data": data,
        "settings": settings,
        "scores": [asdict(score) for score in scores],
        **extra,
        "environment": environment(),
    }
    write_json(folder / "summary.json", summary)
    return summary


def write_per_image(folder: Path, table: pd.DataFrame) -> None:
    """Write `per_image.parquet`: a row per image, attribution, layer and metric, in a fixed order."""
    keys = [key for key in ("metric", "attribution", "layer", "index", "class", "cell") if key in table]
    with atomic_file(folder / "per_image.parquet") as temporary:
        table.sort_values(keys, kind="stable").reset_index(drop=True).to_parquet(temporary)


def sha256_file(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def environment() -> dict[str, str]:
    """Versions and commit that a result was made with."""
    names = ["torch", "torchvision", "timm", "lightning", "numpy", "scipy"]
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found | {"commit": commit()}


def commit() -> str:
    """Commit of this checkout, with `+changes` if files differ from it; `unknown` outside of one."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return "unknown"
    git = ["git", "-C", str(root)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+changes" if changed else "")
