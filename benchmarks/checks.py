"""What benchmarks refuse before they measure anything."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from faithfulness.core.checks import check_count
from faithfulness.core.errors import InputError
from faithfulness.core.locks import locked


def check_numbers(seed: int, **numbers: int | None) -> None:
    """Raise InputError for a seed that is none, and for a number below 1; None is one that isn't given."""
    check_count("--seed", seed, least=0)
    for name, value in numbers.items():
        if value is not None:
            check_count(f"--{name.replace('_', '-')}", value)


@contextmanager
def measuring(out: Path | None, name: str) -> Iterator[None]:
    """Around measurements that end in `out`: a folder that can be written, where no other process measures the same.

    Raises InputError at once where it isn't: a measurement takes long, and would be lost.
    """
    if out is None:
        yield
        return
    there = next(each for each in (out, *out.resolve().parents) if each.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise InputError(f"--out {out}: {there} is no folder that can be written")
    with locked(out, f".{name}.lock"):
        yield
