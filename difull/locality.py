"""What each step of a network depends on, measured by taint on a canvas of its own (in a `direct_convolutions`).

The receptive field that follows, step by step, says which pixels *may* matter to a part of the
features. It is found without running the network on the grid, so the grid can be held against it.
A step that reaches across any canvas (squeeze-and-excitation, GroupNorm, BatchNorm in training
mode) is not local: with it, nothing is impossible.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import floor

import torch
from torch import Tensor, nn

from faithfulness.backbones.split import Step
from faithfulness.core.keyed import keyed_uniform, make_keys
from faithfulness.core.leakage import EXTREME, seeded

CANVASES = (32, 128)
"""Sides of the canvases in pixels, plus what makes the side even or odd like the real map's."""


@dataclass(frozen=True)
class KernelExtent:
    """Output o of a step depends on its inputs ⌊o·stride⌋ - before … ⌊o·stride⌋ + after, on one axis."""

    stride: Fraction | int
    before: int
    after: int


@dataclass(frozen=True)
class ReceptiveField:
    """A receptive field: first and last row and column, and (path, kind) of what isn't local."""

    rows: tuple[int, int]
    cols: tuple[int, int]
    not_local: tuple[tuple[str, str], ...]


def receptive_field(
    steps: Sequence[Step], image: Tensor, rows: tuple[int, int], cols: tuple[int, int]
) -> ReceptiveField:
    """The pixels of `image` (1, C, H, W) that the features at `rows` and `cols` (first, last) may see.

    Steps that aren't local count with the extent of their kernels alone, and are named.
    """
    found: list[tuple[KernelExtent, KernelExtent]] = []
    sizes: list[tuple[int, int]] = []
    not_local: list[tuple[str, str]] = []
    activations = image
    with torch.no_grad():
        for step in steps:
            before = activations
            activations = step.run(before.clone())
            extent = measure_extent(step.run, before)
            if extent is None:
                not_local += _name_not_local(step, before)
                extent = _kernel_extent(step, before, activations)
            found.append(extent)
            sizes.append((before.shape[-2], before.shape[-1]))
    for (vertical, horizontal), (height, width) in zip(reversed(found), reversed(sizes), strict=True):
        rows, cols = _input_span(rows, vertical, height), _input_span(cols, horizontal, width)
    return ReceptiveField(rows, cols, tuple(not_local))


def _input_span(span: tuple[int, int], extent: KernelExtent, size: int) -> tuple[int, int]:
    """The first and last of `size` inputs that the outputs `span` depend on."""
    first, last = floor(span[0] * extent.stride) - extent.before, floor(span[1] * extent.stride) + extent.after
    return (max(first, 0), min(last, size - 1))


def measure_extent(run: Callable[[Tensor], Tensor], sample: Tensor) -> tuple[KernelExtent, KernelExtent] | None:
    """Extent over rows and over columns of maps shaped like `sample` (1, C, h, w); None if not local."""
    for side in CANVASES:
        height, width = (side + size % CANVASES[0] for size in sample.shape[-2:])
        canvas, larger = (_canvas(sample, height + extra, width + extra) for extra in (0, CANVASES[0]))
        small, large = seeded(run, canvas.clone()), seeded(run, larger)
        if small.dim() != 4 or large.dim() != 4:
            return None
        extents = [_extent_along(run, canvas, small, large.shape[dim], dim) for dim in (2, 3)]
        if extents[0] is not None and extents[1] is not None:
            return extents[0], extents[1]
    return None


def _canvas(sample: Tensor, height: int, width: int) -> Tensor:
    keys = make_keys(0, height, width, device=sample.device)[None]
    return keyed_uniform(keys, (sample.shape[1], height, width)).to(sample.dtype)


def _extent_along(
    run: Callable[[Tensor], Tensor], canvas: Tensor, clean: Tensor, large: int, dim: int
) -> KernelExtent | None:
    """The extent on one axis, by as many phases as the step has, or the canvas allows."""
    growth = large - clean.shape[dim]
    if growth <= 0:
        return None
    stride = Fraction(CANVASES[0], growth)
    found = _extent_in_phases(run, canvas, clean, stride, dim, _period(run, canvas, clean, stride, dim))
    # A wide kernel leaves no room for more phases. Too few make the extent too small, which tells of
    # a leak where there is none, never the other way round.
    return found or _extent_in_phases(run, canvas, clean, stride, dim, stride.numerator)


def _extent_in_phases(
    run: Callable[[Tensor], Tensor], canvas: Tensor, clean: Tensor, stride: Fraction, dim: int, phases: int
) -> KernelExtent | None:
    """Taint one half of the canvas, then the other, with the border between them at every phase."""
    size, middle, last = canvas.shape[dim], canvas.shape[dim] // 2, clean.shape[dim] - 1
    before, after = [], []
    previous: tuple[int, int] | None = None
    for border in range(middle, middle + phases + 1):
        lower = _changed(run, canvas, clean, (0, border), dim)
        upper = _changed(run, canvas, clean, (border, size - border), dim)
        if not lower or not upper or lower[-1] == last or upper[0] == 0:
            return None
        if previous is not None:
            # What the last step of the border brought in has its first input, or its last one, beside it.
            before += [floor(output * stride) - (border - 1) for output in range(previous[0] + 1, lower[-1] + 1)]
            after += [border - 1 - floor(output * stride) for output in range(previous[1], upper[0])]
        previous = lower[-1], upper[0]
    return KernelExtent(stride, max(before), max(after)) if before and after else None


def _period(run: Callable[[Tensor], Tensor], canvas: Tensor, clean: Tensor, stride: Fraction, dim: int) -> int:
    """After how many pixels the step repeats itself: pooling, then upsampling, has stride 1 and period 2.

    Found by shifting the canvas and looking at the middle; as long as the canvas allows where it can't be told.
    """
    quarter = clean.shape[dim] // 4
    for period in (p for p in (1, 2, 4, 8) if p % stride.numerator == 0):
        moved = int(period / stride)
        shifted = seeded(run, canvas.roll(period, dim))
        middle = clean.narrow(dim, quarter, quarter), shifted.narrow(dim, quarter + moved, quarter)
        if torch.allclose(*middle, rtol=1e-4, atol=1e-5):
            return period
    return max(stride.numerator, CANVASES[0] // 2)


def _changed(
    run: Callable[[Tensor], Tensor], canvas: Tensor, clean: Tensor, part: tuple[int, int], dim: int
) -> list[int]:
    """The rows or columns of the output that NaN in a part (start, length) of the canvas changes."""

    def marks(value: float) -> Tensor:
        tainted = canvas.clone()
        tainted.narrow(dim, *part).fill_(value)
        return (seeded(run, tainted) != clean).transpose(dim, 0).flatten(1).any(dim=1)

    try:
        reached = marks(torch.nan)
    except Exception:  # a step that refuses NaN: extremes of both signs tell nearly as much
        reached = marks(EXTREME) | marks(-EXTREME)
    return torch.nonzero(reached).flatten().tolist()


def _name_not_local(step: Step, sample: Tensor) -> list[tuple[str, str]]:
    """The innermost modules of the step that aren't local themselves; the step if none can be told."""
    if not isinstance(step.run, nn.Module):
        return [(step.path, "function")]
    inputs: dict[nn.Module, Tensor] = {}

    def record(module: nn.Module, arguments: tuple) -> None:
        if len(arguments) == 1 and isinstance(arguments[0], Tensor) and arguments[0].dim() == 4:
            inputs.setdefault(module, arguments[0].detach())

    handles = [module.register_forward_pre_hook(record) for module in step.run.modules()]
    try:
        step.run(sample.clone())
    finally:
        for handle in handles:
            handle.remove()
    names = {module: name for name, module in step.run.named_modules()}
    # A module that gets a single position (the layers inside squeeze-and-excitation) can't be told.
    wide = {module: x for module, x in inputs.items() if x.shape[-1] > 1 or x.shape[-2] > 1}
    not_local = [module for module, x in wide.items() if measure_extent(module, x) is None]
    inner = [module for module in not_local if not any(m in not_local for m in module.modules() if m is not module)]
    inner = inner or [step.run]
    return [(f"{step.path}.{names[module]}".rstrip("."), kind_of(module)) for module in inner]


def kind_of(module: nn.Module) -> str:
    """A module's class, and its mode where that is what makes it leak."""
    mode = " in training mode" if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training else ""
    return type(module).__name__ + mode


def _kernel_extent(step: Step, before: Tensor, after: Tensor) -> tuple[KernelExtent, KernelExtent]:
    """What a step's kernels span together: all that a step which isn't local may claim."""
    modules = list(step.run.modules()) if isinstance(step.run, nn.Module) else []
    extents = []
    for axis in (0, 1):
        stride = 1 if after.dim() != 4 else max(1, round(before.shape[2 + axis] / after.shape[2 + axis]))
        span = stride - 1
        for module in modules:
            kernel, dilation = (_on_axis(getattr(module, name, 1), axis) for name in ("kernel_size", "dilation"))
            span += (kernel - 1) * dilation * stride
        extents.append(KernelExtent(stride, span, span))
    return extents[0], extents[1]


def _on_axis(value: int | Sequence[int], axis: int) -> int:
    return value if isinstance(value, int) else value[axis]
