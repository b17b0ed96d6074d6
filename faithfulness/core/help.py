"""What `--help` shows."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Callable
from typing import Any

from faithfulness.core.flags import description_of, example_of, groups_of

COLUMN = 26
"""Where the texts begin."""
_EVERY = {
    "--config FILE": "YAML file with any of these settings; flags win over it",
    "--print-config": "print the settings as they will be used, in the form that --config reads, and stop",
    "--help": "show this and stop",
}


def help_text(options: Callable[..., Any], prog: str) -> str:
    """Usage, what the command does, its flags by group, and the example of its docstring."""
    width = min(max(shutil.get_terminal_size((100, 24)).columns, 60), 100)
    parts = [f"usage: {prog} [--flag value ...]", textwrap.fill(description_of(options), width)]
    for heading, flags in groups_of(options, own_name(prog)).items():
        entries = {flag.spelling + flag.takes: _text(flag.help, flag.shown_default) for flag in flags}
        parts.append(_section(heading, entries, width))
    parts.append(_section("every command", _EVERY, width))
    if example := example_of(options):
        parts.append(f"example:\n{textwrap.indent(example, '  ')}")
    return "\n\n".join(part for part in parts if part) + "\n"


def entries_text(entries: dict[str, str], width: int, column: int = COLUMN) -> str:
    """Two columns: what to type, and what it means; the first may run over the second's edge."""
    return "\n".join(_entry(typed, text, width, column) for typed, text in entries.items())


def own_name(prog: str) -> str:
    """What a program is called by itself: `idsds` for `python -m eval.idsds` and `faithfulness idsds`."""
    return prog.replace(".", " ").split()[-1]


def _section(heading: str, entries: dict[str, str], width: int) -> str:
    return f"{heading}:\n{entries_text(entries, width)}"


def _text(help_: str, default: str) -> str:
    text = help_ if help_.endswith("...") else help_.removesuffix(".")
    return f"{text} (default: {default})".lstrip() if default else text


def _entry(typed: str, text: str, width: int, column: int) -> str:
    first = f"  {typed}"
    lines = textwrap.wrap(text, width - column, break_on_hyphens=False, break_long_words=False)
    if lines and len(first) + 2 <= column:
        first = first.ljust(column) + lines.pop(0)
    return "\n".join([first, *(" " * column + line for line in lines)])
