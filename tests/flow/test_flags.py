"""Every flag of every command is heard: it changes the result or what is recorded of it, or it is refused.

`HEARD` and `REFUSED` say for each flag what shows it. A flag without an entry fails the test. Flags of one
command are given together, each with a value that isn't its default.
"""

import contextlib
import io
import json
from types import SimpleNamespace

import lightning
import numpy as np
import pytest
import torch
from lightning.fabric import Fabric

import eval.frame.batches
import eval.frame.compositions
import eval.frame.run
import faithfulness.data.loading
from checkpoints import save_checkpoint, save_segmenter
from difull import make_compositions
from faithfulness.core import DeletionSpec
from faithfulness.core.files import write_json
from faithfulness.data import open_data
from tests.reference.flags import COMMANDS, EVALUATIONS, HEARD, REFUSED, SHARES, TRAININGS, flags_of
from tests.reference.networks import small_resnet
from tests.reference.tiny_models import tiny_segmenter

DRAWN = True


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """What the words in capitals stand for."""
    folder = tmp_path_factory.mktemp("flags")
    digits = [str(digit) for digit in range(10)]
    save_checkpoint(folder / "classifier", small_resnet(10), deletion=DeletionSpec(), classes=digits, training={})
    names = ["background", *digits]
    save_segmenter(folder / "segmenter", tiny_segmenter(), deletion=DeletionSpec(), classes=names, training={})
    torch.save({"weight": torch.zeros(1)}, folder / "weights.pth")
    validation = open_data("digits", "val", count=60)
    labels = np.array([validation.label(index) for index in range(60)])
    make_compositions(labels, np.arange(60), 2, 3, "corners").save(folder / "files" / "corners.parquet")
    return {
        "WEIGHTS": folder / "weights.pth",
        "FILES": folder / "files",
        "CHECKPOINT": folder / "classifier",
        "SEGMENTER": folder / "segmenter",
    }


def own_model(command, places):
    return places["SEGMENTER" if command in ("dea", "segmentation_finetune") else "CHECKPOINT"]


def call(command, arguments, places):
    """Status, what was printed, what came as an error; a flag that the parser doesn't know is refused as well."""
    words = [str(places.get(word, word)) for word in arguments]
    printed, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(errors):
        try:
            status = COMMANDS[command].main(words)
        except SystemExit as stop:
            status = stop.code
    return status, printed.getvalue(), errors.getvalue()


@pytest.fixture(scope="module")
def watched():
    """What the commands hand to Fabric, to Lightning's trainer, to the loaders and to the samples."""
    seen = SimpleNamespace(models=[], compiled=[])
    make, samples, train = (
        faithfulness.data.loading.make_loader,
        faithfulness.data.loading.KeyedSamples.__init__,
        lightning.Trainer,
    )

    def fabric(**given):
        seen.fabric = given
        return Fabric(accelerator="cpu", devices=1, precision=given["precision"])

    def loader(samples, batches, workers=0):
        seen.workers = workers
        return make(samples, batches, 0)

    def read(self, *arguments, skip_corrupt=False, **given):
        seen.skip_corrupt = skip_corrupt
        samples(self, *arguments, skip_corrupt=skip_corrupt, **given)

    def trainer(**given):
        seen.trainer = given
        return train(**given | {"accelerator": "cpu", "devices": 1, "num_nodes": 1, "strategy": "auto"})

    def confident(runner, model):
        """Every image is known, every second one for certain."""
        seen.models.append(model)
        labels = torch.from_numpy(eval.frame.compositions.data_labels(runner.data)[: runner.count])
        chance = torch.where(torch.arange(len(labels)) % 2 == 0, 1.0, 0.6)
        return torch.zeros(len(labels), 10).scatter_(1, labels[:, None], chance[:, None]), torch.arange(len(labels))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(eval.frame.run, "Fabric", fabric)
        patch.setattr(eval.frame.batches, "make_loader", loader)
        patch.setattr("training.batches.make_loader", loader)
        patch.setenv("MASTER_ADDR", "127.0.0.1")
        patch.setattr("faithfulness.core.hardware.LAUNCHERS", ("MASTER_ADDR",))
        patch.setattr(faithfulness.data.loading.KeyedSamples, "__init__", read)
        patch.setattr(eval.frame.compositions, "confidences", confident)
        patch.setattr("training.fit.L.Trainer", trainer)
        patch.setattr(torch, "compile", lambda network, **given: seen.compiled.append(network) or network)
        yield seen


@pytest.fixture(scope="module", params=list(HEARD))
def run(request, places, watched, tmp_path_factory):
    """One run of a command with all flags of its table at once, over an older run of its kind."""
    command, out = request.param, tmp_path_factory.mktemp("out") / "run"
    own = {name: entry for name, entry in HEARD[command].items() if name in flags_of(command)}
    if command in TRAININGS:
        write_json(out / "settings.json", {})
        write_json(out / "logs" / "old.csv", {})
    else:
        write_json(out / "summary.json", {"schema": 1, "protocol": command, "files": ["summary.json", "plots/old.png"]})
        write_json(out / "plots" / "old.png", {})
    watched.models.clear()
    watched.compiled.clear()
    arguments = [word for words, _ in own.values() for word in words] + ["--out", out]
    status, printed, errors = call(command, arguments, places)
    assert status in ((0, 1) if command == "leakage" else (0,)), errors
    found = SimpleNamespace(command=command, own=own, out=out, printed=printed, errors=errors, **vars(watched))
    if command in TRAININGS:
        found.summary = json.loads((out / "training.json").read_text())
        found.config = json.loads((out / "config.json").read_text())
    else:
        found.summary = json.loads((out / "summary.json").read_text())
    if command == "aggatt":
        with np.load(out / "bins.npz") as bins:
            found.bins = dict(bins)
    return found


def test_every_flag_is_heard(run):
    ignored = [name for name, (_, shows) in run.own.items() if not shows(run)]
    assert not ignored


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_has_an_entry(command):
    assert set(flags_of(command)) - set(HEARD[command]) - set(REFUSED[command]) - set(SHARES) == set()


@pytest.mark.parametrize("command", [command for command in EVALUATIONS if "shard" in flags_of(command)])
def test_a_share_of_a_run_is_heard(command, places, watched, tmp_path):
    for flag, (arguments, says) in SHARES.items():
        base = ["--model", own_model(command, places), "--limit", "4", "--attributions", "ixg"]
        base += ["--protocol", "single"] if command == "idsds" else []
        base += ["--limit", "30", "--confidence", "0.5", "--grids", "2"] if "confidence" in flags_of(command) else []
        base += ["--min-iou", "0"] if command == "dea" else []
        status, printed, errors = call(command, [*base, *arguments, "--out", tmp_path / flag], places)
        assert status == 0, errors
        assert says in printed
        assert (tmp_path / flag / "parts").is_dir()
        assert not (tmp_path / flag / "summary.json").exists()
    assert watched.fabric["devices"] == "auto"


@pytest.mark.parametrize(
    ("command", "flag"),
    [(command, flag) for command in REFUSED for flag in REFUSED[command] if flag in flags_of(command)],
)
def test_every_other_flag_is_refused_by_what_it_says(places, tmp_path, command, flag):
    arguments, message = REFUSED[command][flag]
    base = ["--out", tmp_path / "run"] + ([] if message is None else ["--model", own_model(command, places)])
    base += ["--limit", "4"] if command in EVALUATIONS else []
    status, printed, errors = call(command, [*base, *arguments], places)
    if message is None:
        assert status == 0
        assert "ixg" in printed
    else:
        assert status == 2
        assert any(part in errors for part in message.split("|")), errors
    assert not (tmp_path / "run").exists()
