"""The folder of a training run: who may write it, and what replaces what."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only

from faithfulness.core.errors import InputError
from faithfulness.core.files import check_out

SETTINGS = "settings.json"


@rank_zero_only
def prepare_out(out: Path, settings: dict[str, Any], inputs: list[str], resume: bool, overwrite: bool) -> None:
    """Refuse a folder that isn't ours to write; on `--resume`, one whose settings differ. Nothing is changed yet."""
    recorded = out / SETTINGS
    ours = recorded.is_file()
    if resume and ours:
        before = json.loads(recorded.read_text(encoding="utf-8"))
        now = json.loads(json.dumps(settings))
        for key in sorted(before.keys() | now.keys()):
            if before.get(key) != now.get(key):
                raise InputError(
                    f"--resume with another {key}: the run in {out} has {before.get(key)!r}, asked {now.get(key)!r}"
                )
    elif resume and out.exists() and any(out.iterdir()):
        raise InputError(f"--resume: {out} holds no training run")
    elif ours and not overwrite:
        raise InputError(f"--out {out} already holds a training run; pass --resume, --overwrite, or another folder")
    else:
        check_out(out, overwrite, kind="training", inputs=inputs)
    aside = replaced_by(out)
    if aside.exists() and not (resume or overwrite):
        raise InputError(
            f"{aside} holds the run that an interrupted --overwrite was to replace; rename it to {out}, remove it, or "
            "pass --overwrite to replace it"
        )


def replaced_by(out: Path) -> Path:
    """Where the run in `out` is while another one replaces it."""
    return out.resolve().with_name(f".{out.resolve().name}.replaced")


@contextmanager
def replacing(out: Path, resume: bool) -> Iterator[None]:
    """Put the run in `out` aside, and remove it once the block has ended well.

    A block that fails before its first epoch puts it back; one that fails later leaves it aside, beside
    what there is of the new run, and says where.
    """
    aside = replaced_by(out)
    if not resume and (out / SETTINGS).is_file():
        if not aside.exists():
            out.rename(aside)
        elif (out / "training.json").is_file():
            shutil.rmtree(aside)
            out.rename(aside)
        else:  # what a replacement left that was killed; the run that it was to replace is still aside
            shutil.rmtree(out)
    try:
        yield
    except BaseException:
        if aside.exists() and not (out / "lightning" / "last.ckpt").exists():
            shutil.rmtree(out, ignore_errors=True)
            aside.rename(out)
        elif aside.exists():
            print(f"the run that {out} held before is in {aside}", file=sys.stderr)
        raise
    shutil.rmtree(aside, ignore_errors=True)
