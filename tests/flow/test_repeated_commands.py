"""Every command, run again as it was: nothing is computed, and the result is the same; stopped and run again, too."""

import numpy as np
import pytest

from difull import make_compositions
from eval import leakage
from eval.frame.batches import Items, SampleBatches
from faithfulness.data import open_data
from tests.reference.every_command import COMMANDS, prepare
from tests.reference.results import content

LEAKAGE = ["--setting", "gridpg", "--tries", "4", "--grids", "1"]
ALL = COMMANDS | {"leakage": (leakage, LEAKAGE)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("repeated")
    prepare(folder, grids=3)
    return folder


def run(folder, name, out, *more):
    command, arguments = ALL[name]
    words = ["--model", str(folder / ("segmenter" if name == "dea" else "resnet")), "--out", str(out), *arguments]
    if name in ("difull", "mlatt", "aggatt"):
        words += ["--compositions", str(folder / "compositions")]
    batches = [] if name == "leakage" else ["--batch-size", "4" if name in ("difull", "mlatt", "aggatt") else "1"]
    return command.main([*words, *batches, "--quiet", *more])


@pytest.mark.parametrize("name", ALL)
def test_a_stopped_command_goes_on_and_a_repeated_one_rests(folder, tmp_path, monkeypatch, name):
    status = run(folder, name, tmp_path / "whole")
    whole, read = content(tmp_path / "whole"), []
    kinds = {kind: kind.load for kind in (SampleBatches, Items)}

    def watched(load, most):
        def loaded(self, numbers):
            for batch in load(self, numbers):
                if len(read) == most:
                    raise KeyboardInterrupt
                read.append(batch.number)
                yield batch

        return loaded

    def watch(most):
        read.clear()
        for kind, load in kinds.items():
            monkeypatch.setattr(kind, "load", watched(load, most))

    watch(most=1)
    stopped = run(folder, name, tmp_path / "run")
    assert stopped == (status if name == "dea" else 130)  # a single batch can't be stopped after its first
    watch(most=1000)
    assert run(folder, name, tmp_path / "run") == status
    assert content(tmp_path / "run") == whole
    watch(most=0)
    assert run(folder, name, tmp_path / "run") == status
    assert read == []
    assert content(tmp_path / "run") == whole


def test_another_choice_of_grids_is_other_work(folder, tmp_path, capsys):
    """The compositions are read from files: their content counts, not their name."""
    assert run(folder, "difull", tmp_path / "run") == 0
    file = folder / "compositions" / "corners.parquet"
    before = file.read_bytes()
    data = open_data("digits", "val")
    labels = np.array([data.label(index) for index in range(40)])
    make_compositions(labels, np.arange(40), 2, 3, "corners", 1).save(file)
    try:
        capsys.readouterr()
        assert run(folder, "difull", tmp_path / "run") == 2
        assert f"compositions {file} " in capsys.readouterr().err
    finally:
        file.write_bytes(before)


def test_a_finished_run_is_drawn_anew_in_another_format(folder, tmp_path, monkeypatch):
    assert run(folder, "idsds", tmp_path / "run") == 0
    before = {path.stem for path in (tmp_path / "run" / "plots").iterdir()}
    monkeypatch.setattr(
        SampleBatches, "load", lambda self, numbers: pytest.fail("it computes again") if numbers else []
    )
    assert run(folder, "idsds", tmp_path / "run", "--format", "svg", "pdf") == 0
    found = sorted(path.name for path in (tmp_path / "run" / "plots").iterdir())
    assert found == sorted(f"{name}.{kind}" for name in before for kind in ("pdf", "svg"))
