"""A fence around methods from outside: what they do to their input or to the network stays without effect, or is told.

All methods of a run explain one network. One that changed its weights, or left it in training mode, would change
every score after its own without a word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from faithfulness.attribution.shared import not_sharing
from faithfulness.core.errors import InputError
from faithfulness.core.keyed import make_keys
from faithfulness.core.plugin_files import own_code

COLUMNS = 1 << 16
_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Guarded:
    """A method from outside: it gets copies of its tensors, and the network must be as before after each call.

    The check is a pass over the weights before and after the call. Its time counts as the method's own.
    """

    def __init__(self, explain: Callable[..., Tensor], model: nn.Module, name: str):
        self.explain, self.model, self.name = explain, model, name

    def __call__(self, *given: Any) -> Any:
        """What the method returns, unchecked. Raises InputError, with its name, if it has changed the network."""
        copies = [value.clone() if isinstance(value, Tensor) else value for value in given]
        with unchanged(self.model, self.name), own_code(self.name), not_sharing():
            return self.explain(*copies)

    def __getattr__(self, name: str) -> Any:
        if name == "explain" or name.startswith("__"):  # while it is being copied or unpickled, there is none yet
            raise AttributeError(name)
        return getattr(self.explain, name)


@contextmanager
def unchanged(model: nn.Module, name: str) -> Iterator[None]:
    """Raise InputError if the block, the work of attribution `name`, changes the model's weights or mode."""
    modes, before, states = [module.training for module in model.modules()], fingerprint(model), module_states(model)
    yield
    if [module.training for module in model.modules()] != modes:
        raise InputError(
            f"attribution {name} left the model in another mode; call .train() and .eval() on a copy of it"
        )
    now = module_states(model)
    if now != states:
        path = next(path for path in [*states, *now] if states.get(path) != now.get(path)) or "the network itself"
        raise InputError(
            f"attribution {name} left a hook, another function or another setting at {path}; remove it again, or "
            "change a copy: copy.deepcopy(model)"
        )
    after = fingerprint(model)
    if after != before:
        changed = next(key for key in [*before, *after] if before.get(key) != after.get(key))
        raise InputError(f"attribution {name} changed the model's {changed}; change a copy of it: copy.deepcopy(model)")


def module_states(model: nn.Module) -> dict[str, tuple[Any, ...]]:
    """Path of each module -> which module it is, its hooks, a `forward` of its own, its plain settings."""
    return {
        path: (
            id(module),
            type(module),
            [(key, list(value)) for key, value in vars(module).items() if "hooks" in key and isinstance(value, dict)],
            id(vars(module).get("forward")),
            [
                (key, value)
                for key, value in vars(module).items()
                if isinstance(value, bool | int | float | str) and not key.startswith("_") and key != "training"
            ],
        )
        for path, module in model.named_modules()
    }


def fingerprint(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Name of each parameter and buffer -> its shape and a checksum of its bits; one transfer from the device.

    `Tensor._version` wouldn't do: writing through `.data` doesn't count, and changing a weight and putting it
    back does.
    """
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    sums = [checksum(tensor.detach()) for tensor in state.values()]
    values = torch.stack([value.to(sums[0].device) for value in sums]).tolist() if sums else []
    shapes = (tuple(tensor.shape) for tensor in state.values())
    return {name: (value, *shape) for name, value, shape in zip(state, values, shapes, strict=True)}


def checksum(tensor: Tensor) -> Tensor:
    """A sum of a tensor's bits, int64 (), each word weighted by a keyed number for its place: its row and column.

    Exact integer arithmetic modulo 2⁶⁴: a change of one bit always shows, and so does an exchange of two words.
    """
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    words = tensor.reshape(-1).view(_WORDS[tensor.element_size()])
    whole = len(words) // COLUMNS * COLUMNS
    weights = make_keys(0, torch.arange(min(len(words), COLUMNS), device=tensor.device)) | 1  # odd, so invertible
    rest = words[whole:].long()
    total = (rest * weights[: len(rest)]).sum()
    if whole:
        for row, part in enumerate(words[:whole].view(-1, COLUMNS)):
            total = total + (part.long() * weights).sum() * (make_keys(1, row, device=tensor.device) | 1)
    return total
