"""Where a run's numbers go: `summary.json` and `per_image.parquet`, in one schema for every protocol."""

from __future__ import annotations

import math
import platform
import subprocess
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from faithfulness.core.files import atomic_file
from faithfulness.core.statistics import mean_interval

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 1


@dataclass(frozen=True)
class Score:
    """One row of the result table: a metric of an attribution at a layer over a data set.

    `mean` counts undefined images as 0 where the metric says so; `mean_defined` leaves them out. On
    grids a row is of one `setting` and `scale`.
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
    setting: str | None = None
    scale: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """As `summary.json` has it: setting and scale only where there is one."""
        grid = ("setting", "scale")
        return {name: value for name, value in asdict(self).items() if name not in grid or value is not None}

    @property
    def sort_key(self) -> float:
        """Ascending, the best mean comes first."""
        return -self.mean if self.higher_is_better else self.mean


def summarize_scores(
    values: NDArray[np.floating], *, seed: int, undefined_as: float | None = 0.0, **described: Any
) -> Score:
    """The `Score` of per-image values (NaN = undefined), with a bootstrap interval of its mean.

    Args:
        undefined_as: what an undefined image counts for in `mean`; None leaves it out there too.
        described: the other fields of `Score`: attribution, layer, metric, higher_is_better, …
    """
    values = np.asarray(values, dtype=np.float64)
    defined = values[~np.isnan(values)]
    counted = defined if undefined_as is None else np.nan_to_num(values, nan=undefined_as)
    return Score(
        mean=float(counted.mean()) if len(counted) else math.nan,
        mean_defined=float(defined.mean()) if len(defined) else math.nan,
        ci95=mean_interval(counted, seed),
        n=len(values),
        n_undefined=len(values) - len(defined),
        **described,
    )


def ordered_rows(table: pd.DataFrame) -> pd.DataFrame:
    """A row per image, attribution, layer and metric, in a fixed order and numbered from 0."""
    keys = [key for key in ("metric", "attribution", "layer", "index", "class", "cell") if key in table]
    return table.sort_values(keys, kind="stable").reset_index(drop=True)


def write_per_image(folder: Path, table: pd.DataFrame) -> None:
    """Write `per_image.parquet`, whole or not at all."""
    with atomic_file(folder / "per_image.parquet") as temporary:
        table.to_parquet(temporary)


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
    root = Path(__file__).resolve().parents[2]
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
