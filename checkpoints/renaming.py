"""Names of other libraries' weights, brought to those of timm's networks and of this suite's.

A file whose names fit is taken as it is. Else each way of renaming is tried: torchvision's VGG, the layers of B-cos
networks, and what timm's own module of the architecture knows (`checkpoint_filter_fn`).
Nothing is left out on the way: a file that no way fits is refused with the names that are missing and too many.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any

from timm.models import model_entrypoint as entry_point
from torch import Tensor, nn

State = dict[str, Tensor]
COUNTER = "num_batches_tracked"
"""How often batch normalization was trained; files before torch 0.4.1 have none, and nothing that is computed does."""
VGG_NAMES = {"classifier.0": "pre_logits.fc1", "classifier.3": "pre_logits.fc2", "classifier.6": "head.fc"}
"""torchvision's linear layers of a VGG -> timm's, of which the first two are convolutions."""
_FIRST = "0."
"""Before the names of a published B-cos network, which stands in a sequence before its logit bias."""
_OF_FILTERS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What timm's renaming raises for names and shapes that it wasn't written for."""


def fit_names(state: State, network: nn.Module, architecture: str) -> State:
    """The weights of a file by the names of a network; as they are where no way of renaming fits better.

    Args:
        state: as the file has them.
        network: its names and shapes count; it may be on the device `meta`.
        architecture: timm's name of it.
    """
    wanted = network.state_dict()
    best, fewest = state, _misfits(state, wanted)
    for rename in (_without_sequence, _torchvision_vgg, _bcos_layers, _timm_filter(network, architecture)):
        if not fewest:
            break
        renamed = rename(best, wanted)
        if renamed is not None and (misfits := _misfits(renamed, wanted)) < fewest:
            best, fewest = renamed, misfits
    return best


def names_apart(state: Iterable[str], wanted: Iterable[str]) -> tuple[list[str], list[str]]:
    """The names that are missing from a state dict, without harmless counters, and those that are too many."""
    there, expected = set(state), set(wanted)
    missing = sorted(name for name in expected - there if name.rpartition(".")[2] != COUNTER)
    return missing, sorted(there - expected)


def _misfits(state: State, wanted: State) -> int:
    return sum(map(len, names_apart(state, wanted)))


def _without_sequence(state: State, wanted: State) -> State | None:
    """Without the place in a sequence that all names share."""
    if not all(name.startswith(_FIRST) for name in state):
        return None
    return {name.removeprefix(_FIRST): tensor for name, tensor in state.items()}


def _torchvision_vgg(state: State, wanted: State) -> State | None:
    """Linear layers of torchvision's VGG; a convolution over the whole map holds the same numbers in the same order."""
    if "classifier.0.weight" not in state:
        return None
    renamed = {}
    for name, tensor in state.items():
        layer, dot, kind = name.rpartition(".")
        name = VGG_NAMES.get(layer, layer) + dot + kind
        shape = wanted[name].shape if name in wanted else tensor.shape
        if tensor.dim() == 2 and len(shape) == 4 and tensor.numel() == shape.numel():
            tensor = tensor.reshape(shape)
        renamed[name] = tensor
    return renamed


def _bcos_layers(state: State, wanted: State) -> State | None:
    """Published networks hold a B-cos layer's weights in the layer, or in the layer `linear` in it."""
    renamed = {}
    for name, tensor in state.items():
        inner = f"{name.removesuffix('weight')}linear.weight"
        renamed[inner if name not in wanted and inner in wanted else name] = tensor
    return renamed


def _timm_filter(network: nn.Module, architecture: str) -> Callable[[State, State], State | None]:
    """What timm's module of an architecture makes of names, if it has such a function and it keeps every number."""
    found: Any = getattr(sys.modules[entry_point(architecture).__module__], "checkpoint_filter_fn", None)

    def rename(state: State, wanted: State) -> State | None:
        if found is None:
            return None
        try:
            renamed = found(dict(state), network)
        except _OF_FILTERS:
            return None
        if not isinstance(renamed, dict) or not all(isinstance(tensor, Tensor) for tensor in renamed.values()):
            return None
        kept = sum(tensor.numel() for tensor in renamed.values())
        return renamed if kept == sum(tensor.numel() for tensor in state.values()) else None

    return rename
