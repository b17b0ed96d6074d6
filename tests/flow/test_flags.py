"""Every flag of every command is heard: it changes the result or what is recorded of it, or it is refused.

`HEARD` and `REFUSED` say for each flag what shows it. A flag without an entry fails the test. Flags of one
command are given together, each with a value that isn't its default.
"""

import contextlib
import inspect
import io
import json
from dataclasses import fields, is_dataclass
from types import SimpleNamespace

import lightning
import numpy as np
import pytest
import torch
from lightning.fabric import Fabric

import data.loading
import eval.grids
import eval.runner
from checkpoints import save_checkpoint, save_segmenter
from core import DeletionSpec
from core.cli import run_command
from core.results import write_json
from data import open_data
from difull import make_compositions
from eval import aggatt, dea, difull, idsds, leakage, mlatt
from tests.reference.networks import small_resnet
from tests.reference.tiny_models import tiny_segmenter
from training import patch_finetune, segmentation_finetune

EVALUATIONS = {
    "idsds": (idsds.IdsdsOptions, idsds.evaluate),
    "difull": (difull.DifullOptions, difull.evaluate),
    "mlatt": (mlatt.MlattOptions, mlatt.evaluate),
    "aggatt": (aggatt.AggattOptions, aggatt.evaluate),
    "leakage": (leakage.LeakageOptions, leakage.evaluate),
    "dea": (dea.DeaOptions, dea.evaluate),
}
TRAININGS = {"patch_finetune": patch_finetune.finetune, "segmentation_finetune": segmentation_finetune.finetune}
COMMANDS = {**EVALUATIONS, **{name: (function, None) for name, function in TRAININGS.items()}}
GRIDS = ("difull", "mlatt", "aggatt")


def setting(name, value):
    return lambda run: run.summary["settings"][name] == value


def names_of(run, key):
    return {score[key] for score in run.summary["scores"]}


TIMM = "timm:test_convnext"
SHARED = {
    "model": (["--model", TIMM], lambda run: run.summary["model"]["name"].endswith("test_convnext")),
    "attributions": (["--attributions", "ixg"], lambda run: "ixg" in names_of(run, "attribution")),
    "layers": (["--layers", "final"], lambda run: "final" in names_of(run, "layer")),
    "limit": (["--limit", "30"], lambda run: run.summary["data"]["n_images"] == 30),
    "batch_size": (["--batch-size", "12"], setting("batch_size", 12)),
    "chunk": (["--chunk", "24"], setting("chunk", 24)),
    "out": ([], lambda run: run.out.is_dir()),
    "overwrite": (["--overwrite"], lambda run: not (run.out / "plots" / "old.png").exists()),
    "input_size": (["--input-size", "32"], setting("input_size", [32, 32])),
    "accelerator": (["--accelerator", "cpu"], lambda run: run.fabric["accelerator"] == "cpu"),
    "devices": (["--devices", "2"], lambda run: run.fabric["devices"] == 2),
    "num_nodes": (["--num-nodes", "3"], lambda run: run.fabric["num_nodes"] == 3),
    "precision": (["--precision", "64-true"], setting("precision", "64-true")),
    "workers": (["--workers", "1"], lambda run: run.workers == 1),
    "seed": (["--seed", "1"], setting("seed", 1)),
    "skip_corrupt": (["--skip-corrupt"], lambda run: run.skip_corrupt),
    "published": (["--published", "idsds"], lambda run: "idsds" in json.dumps(run.summary["settings"])),
}
OF_GRIDS = {
    "setting": (["--setting", "dipart"], setting("setting", ["dipart"])),
    "scale": (["--scale", "3"], setting("scale", [3])),
    "grids": (["--grids", "2"], setting("grids", {"corners 3×3": 2})),
    "confidence": (["--confidence", "0.5"], lambda run: run.summary["settings"]["choice"]["n_confident"] == 30),
    "choose_with": (["--choose-with", TIMM], lambda run: len(run.models) == 2),
    "one_use": (["--one-use"], setting("one_use", True)),
}
BASELINE = (["--baseline", "CHECKPOINT"], lambda run: "baseline" in json.dumps(run.summary["accuracy"]))
BILINEAR = (["--bilinear"], setting("scoring", "bilinear"))
HEARD = {
    "idsds": SHARED
    | {
        "protocol": (["--protocol", "single"], lambda run: names_of(run, "metric") == {"single_deletion"}),
        "baseline": (["--baseline", TIMM], lambda run: "baseline" in run.summary["evidence"]),
        "grid": (["--grid", "2", "4"], setting("grid", [2, 4])),
        "fill": (["--fill", "mean"], setting("fill", "mean")),
        "output": (["--output", "probability"], setting("output", "probability")),
    },
    "difull": SHARED | OF_GRIDS | {"baseline": BASELINE, "bilinear": BILINEAR},
    "mlatt": SHARED
    | OF_GRIDS
    | {"baseline": BASELINE, "bilinear": BILINEAR, "kernels": (["--kernels", "65"], setting("kernels", [1, 65]))},
    "aggatt": SHARED
    | OF_GRIDS
    | {
        "layers": (["--layers", "input", "final"], lambda run: names_of(run, "layer") == {"input", "final"}),
        "cell": (["--cell", "8"], setting("cell", 8)),
        "map_size": (["--map-size", "8"], lambda run: {m.shape[-1] for m in run.bins.values()} == {3, 8}),
        "examples": (
            ["--examples", "1"],
            lambda run: {len(p["examples"]) for row in run.summary["bins"] for p in row["bins"]} <= {0, 1},
        ),
    },
    "leakage": {name: SHARED[name] for name in SHARED if name not in ("attributions", "layers", "devices", "num_nodes")}
    | {
        "setting": (["--setting", "gridpg"], setting("setting", ["gridpg"])),
        "scale": (["--scale", "3"], setting("scale", [3])),
        "grids": (["--grids", "1"], setting("grids", 1)),
        "tries": (["--tries", "1"], setting("tries", 1)),
        "fill": (["--fill", "mean"], lambda run: "mean" in json.dumps(run.summary["proofs"])),
    },
    "dea": SHARED
    | {
        "input_size": (["--input-size", "64"], setting("input_size", [64, 64])),
        "model": (["--model", "SEGMENTER"], lambda run: run.summary["model"]["sha256"]),
        "limit": (["--limit", "8"], lambda run: run.summary["data"]["n_images"] == 8),
        "fractions": (["--fractions", "0.2", "0.4"], setting("fractions", [0.2, 0.4])),
        "fill": (["--fill", "zeros"], setting("fill", "zeros")),
        "region": (["--region", "annotated"], setting("region", "annotated")),
        "classes": (["--classes", "3", "5"], lambda run: run.summary["data"]["dropped"]["class not asked for"] > 0),
        "min_area": (["--min-area", "0"], lambda run: run.summary["settings"]["filters"]["min_area"] == 0),
        "max_area": (["--max-area", "1"], lambda run: run.summary["settings"]["filters"]["max_area"] == 1),
        "min_iou": (["--min-iou", "0"], lambda run: run.summary["settings"]["filters"]["min_iou"] == 0),
        "sweep": (["--sweep"], lambda run: run.summary["sweep"]),
    },
}


def recorded(name, value):
    return lambda run: run.summary["settings"][name] == value


def trainer(name, value):
    return lambda run: run.trainer[name] == value


OF_TRAINING = {
    "out": ([], lambda run: (run.out / "model.safetensors").is_file()),
    "model": (["--model", "test_convnext"], recorded("model", "test_convnext")),
    "model_args": (["--model-args.drop_path_rate", "0.1"], recorded("model_args", {"drop_path_rate": 0.1})),
    "input_size": (["--input-size", "32"], lambda run: run.config["pretrained_cfg"]["input_size"] == [3, 32, 32]),
    "grid": (["--grid", "2"], lambda run: run.config["deletion"]["grid"] == [2, 2]),
    "fill": (["--fill", "mean"], lambda run: run.config["deletion"]["fill"] == "mean"),
    "deletion_probability": (
        ["--deletion-probability", "0.25"],
        lambda run: run.config["deletion"]["probability"] == 0.25,
    ),
    "epochs": (["--epochs", "1"], lambda run: run.trainer["max_epochs"] == 1),
    "batch_size": (["--batch-size", "16"], recorded("batch_size", 16)),
    "lr": (["--lr", "0.003"], recorded("lr", 0.003)),
    "optimizer": (["--optimizer", "sgd"], recorded("optimizer", "sgd")),
    "momentum": (["--momentum", "0.8"], recorded("momentum", 0.8)),
    "weight_decay": (["--weight-decay", "0.02"], recorded("weight_decay", 0.02)),
    "schedule": (["--schedule", "step"], recorded("schedule", "step")),
    "step_epochs": (["--step-epochs", "3"], recorded("step_epochs", 3)),
    "train_images": (["--train-images", "32"], lambda run: run.summary["data"]["n_train"] == 32),
    "val_images": (["--val-images", "8"], lambda run: run.summary["data"]["n_val"] == 8),
    "accelerator": (["--accelerator", "cpu"], trainer("accelerator", "cpu")),
    "devices": (["--devices", "2"], trainer("devices", 2)),
    "num_nodes": (["--num-nodes", "3"], trainer("num_nodes", 3)),
    "strategy": (["--strategy", "ddp"], trainer("strategy", "ddp")),
    "precision": (["--precision", "bf16-mixed"], trainer("precision", "bf16-mixed")),
    "workers": (["--workers", "1"], lambda run: run.workers == 1),
    "seed": (["--seed", "1"], recorded("seed", 1)),
    "overwrite": (["--overwrite"], lambda run: not (run.out / "logs" / "old.csv").exists()),
    "skip_corrupt": (["--skip-corrupt"], lambda run: run.skip_corrupt),
}
HEARD |= {
    "segmentation_finetune": OF_TRAINING,
    "patch_finetune": OF_TRAINING
    | {
        "loss": (["--loss", "binary_cross_entropy"], recorded("loss", "binary_cross_entropy")),
        "composite_prob": (["--composite-prob", "0.5"], lambda run: run.config["composite"]["probability"] == 0.5),
        "composite_scale": (["--composite-scale", "2"], lambda run: run.config["composite"]["scale"] == 2),
    },
}

NO_DATA = (["--data", "imagefolder:nowhere"], "nowhere|imagefolder")
NO_WEIGHTS = (["--pretrained", "--model", "timm:resnet18"], "no pretrained weights")
NOT_THOSE = (["--model", "WEIGHTS", "--arch", "resnet18"], "those of a resnet18")
OF_EVALUATIONS = {
    "data": NO_DATA,
    "split": (["--split", "tset"], "unknown split 'tset'"),
    "pretrained": NO_WEIGHTS,
    "arch": NOT_THOSE,
    "model_args": (["--model", TIMM, "--model-args.nonsense", "1"], "nonsense"),
}
LISTS = {"list_attributions": (["--list-attributions"], None)}
"""Prints and stops, with status 0."""
OF_COMPOSITIONS = {"compositions": (["--compositions", "nowhere.parquet"], "nowhere.parquet holds no compositions")}
REFUSED = {
    "idsds": OF_EVALUATIONS
    | LISTS
    | {
        "allow_out_of_domain": (["--grid", "3", "--allow-out-of-domain"], "3×3 grid does not divide"),
        "order": (["--order", "descending"], "--order has no effect with --protocol in-domain"),
        "steps": (["--steps", "8", "--protocol", "single"], "--steps has no effect with --protocol single"),
        "reattribute": (["--reattribute"], "--reattribute has no effect"),
        "baseline": (["--baseline", TIMM, "--protocol", "incremental"], "--baseline has no effect"),
        "grid": (["--grid", "2", "--protocol", "incremental"], "--grid has no effect"),
    },
    "difull": OF_EVALUATIONS | OF_COMPOSITIONS | LISTS,
    "mlatt": OF_EVALUATIONS | OF_COMPOSITIONS | LISTS,
    "aggatt": OF_EVALUATIONS | OF_COMPOSITIONS,
    "leakage": OF_EVALUATIONS
    | {
        "devices": (["--devices", "2"], "one process"),
        "num_nodes": (["--num-nodes", "2"], "one process"),
        "deletions": (["--deletions", "nowhere"], "no record of deletions"),
        "mask_images": (["--mask-images", "0"], "--mask-images must be at least 1"),
    }
    # what chooses grids and methods has nothing to do there
    | {
        name: ([f"--{name.replace('_', '-')}", value], "")
        for name, value in {
            "attributions": "ixg",
            "layers": "final",
            "confidence": "0.5",
            "choose_with": TIMM,
            "compositions": "FILES",
            "one_use": "true",
            "published": "idsds",
        }.items()
    },
    "dea": OF_EVALUATIONS
    | LISTS
    | {
        "pretrained": (NO_WEIGHTS[0], "an FCN on resnet18 needs num_classes"),
    },
    "patch_finetune": {"data": NO_DATA, "pretrained": NO_WEIGHTS, "arch": NOT_THOSE},
    "segmentation_finetune": {"data": NO_DATA, "pretrained": NO_WEIGHTS, "arch": NOT_THOSE},
}
for _name in TRAININGS:
    REFUSED[_name] |= {"resume": (["--resume", "--out", "FILES"], "holds no training run")}


def flags_of(command):
    options = COMMANDS[command][0]
    return [f.name for f in fields(options)] if is_dataclass(options) else list(inspect.signature(options).parameters)


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
            status = run_command(*COMMANDS[command], words)
        except SystemExit as stop:
            status = stop.code
    return status, printed.getvalue(), errors.getvalue()


@pytest.fixture(scope="module")
def watched():
    """What the commands hand to Fabric, to Lightning's trainer, to the loaders and to the samples."""
    seen = SimpleNamespace(models=[])
    make, samples, train = data.loading.make_loader, data.loading.KeyedSamples.__init__, lightning.Trainer

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
        labels = torch.from_numpy(eval.grids.data_labels(runner.data)[: runner.count])
        chance = torch.where(torch.arange(len(labels)) % 2 == 0, 1.0, 0.6)
        return torch.zeros(len(labels), 10).scatter_(1, labels[:, None], chance[:, None]), torch.arange(len(labels))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(eval.runner, "Fabric", fabric)
        patch.setattr(eval.runner, "make_loader", loader)
        patch.setattr("training.module.make_loader", loader)
        patch.setattr(data.loading.KeyedSamples, "__init__", read)
        patch.setattr(eval.grids, "confidences", confident)
        patch.setattr(lightning, "Trainer", trainer)
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
        write_json(out / "summary.json", {"protocol": command})
        write_json(out / "plots" / "old.png", {})
    watched.models.clear()
    arguments = [word for words, _ in own.values() for word in words] + ["--out", out]
    status, printed, errors = call(command, arguments, places)
    assert status in ((0, 1) if command == "leakage" else (0,)), errors
    found = SimpleNamespace(command=command, own=own, out=out, printed=printed, **vars(watched))
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
    assert set(flags_of(command)) - set(HEARD[command]) - set(REFUSED[command]) == set()


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
