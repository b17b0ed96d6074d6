"""The commands of `eval` by the names of their protocols: imported when one is needed, as the console does.

This room stands below `eval`, so it knows no more of a command than its flags, and that it evaluates.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from faithfulness.core.cli import read_values, read_words
from faithfulness.core.errors import InputError
from faithfulness.core.flags import Flag, flags_of
from faithfulness.core.shadows import NEEDS, hidden_packages

UNSAID = ("out", "overwrite", "quiet", "shard", "accelerator", "devices", "num_nodes", "workers")
"""Flags of an evaluation that change nothing, and belong to the machine that it ran on."""


def command_of(protocol: str) -> Any | None:
    """The command whose summaries call their protocol so; None for one that isn't this suite's."""
    for package, path in hidden_packages(NEEDS["eval"]).items():
        raise InputError(f"{path} hides this suite's package {package}; run this from another folder")
    if not re.fullmatch(r"[a-z][a-z_]*", protocol) or find_spec(f"eval.{protocol}") is None:
        return None
    return getattr(import_module(f"eval.{protocol}"), "COMMAND", None)


def told_options(protocol: str, recorded: Mapping[str, Any] | None, line: str | None) -> dict[str, Any] | None:
    """The flags of an evaluation that differ from their defaults; None where nothing tells them.

    Args:
        recorded: all flags, as a run's own record has them.
        line: the command line, which may leave some to a config file.
    """
    command = command_of(protocol)
    if command is None:
        return None
    flags = flags_of(command.options)
    if recorded is not None:
        given = {name: recorded[name] for name in flags if name in recorded}
    elif line is not None and f"eval.{protocol}" in line:
        given = parsed(flags, line)
    else:
        return None
    return {
        name: value
        for name, value in given.items()
        if name not in UNSAID and value is not None and value != flags[name].default
    }


def parsed(flags: Mapping[str, Flag], line: str) -> dict[str, Any]:
    """The values of a recorded command line; InputError for one that these flags don't understand."""
    words = shlex.split(line)
    start = next((place for place, word in enumerate(words) if word.startswith("--")), len(words))
    return read_values(flags, read_words(flags, words[start:]))


def command_line(protocol: str, options: Mapping[str, Any]) -> str:
    """The command with these flags."""
    words = ["python", "-m", f"eval.{protocol}"]
    flags = flags_of(command_of(protocol).options)  # type: ignore[union-attr]
    for name, value in options.items():
        spelling = flags[name].spelling
        if isinstance(value, Mapping):
            for key, entry in value.items():
                words += [f"{spelling}.{key}", str(entry)]
        elif isinstance(value, bool):
            words += [spelling] if value else [spelling, "false"]
        else:
            words += [spelling, *(map(str, value) if isinstance(value, list | tuple) else [str(value)])]
    return shlex.join(words)


def evaluated(protocol: str, options: Mapping[str, Any]) -> Any:
    """The result of a command with these flags, of which nothing is written."""
    command = command_of(protocol)
    if command is None:
        raise InputError(f"{protocol} is no evaluation of this suite")
    given = dict(options)
    return command.evaluate(given.pop("model"), given.pop("data", "digits"), **given)
