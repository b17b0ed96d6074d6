"""What a file of the user's own holds, by `path/to/file.py:function`: methods, networks, data sets."""

from __future__ import annotations

import hashlib
import inspect
import re
import sys
from collections.abc import Mapping
from functools import cache
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from faithfulness.core.errors import InputError, unknown_name

FILE = re.compile(r"(?P<path>.+\.py):(?P<function>\w+)")


def is_in_file(text: object) -> bool:
    """Whether text names a function of a file, or a Python file without saying which function of it."""
    return isinstance(text, str) and (FILE.fullmatch(text) is not None or text.endswith((".py", ".py:")))


def load_function(text: str) -> Any:
    """What `path/to/file.py:function` names; the file runs once, whoever asks how often.

    Raises InputError: no such file, one that fails to run, a name that it doesn't hold.
    """
    match = FILE.fullmatch(text)
    if match is None:
        raise InputError(f"{text} names no function; expected path/to/file.py:function")
    module = _load_file(Path(match["path"]).expanduser().resolve())
    function = getattr(module, match["function"], None)
    if function is None:
        public = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise unknown_name(f"function of {match['path']}", match["function"], public)
    return function


def function_name(text: str) -> str:
    """`function` of `path/to/file.py:function`."""
    return text.rpartition(":")[2]


def file_of(text: str) -> str:
    """`path/to/file.py` of `path/to/file.py:function`."""
    return text.rpartition(":")[0]


def call_function(function: Any, text: str, offered: Mapping[str, Any], given: Mapping[str, Any] | None = None) -> Any:
    """Call a user's function, named `text`, with what it asks for of `offered`, and with all of `given`.

    It asks by the names of its parameters; one whose first parameter has another name, and no default,
    gets the first that is offered.

    Raises InputError if it isn't a function or wants something else.
    """
    given = dict(given or {})
    if not callable(function):
        raise InputError(f"{text} is {type(function).__name__}, expected a function")
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    named = {key: value for key, value in offered.items() if takes_all or key in signature.parameters} | given
    first = parameters[0] if parameters else None
    unnamed = (
        first is not None
        and first.kind in (first.POSITIONAL_ONLY, first.POSITIONAL_OR_KEYWORD)
        and first.default is first.empty
        and first.name not in named
    )
    positional = list(offered.values())[:1] if unnamed else []
    try:
        signature.bind(*positional, **named)
    except TypeError as error:
        raise InputError(f"{text} takes {signature}, offered were {', '.join([*offered, *given])}: {error}") from error
    return function(*positional, **named)


@cache
def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise InputError(f"no file {path}; expected path/to/file.py:function")
    name = f"faithfulness_file_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"  # no name that another has
    loader = SourceFileLoader(name, str(path))
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module  # where dataclasses and pickle look for it
    try:
        loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise InputError(f"can't load {path}: {one_line(error)}") from error
    return module


def one_line(error: Exception) -> str:
    """Kind and first line of an error of foreign code."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
