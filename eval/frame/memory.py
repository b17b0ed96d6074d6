"""How many images a pass may take at once, by what one of them keeps in memory for its gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from faithfulness.backbones import device_of
from faithfulness.core.hardware import memory

_SHARE = {"cpu": 1 / 8, "cuda": 1 / 2}
"""How much of a device's memory a pass may take."""
_WORK = 2.0
"""What a pass needs besides what it keeps: gradients, and whatever a convolution lays out."""
_FAST_BYTES, _FEWEST, _MOST = 2**29, 8, 128
"""Of a pass on one processor: ResNets, a VGG and a ViT are fastest with about 0.5 GB kept, 8 to 128 images."""


def bytes_per_image(model: Any) -> int:
    """What one image keeps on its way forward, with a gradient of the input; counted, not estimated."""
    device = device_of(model)
    height, width = model.input_size
    dtype = next((each.dtype for each in model.parameters() if each.is_floating_point()), torch.float32)
    image = torch.zeros(1, model.data_config["input_size"][0], height, width, dtype=dtype, device=device)
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    weights = {each.untyped_storage().data_ptr() for each in [*model.parameters(), *model.buffers()]}
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model(image.requires_grad_())
    total = sum(size for place, size in kept.items() if place not in weights)
    return total + image.nbytes + (output.nbytes if isinstance(output, Tensor) else 0)  # others are refused later


def pass_bytes(model: Any, images: int) -> float:
    """What a pass of so many images takes, about."""
    return bytes_per_image(model) * _WORK * images


def fitting_chunk(model: Any, device: torch.device, most: int) -> int:
    """How many images a pass takes by default: a power of two, or `most`.

    On a GPU as many as fit into its share of memory; on processors as many as they are fastest with, if these fit.
    It goes by how much memory and how many threads the job has, not by what is free, so that the same job on the same
    machine always gets the same.
    """
    on_gpu = device.type == "cuda"
    whole = torch.cuda.get_device_properties(device).total_memory if on_gpu else memory()
    kept = bytes_per_image(model)
    fits = _power_of_two(whole * _SHARE.get(device.type, 1 / 8) / (kept * _WORK))
    if device.type == "cpu":
        threads = torch.get_num_threads()
        fits = min(fits, max(_FEWEST, min(_power_of_two(threads * _FAST_BYTES / kept), _MOST * threads)))
    return min(most, fits)


def _power_of_two(count: float) -> int:
    """The largest power of two that isn't above it, 1 at least."""
    return 1 << max(0, int(count).bit_length() - 1)
