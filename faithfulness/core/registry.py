"""Names for pluggable pieces: canonical spelling, aliases, near matches for what is unknown."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

from faithfulness.core.errors import InputError, unknown_name

T = TypeVar("T")


def normalize(name: str) -> str:
    """The spelling under which names are compared: `Grad-CAM`, `gradcam` and `GradCAM` are one."""
    return name.lower().replace("_", "").replace("-", "").replace(" ", "").replace("++", "pp")


class Registry(Generic[T]):
    """A mapping from names to entries. Lookup ignores case, dashes and underscores.

    Args:
        kind: what the entries are, for messages.
        package: whose modules register themselves when they are imported; that happens at the first lookup.
    """

    def __init__(self, kind: str, package: str | None = None):
        self.kind = kind
        self._package = package
        self._entries: dict[str, T] = {}
        self._spellings: dict[str, str] = {}
        self._aliases: dict[str, tuple[str, ...]] = {}

    def register(self, name: str, entry: T, aliases: Iterable[str] = ()) -> T:
        """Add `entry` under `name`; a spelling that already means something else is refused."""
        aliases = tuple(aliases)
        for spelling in (name, *aliases):
            key = normalize(spelling)
            if self._spellings.get(key, name) != name or (name in self._entries and key == name):
                raise ValueError(f"{self.kind} {spelling!r} is registered already")
        self._entries[name] = entry
        self._aliases[name] = tuple(aliases)
        self._spellings |= {normalize(spelling): name for spelling in (name, *aliases)}
        return entry

    def decorator(self, name: str, aliases: Iterable[str] = ()) -> Callable[[T], T]:
        """`register` as a decorator."""
        return lambda entry: self.register(name, entry, aliases)

    def _load(self) -> None:
        package, self._package = self._package, None
        if package:
            import_submodules(package)

    def resolve(self, name: str) -> str:
        """The canonical name of any accepted spelling."""
        self._load()
        if not isinstance(name, str):
            raise InputError(f"expected the name of a {self.kind}, got {name!r}")
        if normalize(name) not in self._spellings:
            raise unknown_name(self.kind, name, self._entries)
        return self._spellings[normalize(name)]

    def aliases(self, name: str) -> tuple[str, ...]:
        """The other spellings that an entry was registered with."""
        return self._aliases[self.resolve(name)]

    def __getitem__(self, name: str) -> T:
        return self._entries[self.resolve(name)]

    def __contains__(self, name: str) -> bool:
        self._load()
        return normalize(name) in self._spellings

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        self._load()
        return len(self._entries)


def import_submodules(package: str) -> None:
    """Import every module of a package, so that a new file registers itself and nothing is edited."""
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        if not module.name.startswith("__"):
            importlib.import_module(f"{package}.{module.name}")
