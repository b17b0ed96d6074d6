"""What an earlier call has made: from which settings, and by which commits of this suite."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faithfulness.core.errors import InputError
from faithfulness.core.files import write_json
from faithfulness.core.results import commit


@dataclass
class Steps:
    """The steps of a study, each made once.

    Attributes:
        out: folder of all that is made; `steps/` below it says how. commits: step -> the commits that worked on it.
    """

    out: Path
    commits: dict[str, list[str]] = field(default_factory=dict)

    def once(self, key: str, given: Mapping[str, Any], made: Path, make: Callable[[], object]) -> None:
        """Call `make`, unless an earlier call did so and left the file `made`.

        Args:
            key: name of the step. given: all that it depends on, as JSON.
        Raises:
            InputError: it was made, or begun, with something else.
        """
        file = self.out / "steps" / f"{key}.json"
        wanted = json.loads(json.dumps(given))
        before = _read(file) if file.is_file() else {"given": wanted, "commits": [], "done": False}
        for name in sorted({*before["given"], *wanted}):
            had, asked = before["given"].get(name), wanted.get(name)
            if had != asked:
                raise InputError(f"{self.out} has {key} with {name} {had!r}, asked {asked!r}; pass another --out")
        if not (before["done"] and made.is_file()):
            before |= {"commits": list(dict.fromkeys([*before["commits"], commit()])), "done": False}
            write_json(file, before)
            make()
            write_json(file, before | {"done": True})
        self.commits[key] = before["commits"]


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return {"given": dict(found["given"]), "commits": list(found["commits"]), "done": bool(found["done"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} doesn't say how a step was made; pass another --out") from error


def weights_of(checkpoint: Path) -> str:
    """The digest of a checkpoint's weights, by which what depends on them is known."""
    return json.loads((checkpoint / "training.json").read_text(encoding="utf-8"))["sha256"]
