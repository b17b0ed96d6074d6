"""What training saw, read from what it recorded: every epoch another order and other crops, whoever loads them."""

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from eval import leakage
from training.patch_finetune import main

COMMAND = [sys.executable, "-m", "training.patch_finetune"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
EPOCHS, BATCH = 3, 4


def make_folder(root, train, val):
    """Pictures of noise in two classes."""
    for split, count in (("train", train), ("val", val)):
        for number in range(count):
            folder = root / split / "ab"[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(number).integers(256, size=(44, 52, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


def flags(folder, *more):
    words = ["--model", "test_convnext", "--data", f"imagefolder:{folder}", "--input-size", "32", "--lr", "0.01"]
    words += ["--epochs", EPOCHS, "--batch-size", BATCH, "--workers", 0, "--accelerator", "cpu", *more]
    return [str(word) for word in words]


def record(out, epoch, ranks=1):
    return [pd.read_parquet(out / "deletions" / f"epoch{epoch:03d}-rank{rank}.parquet") for rank in range(ranks)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("pictures"), 27, 6)


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "whole"
    assert main(["--out", str(out), *flags(folder)]) == 0
    return out


def test_three_epochs_are_three_orders_three_crops_and_three_tails(whole):
    epochs = [record(whole, epoch)[0] for epoch in range(EPOCHS)]
    assert [table["epoch"].unique().tolist() for table in epochs] == [[0], [1], [2]]
    orders = [tuple(table["index"]) for table in epochs]
    assert len(set(orders)) == EPOCHS
    tails = [frozenset(range(27)) - frozenset(order) for order in orders]
    assert [len(tail) for tail in tails] == [3] * EPOCHS
    assert len(set(tails)) > 1
    digests = pd.concat(epochs).groupby("index")["pixels"].agg(["nunique", "size"])
    assert (digests["nunique"] == digests["size"]).all(), "an image had the same crop in two epochs"
    cells = pd.concat(epochs).groupby("index")["cell"].nunique()
    assert cells.max() > 1


def test_the_audit_of_the_record_sees_what_training_saw(whole, folder, tmp_path):
    arguments = ["--model", whole, "--data", f"imagefolder:{folder}", "--setting", "gridpg", "--limit", 4, "--tries", 1]
    arguments = [str(word) for word in (*arguments, "--out", tmp_path / "leakage")]
    assert leakage.main(arguments) == 1  # GridPG leaks, and takes the least time to tell
    masks = json.loads((tmp_path / "leakage" / "summary.json").read_text())["masks"]
    assert {entry["record"]: (entry["samples"], entry["passed"]) for entry in masks} == {
        "label": (72, True),
        "brightness": (72, True),
    }


def test_stopped_and_resumed_with_workers_sees_the_same(whole, folder, tmp_path, monkeypatch):
    from training.module import PatchFineTuner

    begin, out = PatchFineTuner.on_train_epoch_start, tmp_path / "run"
    command = ["--out", str(out), *flags(folder, "--workers", 1)]

    def stop(self):
        if self.current_epoch == 1:
            raise KeyboardInterrupt
        begin(self)

    with monkeypatch.context() as patch:
        patch.setattr(PatchFineTuner, "on_train_epoch_start", stop)
        assert main(command) == 130
    assert main([*command, "--resume"]) == 0
    for epoch in range(EPOCHS):
        pd.testing.assert_frame_equal(record(out, epoch)[0], record(whole, epoch)[0], check_exact=True)
    assert (out / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_two_processes_that_accumulate_see_what_one_sees(whole, folder, tmp_path):
    out = tmp_path / "two"
    command = [*COMMAND, "--out", str(out), *flags(folder, "--devices", 2, "--accumulate", 2)]
    subprocess.run(command, check=True, env=ENVIRONMENT, timeout=400, stdout=subprocess.DEVNULL)
    for epoch in range(EPOCHS):
        halves = [part.assign(step=np.arange(len(part)) // (BATCH // 2)) for part in record(out, epoch, ranks=2)]
        merged = pd.concat(halves).sort_values("step", kind="stable").drop(columns="step").reset_index(drop=True)
        pd.testing.assert_frame_equal(merged, record(whole, epoch)[0], check_exact=True)
    alone, together = (load_file(run / "model.safetensors") for run in (whole, out))
    for name, tensor in alone.items():
        torch.testing.assert_close(together[name], tensor, rtol=1e-4, atol=1e-5, msg=name)  # order of summation


def test_two_processes_take_a_corrupt_image_and_a_small_validation(tmp_path):
    """One image per process and step, so that a corrupt one leaves a process with nothing; one batch to validate."""
    folder = make_folder(tmp_path / "pictures", 8, 2)
    broken = folder / "train" / "a" / "4.png"
    broken.write_bytes(broken.read_bytes()[:100])
    common = flags(folder, "--batch-size", 2, "--skip-corrupt")
    one, two = tmp_path / "one", tmp_path / "two"
    assert main(["--out", str(one), *common]) == 0
    command = [*COMMAND, "--out", str(two), *common, "--devices", "2"]
    subprocess.run(command, check=True, env=ENVIRONMENT, timeout=400, stdout=subprocess.DEVNULL)
    for run in (one, two):
        training = json.loads((run / "training.json").read_text())
        assert training["n_corrupt"] == 1
        assert set(training["metrics"]) == {"accuracy", "accuracy_deleted"}
    tables = [pd.read_csv(run / "logs" / "epochs.csv") for run in (one, two)]
    assert [set(table["processes"]) for table in tables] == [{1}, {2}]
    for name in ("train_loss", "accuracy", "accuracy_deleted"):
        np.testing.assert_allclose(tables[1][name], tables[0][name], rtol=1e-4)
    alone, together = (load_file(run / "last" / "model.safetensors") for run in (one, two))
    for name, tensor in alone.items():
        torch.testing.assert_close(together[name], tensor, rtol=1e-4, atol=1e-5, msg=name)  # order of summation


def test_a_run_that_diverges_exports_nothing(folder, tmp_path, capsys):
    out = tmp_path / "diverged"
    assert main(["--out", str(out), *flags(folder, "--lr", "1e30", "--quiet")]) == 2
    error = capsys.readouterr().err
    assert "training diverged in epoch 0" in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_without_any_readable_image_nothing_is_trained(tmp_path, capsys):
    folder = make_folder(tmp_path / "pictures", 4, 2)
    for path in (folder / "train").rglob("*.png"):
        path.write_bytes(path.read_bytes()[:100])
    out = tmp_path / "run"
    assert main(["--out", str(out), *flags(folder, "--skip-corrupt")]) == 2
    assert "no training image could be read (4 corrupt)" in capsys.readouterr().err
