"""Tables for the terminal, and what tables and pictures call methods and metrics."""

from __future__ import annotations

import math
import re

_FILE = re.compile(r"^[^()|@]*[/\\](?=[^()|@/\\]+\.py:)")


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
    return _FILE.sub("", label)


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
