"""Hostile files end a command with one line and status 2, and leave nothing behind; harmless ones run."""

from __future__ import annotations

import importlib
import os
import resource
import signal
import tempfile
import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from checkpoints import load_model
from difull import Compositions
from faithfulness.core import InputError
from faithfulness.data import open_data
from faithfulness.data.pictures import read_image
from tests.reference import hostile_configs, hostile_hub, hostile_pictures, hostile_tables, hostile_weights
from tests.reference.hostile import Case, checkpoint_files, lay_checkpoint

CASES = [*hostile_weights.CASES, *hostile_configs.CASES, *hostile_pictures.CASES, *hostile_tables.CASES]
CASES += hostile_hub.CASES
SECONDS, BYTES = 20, 4 << 30
AFTER_ALL = ("all corrupt and skipped", "all dangling and skipped", "mask: all void", "mask: all background")
AFTER_ALL += ("mask: a bomb, skipped", "mat: empty, skipped", "parquet: all corrupt and skipped")
"""What shows only once everything has been looked at; that is kept, as of any run that ends before its result."""


class Hangs(BaseException):
    """Nothing that a command handles."""


def everything_below(folder: Path) -> set[str]:
    return {os.path.join(root, name) for root, folders, files in os.walk(folder) for name in (*folders, *files)}


@pytest.fixture
def confined(tmp_path, monkeypatch, unchecked):
    """An empty working folder, temporary files in it too; no time to hang, and little memory more than now."""
    place = tmp_path / "place"
    (place / "temporary").mkdir(parents=True)
    monkeypatch.chdir(place)
    monkeypatch.setattr(tempfile, "tempdir", str(place / "temporary"))
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()

    def hangs(*_):
        raise Hangs(f"no end after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, hangs)
    resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, hard))
    signal.alarm(SECONDS)
    yield place
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def run(command: str, arguments: list[str], out: Path) -> int:
    module = {"training": "training.patch_finetune"}.get(command, f"eval.{command}")
    return importlib.import_module(module).main([*arguments, "--out", str(out), "--quiet"])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_hostile_file_is_refused_in_one_line_or_harmless(case: Case, confined, capfd):
    arguments = case.make(confined)
    before, out = everything_below(confined), confined / "out"
    with warnings.catch_warnings(record=True) as warned:
        status = run(case.command, arguments, out)
    created = everything_below(confined) - before
    said = capfd.readouterr().err
    if case.says:
        assert (status, said.count("\n")) == (2, 1), said
        assert case.says in said
        assert not [str(warning.message) for warning in warned]
        kept = {str(out), f"{out}/parts"} if case.name in AFTER_ALL else set()
        assert {path for path in created if os.path.dirname(path) != f"{out}/parts"} == kept
        assert bool(kept) or not created
    else:
        assert status == 0, said
        assert all(path == str(out) or path.startswith(f"{out}{os.sep}") for path in created)


@st.composite
def damages(draw, whole: bytes, reach: int):
    """Bytes of a file with some of the first `reach` flipped, or cut off, or said twice."""
    content, reach = bytearray(whole), min(reach, len(whole))
    for place in draw(st.lists(st.integers(0, reach - 1), max_size=4)):
        content[place] = draw(st.integers(0, 255))
    start, end = sorted(draw(st.tuples(st.integers(0, reach), st.integers(0, reach))))
    return draw(st.sampled_from((bytes(content), bytes(content[:end]), bytes(content[:end] + content[start:]))))


FILES = checkpoint_files()
READERS = {
    "config.json": (FILES["config.json"], 10_000, 60),
    "model.safetensors": (FILES["model.safetensors"], 9_000, 40),
    "training.json": (FILES["training.json"], 10_000, 20),
    "x.png": (hostile_pictures.PNG, 200, 150),
    "x.jpg": (hostile_pictures.JPEG, 700, 150),
    "x.parquet": (hostile_tables.WHOLE, 10_000, 150),
    "validation.parquet": (hostile_hub.WHOLE, 10_000, 150),
}
"""Name of a file -> its whole content, how many bytes are changed at most, how many examples."""


def read(path: Path) -> None:
    if path.name == "validation.parquet":
        data = open_data(f"hfds:{path.parent}")
        for index in range(len(data)):
            data.example(index)
    elif path.suffix == ".parquet":
        Compositions.load(path)
    elif path.suffix in (".png", ".jpg"):
        read_image(path)
    else:
        load_model(path.parent)


@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_read_or_refused_in_one_line(name, confined):
    whole, reach, examples = READERS[name]
    lay_checkpoint(confined, training=True)
    path = confined / "checkpoint" / name
    quick = (HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large)

    @settings(max_examples=examples, deadline=None, suppress_health_check=quick, derandomize=True, database=None)
    @given(damages(whole, reach))
    def holds(content: bytes) -> None:
        path.write_bytes(content)
        before, refusal = everything_below(confined), "read"
        try:
            read(path)
        except InputError as error:
            refusal = str(error)
        assert refusal
        assert "\n" not in refusal
        assert everything_below(confined) == before

    holds()
