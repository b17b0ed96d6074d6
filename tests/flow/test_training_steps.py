"""How a step is computed: in parts, with a gradient that is clipped, with averaged weights, compiled."""

import json
import re
from functools import partial

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from torch import nn

from faithfulness.core import InputError
from faithfulness.core.progress import Progress
from tests.reference.networks import plain_cnn
from tests.reference.own_code import SIDE, Net, Pictures
from tests.reference.plain_training import recorded, train_plainly
from training import patch_finetune
from training.averaging import CURRENT
from training.epochs import EpochLog
from training.module import PatchFineTuner

FLAGS = {"input_size": SIDE, "batch_size": 8, "lr": 0.2, "grid": [2], "accelerator": "cpu", "quiet": True, "epochs": 1}


class Torn(Pictures):
    """Two samples that can't be read."""

    def __getitem__(self, index):
        if index in (3, 20):
            raise OSError("torn")
        return super().__getitem__(index)


def network(normed):
    """One whose images are taken as they are, without dropout; with BatchNorm if asked."""
    torch.manual_seed(0)
    norm = [nn.BatchNorm2d(4)] if normed else []
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), *norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    net.append(nn.Linear(4, 3))
    net.data_config = {"input_size": SIDE}
    return net


def finetune(out, net=None, kind=Pictures, **flags):
    data = {"train": kind("float"), "val": Pictures("float", seed=1)}
    return patch_finetune.finetune(model=network(False) if net is None else net, data=data, out=out, **FLAGS | flags)


def weights(folder):
    return load_file(folder / "last" / "model.safetensors")


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    """A run without any of the flags."""
    out = tmp_path_factory.mktemp("runs") / "usual"
    finetune(out)
    return out


@pytest.mark.parametrize(
    ("flags", "normed", "torn"),
    [
        ({}, True, False),
        ({"accumulate": 2}, False, False),
        ({"accumulate": 4, "clip": 0.3, "ema": 0.7}, False, False),
        ({"clip": 0.3}, True, False),
        ({"ema": 0.6}, True, False),
        ({"accumulate": 8, "skip_corrupt": True}, False, True),
        ({"accumulate": 4, "skip_corrupt": True, "ema": 0.5}, False, True),
    ],
)
def test_a_run_is_that_of_a_plain_loop(usual, tmp_path, flags, normed, torn):
    """Whole batches by hand give the weights, their average, the record and the loss of batches in parts."""
    net = network(normed)
    finetune(tmp_path / "run", net, Torn if torn else Pictures, **flags)
    order = recorded(usual)
    left_out = (3, 20) if torn else ()
    pd.testing.assert_frame_equal(
        recorded(tmp_path / "run"), order[~order["index"].isin(left_out)].reset_index(drop=True), check_exact=True
    )
    by_hand = {"clip": flags.get("clip"), "ema": flags.get("ema"), "left_out": left_out}
    trained, average, loss = train_plainly(net, Pictures("float"), order, 8, lr=0.2, **by_hand)
    found = weights(tmp_path / "run")
    assert set(found) == set(trained)
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, average[name], rtol=1e-5, atol=1e-6, msg=name)
    content = torch.load(tmp_path / "run" / "lightning" / "last.ckpt", weights_only=True)
    for name, tensor in content.get(CURRENT, content["state_dict"]).items():
        torch.testing.assert_close(tensor, trained[name.removeprefix("backbone.model.")], rtol=1e-5, atol=1e-6)
    assert content["global_step"] == 3
    table = pd.read_csv(tmp_path / "run" / "logs" / "epochs.csv")
    assert table["train_loss"][0] == pytest.approx(loss, rel=1e-5)


OF_PLACE = re.compile(r"images_per_second|seconds|dirpath|.*_path|best_k_models|current_score")


def test_the_logger_is_told_the_loss_of_every_tenth_step(tmp_path, monkeypatch):
    losses, loss_of = [], PatchFineTuner.loss_of

    def kept(self, *batch):
        losses.append(loss_of(self, *batch))
        return losses[-1]

    monkeypatch.setattr(PatchFineTuner, "loss_of", kept)
    finetune(tmp_path, epochs=7)
    (file,) = (tmp_path / "logs").glob("events.out.tfevents*")
    values = [(event.step, each) for event in EventFileLoader(str(file)).Load() for each in event.summary.value]
    told = {step: each.tensor.float_val[0] for step, each in values if each.tag == "train/loss"}
    assert len(losses) == 21
    assert told == {step: pytest.approx(losses[step].item()) for step in (9, 19)}


def differences(one, other, place=""):
    """Where two checkpoints differ, but in what a clock says, where they lie, and what Lightning forgets."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = sorted(key for key in {*one, *other} if not OF_PLACE.fullmatch(str(key)))
        return [found for key in keys for found in differences(one.get(key), other.get(key), f"{place}/{key}")]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return [found for pair in zip(one, other, strict=True) for found in differences(*pair, f"{place}[]")]
    tensors = isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor)
    return [] if (torch.equal(one, other) if tensors else one == other) else [place]


@pytest.mark.parametrize("steps", [{}, {"accumulate": 2, "clip": 0.5, "ema": 0.8, "compile": True}])
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, monkeypatch, steps):
    """The whole checkpoint: trained and averaged weights, the optimizer, the schedule, the table. There is dropout."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    flags = {"optimizer": "adamw", "schedule": "onecycle", "lr": 0.01, "epochs": 3}
    torch.manual_seed(0)
    run = partial(finetune, net=Net(), **flags, **steps)
    run(tmp_path / "whole")
    begin = PatchFineTuner.on_train_epoch_start

    def stop(self):
        if self.current_epoch == 2:
            raise KeyboardInterrupt
        begin(self)

    with monkeypatch.context() as patch:
        patch.setattr(PatchFineTuner, "on_train_epoch_start", stop)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "run")
    with pytest.raises(
        InputError, match=rf"--resume with another ema: the run in .* has {steps.get('ema')}, asked 0.9"
    ):
        run(tmp_path / "run", resume=True, ema=0.9)
    with pytest.raises(InputError, match=rf"another accumulate: .* has {steps.get('accumulate', 1)}, asked 4"):
        run(tmp_path / "run", resume=True, accumulate=4)
    run(tmp_path / "run", resume=True)
    for name in ("last.ckpt", "best.ckpt"):
        one, other = (torch.load(tmp_path / out / "lightning" / name, weights_only=True) for out in ("whole", "run"))
        assert differences(one, other) == []
        assert CURRENT not in one or differences(one["state_dict"], one[CURRENT]), "the average is the weights"
    assert weights(tmp_path / "run").keys() == Net().state_dict().keys()


def test_whole_shares_of_a_batch_run_compiled_and_nothing_else_does(usual, tmp_path, monkeypatch):
    """With a backend that computes as torch does, the weights are the same, and so are their names."""
    graphs, ran = [], []

    def backend(graph, examples):
        def run(*given):
            ran.append(next(len(each) for each in given if each.dim() == 4 and each.shape[-1] == SIDE))
            return graph(*given)

        graphs.append(graph)
        return run

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    finetune(tmp_path / "run", compile=True)
    assert (len(graphs), ran) == (1, [8, 8, 8]), "validation isn't compiled"
    assert differences(weights(tmp_path / "run"), weights(usual)) == []
    ran.clear()
    finetune(tmp_path / "torn", kind=Torn, compile=True, skip_corrupt=True)
    torn = recorded(usual)["index"].isin([3, 20]).to_numpy().reshape(3, 8).any(axis=1)
    assert ran == [8] * (~torn).sum()


def test_a_network_that_torch_cannot_compile_is_one_line(tmp_path, monkeypatch):
    def backend(graph, examples):
        raise ValueError("no compiler")

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    with pytest.raises(InputError, match=r"--compile: torch can't compile this network here .*no compiler"):
        finetune(tmp_path / "run", compile=True)
    assert not (tmp_path / "run").exists()


def test_what_is_off_is_not_recorded_and_what_is_on_is_said(usual, tmp_path, monkeypatch, capsys):
    """A run made before there were these flags has the same settings, hence goes on. Steps are the optimizer's."""
    made = Progress.__init__
    monkeypatch.setattr(Progress, "__init__", lambda self, quiet: made(self, quiet, every=0.0))
    monkeypatch.setattr(
        EpochLog, "on_validation_start", lambda self, *given: setattr(self, "_validated", self._start + 2)
    )
    flags = {"accumulate", "clip", "ema", "compile"}
    assert not flags & json.loads((usual / "settings.json").read_text()).keys()
    words = ["--model", "test_convnext", "--train-images", 16, "--val-images", 4, "--batch-size", 8, "--epochs", 1]
    words += ["--accumulate", 2, "--clip", 2.5, "--ema", 0.5, "--accelerator", "cpu", "--out", tmp_path / "run"]
    assert patch_finetune.main([str(word) for word in words]) == 0
    said = capsys.readouterr().err
    assert "1 epochs of 2 steps of 8 images" in said
    assert "a step in 2 parts, 4 images at once on each device; the gradient's norm is at most 2.5; a moving" in said
    assert "caution: in 2 steps 50% of it stay the weights of the first one" in said
    assert re.findall(r"step \d of \d", said) == ["step 1 of 2", "step 1 of 2", "step 2 of 2", "step 2 of 2"]
    assert pd.read_csv(tmp_path / "run" / "logs" / "epochs.csv")["images_per_second"][0] == pytest.approx(16 / 2)
    record = json.loads((tmp_path / "run" / "training.json").read_text())
    assert {name: record["settings"].get(name) for name in flags} == {
        "accumulate": 2, "clip": 2.5, "ema": 0.5, "compile": None
    }  # fmt: skip
    assert "--accumulate 2" in record["command"]
    assert "--clip 2.5 --ema 0.5" in record["command"]
    assert "--compile" not in record["command"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"accumulate": 3}, r"--batch-size 8 is the whole batch and must be a multiple of 1 device × 3 parts"),
        ({"accumulate": 16}, r"multiple of 1 device × 16 parts \(--accumulate\)"),
        ({"accumulate": 4, "composite_prob": 0.5}, "a share of 0.5 of 2 images at once on each device makes no 2×2"),
    ],
)
def test_parts_that_there_are_not_are_refused(tmp_path, flags, message):
    with pytest.raises(InputError, match=message):
        finetune(tmp_path / "run", plain_cnn(3), **flags)
    assert not list(tmp_path.iterdir())
