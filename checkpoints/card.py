"""The model card of a checkpoint folder, and the parts of it that a release's card shares."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from checkpoints.lineage import chain
from checkpoints.scrub import Scrubber
from faithfulness.core.progress import size

RESUMING = ("lightning", "last", "logs", "deletions")
"""Folders of a training run that aren't the checkpoint."""


def model_card(folder: Path, config: dict[str, Any], training: dict[str, Any]) -> str:
    """A README: what the model is, how it saw deletion, how to load and score it, what else lies in the folder."""
    training = Scrubber({}).clean(training)
    tags = tags_of(config)
    data = training.get("data", {}).get("name", "unknown")
    library = f"library_name: {library_of(config)}\n"
    return f"""---
{library}tags: [{", ".join(tags)}]
---
# {config["architecture"]}, {config["num_classes"]} classes

Trained on `{data}` at {config["pretrained_cfg"]["input_size"][1]} px.

## Deletion

{deletion_text(config)}

## Metrics on the validation split

{metrics_table(training)}

## Use

{use_text(folder.name, config, data)}

## Training

{training_text(training)}

Every setting, version, commit and data fingerprint is in `training.json`.
{_folder_text(folder)}"""


def tags_of(config: dict[str, Any]) -> list[str]:
    """Tags for the Hub."""
    task = ["image-segmentation", "attribution", "dea"] if _segments(config) else ["image-classification"]
    return task if _segments(config) else [*task, "attribution", "idsds"]


def library_of(config: dict[str, Any]) -> str:
    """timm where plain timm can load the folder, else pytorch."""
    return "timm" if in_timm(config) else "pytorch"


def in_timm(config: dict[str, Any]) -> bool:
    """Whether plain timm, without this suite, makes the network of a config."""
    import timm
    from timm.models import model_entrypoint

    name = config["architecture"]
    if _segments(config) or config.get("own") or not timm.is_model(name):
        return False
    return model_entrypoint(name).__module__.partition(".")[0] == "timm"


def _segments(config: dict[str, Any]) -> bool:
    return config.get("task") == "segmentation"


def deletion_text(config: dict[str, Any]) -> str:
    """How the model saw deletion in training."""
    deletion = config.get("deletion")
    if not deletion or not deletion["probability"]:
        return "The model was trained on whole images only: deleting patches takes it out of its domain."
    cells = "×".join(str(side) for side in deletion["grid"])
    text = (
        f"With probability {deletion['probability']}, exactly one cell of a {cells} grid, chosen uniformly, was "
        f"replaced by `{deletion['fill']}` (on normalized input)."
    )
    composite = config.get("composite")
    if composite:
        side = composite["scale"]
        text += f" A share of {composite['probability']} of each batch stood in {side}×{side} grids."
    return text


def metrics_table(training: dict[str, Any]) -> str:
    """What the last validation gave."""
    rows = [f"| {key} | {value:.4f} |" for key, value in training.get("metrics", {}).items() if type(value) is float]
    return "\n".join(["| metric | value |", "|---|---|", *rows])


def training_text(training: dict[str, Any]) -> str:
    """The commands that made it, the first stage first, and the settings of the last."""
    found = [training, *chain(training)]
    commands = [entry["command"] for entry in reversed(found) if isinstance(entry.get("command"), str)]
    lines = [_stage(command, number, len(commands)) for number, command in enumerate(commands, start=1)]
    settings = json.dumps(training.get("settings", {}), indent=2)
    parts = ["\n".join(["```sh", *lines, "```"])] if lines else []
    parts += [f"```json\n{settings}\n```"] if training.get("settings") else []
    return "\n\n".join(parts) or "Nothing is recorded of it."


def _stage(command: str, number: int, stages: int) -> str:
    """A command of a training in several stages: each goes on with the checkpoint of the one before it."""
    words = shlex.split(command)
    for place, word in enumerate(words):
        if number > 1 and word.startswith("PATH/") and words[place - 1] == "--model":
            words[place] = f"stage{number - 1}"
        elif number > 1 and word.startswith("--model=PATH/"):
            words[place] = f"--model=stage{number - 1}"
    return shlex.join([*words, "--out", f"stage{number}"] if stages > 1 else words)


def use_text(
    name: str, config: dict[str, Any], trained_on: str, folder: str | None = None, code: str | None = None
) -> str:
    """Lines of Python that load the checkpoint, and the command that scores it.

    Args:
        name: of the folder, or `hf-hub:ORG/NAME`.
        trained_on: its data, as `--data` has them.
        folder: what timm loads; the folder of that name by default.
        code: the file and function that make a network of the user's own.
    """
    segmentation = _segments(config)
    code = code or (f"path/to/file.py:{config['architecture']}" if config.get("own") else None)
    command = f"python -m {'eval.dea' if segmentation else 'eval.idsds'} --model {shlex.quote(name)}"
    if trained_on.partition(":")[2]:
        command += f" --data {trained_on}"
    if in_timm(config):
        source = folder or f"local-dir:{name}"
        load = f'import timm\nmodel = timm.create_model("{source}", pretrained=True).eval()'
        load += "" if folder else "   # any folder name"
    else:
        loader = "load_segmenter" if segmentation else "load_model"
        arguments = f'"{name}", arch="{code}"' if code else f'"{name}"'
        load = f"from checkpoints import {loader}\nmodel = {loader}({arguments}).model.eval()"
    command += f" --arch {code}" if code else ""
    return f"```python\n{load}\n```\n\n```sh\n{command}\n```"


def _folder_text(folder: Path) -> str:
    """Which part of a training folder is the checkpoint, and which is for going on; empty for another folder."""
    sizes = {name: _bytes_below(folder / name) for name in RESUMING if (folder / name).is_dir()}
    if "lightning" not in sizes:
        return ""
    what = {
        "lightning": "state of the optimizer, for `--resume`",
        "last": "the last epoch's weights",
        "logs": "a row per epoch, TensorBoard",
        "deletions": "what each epoch trained on, for `eval.leakage`",
    }
    rows = "\n".join(f"| `{name}/` | {size(float(count))} | {what[name]} |" for name, count in sizes.items())
    own = size(float((folder / "model.safetensors").stat().st_size))
    return f"""
## This folder

The checkpoint is `model.safetensors`, `config.json` and `training.json` ({own}). The rest is for going on:

| folder | size | holds |
|---|---|---|
{rows}

None of it is handed on: `python -m checkpoints.release {folder.name} --results RESULTS --out RELEASE` puts
together what is.
"""


def _bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
