"""Tables for the terminal, and what tables and pictures call methods and metrics."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

_FILE = re.compile(r"(?P<folders>[^()|@]*[/\\])?(?P<function>[^()|@/\\]+\.py:\w+)(?P<rest>.*)", re.DOTALL)


def number(value: float | None, digits: int = 3) -> str:
    """A number, or a dash where there is none."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def method_label(attribution: str, layer: str, usual: str = "input") -> str:
    """What tables and pictures call a method: with its layer, unless that is the usual one.

    >>> method_label("ixg", "input"), method_label("ixg", "final"), method_label("gradcam", "final", "final")
    ('ixg', 'ixg@final', 'gradcam')
    """
    return attribution if layer == usual else f"{attribution}@{layer}"


def short_label(label: str) -> str:
    """A label without the folders of a file's function; any other label as it is.

    >>> short_label("path/to/mine.py:explain(sigma=2)|abs@final"), short_label("ig(steps=20)")
    ('mine.py:explain(sigma=2)|abs@final', 'ig(steps=20)')
    """
    return short_labels([label])[label]


def short_labels(labels: Iterable[str]) -> dict[str, str]:
    """Label -> the same without the folders of a file's function, but for those that tell two such files apart.

    >>> list(short_labels(["x/a.py:maps", "y/x/a.py:maps|abs", "x/b.py:maps", "ig"]).values())
    ['x/a.py:maps', 'y/x/a.py:maps|abs', 'b.py:maps', 'ig']
    """
    parts = {label: _FILE.fullmatch(label) for label in labels}
    folders = {label: re.split(r"[/\\]", found["folders"] or "")[:-1] for label, found in parts.items() if found}
    files: dict[str, set[tuple[str, ...]]] = {}
    for label, places in folders.items():
        files.setdefault(parts[label]["function"], set()).add(tuple(places))  # type: ignore[index]
    depths = {function: _depth(places) for function, places in files.items()}
    short = dict(zip(parts, parts, strict=True))
    for label, places in folders.items():
        found = parts[label]
        assert found is not None
        depth = depths[found["function"]]
        short[label] = "/".join([*places[len(places) - depth if depth < len(places) else 0 :], found["function"]])
        short[label] += found["rest"]
    return short


def _depth(places: Iterable[tuple[str, ...]]) -> int:
    """How many of the last folders tell some places apart."""
    places, depth = list(places), 0
    while len({place[max(0, len(place) - depth) :] for place in places}) < len(places):
        depth += 1
    return depth


_NAMES = {
    "idsds": "IDSDS",
    "localization": "localization score",
    "target_deletion_drop": "target deletion drop (TDD)",
    "off_target_deletion_drop": "off-target deletion drop (ODD)",
    "off_target_mass": "off-target mass",
}
"""As the papers write them, where that isn't the name with spaces."""


def metric_name(metric: str, higher_is_better: bool | None = None) -> str:
    """A metric's name for people, with the direction of better values where it is known.

    >>> metric_name("off_target_mass", False), metric_name("idsds")
    ('off-target mass (lower is better)', 'IDSDS')
    """
    name = _NAMES.get(metric, metric.replace("_", " "))
    return name if higher_is_better is None else f"{name} ({'higher' if higher_is_better else 'lower'} is better)"
