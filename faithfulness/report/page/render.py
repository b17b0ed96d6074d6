"""The page itself: a template that escapes all that it is given, with its style and its script inside."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from pathlib import Path
from string import ascii_lowercase
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from faithfulness.report.tables import number, short_labels

FOLDER = Path(__file__).parent
SHADES = 7
"""Steps of color in a table of means."""


def render_page(**content: Any) -> str:
    """The page as HTML.

    Nothing on it is run or loaded but its own script, its own style and pictures beside it: it says so to the browser,
    by the digests of both.

    Args:
        content: what `page.html` names: title, sources, board, matrices, chapters, evidence, leakage, accuracy, files.
    """
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    short = short_labels(row.label for row in content["board"].rows)

    def shortest(label: str) -> Markup:
        return breakable(short.get(label, label))

    environment.filters |= {"number": number, "exact": exact, "shade": shade, "aligned": aligned}
    environment.filters |= {
        "breakable": breakable,
        "method": shortest,
    }
    style, script = ((FOLDER / name).read_text(encoding="utf-8").strip() for name in ("page.css", "page.js"))
    return environment.get_template("page.html").render(
        **content,
        style=Markup(style),
        script=Markup(script),
        style_digest=_digest(style),
        script_digest=_digest(script),
    )


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def exact(value: float | int) -> str:
    """A number as scripts sort by it; empty where there is none."""
    return repr(float(value)) if math.isfinite(value) else ""


def breakable(label: str) -> Markup:
    """A label, escaped, that may be broken behind its marks."""
    parts = re.findall(r"[^(),|@+/:_]*[(),|@+/:_]*", label)
    return Markup("<wbr>").join(part for part in parts if part)


def aligned(letters: str) -> str:
    """Letters of groups, each in a place of its own, so that under one another they look like bars.

    >>> aligned("bd"), aligned("aAb")
    ('\xa0b\xa0d', 'aAb')
    """
    if not letters.islower():
        return letters
    return "".join(letter if letter in letters else "\xa0" for letter in ascii_lowercase[: ord(letters[-1]) - 96])


def shade(value: float | int, lowest: float | int, highest: float | int, higher_is_better: bool = True) -> int:
    """The step of a color scale, 0 for the worst of a table and `SHADES` - 1 for the best.

    >>> shade(0.5, 0.0, 1.0), shade(0.0, 0.0, 1.0, higher_is_better=False)
    (3, 6)
    """
    if not (math.isfinite(value) and highest > lowest):
        return 0
    share = (value - lowest) / (highest - lowest)
    return min(int((share if higher_is_better else 1 - share) * SHADES), SHADES - 1)
