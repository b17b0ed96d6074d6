"""What a file of the user's own holds, by `path/to/file.py:function`: methods, networks, data sets."""

from __future__ import annotations

import hashlib
import inspect
import os
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from faithfulness.core.errors import InputError, shown, unknown_name

FILE = re.compile(r"(?P<path>.+\.py):(?P<function>\w+)")
_PREFIX = "faithfulness_file_"
TRACEBACK = "FAITHFULNESS_TRACEBACK"
"""The environment variable that shows where in a user's code an error arose, call by call."""


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
    try:
        path = Path(match["path"]).expanduser().resolve()
    except (OSError, ValueError, RuntimeError) as error:  # a NUL, no home folder
        raise InputError(f"can't find {text}: {error}") from error
    module = _load_file(path)
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
    signature = signature_of(function, text)
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
    with own_code(text):
        return function(*positional, **named)


def signature_of(function: Any, text: str) -> inspect.Signature:
    """What a function takes; InputError where Python can't tell, as of some that are written in C."""
    try:
        return inspect.signature(function)
    except (TypeError, ValueError) as error:
        raise InputError(f"can't tell what {text} takes; define it by `def` with named parameters") from error


@cache
def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise InputError(f"no file {path}; expected path/to/file.py:function")
    name = f"{_PREFIX}{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"  # no name that another has
    loader = SourceFileLoader(name, str(path))
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module  # where dataclasses and pickle look for it
    try:
        loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise InputError(f"can't load {path}: {_told(error, _place_in(error, str(path)))}") from error
    return module


@contextmanager
def own_code(name: str) -> Iterator[None]:
    """Errors of the block are those of a user's code, called `name`: a command ends by them in one line.

    From Python they come as they are.
    """
    try:
        yield
    except (Exception, SystemExit) as error:
        if not isinstance(error, InputError) and not hasattr(error, "own_code"):
            error.own_code = name  # type: ignore[union-attr]
        raise


def own_failure(error: BaseException) -> str | None:
    """What a user's own code did wrong, and where, in a line; None for an error that passed through none of it."""
    files = {module.__file__ for name, module in list(sys.modules.items()) if name.startswith(_PREFIX)}
    file = next((frame.filename for frame in _frames(error) if frame.filename in files), None)
    name = getattr(error, "own_code", None) or file
    if name is None:
        return None
    return f"{name}: {_told(error, _place_in(error, file) if file else '')}"


def _frames(error: BaseException) -> list[traceback.FrameSummary]:
    return traceback.extract_tb(error.__traceback__, limit=-200)  # a recursion has a thousand, all alike


def _place_in(error: BaseException, file: str) -> str:
    """Where in a file an error arose: the innermost line of it that was at work."""
    if isinstance(error, SyntaxError) and error.filename == file:
        return f"{file}, line {error.lineno}"
    lines = [frame.lineno for frame in _frames(error) if frame.filename == file]
    return f"{file}, line {lines[-1]}" if lines else file


def _told(error: BaseException, place: str) -> str:
    """An error of foreign code in one line; the traceback goes before it where it was asked for."""
    told = one_line(error) + (f" ({place})" if place else "")
    if os.environ.get(TRACEBACK, "0") not in ("", "0"):
        traceback.print_exception(error)
        return told
    return f"{told}; {TRACEBACK}=1 shows the traceback"


def one_line(error: BaseException) -> str:
    """Kind and first line of an error of foreign code."""
    if isinstance(error, SystemExit):
        return f"it called sys.exit({error.code!r})"
    text = str(error).strip().splitlines()
    return shown(f"{type(error).__name__}: {text[0]}", 300) if text else type(error).__name__
