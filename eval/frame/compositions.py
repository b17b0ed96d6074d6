"""Which images stand in which grid: chosen by the models' confidence, or taken from an earlier run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from checkpoints import Checkpoint
from difull import Compositions, choose_confident, make_compositions
from eval.frame.batches import ImageBatch
from eval.frame.grid_options import Key
from eval.frame.identity import network_digest
from eval.frame.part import Part, merged
from eval.frame.protocol import Pass, Step
from eval.frame.run import Run
from eval.frame.store import digest
from faithfulness.core.checks import check_logits
from faithfulness.core.errors import InputError
from faithfulness.data import ImageData


def data_labels(data: ImageData) -> np.ndarray:
    """The classes (N,) of a data set."""
    return np.array([data.label(index) for index in range(len(data))], dtype=np.int64)


def confidences(run: Run[Any], checkpoint: Checkpoint[Any]) -> tuple[Tensor, Tensor]:
    """Softmax probabilities (N, classes) of the evaluated images on every process, and their indices (N,)."""
    model = checkpoint.model

    def look(batch: ImageBatch, done: Mapping[str, Part]) -> Part:
        part = Part()
        with run.autocast(), torch.no_grad():
            logits = torch.cat([model(images) for images in batch.images.split(run.chunk)])
        check_logits(logits, checkpoint.name)
        part.add("confidence", probability=logits.double().softmax(dim=1).float(), index=batch.indices)
        return part

    batches = run.all_batches(checkpoint)
    name, steps = f"confidence of {checkpoint.name}", [Step("confidence", look, cost=1.0)]
    own = run.carry_out(Pass(name, batches, steps, network_digest(checkpoint)))
    found = merged(run.share(own)).table("confidence", "index")
    if not found:
        return torch.empty(0, model.num_classes), torch.empty(0, dtype=torch.int64)
    return torch.from_numpy(found["probability"]), torch.from_numpy(found["index"])


def prepare_compositions(run: Run[Any]) -> tuple[dict[Key, Compositions], dict[str, Any]]:
    """The compositions that the settings need, loaded or made, and what to record of the choice."""
    options, labels = run.options, data_labels(run.data)
    if options.compositions is not None:
        loaded = load_compositions(options.compositions, options.keys)
        for (kind, scale), compositions in loaded.items():
            compositions.check(labels)
            if options.one_use and not compositions.one_use:
                raise InputError(f"--one-use, but the {kind} grids of {scale}×{scale} in --compositions share images")
        return loaded, {"compositions": list(options.compositions)}
    models = [run.checkpoint, *map(run.load_other, options.choose_with or [])]
    rows = [confidences(run, model) for model in models]
    known, indices = torch.stack([row[0] for row in rows]), rows[0][1].numpy()
    if not len(indices):
        raise InputError(f"no image of {run.data.name} could be read")
    accuracy = [float((row[0].argmax(dim=1).numpy() == labels[indices]).mean()) for row in rows]
    about = {
        "data": run.data.name,
        "split": run.data.split,
        "fingerprint": run.data.fingerprint(),
        "confidence": options.confidence,
        "models": [{"name": model.name, "sha256": model.sha256} for model in models],
    }
    made, eligible, reuse = {}, np.empty(0), not options.one_use
    for kind, scale in options.keys:
        chosen = choose_confident(
            known, labels[indices], options.confidence, scale=scale, kind=kind, count=options.grids, reuse=reuse
        )
        eligible = indices[chosen]
        made[kind, scale] = make_compositions(
            labels, eligible, scale, options.grids, kind, options.seed, about, reuse=reuse
        )
    return made, {"n_images": len(indices), "n_confident": len(eligible), "accuracy": accuracy[0]}


def load_compositions(paths: list[str], keys: list[Key]) -> dict[Key, Compositions]:
    """Read compositions from files and folders; InputError if one that is needed isn't among them."""
    files: list[Path] = []
    for text in paths:
        path = Path(text).expanduser()
        below = sorted(path.glob("compositions/*.parquet")) or sorted(path.glob("*.parquet"))
        if path.is_dir() and not below:
            raise InputError(f"no compositions (*.parquet) in {path}")
        files += below if path.is_dir() else [path]
    found = {(each.kind, each.scale): each for each in map(Compositions.load, files)}
    for kind, scale in keys:
        if (kind, scale) not in found:
            have = ", ".join(f"{kind} {scale}×{scale}" for kind, scale in found)
            raise InputError(
                f"--compositions has no {kind} grids of {scale}×{scale}, which the settings need; has {have}"
            )
    return {key: found[key] for key in keys}


def composition_digest(compositions: Compositions) -> str:
    """Of the images in the grids."""
    return digest([compositions.kind, compositions.scale, compositions.indices.tolist()])


def composition_files(compositions: dict[Key, Compositions]) -> dict[str, Any]:
    """`compositions/KIND-NxN.parquet` -> what writes it, for each."""
    return {f"compositions/{kind}-{scale}x{scale}.parquet": made.save for (kind, scale), made in compositions.items()}
