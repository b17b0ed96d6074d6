"""What a training began from besides its flags: two of them that differ in it are not one run."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import nn

from checkpoints import Checkpoint
from faithfulness.core.files import sha256_file
from faithfulness.core.plugin_files import file_of, is_in_file
from faithfulness.core.results import environment
from faithfulness.data import IndexedData, OwnImages, OwnMasks
from training.folder import COMMIT
from training.options import TrainingOptions


def origin(
    options: TrainingOptions, checkpoint: Checkpoint[Any], data: tuple[IndexedData, IndexedData], device: str
) -> dict[str, Any]:
    """Fingerprints of both splits, digests of weights and of the user's code, the kind of device; what computes.

    Versions of libraries round otherwise, or draw other numbers; the commit says what this suite itself was.
    """
    train, val = data
    given = isinstance(options.model, nn.Module)
    texts = {name: getattr(options, name) for name in ("model", "arch", "data")}
    files = {name: str(text) for name, text in texts.items() if isinstance(text, str) and is_in_file(text)}
    here = environment()
    return {
        "data": {"train": fingerprint(train), "val": fingerprint(val)},
        "weights": digest_weights(checkpoint.model) if given else checkpoint.sha256,
        "code": {name: sha256_file(Path(file_of(text)).expanduser()) for name, text in files.items()},
        "device": device,
        "versions": {name: here.get(name) for name in ("torch", "torchvision", "timm", "numpy")},
        COMMIT: here["commit"],
    }


def fingerprint(data: IndexedData) -> str | None:
    """A data set's fingerprint; None for one of the user's own that is another one each time it is read."""
    found = data.fingerprint()
    changes = isinstance(data, OwnImages | OwnMasks) and data.fingerprint() != found
    return None if changes else found


def digest_weights(network: nn.Module) -> str:
    """Of all tensors that a network's state consists of, by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
