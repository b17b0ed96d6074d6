"""Command lines from typed dataclasses and functions: flags, config file and help come from the signature.

`--batch-size` and `--batch_size` are one flag, a list takes its values one after another
(`--attributions ixg ig`), a switch needs no value (`--resume`). A user's mistake ends the command
with one line on stderr and status 2.
"""

from __future__ import annotations

import json
import os
import re
import sys
from argparse import ArgumentError
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace

from faithfulness.core.errors import InputError, machine_failure, near_matches, shown
from faithfulness.core.flags import Flag, flags_of
from faithfulness.core.help import help_text
from faithfulness.core.plugin_files import own_failure
from faithfulness.core.settings_files import read_settings
from faithfulness.core.stopping import STOPS, is_first, say_last, stoppable

_EVERYWHERE = ("config", "print-config", "help")
_WHOLE = re.compile("[+-]?[0-9]{1,30}")
_called_as: ContextVar[str | None] = ContextVar("called_as", default=None)


def run_command(
    options: Callable[..., Any],
    command: Callable[[Any], Any] | None = None,
    arguments: Sequence[str] | None = None,
    prog: str | None = None,
) -> int:
    """Run a function with arguments from the command line; returns the exit status.

    Args:
        options: a dataclass of options whose instance `command` takes, or the function to run itself. Its docstring
            describes the flags; `GROUPS`, a class variable, puts them under headings (heading -> flags); a method
            `resolved()` gives the settings as they will be used, for `--print-config`, and `remarks()` lines above.
        command: what to run with the options. A whole number that it returns is the status.
        arguments: of the command line; those of this process by default.
        prog: how the command is called, for `--help`; as this process was by default.
    """
    with stoppable():
        try:
            return _told(options, command, arguments, prog)
        except STOPS as stop:
            if is_first():
                notes = dict.fromkeys(getattr(stop, "__notes__", ()))
                print("; ".join([str(stop) or "interrupted", *notes]), file=sys.stderr)
            return getattr(stop, "status", 130)


def _told(
    options: Callable[..., Any],
    command: Callable[[Any], Any] | None,
    arguments: Sequence[str] | None,
    prog: str | None,
) -> int:
    """`_run`, with a line for what the user or the machine did wrong."""
    try:
        return _run(options, command, arguments, prog)
    except InputError as error:
        say_last(shown(f"error: {last_line(error)}"))
        return 2
    except BrokenPipeError:  # whoever read the output has gone, `head` for one
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (Exception, SystemExit) as error:
        if reason := machine_failure(error):
            say_last(shown("; ".join([f"error: {reason}", *dict.fromkeys(getattr(error, "__notes__", ()))])))
            return 1
        if reason := own_failure(error):
            say_last(shown(f"error: {reason}"))
            return 2
        raise


def _run(
    options: Callable[..., Any],
    command: Callable[[Any], Any] | None,
    arguments: Sequence[str] | None,
    prog: str | None,
) -> int:
    flags = flags_of(options)
    words = read_words(flags, sys.argv[1:] if arguments is None else arguments)
    if words.help:
        print(help_text(options, prog or program()), end="")
        return 0
    values = read_values(flags, words)
    if words.print_config:
        print(settings_text(options, values), end="")
        return 0
    made = options(**values)
    status = made if command is None else command(made)
    return status if isinstance(status, int) else 0


def program() -> str:
    """How this command was called: `faithfulness idsds`, `python -m eval.idsds`, or a script's name."""
    if name := _called_as.get():
        return name
    main = getattr(sys.modules.get("__main__"), "__spec__", None)
    return f"python -m {main.name}" if main else Path(sys.argv[0]).name


@contextmanager
def called_as(prog: str) -> Iterator[None]:
    """Commands that run inside show `prog` in their help."""
    token = _called_as.set(prog)
    try:
        yield
    finally:
        _called_as.reset(token)


def last_line(error: InputError) -> str:
    """The message alone, also of an error that a loader's worker process raised and torch wrapped."""
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return re.sub(r"^[\w.]+: ", "", lines[-1]) if "worker process" in lines[0] else " ".join(lines)


@dataclass
class Words:
    """A command line, taken apart: flag -> its value (as typed, and as the parser reads it), and what all share."""

    typed: dict[str, str] = field(default_factory=dict)
    values: dict[str, str] = field(default_factory=dict)
    configs: list[str] = field(default_factory=list)
    help: bool = False
    print_config: bool = False


def read_words(flags: Mapping[str, Flag], arguments: Sequence[str]) -> Words:
    """The flags of a command line, from the forms that people type; InputError for what isn't one.

    Of a flag that is given twice the last counts, so that a script's flags can be overruled behind them.
    """
    words, position = Words(), 0
    while position < len(arguments):
        word = arguments[position]
        position += 1
        if not _is_flag(word):
            raise InputError(f"expected a flag, which begins with --, got {word!r}")
        typed, equals, value = word.partition("=")
        given = [value] if equals else []
        while not equals and position < len(arguments) and not _is_flag(arguments[position]):
            given.append(arguments[position])
            position += 1
        name, dot, key = typed.lstrip("-").partition(".")
        name = name.replace("-", "_")
        if name in ("h", "help", "print_config") and given:
            raise InputError(f"{typed} takes no value, got {' '.join(given)}")
        if name in ("h", "help"):
            words.help = True
        elif name == "print_config":
            words.print_config = True
        elif name == "config":
            words.configs.append(_single("--config", given))
        elif name in flags and (not dot or (key and dict in flags[name].kinds)):
            words.typed[name + dot + key] = " ".join(given)
            words.values[name + dot + key] = _text(flags[name], given, dot + key)
        else:
            raise _unknown_flag(typed, flags)
    return words


def read_values(flags: Mapping[str, Flag], words: Words) -> dict[str, Any]:
    """The typed value of every flag: what was typed, else what the config files say, else the default."""
    parser = _make_parser(flags)
    values: Namespace | None = None
    for file in words.configs:
        settings = read_settings(flags, file)
        with _explained(flags, settings, f" (in {file})"):
            values = parser.parse_object(settings, values)
    with _explained(flags, words.typed):
        texts = [f"--{name}={text}" for name, text in words.values.items()]
        made = parser.instantiate(parser.parse_args(texts, values)).as_dict()
    for name, flag in flags.items():
        if flag.required and made[name] is None:
            raise InputError(f"{flag.spelling} is needed: {flag.help or flag.expected}")
    return made


def settings_text(options: Any, values: dict[str, Any]) -> str:
    """YAML of the settings as they will be used, which `--config` reads: what isn't given is decided already."""
    settings, remarks = dict(values), []
    if hasattr(options, "__dataclass_fields__"):
        made = options(**values)
        settings = {name: getattr(made, name) for name in values}
        resolved = made.resolved() if hasattr(made, "resolved") else {}
        settings |= {name: value for name, value in resolved.items() if name in settings}
        remarks = made.remarks() if hasattr(made, "remarks") else []
    text = yaml.dump(_plain(settings), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
    return "".join(f"# {remark}\n" for remark in remarks) + text


class _Dumper(yaml.SafeDumper):
    """A list stands in one line, as on the command line."""

    def represent_list(self, data: list[Any]) -> yaml.Node:
        return self.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=True)


_Dumper.add_representer(list, _Dumper.represent_list)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _make_parser(flags: Mapping[str, Flag]) -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False, add_help=False)
    for name, flag in flags.items():
        parser.add_argument(f"--{name}", type=flag.hint, default=flag.default)
    return parser


@contextmanager
def _explained(flags: Mapping[str, Flag], given: Mapping[str, Any], where: str = "") -> Iterator[None]:
    """What the parser says about a value of the wrong type, in one line."""
    try:
        yield
    except ArgumentError as error:
        key = re.search(r'Parser key "([\w.]+)"', str(error))
        flag = flags.get(key[1].partition(".")[0]) if key else None
        if key is None or flag is None:
            raise InputError(" ".join(str(error).split()) + where) from error
        value = given.get(key[1], given.get(flag.name, error))
        raise InputError(f"{flag.spelling}: expected {flag.expected}, got {value}{where}") from error


def _is_flag(word: str) -> bool:
    return word.startswith("--") or word == "-h"  # -5 is a number


def _text(flag: Flag, given: list[str], key: str = "") -> str:
    """One text for all values of a flag, or of one `.KEY` of it, as the parser reads it."""
    if flag.is_list and not (len(given) == 1 and given[0].startswith("[")):
        return json.dumps([item if flag.items == {str} else _scalar(item) for item in given])
    if flag.is_switch and not given:
        return "true"
    return _single(flag.spelling + key, given)


def _single(spelling: str, given: list[str]) -> str:
    if len(given) != 1:
        raise InputError(f"{spelling} takes one value, got {' '.join(given) or 'none'}")
    return given[0]


def _scalar(word: str) -> Any:
    return int(word) if _WHOLE.fullmatch(word) else word


def _unknown_flag(typed: str, flags: Mapping[str, Flag]) -> InputError:
    known = [*(flag.spelling.lstrip("-") for flag in flags.values()), *_EVERYWHERE]
    near = [f"--{name}" for name in near_matches(typed.lstrip("-").replace("_", "-"), known)]
    return InputError(f"unknown flag {typed}; " + (f"did you mean {', '.join(near)}?" if near else "see --help"))


def named_first(arguments: list[str], flag: str) -> list[str]:
    """A command line whose first words may be the value of `flag`: `release DIR …` is `release --folder DIR …`."""
    return [flag, *arguments] if arguments and not arguments[0].startswith("-") else arguments
