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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
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


def check_out(out: Path, overwrite: bool = False) -> None:
    """Refuse an output folder that holds something already, unless told to replace a run of ours."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not out.is_dir():
        raise InputError(f"--out {out} is a file")
    ours = (out / "summary.json").exists() or (out / "training.json").exists()
    if not (overwrite and ours):
        held = _describe_run(out) if ours else "files that are not a run's"
        hint = "; pass --overwrite to replace it" if ours else ""
        raise InputError(f"--out {out} already holds {held}; choose another folder{hint}")


def _describe_run(out: Path) -> str:
    try:
        if (out / "training.json").exists():
            return "a training run"
        summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
        return f"a run ({summary['protocol']} of {summary['model']['name']} on {summary['data']['name']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another run"


@contextmanager
def atomic_directory(out: Path, overwrite: bool = False) -> Iterator[Path]:
    """A temporary folder beside `out` that takes its place when the block ends well."""
    check_out(out, overwrite)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        if out.exists():
            shutil.rmtree(out)
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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
