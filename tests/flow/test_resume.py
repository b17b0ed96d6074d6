"""A run that was stopped goes on, a run that is repeated computes nothing, and nobody's result is replaced unasked."""

import errno
import json
import os
import signal
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch

import eval.frame.run
from eval import idsds
from eval.frame import folder, store
from eval.frame.batches import SampleBatches
from eval.frame.store import Store
from faithfulness.core.locks import locked
from tests.reference.checkpoints import save_resnet
from tests.reference.results import content
from tests.reference.short_runs import FAST, RUN, runs_below, whole_result


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_resnet(tmp_path_factory.mktemp("model") / "resnet")


@pytest.fixture
def run(checkpoint, tmp_path, capsys):
    return runs_below(checkpoint, tmp_path, capsys)


@pytest.fixture(scope="module")
def whole(checkpoint, tmp_path_factory):
    return whole_result(checkpoint, tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture
def passes(monkeypatch):
    """How many images go through the network, one number per forward pass."""
    counted, load = [], eval.frame.run.load_named

    def load_counted(*arguments, **keywords):
        checkpoint = load(*arguments, **keywords)
        checkpoint.model.register_forward_hook(lambda module, given, output: counted.append(len(given[0])))
        return checkpoint

    monkeypatch.setattr(eval.frame.run, "load_named", load_counted)
    monkeypatch.setattr(eval.frame.run, "fitting_chunk", lambda *given: 128)
    return counted


def stop_at(monkeypatch, batch, stop):
    """Do something odd once so many batches have been read."""
    load = SampleBatches.load

    def stopped(self, numbers):
        for count, loaded in enumerate(load(self, numbers)):
            if count == batch:
                stop()
            yield loaded

    monkeypatch.setattr(SampleBatches, "load", stopped)


def interrupt():
    raise KeyboardInterrupt


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def fill_disk():
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/somewhere/x")


def lose_worker():
    raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")


@pytest.mark.parametrize(
    ("stop", "status", "said"),
    [
        (interrupt, 130, "interrupted; images: 4 of 6, what is finished is in "),
        (terminate, 143, "terminated; images: 4 of 6, what is finished is in "),
        (fill_disk, 1, "error: No space left on device: /somewhere/x; images: 4 of 6, "),
        (lose_worker, 1, "error: DataLoader worker (pid 7) is killed by signal: Killed.; was there enough memory?"),
    ],
)
def test_a_stopped_run_says_so_in_one_line_and_goes_on(run, whole, tmp_path, monkeypatch, stop, status, said):
    with monkeypatch.context() as patch:
        stop_at(patch, 2, stop)
        found, error = run()
    assert (found, error.count("\n")) == (status, 1)
    assert error.startswith(said)
    assert error.endswith(f"{tmp_path / 'run'}; the same command goes on\n")
    assert not (tmp_path / "run" / "summary.json").exists()
    read = []
    with monkeypatch.context() as patch:
        load = SampleBatches.load
        patch.setattr(SampleBatches, "load", lambda self, numbers: read.extend(numbers) or load(self, numbers))
        assert run() == (0, "")
    assert read == [2]
    assert content(tmp_path / "run") == whole


def test_a_method_that_fails_costs_the_others_nothing(run, whole, tmp_path, passes):
    """What was finished before it, in the same batch too, is kept; the next run may leave it out."""
    plugin = tmp_path / "mine.py"
    plugin.write_text("def nan(images, targets):\n    return images / 0 * 0\n")
    assert run(name="other") == (0, "")
    all_of_it = sum(passes)
    status, error = run(methods=["ixg", f"{plugin}:nan"])
    assert (status, "NaN" in error) == (2, True)
    passes.clear()
    assert run()[0] == 0
    assert content(tmp_path / "run") == whole
    assert sum(passes) == all_of_it - 2 * (17 + 1)  # of the first batch the drops and ixg were there


def test_a_run_that_is_repeated_computes_nothing(run, whole, tmp_path, passes):
    assert run() == (0, "")
    assert passes
    passes.clear()
    assert run("--batch-size", "2", "--workers", "0", "--chunk", "8") == (0, "")
    assert passes == []
    assert content(tmp_path / "run").keys() == whole.keys()


def test_one_method_more_costs_that_one_only(run, tmp_path, passes):
    """30 methods, then one more: its passes, and no other."""
    methods = [f"ig(steps={steps})" for steps in range(1, 31)]
    run = partial(run, "--limit", "2")
    assert run(methods=methods) == (0, "")
    table = pd.read_parquet(tmp_path / "run" / "per_image.parquet")
    passes.clear()
    assert run(methods=[*methods, "ig(steps=31)"]) == (0, "")
    assert sum(passes) == 2 * 31
    longer = pd.read_parquet(tmp_path / "run" / "per_image.parquet")
    kept = longer[longer.attribution != "ig(steps=31)"].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, table, check_exact=True)
    assert len(longer) == len(table) + 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--fill", "mean", "--allow-out-of-domain"], "allow_out_of_domain False, now True; fill none, now mean"),
        (["--seed", "1"], "seed 0, now 1"),
        (["--limit", "4"], "limit 6, now 4"),
        (["--output", "probability"], "output logit, now probability"),
    ],
)
def test_another_setting_is_refused_and_named(run, whole, tmp_path, words, said):
    assert run() == (0, "")
    before = content(tmp_path / "run")
    status, error = run(*words)
    assert status == 2
    assert "already holds a run: " in error
    assert said in error
    assert error.count("\n") == 1
    assert content(tmp_path / "run") == before == whole
    assert run(*words, "--overwrite") == (0, "")
    assert content(tmp_path / "run") != before


def test_fewer_methods_would_lose_some_and_are_refused(run, tmp_path):
    assert run() == (0, "")
    status, error = run(methods=["ixg", "GradCAM"])
    assert (status, "ixg-sg(samples=2) left out" in error) == (2, True)
    assert run(methods=["IxG", *FAST[1:]]) == (0, "")  # another spelling is the same method


def test_another_network_under_the_same_name_is_another_run(run, tmp_path, checkpoint):
    other = save_resnet(tmp_path / "resnet")
    words = ["--out", str(tmp_path / "run"), "--attributions", "ixg", *RUN]
    assert idsds.main(["--model", str(other), *words]) == 0
    from safetensors.torch import load_file, save_file

    weights = load_file(other / "model.safetensors")
    name = next(iter(weights))
    save_file({**weights, name: weights[name] * 1.01}, other / "model.safetensors", {"format": "pt"})
    training = json.loads((other / "training.json").read_text()) if (other / "training.json").exists() else {}
    if training:
        training.pop("weights_sha256", None)
        (other / "training.json").write_text(json.dumps(training))
    assert idsds.main(["--model", str(other), *words]) == 2


def test_overwriting_a_finished_run_computes_it_anew_and_goes_on_if_stopped(run, whole, tmp_path, monkeypatch, passes):
    assert run() == (0, "")
    passes.clear()
    with monkeypatch.context() as patch:
        stop_at(patch, 1, interrupt)
        assert run("--overwrite")[0] == 130
    assert passes
    assert content(tmp_path / "run") == whole  # the old result is there until the new one is
    first = len(passes)
    assert run("--overwrite") == (0, "")
    assert len(passes) - first < 3 * first  # two of three batches
    assert content(tmp_path / "run") == whole
    assert len(list((tmp_path / "run" / "parts").glob("*.parts"))) == 3


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "index", "noise"])
def test_a_damaged_part_is_computed_again(run, whole, tmp_path, damage):
    assert run() == (0, "")
    for number, path in enumerate(sorted((tmp_path / "run" / "parts").glob("*.parts"))):
        data = bytearray(path.read_bytes())
        if damage == "flip":
            data[len(data) // 2 + number] ^= 1
        elif damage == "index":
            data[5] ^= 1
        elif damage == "noise":
            data = os.urandom(len(data))
        path.write_bytes(data[: len(data) // 2] if damage == "cut" else b"" if damage == "empty" else data)
    assert run() == (0, "")
    assert content(tmp_path / "run") == whole


def test_two_runs_into_one_folder(run, tmp_path):
    with locked(tmp_path / "run" / "parts", of=tmp_path / "run"):
        status, error = run()
    assert status == 2
    assert f"another run is writing to {tmp_path / 'run'} (process {os.getpid()} on " in error
    assert error.count("\n") == 1
    assert run() == (0, "")
    assert not list((tmp_path / "run").rglob("*.lock"))


@pytest.mark.parametrize("call", [1, 3, 7])
def test_a_stop_while_the_result_is_put_in_place(run, whole, tmp_path, monkeypatch, call):
    """There is no summary, or it is the new one; the same command makes it whole."""
    calls, replace = [], os.replace

    def stopped(source, target):
        if ".new" in Path(source).parts and ".new" not in Path(target).parts:
            calls.append(target)
            if len(calls) == call:
                raise KeyboardInterrupt
        replace(source, target)

    assert run("--limit", "2") == (0, "")
    with monkeypatch.context() as patch:
        patch.setattr(folder.os, "replace", stopped)
        assert run("--overwrite")[0] == 130
    assert not (tmp_path / "run" / "summary.json").exists()
    assert not (tmp_path / "run" / ".new").exists()
    assert run("--overwrite") == (0, "")
    assert content(tmp_path / "run") == whole


def test_leftovers_of_a_kill_are_removed(run, whole, tmp_path):
    out = tmp_path / "run"
    (out / "parts").mkdir(parents=True)
    (out / ".new").mkdir()
    part = "parts/.images-000000-01234567-89abcdef.parts.a1_b2c3d"
    for name in (part, "parts/.run.json.a1b2c3d4", ".new/summary.json", "parts/.lock"):
        (out / name).touch()
    assert run() == (0, "")
    assert content(out) == whole
    assert list(out.rglob(".*")) == []


@pytest.mark.parametrize("words", [["--attributions", "igg"], ["--grid", "3", "5"], ["--layers", "nowhere"]])
def test_a_refused_command_leaves_nothing(run, tmp_path, words):
    assert run(*words)[0] == 2
    assert list(tmp_path.iterdir()) == []
    assert run() == (0, "")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for more in ([], ["--overwrite"]):
        assert run(*words, *more)[0] == 2
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_parts_hold_what_was_put_in(tmp_path):
    part = eval.frame.Part(records={"proofs": [{"a": None}]}, corrupt={"images": {3, 1}})
    part.add("t", index=torch.arange(3), name="ü", value=torch.rand(3, 2, dtype=torch.float64), one=2.5)
    part.counts["n"] += 2
    part.costs["m"] = eval.frame.part.Cost(0.1, 3, 1.0, None)
    found = store.unpack(store.pack(part))
    assert found.counts == part.counts
    assert (found.costs, found.records, found.corrupt) == (part.costs, part.records, part.corrupt)
    for column, values in part.table("t").items():
        assert (found.table("t")[column] == values).all()
        assert found.table("t")[column].dtype == values.dtype
    kept = Store(tmp_path, {"a": 1})
    kept.keep("x", {kept.key("k"): part})
    assert Store(tmp_path, {"a": 1}).find(kept.key("k")) is not None
    other = Store(tmp_path, {"a": 2})
    assert other.find(other.key("k")) is None
