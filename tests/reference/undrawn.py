"""Evaluations without pictures, which take longest: a picture is a file with a word in it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from eval.frame.session import Session


def write_words(session: Session, outcome: Any, plots: Path) -> None:
    """Stands in for `Session.draw`: the same files, and nothing in them."""
    for name in outcome.pictures:
        for kind in dict.fromkeys(session.run.options.format):
            path = plots / f"{name}.{kind}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"drawn")


@contextmanager
def undrawn() -> Iterator[None]:
    """No picture is drawn inside the block."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "draw", write_words)
        yield
