"""Put the shards of an evaluation together, and write its result."""

from __future__ import annotations

import filecmp
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from faithfulness.core.cli import run_command
from faithfulness.core.errors import InputError
from faithfulness.core.files import PARTS, atomic_file, check_out
from faithfulness.core.flags import check_values, make_options
from faithfulness.core.plugin_files import is_in_file

if TYPE_CHECKING:
    from eval.frame import Command
    from eval.frame.folder import RunRecord


@dataclass(kw_only=True)
class MergeOptions:
    """Put the shards of an evaluation together, and write its result.

    Args:
        out: the folder that the shards wrote to, or one into which those of --parts are gathered.
        parts: folders of the shards, where they don't share one.
        own_code: run the files of code that the shards were computed with.
        quiet: say nothing until the end.

    Example:
        python -m eval.merge --out runs/idsds/resnet50
        python -m eval.merge --out runs/all --parts runs/shard1 runs/shard2
    """

    GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {}

    out: Path
    parts: list[Path] | None = None
    own_code: bool = False
    quiet: bool = False


def merge(options: MergeOptions) -> int:
    """Gather, check that nothing is missing, write and show the result; returns the exit status."""
    check_values(options)
    out = Path(options.out).expanduser()
    folders = [Path(folder).expanduser() for folder in options.parts or [out]]
    record = common_record(folders)
    if options.parts:
        check_out(out, kind=record.protocol, inputs=folders, goes_on=True)
        gather(folders, out, record)
    command = command_of(record)
    flags = {name: value for name, value in record.options.items() if name != "shard"}
    code = [
        text for value in flags.values() for text in (value if isinstance(value, list) else [value]) if is_in_file(text)
    ]
    if code and not options.own_code:
        raise InputError(f"the run is made with the code in {', '.join(code)}; pass --own-code to run that")
    here = {"out": out, "overwrite": False, "quiet": options.quiet, "devices": 1, "num_nodes": 1, "accelerator": "auto"}
    own = make_options(command.options, **flags | here)
    result = command.carry_out(own, line=record.command, complete=True)
    return 0 if result is None else command.show(result)


def common_record(folders: Sequence[Path]) -> RunRecord:
    """What the shards say they are of; InputError unless that is one run."""
    from eval.frame.folder import RunRecord
    from eval.frame.identity import differences

    found = []
    for folder in folders:
        record = RunRecord.read(folder)
        if record is None:
            raise InputError(
                f"{folder} holds no parts of an evaluation ({PARTS}/run.json); expected what --shard wrote"
            )
        found.append(record)
    for folder, record in zip(folders, found, strict=True):
        other = differences(found[0].settings, record.settings)
        other += [name for name in ("methods", "attempt") if getattr(record, name) != getattr(found[0], name)]
        if record.protocol != found[0].protocol or other:
            raise InputError(f"{folder} is of another run than {folders[0]}: {'; '.join(other[:3]) or record.protocol}")
    return found[0]


def gather(folders: Sequence[Path], out: Path, record: RunRecord) -> None:
    """Copy the parts of all folders into one; InputError if that one is another run's, or looked at more methods."""
    from eval.frame.folder import RunRecord, begin, writing

    with writing(out, None):
        before = RunRecord.read(out)
        if before is not None and before.attempt != record.attempt:
            raise InputError(f"--out {out} was overwritten since, and the shards weren't; choose another folder")
        begin(out, replace(record, finished=False), overwrite=False)
        for file in (file for folder in folders for file in sorted((folder / PARTS).glob("*.parts"))):
            target = out / PARTS / file.name
            while target.exists() and not filecmp.cmp(file, target, shallow=False):  # one of the two may be damaged
                target = target.with_name(f"{target.stem}x{target.suffix}")
            with atomic_file(target) as temporary:
                shutil.copyfile(file, temporary)


def command_of(record: RunRecord) -> Command:
    """The command whose run it is."""
    name = record.protocol
    known = {file.stem for file in Path(__file__).parent.glob("[a-z]*.py")}
    found = import_module(f"eval.{name}") if re.fullmatch(r"[a-z_]+", name) and name in known else None
    if not hasattr(found, "COMMAND"):
        raise InputError(f"unknown protocol {name!r} in run.json")
    return found.COMMAND  # type: ignore[union-attr]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    return run_command(MergeOptions, merge, arguments)


if __name__ == "__main__":
    sys.exit(main())
