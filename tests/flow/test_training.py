"""`training.patch_finetune` as a command: what it writes, and what it refuses."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from scipy.stats import chisquare

from faithfulness.core import DeletionSpec
from training.patch_finetune import main

TINY = ["--model", "test_convnext", "--train-images", "96", "--val-images", "40", "--batch-size", "16", "--epochs", "3"]


def train(*arguments):
    return main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "whole"
    assert train("--out", out, *TINY) == 0
    return out


def weights(folder):
    return (folder / "model.safetensors").read_bytes(), (folder / "last" / "model.safetensors").read_bytes()


def test_the_checkpoint_is_complete_and_timm_loads_it(trained):
    for name in (
        "model.safetensors",
        "config.json",
        "training.json",
        "README.md",
        "lightning/best.ckpt",
        "lightning/last.ckpt",
    ):
        assert (trained / name).is_file(), name
    assert timm.create_model(f"local-dir:{trained}", pretrained=True).num_classes == 10
    training = json.loads((trained / "training.json").read_text())
    assert set(training["metrics"]) == {"accuracy", "accuracy_deleted"}
    assert training["settings"]["optimizer"] == "adamw"
    assert training["data"]["n_train"] == 96
    assert json.loads((trained / "last" / "training.json").read_text())["epoch"] == 2
    assert json.loads((trained / "config.json").read_text())["deletion"] == DeletionSpec().to_dict()


def test_logs_hold_loss_and_both_accuracies(trained):
    logged = pd.read_csv(trained / "logs" / "epochs.csv")
    assert logged["epoch"].tolist() == [0, 1, 2]
    assert {"learning_rate", "train_loss", "accuracy", "accuracy_deleted", "images_per_second"} <= set(logged)
    assert np.isfinite(logged.to_numpy()).all()
    assert list((trained / "logs").glob("events.out.tfevents*"))


def test_the_record_of_deletions_is_what_the_key_says(trained):
    tables = [pd.read_parquet(trained / "deletions" / f"epoch{epoch:03d}-rank0.parquet") for epoch in range(3)]
    for epoch, table in enumerate(tables):
        assert sorted(table["index"]) == list(range(96))
        expected = DeletionSpec().sample_cells(0, epoch, torch.tensor(table["index"].to_numpy()))
        np.testing.assert_array_equal(table["cell"], expected)
    cells = pd.concat(tables)["cell"]
    assert chisquare([(cells == -1).sum(), (cells >= 0).sum()]).pvalue > 1e-4


def test_resuming_a_finished_run_changes_nothing(trained, tmp_path):
    before = weights(trained)
    assert train("--out", trained, *TINY, "--resume") == 0
    assert weights(trained) == before


def test_seeds_differ(trained, tmp_path):
    assert train("--out", tmp_path / "other", *TINY, "--epochs", "1", "--seed", "1") == 0
    assert weights(tmp_path / "other") != weights(trained)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--resume", "--lr", "0.5"], "--resume with another lr"),
        ([], "already holds a training run; pass --resume, --overwrite"),
    ],
)
def test_a_run_is_not_overwritten_unasked(trained, capsys, arguments, message):
    before = weights(trained)
    assert train("--out", trained, *TINY, *arguments) == 2
    assert message in capsys.readouterr().err
    assert weights(trained) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "imagefolder:nowhere"], "no folder nowhere"),
        (["--data", "digitz"], "did you mean digits"),
        (["--model", "resnett18"], "did you mean"),
        (["--grid", "5"], "5×5 grid does not divide 64×64"),
        (["--fill", "zero"], "did you mean zeros"),
        (["--deletion-probability", "2"], "probability must lie in"),
        (["--train-images", "8"], "8 training images are fewer than one batch of 64"),
        (["--model-args.nonsense", "1"], "timm could not build"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(tmp_path, capsys, arguments, message):
    out = tmp_path / "run"
    assert train("--out", out, "--model", "test_convnext", *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_class_counts_must_match(trained, tmp_path, capsys):
    from PIL import Image

    for split in ("train", "val"):
        for kind in ("a", "b"):
            (tmp_path / split / kind).mkdir(parents=True)
            Image.new("RGB", (70, 80)).save(tmp_path / split / kind / "x.png")
    assert train("--out", tmp_path / "run", "--model", trained, "--data", f"imagefolder:{tmp_path}") == 2
    assert "has 10 classes" in capsys.readouterr().err


def folders(root):
    """Every file below a folder with its content."""
    return {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def finished(trained, tmp_path):
    """A copy of the finished run, to be put at risk."""
    return shutil.copytree(trained, tmp_path / "run")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "imagefolder:nowhere"], "no folder nowhere"),
        (["--model", "resnett18"], "did you mean"),
        (["--grid", "5"], "5×5 grid does not divide 64×64"),
        (["--devices", "3"], "must be a multiple of 3 devices"),
        (["--lr", "1e30"], "training diverged in epoch 0"),
        (["--model", "RUN"], "RUN is RUN, which is read"),
        (["--model", "RUN/last"], "RUN is above RUN/last, which is read"),
    ],
)
def test_overwriting_loses_nothing_when_it_fails(finished, capsys, arguments, message):
    before = folders(finished.parent)
    arguments = [argument.replace("RUN", str(finished)) for argument in arguments]
    assert train("--out", finished, *TINY, "--overwrite", *arguments) == 2
    assert message.replace("RUN", str(finished)) in capsys.readouterr().err
    assert folders(finished.parent) == before


def test_overwriting_keeps_what_no_run_wrote(finished, capsys):
    (finished / "notes.txt").write_text("mine")
    before = folders(finished)
    assert train("--out", finished, *TINY, "--overwrite") == 2
    assert "holds notes.txt, which no run wrote" in capsys.readouterr().err
    assert folders(finished) == before


def test_overwriting_replaces_a_run_once_the_new_one_is_there(finished, trained):
    assert train("--out", finished, *TINY, "--epochs", "1", "--seed", "1", "--overwrite") == 0
    assert weights(finished) != weights(trained)
    assert not (finished / "deletions" / "epoch001-rank0.parquet").exists()
    assert [path.name for path in finished.parent.iterdir()] == ["run"]


def test_a_killed_replacement_leaves_the_run_it_was_to_replace(finished, trained, monkeypatch, capsys):
    """Killed after its first epoch: the old run is aside and the new one can be resumed or begun again."""
    from training.module import PatchFineTuner

    whole = PatchFineTuner.on_train_epoch_start

    def killed(self):
        if self.current_epoch == 1:
            raise KeyboardInterrupt
        whole(self)

    monkeypatch.setattr(PatchFineTuner, "on_train_epoch_start", killed)
    aside = finished.parent / ".run.replaced"
    for _ in range(2):
        assert train("--out", finished, *TINY, "--seed", "1", "--overwrite") == 130
        assert f"the run that {finished} held before is in {aside}" in capsys.readouterr().err
        assert weights(aside) == weights(trained)
    monkeypatch.undo()
    assert train("--out", finished, *TINY, "--seed", "1", "--resume") == 0
    assert not aside.exists()
    assert (finished / "model.safetensors").exists()


def test_the_run_that_a_killed_replacement_left_aside_is_not_removed_unasked(finished, trained, capsys):
    aside = finished.rename(finished.parent / ".run.replaced")
    assert train("--out", finished, *TINY, "--epochs", "1") == 2
    assert "holds the run that an interrupted --overwrite was to replace" in capsys.readouterr().err
    assert weights(aside) == weights(trained)
    assert not finished.exists()
