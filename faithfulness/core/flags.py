"""The flags that a typed function or dataclass asks for, as its signature and its docstring describe them."""

from __future__ import annotations

import inspect
import math
import re
import types
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from docstring_parser.google import parse as parse_docstring

from faithfulness.core.errors import InputError, unknown_name

Made = TypeVar("Made")

_ONE = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}
_SEVERAL = {int: "whole numbers", float: "numbers", str: "words", Path: "paths"}


@dataclass(frozen=True)
class Flag:
    """One setting: how it is called in Python, its type, its default and what its docstring says."""

    name: str
    hint: Any
    default: Any
    help: str
    metavar: str | None = None
    required: bool = False

    @property
    def spelling(self) -> str:
        """As people type it."""
        return "--" + self.name.replace("_", "-")

    @property
    def kinds(self) -> set[Any]:
        """The plain types that it takes: {list, NoneType} for `list[str] | None`."""
        return {get_origin(member) or member for member in _members(self.hint)}

    @property
    def items(self) -> set[Any]:
        """The types of a list's items: {str} for `list[str] | None`."""
        return {item for member in _members(self.hint) if get_origin(member) is list for item in get_args(member)}

    @property
    def is_switch(self) -> bool:
        """Whether it may stand without a value."""
        return bool in self.kinds

    @property
    def is_list(self) -> bool:
        """Whether it takes several values."""
        return list in self.kinds

    @property
    def choices(self) -> list[Any]:
        """The values that it takes besides those of other types; empty unless they are told one by one."""
        return [
            choice for member in _members(self.hint) if get_origin(member) is Literal for choice in get_args(member)
        ]

    @property
    def expected(self) -> str:
        """What it takes, in words."""
        return " or ".join(_words(member) for member in _members(self.hint) if member is not type(None))

    def takes_value(self, value: Any) -> bool:
        """Whether a value is of a type that it takes, a choice that there is, a number that is finite."""
        return any(_fits(member, value) for member in _members(self.hint))

    @property
    def takes(self) -> str:
        """What help puts after the flag: nothing for a switch, N for a number, the choices where there are some."""
        if self.is_switch:
            return "" if self.default is False else " {true,false}"
        if dict in self.kinds:
            return f".KEY {self.metavar or 'VALUE'}"
        if self.is_list:
            return f" {self.metavar or '|'.join(sorted(self._placeholder(item) for item in self.items))} ..."
        members = [member for member in _members(self.hint) if member is not type(None)]
        return " " + (self.metavar or "|".join(self._placeholder(member) for member in members))

    def _placeholder(self, member: Any) -> str:
        choices = get_args(member)
        if get_origin(member) is Literal:
            return str(choices[0]) if len(choices) == 1 else "{" + ",".join(map(str, choices)) + "}"
        if member is str and isinstance(self.default, str) and len(self.kinds) > 1:
            return self.default or "TEXT"
        named = self.name.rpartition("_")[2].upper()
        return {int: "N", float: "X", Path: "PATH"}.get(member, named.removesuffix("S") if self.is_list else named)

    @property
    def shown_default(self) -> str:
        """The default as people would type it; empty where the help text has to say what happens."""
        if self.default is None or self.default is False or self.default in ("", [], {}):
            return ""
        values = self.default if isinstance(self.default, list | tuple) else [self.default]
        return " ".join(str(value).lower() if isinstance(value, bool) else str(value) for value in values)


def flags_of(options: Callable[..., Any]) -> dict[str, Flag]:
    """Name -> flag of every parameter, in their order. Help is looked up in the docstrings of base classes too."""
    hints, described, made = get_type_hints(options), _described(options), _fields(options)
    flags = {}
    for name, parameter in inspect.signature(options).parameters.items():
        required = parameter.default is parameter.empty
        default = None if required else parameter.default
        metavar = None
        if name in made and not required:
            default, metavar = _field_default(made[name]), made[name].metadata.get("metavar")
        flags[name] = Flag(name, hints.get(name, str), default, described.get(name, ""), metavar, required)
    return flags


def make_options(kind: type[Made], **flags: Any) -> Made:
    """Options from flags by name; InputError, with near matches, for one that isn't known."""
    known = flags_of(kind)
    for name in flags:
        if name not in known:
            raise unknown_name(f"option of {kind.__name__}", name, known)
    return kind(**flags)


def check_values(options: Any) -> None:
    """Raise InputError for values of another type, and for choices that there aren't.

    The command line has looked at them already; from Python, anything may come.
    """
    for flag in flags_of(type(options)).values():
        value = getattr(options, flag.name)
        if Any not in get_args(flag.hint) and not flag.takes_value(value):
            raise InputError(f"{flag.spelling}: expected {flag.expected}, got {value!r}")


def _fits(member: Any, value: Any) -> bool:
    if get_origin(member) is Literal:
        return value in get_args(member)
    if value is None or isinstance(value, bool):
        return member in (type(value), None)
    allowed = {int: Integral, float: Real, Path: str | Path, list: list | tuple}
    kind = get_origin(member) or member
    if kind is float and isinstance(value, float) and not math.isfinite(value):
        return False
    return isinstance(value, allowed.get(kind, kind))


def groups_of(options: Callable[..., Any], command: str) -> dict[str, list[Flag]]:
    """Heading -> flags: those that no group of `GROUPS` names stand first, under the command's own name."""
    flags = flags_of(options)
    groups: dict[str, tuple[str, ...]] = getattr(options, "GROUPS", {})
    grouped = {name.replace("-", "_") for names in groups.values() for name in names}
    found = {command: [flag for name, flag in flags.items() if name not in grouped]}
    for heading, names in groups.items():
        keys = [name.replace("-", "_") for name in names]
        found.setdefault(heading, []).extend(flags[key] for key in keys if key in flags)
    return {heading: members for heading, members in found.items() if members}


def description_of(options: Callable[..., Any]) -> str:
    """The first paragraph of the docstring."""
    return " ".join((inspect.getdoc(options) or "").partition("\n\n")[0].split())


def example_of(options: Callable[..., Any]) -> str:
    """The `Example:` section of the docstring, as written; empty without one."""
    found = re.search(r"^Examples?:\n((?:[ \t]+.*\n|[ \t]*\n)+)", (inspect.getdoc(options) or "") + "\n", re.MULTILINE)
    return inspect.cleandoc("\n" + found[1]) if found else ""


def _described(options: Callable[..., Any]) -> dict[str, str]:
    classes = reversed(options.__mro__) if inspect.isclass(options) else [options]
    return {
        parameter.arg_name: " ".join((parameter.description or "").split())
        for entry in classes
        for parameter in parse_docstring(entry.__doc__ or "").params
    }


def _fields(options: Any) -> dict[str, Field[Any]]:
    return {field.name: field for field in fields(options)} if is_dataclass(options) else {}


def _field_default(field: Field[Any]) -> Any:
    if field.default_factory is not MISSING:
        return field.default_factory()
    return None if field.default is MISSING else field.default


def _members(hint: Any) -> tuple[Any, ...]:
    """The types of a union; without Any, as of `str | Any`: objects come from Python, words from a command line."""
    members = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return tuple(member for member in members if member is not Any) or members


def _words(member: Any) -> str:
    if get_origin(member) is Literal:
        choices = [str(choice) for choice in get_args(member)]
        return choices[0] if len(choices) == 1 else f"one of {', '.join(choices)}"
    if get_origin(member) is list:
        return " or ".join(_SEVERAL.get(item, f"a list, each {_words(item)}") for item in get_args(member))
    if (get_origin(member) or member) is dict:
        return "KEY VALUE pairs"
    return _ONE.get(member, getattr(member, "__name__", str(member)))
