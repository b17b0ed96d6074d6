"""The YAML file of `--config`: read whole or refused, however it is made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import get_loader

from faithfulness.core.errors import InputError, shown, unknown_name

LARGEST_FILE = 1 << 20
"""Bytes; settings take some thousand."""
LARGEST_CONTENT = 100_000
"""Values, with each reference counted as all that it stands for."""


def read_settings(known: Mapping[str, Any], file: str) -> dict[str, Any]:
    """The settings in a YAML file, by their names in Python; dashes are as good as underscores.

    Raises InputError for what isn't a file of `setting: value` lines, each setting once and known.
    """
    text = _read(file)
    try:
        root = yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        _count(root, file)
        settings = get_loader("yaml")(text) or {}
    except InputError:
        raise
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        # ValueError: 2001-02-31, a number of 5000 digits; TypeError: a lone question mark, in jsonargparse
        raise InputError(f"--config {file} is not YAML: {shown(str(error))}") from error
    if not isinstance(settings, dict):
        raise InputError(f"--config {file}: expected lines `setting: value`, got {shown(repr(settings), 60)}")
    found: dict[str, Any] = {}
    for name, value in settings.items():
        key = str(name).replace("-", "_")
        if key not in known:
            raise InputError(f"--config {file}: {unknown_name('setting', key, known)}")
        if key in found:
            raise InputError(f"--config {file}: {key} stands there twice")
        found[key] = value
    return found


def _read(file: str) -> str:
    try:
        path = Path(file).expanduser()
        if path.exists() and not path.is_dir() and not path.is_file():
            raise InputError(f"--config {file}: expected a file, got a pipe or a device")
        if path.is_file() and path.stat().st_size > LARGEST_FILE:
            raise InputError(f"--config {file}: expected at most {LARGEST_FILE} bytes, got {path.stat().st_size}")
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"--config {file}: {(error.strerror or str(error)).lower()}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"--config {file} is not YAML: {shown(str(error))}") from error
    except (ValueError, RuntimeError) as error:  # a NUL in the name, no home folder
        raise InputError(f"--config {file}: {error}") from error


def _count(root: yaml.Node | None, file: str) -> None:
    """Refuse keys given twice, references within themselves, and those that stand for endless content."""
    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()
    work: list[tuple[yaml.Node, bool]] = [] if root is None else [(root, False)]
    while work:
        node, done = work.pop()
        parts = _parts(node)
        if done:
            open_nodes.discard(id(node))
            sizes[id(node)] = 1 + sum(sizes[id(part)] for part in parts)
            if sizes[id(node)] > LARGEST_CONTENT:
                raise InputError(f"--config {file}: its references stand for over {LARGEST_CONTENT} values")
        elif id(node) in open_nodes:
            raise InputError(f"--config {file}: a reference lies within what it refers to{_line(node)}")
        elif id(node) not in sizes:
            _refuse_twice(node, file)
            open_nodes.add(id(node))
            work += [(node, True), *((part, False) for part in parts)]


def _parts(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _refuse_twice(node: yaml.Node, file: str) -> None:
    if not isinstance(node, yaml.MappingNode):
        return
    keys = [key.value for key, _ in node.value if isinstance(key.value, str)]
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise InputError(f"--config {file}: {twice} stands there twice{_line(node)}")


def _line(node: yaml.Node) -> str:
    return f" (line {node.start_mark.line + 1})" if node.start_mark else ""
