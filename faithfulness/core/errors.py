"""The one exception that stands for a user's mistake, and the 'did you mean' of unknown names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Input that the suite refuses. Its message is one line: what was expected, what came."""


def near_matches(name: str, known: Iterable[str]) -> list[str]:
    """At most three names that begin with `name`, or look like it."""
    known = sorted(known)
    begun = [other for other in known if name and other.startswith(name)]
    alike = [other for other in difflib.get_close_matches(name, known, n=3, cutoff=0.5) if other not in begun]
    return (begun + alike)[:3]


def unknown_name(kind: str, name: str, known: Iterable[str]) -> InputError:
    """The error for a name that is not registered, with its nearest neighbors among `known`."""
    known = sorted(known)
    near = near_matches(name, known)
    hint = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(known[:40])}"
    return InputError(f"unknown {kind} {name!r}; {hint}")
