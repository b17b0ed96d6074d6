"""The model card that travels with a checkpoint."""

from __future__ import annotations

import json
from typing import Any


def model_card(name: str, config: dict[str, Any], training: dict[str, Any]) -> str:
    """A README in the Hub's format: what the model is, how it saw deletion, how to load and score it."""
    deletion = config["deletion"]
    metrics = training.get("metrics", {})
    rows = "\n".join(f"| {key} | {value:.4f} |" for key, value in metrics.items() if isinstance(value, float))
    if deletion:
        rows_cols = "×".join(str(side) for side in deletion["grid"])
        seen = (
            f"With probability {deletion['probability']}, exactly one cell of a {rows_cols} grid, chosen uniformly, "
            f"was replaced by `{deletion['fill']}` (on normalized input)."
        )
    else:
        seen = "The model was trained on whole images only: deleting patches takes it out of its domain."
    segmentation = config.get("task") == "segmentation"
    tags = "image-segmentation, attribution, dea" if segmentation else "image-classification, attribution, idsds"
    library = "" if segmentation or config.get("own") else "library_name: timm\n"
    load, command = _how_to_use(name, config, training.get("data", {}).get("name", ""))
    return f"""---
{library}tags: [{tags}]
---
# {config["architecture"]}, {config["num_classes"]} classes

Trained on `{training.get("data", {}).get("name", "unknown")}` at {config["pretrained_cfg"]["input_size"][1]} px.

## Deletion

{seen}

## Metrics on the validation split

| metric | value |
|---|---|
{rows}

## Use

```python
{load}
```

```sh
{command}
```

## Settings

```json
{json.dumps(training.get("settings", {}), indent=2)}
```

Every setting, version, commit and data fingerprint is in `training.json`.
"""


def _how_to_use(name: str, config: dict[str, Any], trained_on: str) -> tuple[str, str]:
    """Lines of Python that load the checkpoint, and the command that scores it."""
    segmentation = config.get("task") == "segmentation"
    code = f"path/to/file.py:{config['architecture']}" if config.get("own") else None
    kind, _, path = trained_on.partition(":")
    command = f"python -m {'eval.dea' if segmentation else 'eval.idsds'} --model {name}"
    if path:
        command += f" --data {trained_on if kind.endswith('.py') else f'{kind}:PATH'}"
    if not segmentation and not code:
        load = f'import timm\nmodel = timm.create_model("local-dir:{name}", pretrained=True)   # any folder name'
        return load, command
    loader = "load_segmenter" if segmentation else "load_model"
    arguments = f'"{name}", arch="{code}"' if code else f'"{name}"'
    load = f"from checkpoints import {loader}\nmodel = {loader}({arguments}).model.eval()   # the folder"
    return load, command + (f" --arch {code}" if code else "")
