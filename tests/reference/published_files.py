"""Files as the published training script writes them."""

from __future__ import annotations

import math
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import StepLR

from tests.reference.published_names import Names

SECRET = "/Users/somebody/secret"


def random_state(names: Names, seed: int = 0) -> dict[str, Tensor]:
    """Numbers for every name, of a size that keeps activations and logits away from 0 and infinity."""
    generator, state = torch.Generator().manual_seed(seed), {}
    for name, shape in names.items():
        kind = name.rpartition(".")[2]
        if kind == "num_batches_tracked":
            state[name] = torch.tensor(7)
        elif kind in ("running_var", "scale") or (len(shape) == 1 and kind == "weight"):
            state[name] = 0.5 + torch.rand(shape, generator=generator)
        else:
            spread = math.sqrt(math.prod(shape[1:])) if len(shape) > 1 else 5.0
            state[name] = torch.randn(shape, generator=generator) / spread
    return state


def arguments_of(model: str, /, **changed: Any) -> Namespace:
    """What the script is started with, places on a disk among it."""
    told: dict[str, Any] = {"data_dir": f"{SECRET}/imagenet", "model": model, "workers": 8, "epochs": 30}
    told |= {"batch_size": 256, "lr": 0.001, "momentum": 0.9, "weight_decay": 1e-4, "step_size": 10, "print_freq": 10}
    told |= {"evaluate": False, "pretrained": True, "pretrained_ckpt": None, "seed": 0, "gpu": None}
    told |= {"number_classes": 1000, "grid_rows_and_cols": 4, "baseline": "zeros", "store_path": f"{SECRET}/out/"}
    return Namespace(**told | {"checkpoint_prefix": f"{model}_imagenet1000_lr0.001"} | changed)


def write_published(path: Path, state: dict[str, Tensor], model: str, /, **changed: Any) -> Path:
    """The file of a state dict: wrapped for several devices, and B-cos networks in one more module."""
    weight = nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.SGD([weight], 0.001, momentum=0.9, weight_decay=1e-4)
    weight.sum().backward()
    optimizer.step()
    prefix = "module.model." if model.startswith("bcos_resnet") else "module."
    content = {
        "epoch": 30,
        "state_dict": {prefix + name: tensor for name, tensor in state.items()},
        "best_acc1": torch.tensor([76.5]),
        "optimizer": optimizer.state_dict(),
        "scheduler": StepLR(optimizer, 10).state_dict(),
        "args": arguments_of(model, **changed),
    }
    torch.save(content, path)
    return path
