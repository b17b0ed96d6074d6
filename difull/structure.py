"""Proof by structure: the graph of each head, traced without data, is built from its cell's crop alone."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from difull.dataflow import Dataflow
from difull.settings import DiFull, GridSetting

BATCHES = (1, 2)
"""Batch sizes that are traced, besides that of the images at hand."""

MOST_CELLS = 62
"""Labels are bits of an int64: one per cell, and one for earlier calls."""

LIMITS = (
    "the proof holds for the batch sizes traced, with and without gradients, not under autocast, and for code that "
    "decides by nothing but shapes and settings: "
    "Python that looks at a clock, a generator or a counter outside the modules isn't seen by a trace, nor are bytes "
    "that are copied from storage to storage past torch's operations"
)


@dataclass(frozen=True)
class Structure:
    """Whether it is proven (None: neither proven nor refuted), what leaks, and why there is no proof."""

    holds: bool | None
    found: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def trace_structure(setting: GridSetting, images: Tensor) -> Structure:
    """Follow every value from the grid to the logits of every head, in `forward`, `heads` and every `split`.

    The trace is on fake tensors without values, on a copy of the setting, each call more than once, so that neither
    values nor what an earlier call left behind can steer it unseen. Images of a batch aren't told
    apart: that they don't reach each other is left to the tests.
    """
    if not isinstance(setting, DiFull):
        return Structure(None)
    if setting.cells > MOST_CELLS:
        return Structure(None, notes=(f"no proof by structure: more than {MOST_CELLS} cells",))
    try:
        fresh = copy.deepcopy(setting)
    except Exception as error:
        return Structure(None, notes=(f"no proof by structure: the setting can't be copied ({_first_line(error)})",))
    sizes = sorted({*BATCHES, len(images)})
    # The original's tensors are constants too: a closure may hold on to them through a copy.
    flow, found = Dataflow([setting, fresh], 1 << setting.cells), dict[str, None]()
    fakes, states = FakeTensorMode(allow_non_fake_inputs=True), []
    for again in ([(size, False) for size in sizes], [(sizes[0], True)]):
        for size, with_gradients in again:
            found |= dict.fromkeys(_trace(fresh, images, size, with_gradients, flow, fakes))
        states.append(_state(fresh))
    doubts = [*flow.doubts]
    if any(module.training for module in setting.backbone.modules()):
        doubts.append("the backbone is in training mode")
    doubts += [f"{name} changes from call to call" for name in _changed(*states)]
    if found:
        return Structure(False, tuple(found), tuple(f"in the trace: {doubt}" for doubt in doubts))
    if doubts:
        return Structure(None, notes=tuple(f"no proof by structure: {doubt}" for doubt in doubts))
    traced = f"traced for batches of {', '.join(map(str, sizes))}: every head reads its cell's crop and nothing else"
    return Structure(True, notes=(traced, LIMITS))


def cell_labels(shape: tuple[int, ...], scale: int) -> NDArray[np.int64]:
    """The bit of its cell for every pixel of grids of that shape."""
    rows, cols = (np.arange(side) * scale // side for side in shape[-2:])
    return np.broadcast_to(np.int64(1) << (rows[:, None] * scale + cols), shape)


@dataclass(frozen=True)
class Call:
    """A way from a grid to logits; `cell` None for all heads, `runs_other_cells` where other cells may run as well."""

    name: str
    cell: int | None
    run: Callable[[Tensor], Tensor]
    runs_other_cells: bool = False


def _calls(setting: GridSetting) -> list[Call]:
    layout = setting.backbone.layout
    taps = layout.taps if layout else ()
    calls = [Call("heads", None, setting.heads, True)]
    for cell in range(setting.cells):
        calls.append(Call("forward", cell, partial(setting, cell=cell)))
        calls.append(Call("split at input", cell, partial(logits_by_split, setting, "input", cell)))
    for layer in taps:
        name = f"split at {layer}"
        if _has_one_stem(setting):
            calls.append(Call(name, None, partial(_heads_by_split, setting, layer), True))
        else:
            runs = (partial(logits_by_split, setting, layer, cell) for cell in range(setting.cells))
            calls += [Call(name, cell, run, True) for cell, run in enumerate(runs)]
    return calls


def logits_by_split(setting: GridSetting, layer: str, cell: int, images: Tensor) -> Tensor:
    """A head's logits through the cut at a layer: what attribution runs."""
    split = setting.split(layer, cell)
    return split.rest(split.stem(images))


_OWN = {name: vars(DiFull)[name] for name in ("split", "_stem", "_rest", "_run")}


def _has_one_stem(setting: GridSetting) -> bool:
    """Whether a split's stem is known to be the same for all cells: it is DiFull's own, which takes no cell."""
    own = type(setting) is DiFull and not _OWN.keys() & vars(setting).keys()
    return own and all(vars(DiFull)[name] is function for name, function in _OWN.items())


def _heads_by_split(setting: GridSetting, layer: str, images: Tensor) -> Tensor:
    """All heads' logits through the cut at a layer, (B, cells, classes), by one run of the stem.

    Each head has a copy of the activations: what one does to its own, another doesn't see.
    """
    activations = setting.split(layer, 0).stem(images)
    return torch.stack([setting.split(layer, cell).rest(activations.clone()) for cell in range(setting.cells)], dim=1)


def _trace(
    setting: GridSetting, images: Tensor, size: int, with_gradients: bool, flow: Dataflow, fakes: FakeTensorMode
) -> list[str]:
    """What reaches a head of what it mustn't see, in words; what can't be told goes to the flow's doubts."""
    found = []
    shape = (size, *images.shape[1:])
    for call in _calls(setting):
        flow.forget()
        heads: Sequence[Tensor] = ()
        try:
            with torch.set_grad_enabled(with_gradients), fakes, flow:
                grid = torch.empty(shape, dtype=images.dtype, device=images.device, requires_grad=with_gradients)
                flow.label(grid, cell_labels(shape, setting.scale))
                logits = call.run(grid)
                heads = logits.unbind(1) if call.cell is None else (logits,)
        except Exception as error:
            flow.doubts.setdefault(f"{call.name} can't be traced without values ({_first_line(error)})")
        decided = _foreign_sources(flow.decided, call.cell, setting.cells)
        if decided and not call.runs_other_cells:
            found.append(f"in {call.name}, the code decides by pixels of {decided} for the head of cell {call.cell}")
        for number, head in enumerate(heads):
            own = number if call.cell is None else call.cell
            foreign = _foreign_sources(flow.union(head), own, setting.cells)
            if foreign:
                found.append(f"in {call.name}, the head of cell {own} is computed from {foreign}")
    return found


def _foreign_sources(label: int, own: int | None, cells: int) -> str:
    """The cells but its own that a label names, and earlier calls, in words."""
    others = [str(cell) for cell in range(cells) if label >> cell & 1 and cell != own]
    named = [f"cell{'s' * (len(others) > 1)} {', '.join(others)}"] if others else []
    return " and ".join(named + ["what an earlier call has left"] * (label >> cells & 1))


def _state(model: nn.Module) -> dict[str, Any]:
    """What the modules keep besides their parameters, buffers and submodules, in a form that compares."""
    own = {"_parameters", "_buffers", "_modules"}
    return {
        f"{path}.{name}".lstrip("."): _comparable(value, 3)
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if name not in own
    }


def _comparable(value: Any, depth: int) -> Any:
    """What stands for a value, so that two of the same value in the same state are equal."""
    if isinstance(value, Tensor):
        return id(value), value._version
    if depth and isinstance(value, dict):
        return [(str(key), _comparable(each, depth - 1)) for key, each in value.items()]
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if depth and isinstance(value, (list, tuple, set, frozenset, deque)):
        return [_comparable(each, depth - 1) for each in value]
    if isinstance(value, (bool, int, float, str, bytes, type(None))):
        return value
    if depth and not isinstance(value, type) and not callable(value) and hasattr(value, "__dict__"):
        return id(value), _comparable(vars(value), depth - 1)
    return id(value)


def _changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return [name for name in {**before, **after} if before.get(name) != after.get(name)]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:120] or type(error).__name__
