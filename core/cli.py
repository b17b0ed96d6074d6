"""Command lines from typed functions: flags, config file and help come from the signature.

`--batch-size` and `--batch_size` are one flag, a list takes its values one after another
(`--attributions ixg ig`), a switch needs no value (`--resume`). A user's mistake ends the command
with one line on stderr and status 2.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any, Union, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentParser

from core.errors import InputError


def run_command(
    options: Callable[..., Any], command: Callable[[Any], Any] | None = None, arguments: Sequence[str] | None = None
) -> int:
    """Run a function with arguments from the command line; returns the exit status.

    `options` is the function itself, or a dataclass of options whose instance `command` takes.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        parser = make_parser(options)
        values = parser.instantiate(parser.parse_args(tidy_arguments(options, arguments))).as_dict()
        values.pop("config")
        made = options(**values)
        status = made if command is None else command(made)
    except InputError as error:
        print(f"error: {last_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return status if isinstance(status, int) else 0


def make_parser(options: Callable[..., Any]) -> ArgumentParser:
    """Flags from a signature and its docstring, plus `--config FILE` and `--print_config`."""
    prog = getattr(sys.modules.get("__main__"), "__spec__", None)
    description = (inspect.getdoc(options) or "").partition("\n\n")[0]
    parser = ArgumentParser(prog=f"python -m {prog.name}" if prog else None, description=description)
    parser.add_argument("--config", action="config", help="YAML file with any of these settings")
    add = parser.add_class_arguments if inspect.isclass(options) else parser.add_function_arguments
    add(options)  # type: ignore[operator]
    return parser


def last_line(error: InputError) -> str:
    """The message alone, also of an error that a loader's worker process raised and torch wrapped."""
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return re.sub(r"^[\w.]+: ", "", lines[-1]) if "worker process" in lines[0] else " ".join(lines)


def tidy_arguments(function: Callable[..., Any], arguments: Sequence[str]) -> list[str]:
    """Arguments in the form that the parser takes, from the forms that people type."""
    hints = get_type_hints(function)
    parameters = {name: hints.get(name, str) for name in inspect.signature(function).parameters}
    tidy: list[str] = []
    position = 0
    while position < len(arguments):
        word = arguments[position]
        position += 1
        if not word.startswith("--"):
            tidy.append(word)
            continue
        flag, equals, value = word.partition("=")
        name, dot, rest = flag[2:].partition(".")
        name = name.replace("-", "_")
        flag = f"--{name}{dot}{rest}"
        values = [value] if equals else []
        if not equals:
            while position < len(arguments) and not arguments[position].startswith("--"):
                values.append(arguments[position])
                position += 1
        kinds = _kinds(parameters.get(name))
        if list in kinds and not (len(values) == 1 and values[0].startswith("[")):
            texts = _list_items(parameters.get(name)) == {str}
            values = [json.dumps([item if texts else _scalar(item) for item in values])]
        elif bool in kinds and not values and not dot:
            values = ["true"]
        tidy.append(flag)
        tidy.extend(values)
    return tidy


def _kinds(hint: Any) -> set[Any]:
    """The plain types in a type hint: {list} for `list[str] | None`."""
    members = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return {get_origin(member) or member for member in members}


def _list_items(hint: Any) -> set[Any]:
    """The types that the list in a hint holds: {str} for `list[str] | None`."""
    members = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return {item for member in members if get_origin(member) is list for item in get_args(member)}


def _scalar(word: str) -> Any:
    return int(word) if word.lstrip("-").isdigit() else word
