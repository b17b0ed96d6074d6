"""The record of a training run: which patch each sample lost, and whether its choice told anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from checkpoints import CLASSIFICATION
from eval.frame.run import Run
from faithfulness.backbones import device_of
from faithfulness.core import DeletionSpec, InputError
from faithfulness.core.deletion_leakage import MaskLeakage, mask_leakage
from faithfulness.core.keyed import make_keys
from faithfulness.core.plugin_files import is_in_file
from faithfulness.data import augment_batch, digest_pixels, normalize

COLUMNS = ["epoch", "index", "label", "cell", "pixels"]


def read_deletions(folder: Path) -> pd.DataFrame:
    """The record of a training run: epoch, index, label, cell, pixels; InputError for anything else."""
    files = sorted(file for file in folder.glob("*.parquet") if file.is_file())
    if not files:
        raise InputError(f"no record of deletions (*.parquet) in {folder}")
    try:
        table = pd.concat([pd.read_parquet(file) for file in files], ignore_index=True)[COLUMNS]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{folder} holds no record of deletions: {str(error).splitlines()[0]}") from error
    if not len(table) or any(kind.kind not in "iu" for kind in table.dtypes):
        kinds = ", ".join(f"{name} {kind}" for name, kind in table.dtypes.items())
        raise InputError(f"{folder} holds no record of deletions: expected rows of integers, got {len(table)}, {kinds}")
    if (table[["epoch", "index", "label"]] < 0).any(axis=None) or (table["cell"] < -1).any():
        raise InputError(f"{folder} holds no record of deletions: it has negative epochs, indices, labels or cells")
    return table.astype(np.int64)


def recorded_brightness(record: pd.DataFrame, run: Run[Any], deletion: DeletionSpec) -> Tensor | None:
    """Mean of each cell (N, cells) of the recorded samples as training saw them before the deletion.

    None where the checkpoint doesn't say what it was trained on. Raises InputError where the samples, loaded
    again, aren't the recorded ones.
    """
    made = (run.checkpoint.training or {}).get("settings")
    if not isinstance(made, dict) or "data" not in made or "seed" not in made:
        return None
    count = made.get("train_images")
    if not isinstance(made["data"], str) or type(made["seed"]) is not int or type(count) not in (int, type(None)):
        raise InputError(f"{run.checkpoint.name} says nothing usable of the data that it was trained on")
    if is_in_file(made["data"]) and made["data"] != run.options.data:
        raise InputError(
            f"the record is of data that the code in {made['data']} makes, and nothing runs code that it isn't given: "
            f"name the same with --data to audit it"
        )
    model, seed = run.checkpoint.model, made["seed"]
    data = CLASSIFICATION.open_data(made["data"], "train", size=model.input_size[0], seed=seed, count=count)
    if record["index"].max() >= len(data):
        raise InputError(f"the record has sample {record['index'].max()}, but {data.name} has only {len(data)}")
    samples = CLASSIFICATION.samples(data, model.data_config, training=True, seed=seed)
    found, device = [], device_of(model)
    for start in range(0, len(record), run.chunk):
        part = record.iloc[start : start + run.chunk]
        keys = list(zip(part["epoch"].tolist(), part["index"].tolist(), strict=True))
        images = torch.stack([torch.as_tensor(samples[key]["image"]) for key in keys]).to(device)
        epoch, index = (torch.tensor(column, device=device) for column in zip(*keys, strict=True))
        images = augment_batch(data, images, make_keys(seed, epoch, index))
        other = int((digest_pixels(images).cpu() != torch.from_numpy(part["pixels"].to_numpy().copy())).sum())
        if other:
            raise InputError(
                f"{other} of {len(part)} samples of {data.name} have other pixels than the record says; audit the "
                "record with the data, and the versions of libraries, that it was made with"
            )
        pixels = deletion.grid.sum(normalize(images, model.data_config))
        found.append((pixels / (images[0].numel() / deletion.grid.cells)).cpu())
    return torch.cat(found)


def audit_masks(
    folder: Path, run: Run[Any], deletion: DeletionSpec, mask_images: int
) -> tuple[dict[str, MaskLeakage], list[str]]:
    """What the choice of the patch told of label and brightness in a real run, and notes on what can't be told."""
    record, seed = read_deletions(folder), run.options.seed
    if (record["cell"] < 0).all():
        return {}, [f"choice of the patch: nothing to test, {folder} records no deletion"]
    columns = {name: torch.from_numpy(record[name].to_numpy().copy()) for name in COLUMNS[:4]}
    audits = {"label": mask_leakage(columns["cell"], columns["label"], seed=seed)}
    keys = make_keys(seed, columns["epoch"], columns["index"])
    chosen = keys.argsort(stable=True)[:mask_images].numpy()
    brightness = recorded_brightness(record.iloc[chosen], run, deletion)
    if brightness is not None:
        cells, labels = (columns[name][torch.from_numpy(chosen)] for name in ("cell", "label"))
        audits["brightness"] = mask_leakage(cells, labels, brightness, seed=seed)
    return audits, []
