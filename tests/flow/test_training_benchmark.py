"""`benchmarks.training`: what it counts as whose time, and what it writes."""

import json
import time

import pytest
from PIL import Image

from benchmarks.training import main, write_photographs
from faithfulness.core import InputError
from faithfulness.data.loading import KeyedSamples
from training.module import PatchFineTuner

SLOW = 0.06


def busy():
    """On the processor, which is what the clock is of."""
    end = time.process_time() + SLOW
    while time.process_time() < end:
        pass


def test_each_loop_is_timed_by_itself(tmp_path, monkeypatch):
    """A slow step is ours alone; a slow reader is ours and the loader's, and is taken off again."""
    flags = {"model": "test_convnext", "input_size": 32, "batch_size": 4, "steps": 2, "rounds": 1}
    step, read = PatchFineTuner.training_step, KeyedSamples.__getitems__

    def slow_step(self, batch, number):
        busy()
        return step(self, batch, number)

    def slow_read(self, keys):
        busy()
        return read(self, keys)

    monkeypatch.setattr(PatchFineTuner, "training_step", slow_step)
    monkeypatch.setattr(KeyedSamples, "__getitems__", slow_read)
    main(**flags, out=tmp_path)
    found = json.loads((tmp_path / "training-test_convnext-cpu.json").read_text())
    seconds = found["seconds_per_step"]
    assert seconds["ours"] > 2 * SLOW > 2 * seconds["bare"]
    assert 2 * SLOW > seconds["loader"] > SLOW
    assert found["over_bare"] == pytest.approx(seconds["ours"] / seconds["bare"])
    assert found["over_bare_without_reading"] < found["over_bare"] - SLOW / seconds["bare"] / 2
    assert found["images_per_second"]["ours"] == pytest.approx(4 / seconds["ours"])
    assert found["settings"] | {"out": None} == found["settings"] | flags | {"out": None}
    assert found["device"] == "cpu"


def test_photographs_are_of_imagenets_form(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.training.DISTINCT", 4)
    write_photographs(tmp_path, 12, 7, seed=0)
    paths = sorted(tmp_path.rglob("*.jpg"))
    assert len(paths) == 19
    assert len({path.stat().st_ino for path in paths}) == 4
    assert 80_000 < paths[0].stat().st_size < 140_000
    with Image.open(paths[0]) as picture:
        assert (picture.format, picture.size, picture.mode) == ("JPEG", (500, 375), "RGB")


@pytest.mark.parametrize(
    ("flags", "message"),
    [({"device": "cuda:99"}, "--device: expected cpu"), ({"steps": 0}, "--steps must be a whole number in 1")],
)
def test_what_cannot_be_timed_is_refused(flags, message):
    with pytest.raises(InputError, match=message):
        main(**flags)
