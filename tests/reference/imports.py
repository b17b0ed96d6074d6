"""What the modules of the suite import, read from their syntax trees: nothing is imported."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("faithfulness", "idsds", "difull", "dea", "checkpoints", "training", "eval")


@dataclass(frozen=True)
class Import:
    """One import: who, in which line, what module, and which name of it ("" for the module itself)."""

    importer: str
    line: int
    module: str
    name: str = ""

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.module}" + (f".{self.name}" if self.name else "")


class Tree:
    """All modules under a folder."""

    def __init__(self, root: Path = ROOT, packages: tuple[str, ...] = PACKAGES):
        self.root = root
        files = [file for package in packages for file in sorted((root / package).rglob("*.py"))]
        self.modules = {_dotted(file.relative_to(root)): file for file in files}
        self.imports = [found for module, file in self.modules.items() for found in self._read(module, file)]

    def _read(self, module: str, file: Path) -> list[Import]:
        """Every import, also those inside functions and those for type checkers alone."""
        package = module if file.name == "__init__.py" else module.rpartition(".")[0]
        found = []
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                found += [Import(module, node.lineno, alias.name) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                source = _absolute(package, node.level, node.module)
                found += [self._resolve(module, node.lineno, source, alias.name) for alias in node.names]
        return found

    def _resolve(self, importer: str, line: int, source: str, name: str) -> Import:
        """The module that a name comes from: a submodule, or what a lazy package's stub says."""
        if f"{source}.{name}" in self.modules:
            return Import(importer, line, f"{source}.{name}")
        if name in (stub := self._stub(source)):
            return self._resolve(importer, line, stub[name], name)
        return Import(importer, line, source, name)

    @cache  # noqa: B019 - a tree lives as long as its test
    def _stub(self, package: str) -> dict[str, str]:
        file = self.root / package.replace(".", "/") / "__init__.pyi"
        if not file.is_file():
            return {}
        nodes = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ImportFrom)]
        return {alias.name: _absolute(package, node.level, node.module) for node in nodes for alias in node.names}

    def own(self) -> list[Import]:
        """The imports of modules of this tree."""
        tops = {module.partition(".")[0] for module in self.modules}
        return [found for found in self.imports if found.module.partition(".")[0] in tops]

    def cycle(self) -> list[str]:
        """A circle of modules that import each other, or nothing."""
        edges: dict[str, set[str]] = {module: set() for module in self.modules}
        for found in self.own():
            if found.module in edges and found.module != found.importer:
                edges[found.importer].add(found.module)
        while leaves := [module for module, targets in edges.items() if not targets & edges.keys()]:
            for module in leaves:
                del edges[module]
        if not edges:
            return []
        path = [next(iter(edges))]
        while len(set(path)) == len(path):
            path.append(min(edges[path[-1]] & edges.keys()))
        return path[path.index(path[-1]) :]


def _dotted(file: Path) -> str:
    return ".".join(file.with_suffix("").parts).removesuffix(".__init__")


def _absolute(package: str, level: int, module: str | None) -> str:
    if not level:
        return module or ""
    base = package.split(".")[: len(package.split(".")) - level + 1]
    return ".".join([*base, *([module] if module else [])])
