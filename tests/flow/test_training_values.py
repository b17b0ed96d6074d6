"""What a training refuses before anything is written, what `--resume` compares, and what it says while it runs."""

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from faithfulness.core.hardware import choose_port, share_workers
from faithfulness.core.progress import Progress
from faithfulness.data import KeyedBatches
from training.patch_finetune import main

SMALL = ["--model", "test_convnext", "--batch-size", "4", "--epochs", "1", "--accelerator", "cpu"]
DIGITS = [*SMALL, "--train-images", "8", "--val-images", "4"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}


def train(*arguments):
    return main([str(argument) for argument in arguments])


@pytest.mark.parametrize(
    ("flag", "values", "message"),
    [
        ("--epochs", [0, -1], "--epochs must be at least 1"),
        ("--batch-size", [0, -4], "--batch-size must be at least 1"),
        ("--step-epochs", [0], "--step-epochs must be at least 1"),
        ("--accumulate", [0], "--accumulate must be at least 1"),
        ("--clip", [0, -1], "--clip must be above 0"),
        ("--ema", [0, 1], "--ema must lie in (0, 1)"),
        ("--train-images", [0], "--train-images must be at least 1"),
        ("--val-images", [0], "--val-images must be at least 1"),
        ("--input-size", [0, -32], "--input-size must be at least 1"),
        ("--num-nodes", [0], "--num-nodes must be at least 1"),
        ("--num-nodes", [2], "--num-nodes 2 needs srun, torchrun, or MASTER_ADDR"),
        ("--workers", [-1], "--workers must be at least 0"),
        ("--lr", [0, -1], "--lr must be above 0"),
        ("--lr", [".nan", ".inf"], "--lr: expected a number"),
        ("--weight-decay", [".nan", ".inf"], "--weight-decay: expected a number"),
        ("--momentum", [".nan"], "--momentum: expected a number"),
        ("--weight-decay", [-0.1], "--weight-decay must be at least 0"),
        ("--momentum", [-0.1, 1], "--momentum must lie in [0, 1)"),
        ("--seed", [-1, 2**63], "--seed must be at least 0"),
        ("--devices", [0, -1, "x", 1.5], "--devices"),
        ("--accelerator", ["cuda:0", "gpus"], "--accelerator must be one of auto, cpu,"),
        ("--strategy", ["fsdp"], "--strategy: expected one of auto, ddp"),
        ("--precision", ["16-mixed"], "--precision 16-mixed needs a GPU"),
    ],
)
def test_values_that_mean_nothing_are_one_line(tmp_path, capsys, flag, values, message):
    for value in values:
        assert train("--out", tmp_path / "run", *DIGITS, flag, value) == 2, value
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
        assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_device_that_is_not_there_is_one_line(tmp_path, capsys):
    assert train("--out", tmp_path / "run", *DIGITS, "--accelerator", "cuda") == 2
    error = capsys.readouterr().err
    assert "no training on such devices" in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_folder_that_must_not_be_written_is_refused_before_torch_is_loaded(tmp_path):
    (tmp_path / "settings.json").write_text("{}")
    code = (
        "import sys; from training.patch_finetune import main\n"
        f"status = main(['--out', {str(tmp_path)!r}])\n"
        "sys.exit(str({'torch', 'lightning', 'timm'} & set(sys.modules) or status))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    assert "already holds a training run" in done.stderr
    assert done.stderr.endswith("2\n"), done.stderr


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    for split, count in (("train", 8), ("val", 4)):
        for number in range(count):
            path = root / split / "ab"[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(number).integers(256, size=(40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path)
    return root


@pytest.mark.usefixtures("alone")
def test_resuming_compares_data_and_weights_but_not_the_machine(tmp_path, pictures, capsys):
    start, out = tmp_path / "start", tmp_path / "run"
    folder = [*SMALL, "--data", f"imagefolder:{pictures}", "--input-size", 32]
    assert train("--out", start, *folder) == 0
    words = [*folder, "--model", start, "--out", out]
    assert train(*words) == 0
    same = ["--workers", 1, "--strategy", "ddp", "--devices", 1, "--accelerator", "auto", "--quiet", "--resume"]
    if not torch.cuda.is_available():
        assert train(*words, *same) == 0
    for split in ("train", "val"):
        added = pictures / split / "a" / "new.png"
        Image.new("RGB", (40, 40)).save(added)
        assert train(*words, "--resume") == 2
        assert "--resume with another data" in capsys.readouterr().err
        added.unlink()
    assert train("--out", start, *folder, "--seed", 1, "--overwrite") == 0
    capsys.readouterr()
    assert train(*words, "--resume") == 2
    assert "--resume with another weights" in capsys.readouterr().err


def test_resuming_names_the_library_that_is_another_and_says_where_the_suite_is(tmp_path, capsys):
    out = tmp_path / "run"
    assert train("--out", out, *DIGITS) == 0
    settings = json.loads((out / "settings.json").read_text())

    def change(**began):
        (out / "settings.json").write_text(json.dumps({**settings, "began": {**settings["began"], **began}}))

    change(versions={**settings["began"]["versions"], "timm": "0.0.1"})
    capsys.readouterr()
    assert train("--out", out, *DIGITS, "--resume", "--quiet") == 2
    assert f"another version of timm: the run in {out} has '0.0.1', asked" in capsys.readouterr().err
    change(commit="0123456789abcdef")
    assert train("--out", out, *DIGITS, "--resume") == 0
    assert f"caution: the run in {out} began with commit 0123456789ab of this suite" in capsys.readouterr().err


def test_another_number_of_processes_goes_on_and_is_recorded(tmp_path, monkeypatch, capsys):
    from training.epochs import EpochLog

    out = tmp_path / "run"
    assert train("--out", out, *DIGITS, "--epochs", 2) == 0
    load = EpochLog.load_state_dict
    monkeypatch.setattr(
        EpochLog, "load_state_dict", lambda self, state: load(self, {"rows": [{**state["rows"][0], "processes": 2}]})
    )
    from training.module import PatchFineTuner

    def stop(self):
        raise RuntimeError("stop")

    with monkeypatch.context() as patch:
        patch.setattr(PatchFineTuner, "on_validation_epoch_end", stop)
        with pytest.raises(RuntimeError, match="stop"):
            train("--out", tmp_path / "other", *DIGITS, "--epochs", 2)
    (out / "lightning" / "last.ckpt").unlink()
    content = torch.load(out / "lightning" / "best.ckpt", weights_only=True)
    if content["epoch"] == 1:
        pytest.skip("the best epoch is the last")
    os.link(out / "lightning" / "best.ckpt", out / "lightning" / "last.ckpt")
    capsys.readouterr()
    assert train("--out", out, *DIGITS, "--epochs", 2, "--resume") == 0
    assert "caution: epochs ran on 2, then 1 processes" in capsys.readouterr().err
    training = json.loads((out / "last" / "training.json").read_text())
    assert training["processes"] == [2, 1]
    assert "epochs ran on 2, then 1 processes" in training["cautions"][0]


def test_it_says_what_it_does_and_what_came_out(tmp_path, monkeypatch, capsys):
    made = Progress.__init__
    monkeypatch.setattr(Progress, "__init__", lambda self, quiet: made(self, quiet, every=0.0))
    out = tmp_path / "run"
    assert train("--out", out, *DIGITS) == 0
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert lines[0].startswith("training test_convnext on digits: 8 images, 4 to validate, 10 classes")
    assert "1 epochs of 2 steps of 4 images" in lines[1]
    assert f"1 process on cpu, 32-true; 0 and 0 loader workers each; writes {out}" in lines[2]
    with safe_open(out / "model.safetensors", "pt") as stored:
        weights = sum(stored.get_tensor(name).nbytes for name in stored.keys())  # noqa: SIM118
    assert f"{round(4 * weights / 1e6)} MB on each device" in lines[3]  # AdamW keeps two of each, and a gradient
    assert "epoch 1 of 1, step 1 of 2:" in said.err
    assert "epoch 1 of 1: loss" in said.err
    for text in (out, out / "last", out / "logs", out / "deletions", "epoch 1 of 1, the best: accuracy"):
        assert str(text) in said.out
    assert train("--out", out, *DIGITS, "--quiet", "--overwrite") == 0
    assert capsys.readouterr().err == ""


def test_the_table_of_epochs_has_the_metrics_and_the_loss_of_all_images(tmp_path):
    out = tmp_path / "run"
    assert train("--out", out, *DIGITS, "--epochs", 2) == 0
    table = pd.read_csv(out / "logs" / "epochs.csv")
    content = torch.load(out / "lightning" / "last.ckpt", weights_only=True)
    last = table.iloc[-1]
    assert {name: last[name] for name in content["metrics"]} == content["metrics"]
    assert content["callbacks"]["EpochLog"]["rows"][0]["train_loss"] == table["train_loss"][0]
    assert not list((out / "logs").glob("version_*"))


@pytest.mark.parametrize("images", [1, 40, 256, 1792, 1793])
def test_eight_processes_share_a_validation_of_any_size(images):
    """A process without a batch is in step with the others all the same."""
    parts = [KeyedBatches(images, 256, shuffle=False, rank=rank, world=8, in_step=True) for rank in range(8)]
    taken = [list(part) for part in parts]
    assert len({len(batches) for batches in taken}) == 1
    assert [len(part) for part in parts] == [len(batches) for batches in taken]
    indices = [index for batches in taken for batch in batches for _, index in batch]
    assert sorted(indices) == list(range(images))


def test_workers_are_what_the_processors_bear(monkeypatch):
    monkeypatch.setattr("faithfulness.core.hardware.processors", lambda: 9)
    assert share_workers([400, 100]) == [7, 1]
    assert share_workers([400, 2], 2) == [3, 0]
    assert share_workers([400, 100], 16) == [0, 0]


@pytest.mark.parametrize("lent", ["32768 60999", "16000 65535", "1024 20000", "1024 65535", "nonsense"])
def test_processes_meet_where_no_other_program_is_sent(monkeypatch, tmp_path, lent):
    (tmp_path / "range").write_text(lent)
    monkeypatch.setattr("faithfulness.core.hardware._LENT_PORTS", tmp_path / "range")
    monkeypatch.delenv("MASTER_PORT", raising=False)
    choose_port()
    low, high = (32768, 60999) if lent == "nonsense" else map(int, lent.split())
    if lent == "1024 65535":  # nothing is left over, Lightning finds one
        assert "MASTER_PORT" not in os.environ
        return
    port = int(os.environ["MASTER_PORT"])
    assert not low <= port <= high
    choose_port()
    assert int(os.environ["MASTER_PORT"]) == port


def test_a_launcher_says_where_processes_meet(monkeypatch):
    monkeypatch.delenv("MASTER_PORT", raising=False)
    monkeypatch.setenv("SLURM_NTASKS", "2")
    choose_port()
    assert "MASTER_PORT" not in os.environ
