"""The console command: `faithfulness idsds …` is `python -m eval.idsds …`, from whatever folder."""

from __future__ import annotations

import ast
import importlib
import shutil
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from faithfulness.core.errors import near_matches, shown
from faithfulness.core.shadows import ROOT, command_name, refuse_shadows

PACKAGES = {
    "eval": ("evaluate", "*.py"),
    "training": ("train", "*_finetune.py"),
    "checkpoints": ("exchange checkpoints", "*.py"),
}
"""Package of commands -> its heading in help, and its files that may be commands."""
_WAY_OUT = "rename it, or take its folder off PYTHONPATH"


@dataclass(frozen=True)
class Command:
    """A module with a function `main`, and the first line of its docstring."""

    name: str
    package: str
    module: str
    summary: str


def _names(node: ast.stmt) -> str | None:
    """The name that a statement gives a function or a value."""
    if isinstance(node, ast.FunctionDef):
        return node.name
    target = node.targets[0] if isinstance(node, ast.Assign) else None
    return target.id if isinstance(target, ast.Name) else None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status."""
    name, *rest = (sys.argv[1:] if arguments is None else list(arguments)) or ["--help"]
    commands = find_commands()
    if name in ("-h", "--help"):
        print(overview(commands), end="")
        return 0
    if name == "--version":
        print(f"faithfulness {_version()}")
        return 0
    if name not in commands:
        near = near_matches(name, commands)
        hint = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(commands)}"
        print(f"error: unknown command {shown(repr(name), 100)}; {hint}", file=sys.stderr)
        return 2
    return run(commands[name], rest)


def run(command: Command, arguments: Sequence[str]) -> int:
    """Import the module of one command, and nothing of the others, and call its `main`."""
    refuse_shadows(command.package, _WAY_OUT)
    from faithfulness.core.cli import called_as

    with called_as(f"{_prog()} {command.name}"):
        return importlib.import_module(f"{command.package}.{command.module}").main(arguments)


def find_commands(root: Path = ROOT) -> dict[str, Command]:
    """Name -> command, of every module that defines `main`; they are read, not imported."""
    commands = {}
    for package, (_, pattern) in PACKAGES.items():
        for file in sorted((root / package).glob(pattern)):
            tree = ast.parse(file.read_text(encoding="utf-8"))
            if any(_names(node) == "main" for node in tree.body):
                name = command_name(package, file.stem)
                summary = (ast.get_docstring(tree) or "").partition("\n")[0]
                commands[name] = Command(name, package, file.stem, summary)
    return commands


def overview(commands: dict[str, Command]) -> str:
    """What `faithfulness --help` shows."""
    from faithfulness import __doc__ as what
    from faithfulness.core.help import entries_text

    width = min(max(shutil.get_terminal_size((100, 24)).columns, 60), 100)
    parts = [f"usage: {_prog()} COMMAND [--flag value ...]", textwrap.fill(what or "", width)]
    for package, (heading, _) in PACKAGES.items():
        entries = {command.name: command.summary for command in commands.values() if command.package == package}
        if entries:
            parts.append(f"{heading}:\n{entries_text(entries, width)}")
    parts.append(f"{_prog()} COMMAND --help shows the flags of a command, --version what is installed.")
    return "\n\n".join(parts) + "\n"


def _prog() -> str:
    main = getattr(sys.modules.get("__main__"), "__spec__", None)
    return "python -m faithfulness" if main and main.name == "faithfulness.__main__" else "faithfulness"


def _version() -> str:
    try:
        return version("faithfulness")
    except PackageNotFoundError:
        return "(not installed)"


if __name__ == "__main__":
    sys.exit(main())
