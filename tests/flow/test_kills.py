"""Trainings that are killed, and what is there afterwards: the same as if nothing had happened, or a line that says."""

import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from benchmarks.kills import differences, leftovers
from faithfulness.core.errors import machine_failure
from training.patch_finetune import main

TINY = ["--model", "test_convnext", "--train-images", "96", "--val-images", "40", "--batch-size", "16", "--epochs", "3"]
TINY += ["--accelerator", "cpu"]
COMMAND = [sys.executable, "-m", "training.patch_finetune"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}


def train(*arguments):
    return main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "whole"
    assert train("--out", out, *TINY) == 0
    return out


@pytest.fixture(scope="module")
def started():
    """Starts a training in a process of its own, which a server that has imported all forks at once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["training.run", "torchvision", "timm"])

    def start(out, *more):
        process = context.Process(target=train, args=("--out", out, *TINY, "--quiet", *more))
        process.start()
        return process

    start("/dev/null/nowhere").join()  # the server's imports
    return start


def test_killed_at_random_moments_and_resumed_is_the_uninterrupted_run(whole, started, tmp_path):
    begin = time.monotonic()
    started(tmp_path / "clock").join()
    lasts, kills, draw = time.monotonic() - begin, 0, np.random.default_rng(0)
    out = tmp_path / "killed"
    for _ in range(12):
        process = started(out, "--resume")
        process.join(float(draw.uniform(0.2, 0.9)) * lasts)
        if process.exitcode is None:
            process.kill()
            process.join()
            kills += 1
        elif kills >= 2:
            break
        else:  # the machine is faster now than when it was timed: anew, and sooner
            shutil.rmtree(out)
            kills, lasts = 0, 0.7 * lasts
    assert kills >= 2
    assert train("--out", out, *TINY, "--resume") == 0
    assert differences("training", out, whole) == []
    assert leftovers(out) == []


def damage(path, how):
    content = bytearray(path.read_bytes())
    if how == "one byte":
        content[len(content) // 2] ^= 0xFF
    path.write_bytes({"truncated": content[: len(content) // 2], "empty": b"", "garbage": b"x" * 99}.get(how, content))


@pytest.mark.parametrize("how", ["one byte", "truncated", "empty", "garbage"])
def test_a_damaged_last_checkpoint_gives_way_to_the_best_one(whole, tmp_path, capsys, how):
    out = shutil.copytree(whole, tmp_path / "run")
    damage(out / "lightning" / "last.ckpt", how)
    assert train("--out", out, *TINY, "--resume") == 0
    assert "last.ckpt is damaged" in capsys.readouterr().err
    assert differences("training", out, whole) == []


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda out: [damage(out / "lightning" / name, "truncated") for name in ("last.ckpt", "best.ckpt")], "damaged"),
        (lambda out: damage(out / "lightning" / "best.ckpt", "one byte"), "best.ckpt is damaged"),
        (lambda out: (out / "settings.json").write_text("{"), "settings.json can't be read"),
        (lambda out: (out / "settings.json").write_text("[" * 100_000), "settings.json can't be read"),
        (lambda out: (out / "settings.json").write_text("[1]"), "holds list, expected settings"),
        (lambda out: (out / "settings.json").write_text("{}"), "is of an earlier version"),
    ],
)
def test_files_of_a_run_that_are_damaged_are_one_line(whole, tmp_path, capsys, spoil, message):
    out = shutil.copytree(whole, tmp_path / "run")
    spoil(out)
    assert train("--out", out, *TINY, "--resume", "--quiet") == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_checkpoint_of_another_run_is_refused(whole, tmp_path, capsys):
    other, out = tmp_path / "other", shutil.copytree(whole, tmp_path / "run")
    assert train("--out", other, *TINY, "--seed", "1", "--epochs", "1") == 0
    shutil.copy(other / "lightning" / "last.ckpt", out / "lightning" / "last.ckpt")
    assert train("--out", out, *TINY, "--resume", "--quiet") == 2
    assert "last.ckpt is of another run" in capsys.readouterr().err


def stop_in(monkeypatch, epoch, act):
    """Do something at the start of an epoch."""
    from training.module import PatchFineTuner

    whole = PatchFineTuner.on_train_epoch_start

    def stopped(self):
        if self.current_epoch == epoch:
            act()
        whole(self)

    monkeypatch.setattr(PatchFineTuner, "on_train_epoch_start", stopped)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("epoch", [0, 1])
def test_a_signal_ends_training_with_one_line(tmp_path, monkeypatch, capsys, number, status, epoch):
    out = tmp_path / "run"
    stop_in(monkeypatch, epoch, lambda: os.kill(os.getpid(), number))
    assert train("--out", out, *TINY, "--quiet") == status
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    there = [path.name for path in tmp_path.iterdir()]
    if epoch:
        assert f"{out} holds 1 of 3 epochs; the same command with --resume goes on" in error
        assert (there, leftovers(out)) == (["run"], [])
    else:
        assert "no epoch is complete yet" in error
        assert there == []


@pytest.mark.parametrize("when", ["loading", "training"])
def test_slurms_signal_puts_the_job_into_the_queue_again(whole, tmp_path, monkeypatch, capsys, when):
    names = {"JOB_ID": "7", "JOB_NAME": "finetune", "NTASKS": "1", "NTASKS_PER_NODE": "1", "PROCID": "0"}
    for name, value in {**names, "LOCALID": "0", "NODEID": "0", "NNODES": "1", "JOB_NODELIST": "localhost"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "scontrol").write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\n')
    (tmp_path / "bin" / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    out, before = tmp_path / "run", signal.getsignal(signal.SIGUSR1)
    if when == "loading":
        monkeypatch.setattr("training.run._open", lambda *_: os.kill(os.getpid(), signal.SIGUSR1))
    stop_in(monkeypatch, 1, lambda: os.kill(os.getpid(), signal.SIGUSR1))
    assert train("--out", out, *TINY, "--devices", "1", "--resume", "--quiet") == 128 + signal.SIGUSR1
    assert "job 7 is in the queue again" in capsys.readouterr().err
    assert (tmp_path / "asked").read_text() == "requeue 7\n"
    assert signal.getsignal(signal.SIGUSR1) == before
    monkeypatch.undo()
    assert train("--out", out, *TINY, "--resume") == 0
    assert differences("training", out, whole) == []


def test_a_full_disk_is_one_line_and_the_run_goes_on(whole, tmp_path, monkeypatch, capsys):
    import errno

    from training.keeping import WholeFiles

    def full(self, checkpoint, path, storage_options=None):
        if checkpoint["epoch"] == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        save(self, checkpoint, path)

    save = WholeFiles.save_checkpoint
    monkeypatch.setattr(WholeFiles, "save_checkpoint", full)
    out = tmp_path / "run"
    assert train("--out", out, *TINY, "--quiet") == 1
    error = capsys.readouterr().err
    assert "No space left on device" in error
    assert "holds 1 of 3 epochs" in error
    assert error.count("\n") == 1
    monkeypatch.undo()
    assert train("--out", out, *TINY, "--resume") == 0
    assert differences("training", out, whole) == []


def test_two_runs_do_not_write_to_one_folder(tmp_path, monkeypatch, capsys):
    inner = []
    stop_in(monkeypatch, 1, lambda: inner.append(train("--out", tmp_path / "run", *TINY, "--resume", "--quiet")))
    assert train("--out", tmp_path / "run", *TINY, "--quiet") == 0
    assert inner == [2]
    assert f"another run is writing to {tmp_path / 'run'} (process {os.getpid()}" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_leftovers_of_killed_runs_are_removed_and_nothing_else(whole, tmp_path):
    out = shutil.copytree(whole, tmp_path / "run")
    for name in (
        "lightning/.last.ckpt.abcd1234",
        ".model.safetensors.x_y0z1a2",
        "deletions/.epoch001.parquet.aaaaaaaa",
    ):
        (out / name).write_text("torn")
    mine = [tmp_path / ".run.original", out / ".notes", out / ".notes.original", out / "lightning" / ".mine.original"]
    mine[0].mkdir()
    for path in mine[1:]:
        path.write_text("mine")
    assert train("--out", out, *TINY, "--resume") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [".run.original", "run"]
    assert all(path.exists() for path in mine)
    assert leftovers(out) == sorted(str(path) for path in mine if path.name != ".notes")


@pytest.mark.parametrize("before", ["nothing", "a run"])
def test_what_a_user_adds_to_a_run_that_ends_at_once_stays(whole, tmp_path, monkeypatch, capsys, before):
    out = tmp_path / "run"
    if before == "a run":
        shutil.copytree(whole, out)

    def end():
        (out / "notes.txt").write_text("mine")
        os.kill(os.getpid(), signal.SIGTERM)

    stop_in(monkeypatch, 0, end)
    assert train("--out", out, *TINY, "--overwrite", "--quiet") == 143
    assert [path.name for path in out.rglob("*")] == ["notes.txt"]
    if before == "a run":
        assert f"the run that {out} held before is in {tmp_path / '.run.replaced'}" in capsys.readouterr().err
        assert differences("training", tmp_path / ".run.replaced", whole) == []


def test_a_link_as_the_folder_stays_a_link(whole, tmp_path):
    (tmp_path / "disk").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "disk")
    for more in ([], ["--overwrite"]):
        assert train("--out", link, *TINY, *more) == 0
        assert link.is_symlink()
        assert differences("training", tmp_path / "disk", whole) == []


def test_a_killed_process_ends_the_other_with_its_reason(tmp_path):
    out = tmp_path / "run"
    command = [*COMMAND, "--out", str(out), *TINY, "--epochs", "40", "--devices", "2", "--quiet"]
    first = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 240
    while not (out / "lightning" / "last.ckpt").exists() and time.monotonic() < deadline and first.poll() is None:
        time.sleep(0.05)
    with open(f"/proc/{first.pid}/task/{first.pid}/children") as children:
        second = next(pid for pid in map(int, children.read().split()) if "patch_finetune" in command_line(pid))
    os.kill(second, signal.SIGKILL)
    _, error = first.communicate(timeout=60)
    assert first.returncode == 1
    assert error.count("\n") == 1
    assert f"process {second} of this run was ended by SIGKILL; was there enough memory?; {out} holds" in error


def command_line(pid):
    with open(f"/proc/{pid}/cmdline") as stream:
        return stream.read()


def test_the_record_says_how_many_processes_there_were(whole):
    training = json.loads((whole / "training.json").read_text())
    assert training["processes"] == [1, 1, 1]
    assert training["cautions"] == []


ASKS = """
import time
from faithfulness.data import KeyedBatches, open_data, make_loader, Samples
data = open_data("digits", "val", count=8)
if __name__ == "__main__":
    config = {"input_size": (3, 64, 64), "mean": (0, 0, 0), "std": (1, 1, 1), "interpolation": "bilinear"}
    samples = Samples(data, {**config, "crop_pct": 1.0, "crop_mode": "center"}, training=False)
    batches = iter(make_loader(samples, KeyedBatches(8, 4, shuffle=False), workers=1))
    print(batches._workers[0].pid, flush=True)
    time.sleep(300)
"""


def test_a_loaders_worker_ends_with_whoever_asked_for_it(tmp_path):
    """Killed while the worker imports: it then takes another process for the one that asked."""
    (tmp_path / "asks.py").write_text(ASKS)
    command = [sys.executable, str(tmp_path / "asks.py")]
    asks = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
    assert asks.stdout is not None
    worker = int(asks.stdout.readline())
    asks.kill()
    asks.wait()
    deadline = time.monotonic() + 90
    while command_or_nothing(worker) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not command_or_nothing(worker)


def command_or_nothing(pid):
    try:
        return command_line(pid)
    except OSError:
        return ""


def test_a_port_that_is_taken_is_said_in_a_line():
    """Lightning looks for a free port, and takes it seconds later."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(RuntimeError) as error:
            torch.distributed.TCPStore("127.0.0.1", taken.getsockname()[1], 1, is_master=True)
    assert "another program has taken the port" in (machine_failure(error.value) or "")
