"""`python -m benchmarks.scaling`: its sweeps, what it makes of them, and one file for parts that are run alone."""

import contextlib
import io
import json
import subprocess
import sys
import threading

import numpy as np
import pytest

from benchmarks import scaling, scored
from eval.frame import Part
from faithfulness.core import InputError
from faithfulness.core.cli import run_command

NAME = "scaling-digits-resnet10t-cpu.json"


@pytest.fixture
def in_here(monkeypatch):
    """Calls are made in this process: to start one takes seconds."""

    def start(words, threads):
        assert words[0] == "benchmarks.scored"
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            assert run_command(scored.main, arguments=words[1:]) == 0
        return printed.getvalue()

    monkeypatch.setattr(scaling, "start", start)


def test_sweeps_and_parts_that_are_run_alone(in_here, tmp_path, capsys):
    scaling.main(only=["images", "methods"], images=[2, 3], methods=[1, 2], sample=2, out=tmp_path)
    first = json.loads((tmp_path / NAME).read_text())
    assert list(first) == ["images", "methods"]
    assert "images, 8 methods" in capsys.readouterr().out
    scaling.main(only=["cells"], grids=[2, 8], sample=3, out=tmp_path)
    second = json.loads((tmp_path / NAME).read_text())
    assert second == first | {"cells": second["cells"]}
    assert (first["methods"]["settings"]["sample"], second["cells"]["settings"]["sample"]) == (2, 3)
    rows = [*second["images"]["methods"]["8"]["rows"], *second["methods"]["rows"], *second["cells"]["rows"]]
    sizes = [(row["images"], row["methods"], row["grid"]) for row in rows]
    assert sizes == [(2, 8, 4), (3, 8, 4), (2, 1, 4), (2, 2, 4), (3, 1, 2), (3, 1, 8)]
    assert all(row["seconds"] > row["summary_seconds"] > 0 and row["peak_bytes"] > 0 for row in rows)


def test_memory_is_told_by_image_and_by_method():
    def call(images, methods):
        bytes_ = 1000 + images * (50 + 7 * methods)
        return {"seconds": 1.0 * images, "summary_seconds": 0.1, "peak_bytes": bytes_, "table_bytes": 0}

    memory = scaling.against_images(call, [10, 20, 40])["memory"]["peak_bytes"]
    assert memory == {"per_image": {"1": 57.0, "8": 106.0}, "per_image_and_method": 7.0}


def test_what_a_part_holds_is_counted():
    part = Part()
    part.add("scores", index=np.arange(1000), value=np.zeros(1000)[::2].repeat(2), name="a", layer="b")
    assert 16_000 < scored.bytes_of(part) < 17_000
    part.add("scores", index=np.arange(1000)[:2], value=np.zeros(2), name="a", layer="b")
    assert 24_000 < scored.bytes_of(part) < 26_000  # of a slice the whole array stays


def test_growth_is_told_from_a_line():
    sizes = [4, 16, 64]
    for power, faster in ((1, 0), (2, 1)):
        rows = [{"seconds": 3 + 0.1 * n**power, "summary_seconds": 0.5 + 0.01 * n} for n in sizes]
        sweep = scaling.over("method", rows, sizes)
        assert sweep["growth"] == pytest.approx(1 if power == 1 else (64 + 16) / (16 + 4))
        assert scaling.growth_text("methods", "method", sweep).count("faster than linear") == faster
    assert scaling.growth([1, 2], [1, 2]) is None


def test_several_processes_against_one(monkeypatch, capsys, tmp_path):
    """A start of 10 s, and 1 s per image, which two processes share; two commands at once take half as long again."""
    calls, at_once = [], threading.Barrier(2)

    def wall(words, threads):
        calls.append(words)
        count, images = (int(words[words.index(flag) + 1]) for flag in ("--devices", "--limit"))
        apart = len(calls) > 4
        if apart:
            at_once.wait(10)
        return (10 + images / count) * (1.5 if apart else 1), [0.5]

    monkeypatch.setattr(scaling, "wall", wall)
    monkeypatch.setattr("faithfulness.core.hardware.processors", lambda: 2)
    scaling.main(only=["processes"], share=40, attributions=["ixg"], out=tmp_path)
    found = json.loads((tmp_path / NAME).read_text())["processes"]
    assert found["speedup"] == pytest.approx(50 / 30)
    assert found["speedup_of_scoring"] == pytest.approx(2)
    assert found["machine"] == pytest.approx(2 / 1.5)
    assert found["same_means"]
    said = capsys.readouterr().out
    assert "1.67 times as fast" in said
    assert "score 1.33 times as much as one" in said
    assert {words[0] for words in calls} == {"eval.idsds"}
    with pytest.raises(InputError, match="the 2 processors here, got 3"):
        scaling.main(only=["processes"], devices=3)


@pytest.mark.parametrize("flags", [{"images": [4, 2]}, {"methods": [3]}, {"grids": [0, 2]}, {"sample": 0}])
def test_sizes_that_show_nothing_are_refused(flags):
    with pytest.raises(InputError, match=f"--{next(iter(flags))}"):
        scaling.main(**flags)


def test_a_call_that_fails_is_told():
    with pytest.raises(InputError, match=r"benchmarks.scaling ended with status 2: unknown flag --image; did you mean"):
        scaling.start(["benchmarks.scaling", "--image", "3"], 1)


def test_the_peak_is_this_process_s_and_stays():
    # In a process of its own: what another test has freed may still be resident in this one, and go at any time.
    words = [
        "import numpy as np",
        "from benchmarks.scored import peak_memory",
        "before = peak_memory()",
        "more = np.ones(400 << 20, dtype=np.uint8)",
        "del more",
        "print(peak_memory() - before)",
    ]
    run = subprocess.run([sys.executable, "-c", "\n".join(words)], capture_output=True, text=True, check=True)
    assert 350 << 20 < int(run.stdout) < 450 << 20
