"""Runs that are killed at random moments and resumed, against ones that weren't.

    python -m benchmarks.kills --out runs/kills                  # one process, 20 kills
    python -m benchmarks.kills --out runs/kills --processes 2    # either of two processes, or both at once
    python -m benchmarks.kills --out runs/kills --kind scoring   # an evaluation instead of a training

A run is begun, killed after a random time by SIGKILL, resumed, killed again, and so on, until it ends; then the next
one begins. What each leaves must be, byte for byte, what a run leaves that nobody disturbed.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from faithfulness.core.cli import run_command
from faithfulness.core.errors import InputError
from faithfulness.core.tables import format_table

_TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}|\..*lock")
_PATIENCE = 60.0
"""Seconds after which a process that should have ended counts as one that hangs."""
_EARLIEST = 0.3
"""Share of an undisturbed run's time before which no kill falls: Python imports then."""


class Kind(NamedTuple):
    """A kind of run: its command without --out, what of its folder must be the same, and how it is gone on with."""

    command: Callable[[int, int], list[str]]
    content: Callable[[Path], dict[str, Any]]
    resume: tuple[str, ...] = ()


def training_command(processes: int, workers: int) -> list[str]:
    """Three epochs of a small network on embedded data."""
    words = ["--model", "test_convnext", "--train-images", "256", "--val-images", "64", "--batch-size", "16"]
    words += ["--epochs", "3", "--accelerator", "cpu", "--devices", str(processes), "--workers", str(workers)]
    return ["training.patch_finetune", *words, "--quiet"]


def training_content(folder: Path) -> dict[str, Any]:
    """Weights, config, records of training and of deletions, the table of epochs but for its times.

    The model card has the folder as its title, and the environment the commit, which may have moved in between.
    """
    import pandas as pd

    from training.epochs import LOGS, TABLE, TIMES

    names = ("model.safetensors", "config.json", "training.json")
    paths = [folder / part / name for part in ("", "last") for name in names]
    content: dict[str, Any] = {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in [*paths, *sorted((folder / "deletions").glob("*.parquet"))]
    }
    table = folder / LOGS / TABLE
    for part in ("", "last/"):
        if record := content[f"{part}training.json"]:
            content[f"{part}training.json"] = {**json.loads(record), "environment": None}
    content[TABLE] = pd.read_csv(table).drop(columns=list(TIMES)).to_csv() if table.is_file() else None
    return content


def scoring_command(processes: int, workers: int) -> list[str]:
    """Some thirty batches of a small network, three methods and two controls."""
    words = ["--model", "timm:test_convnext", "--protocol", "single", "--limit", "256", "--batch-size", "8"]
    words += ["--attributions", "ig(steps=50)", "ixg-sg(samples=20)", "rise(masks=100)"]
    return [
        "eval.idsds",
        *words,
        "--accelerator",
        "cpu",
        "--devices",
        str(processes),
        "--workers",
        str(workers),
        "--quiet",
    ]


def scoring_content(folder: Path) -> dict[str, Any]:
    """All files of the result; of the summary neither times nor how it was started."""
    content: dict[str, Any] = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "parts" not in path.relative_to(folder).parts
    }
    if "summary.json" in content:
        summary = json.loads(content["summary.json"])
        for score in summary["scores"]:
            del score["seconds"]
        content["summary.json"] = {name: value for name, value in summary.items() if name != "command"}
    return content


KINDS = {
    "training": Kind(training_command, training_content, ("--resume",)),
    "scoring": Kind(scoring_command, scoring_content),
}


def differences(kind: str, folder: Path, whole: Path) -> list[str]:
    """Names of what differs between two runs."""
    found, wanted = KINDS[kind].content(folder), KINDS[kind].content(whole)
    return sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))


def leftovers(folder: Path) -> list[str]:
    """Temporary names in a run's folder and beside it."""
    beside = [path for path in folder.parent.iterdir() if path.name.startswith(f".{folder.name}.")]
    return sorted(str(path) for path in [*beside, *folder.rglob(".*")] if _TEMPORARY.fullmatch(path.name))


@dataclass
class Trial:
    """Runs of one kind in a folder.

    Attributes:
        kills, runs: how many there were. `problems`: what was found, in words.
    """

    out: Path
    kind: str
    processes: int
    workers: int
    draw: random.Random
    kills: int = 0
    runs: int = 0

    def __post_init__(self) -> None:
        self.problems: list[str] = []
        self.reasons: list[str] = []

    def start(self, folder: Path, *more: str) -> subprocess.Popen[bytes]:
        """The run, in a session of its own, so that none of its processes is missed."""
        command = [sys.executable, "-m", *KINDS[self.kind].command(self.processes, self.workers)]
        with self.errors.open("wb") as errors:
            return subprocess.Popen(
                [*command, "--out", str(folder), *more],
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
            )

    @property
    def errors(self) -> Path:
        """What the run at work has said."""
        return self.out / "errors.txt"

    def said(self) -> str:
        """The last of it, without Python's remark that it has cleaned up after a process which could not."""
        text = self.errors.read_text(encoding="utf-8", errors="replace")
        return "\n".join(line for line in text.splitlines() if "resource_tracker" not in line)[-300:]

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """One of its processes, or all; the others have a minute to end."""
        others = children(process.pid)
        victims = self.draw.choice([[process.pid], *([pid] for pid in others), [process.pid, *others]])
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
        self.kills += 1
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self.problems.append(f"kill {self.kills}: the first process went on for a minute")
            process.kill()
            process.wait()
        deadline = time.monotonic() + _PATIENCE
        while (left := group_lives(process.pid)) and time.monotonic() < deadline:
            time.sleep(0.1)
        if left:
            self.problems.append(f"kill {self.kills}: another process went on for a minute")
            os.killpg(process.pid, signal.SIGKILL)
        if process.pid not in victims:
            self.reasons.append(self.said())
            if self.said().count("\n"):
                self.problems.append(f"kill {self.kills}: more than one line: {self.said()}")

    def run(self, kills: int) -> None:
        """So many kills, in as many runs as that takes, each compared with an undisturbed one."""
        whole = self.out / "whole"
        begin = time.monotonic()
        process = self.start(whole)
        if process.wait():
            raise InputError(f"the undisturbed run failed: {self.said()}")
        lasts = time.monotonic() - begin
        while self.kills < kills:
            folder = self.out / f"run{self.runs}"
            self.runs += 1
            while True:
                process = self.start(folder, *KINDS[self.kind].resume)
                if self.kills >= kills:
                    process.wait()
                    break
                try:
                    process.wait(self.draw.uniform(_EARLIEST, 1.0) * lasts)
                    break
                except subprocess.TimeoutExpired:
                    self.kill(process)
            if process.returncode:
                self.problems.append(f"run {self.runs} ended with status {process.returncode}: {self.said()}")
            found = [f"run {self.runs}: {name} differs" for name in differences(self.kind, folder, whole)]
            self.problems += found + [f"run {self.runs}: {name} is left" for name in leftovers(folder)]


def children(pid: int) -> list[int]:
    """The processes of a run that its first one started; not loaders' workers, nor what keeps their resources."""
    own = command_line(pid)
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    except OSError:
        return []
    return [child for child in map(int, text.split()) if command_line(child) == own]


def command_line(pid: int) -> bytes:
    """Its words; empty where it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def group_lives(group: int) -> bool:
    """Whether any process of a run is there, loaders' workers too."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def kills(
    out: Path = Path("runs/kills"),
    kind: Literal["training", "scoring"] = "training",
    kills: int = 20,
    processes: int = 1,
    workers: int = 1,
    seed: int = 0,
) -> int:
    """Kill runs at random moments, resume them, and compare what they leave.

    Args:
        out: folder for the runs; must not exist.
        kind: what is run.
        kills: how many.
        processes: of each run.
        workers: loader processes.
        seed: of the moments.
    """
    if out.exists():
        raise InputError(f"--out {out} exists; choose another folder")
    trial = Trial(out.resolve(), kind, processes, workers, random.Random(seed))
    out.mkdir(parents=True)
    trial.run(kills)
    compared = sorted(KINDS[kind].content(trial.out / "whole"))
    rows = [
        ("kills", str(trial.kills)),
        ("runs compared", str(trial.runs)),
        ("files each", str(len(compared))),
        ("problems", str(len(trial.problems))),
    ]
    print(format_table((f"{kind}, {processes} process{'es' * (processes > 1)}, {workers} workers", ""), rows))
    print(f"compared: {', '.join(compared)}")
    for line in [*trial.problems, *(f"said: {reason}" for reason in trial.reasons)]:
        print(line)
    (out / "result.json").write_text(json.dumps({**dict(rows), "found": trial.problems}, indent=2), encoding="utf-8")
    for number in range(trial.runs):
        if not trial.problems:
            shutil.rmtree(out / f"run{number}", ignore_errors=True)
    return 1 if trial.problems else 0


if __name__ == "__main__":
    sys.exit(run_command(kills))
