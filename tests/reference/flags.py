"""What shows of each flag of each command that it was heard, or how it is refused.

`HEARD` has, per command, flag -> (the words of the command line, a look at the run that shows it); `REFUSED` has
flag -> (the words, a part of the message). Words in capitals stand for folders and files that the test makes.
"""

import json
from dataclasses import fields

from eval import aggatt, dea, difull, idsds, incremental, leakage, mlatt
from training import patch_finetune, segmentation_finetune

EVALUATIONS = {
    "idsds": idsds,
    "incremental": incremental,
    "difull": difull,
    "mlatt": mlatt,
    "aggatt": aggatt,
    "leakage": leakage,
    "dea": dea,
}
TRAININGS = {"patch_finetune": patch_finetune, "segmentation_finetune": segmentation_finetune}
COMMANDS = {**EVALUATIONS, **TRAININGS}
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
    "format": (["--format", "svg"], lambda run: any((run.out / "plots").glob("*.svg"))),
    "input_size": (["--input-size", "32"], setting("input_size", [32, 32])),
    "accelerator": (["--accelerator", "cpu"], lambda run: run.fabric["accelerator"] == "cpu"),
    "devices": (["--devices", "2"], lambda run: run.fabric["devices"] == 2),
    "num_nodes": (["--num-nodes", "3"], lambda run: run.fabric["num_nodes"] == 3),
    "precision": (["--precision", "64-true"], setting("precision", "64-true")),
    "workers": (["--workers", "1"], lambda run: run.workers == 1),
    "seed": (["--seed", "1"], setting("seed", 1)),
    "skip_corrupt": (["--skip-corrupt"], lambda run: run.skip_corrupt),
    "quiet": (["--quiet"], lambda run: run.errors == ""),
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
SHARES = {
    "shard": (["--shard", "1/2"], "shard 1/2 is finished"),
    "devices": (["--shard", "2/2", "--devices", "auto"], "2/2"),
}
"""What a part of a run is computed with; it prints the text, and there is no summary."""
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
    "incremental": SHARED
    | {
        "limit": (["--limit", "4"], lambda run: run.summary["data"]["n_images"] == 4),
        "fill": (["--fill", "mean"], setting("fill", "mean")),
        "order": (["--order", "descending"], setting("order", "descending")),
        "steps": (["--steps", "3"], setting("steps", 3)),
        "reattribute": (["--reattribute"], setting("reattribute", True)),
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
        "model": (["--model", "CHECKPOINT"], lambda run: run.summary["model"]["sha256"]),
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
        "limit": (["--limit", "2"], lambda run: run.summary["data"]["n_images"] == 2),
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
    "accumulate": (["--accumulate", "2"], trainer("accumulate_grad_batches", 2)),
    "clip": (["--clip", "0.5"], trainer("gradient_clip_val", 0.5)),
    "ema": (["--ema", "0.9"], lambda run: any(getattr(each, "decay", 0) == 0.9 for each in run.trainer["callbacks"])),
    "compile": (["--compile"], lambda run: len(run.compiled) == 1),
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
    "quiet": (["--quiet"], lambda run: run.errors == ""),
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
    },
    "incremental": OF_EVALUATIONS | LISTS,
    "difull": OF_EVALUATIONS | OF_COMPOSITIONS | LISTS,
    "mlatt": OF_EVALUATIONS | OF_COMPOSITIONS | LISTS,
    "aggatt": OF_EVALUATIONS | OF_COMPOSITIONS | LISTS,
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
    module = COMMANDS[command]
    options = {"patch_finetune": "PatchOptions", "segmentation_finetune": "SegmentationOptions"}.get(command)
    return [each.name for each in fields(getattr(module, options) if options else module.COMMAND.options)]
