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
            f"was replaced by `{deletion['fill']}` (on normalised input)."
        )
    else:
        seen = "The model was trained on whole images only: deleting patches takes it out of its domain."
    segmentation = config.get("task") == "segmentation"
    tags = "image-segmentation, attribution, dea" if segmentation else "image-classification, attribution, idsds"
    library = "" if segmentation else "library_name: timm\n"
    load = (
        f"""from checkpoints import load_segmenter
model = load_segmenter("{name}").backbone.eval()   # the folder"""
        if segmentation
        else f"""import timm
model = timm.create_model("local-dir:{name}", pretrained=True)   # any folder name"""
    )
    command = "eval.dea" if segmentation else "eval.idsds"
    kind, _, path = training.get("data", {}).get("name", "").partition(":")
    data = f" --data {kind}:PATH" if path else ""
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
python -m {command} --model {name}{data}
```

## Settings

```json
{json.dumps(training.get("settings", {}), indent=2)}
```

Every setting, version, commit and data fingerprint is in `training.json`.
"""
