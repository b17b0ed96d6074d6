"""Results that are no evaluation's: put together inside their folder, then in the place of an earlier one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from eval.frame.folder import check_targets, clear
from faithfulness.core.files import NEW, RECORDS, files_in, is_leftover, listed_files, write_json
from faithfulness.core.locks import LOCK


def install(out: Path, content: dict[str, Any], write: Callable[[Path], object]) -> None:
    """Put a result into its folder, in the place of an earlier one, of which the files that it lists go, and no others.

    The record says first which files are its own, old ones and new, and that it isn't finished, and only in the end
    that it is: whenever a call is killed, the next one goes on.

    Args:
        content: of the record, whose `protocol` is a key of `RECORDS`; `finished` and `files` are added.
        write: puts all other files into a folder.
    """
    record, new = out / RECORDS[content["protocol"]], out / NEW
    for name in [file.name for file in out.iterdir() if is_leftover(file.name) and file.name != LOCK]:
        clear(out / name)
    clear(new)
    new.mkdir(parents=True)
    try:
        write(new)
        made, old = files_in(new), listed_files(record)
        check_targets(out, [*made, record.name])
        begun = {name: content[name] for name in ("schema", "protocol")}
        write_json(record, begun | {"finished": False, "files": sorted({*old, *made, record.name})})
        for name in old:
            if name not in (*made, record.name) and (out / name).is_file():
                (out / name).unlink()
        for name in made:
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(new / name, out / name)
        write_json(record, content | {"finished": True, "files": sorted([*made, record.name])})
    finally:
        shutil.rmtree(new, ignore_errors=True)
    for folder in {(out / name).parent for name in old} - {out}:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
