"""One definition of order: values that differ by rounding alone are equal, and equals go in a keyed order.

A processor's vector width, its thread count and the batch size change the last digits of a map. Zeros
after a ReLU, flat stretches and equal cells must not be told apart by those digits: before anything is
ranked, values become whole multiples of a unit, `PRECISION` of the row's largest magnitude. What ties
goes in one fixed permutation of the positions, which favors no corner of the image.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from faithfulness.core.keyed import make_keys

PRECISION = 2.0**-20
"""For sums, drops and scores: about 1e-6. A power of two, so that halves, quarters, … lie amid a unit."""
PIXEL_PRECISION = 2.0**-26
"""For the thousands of pixels of a map, whose neighbors in rank lie closer: about 1.5e-8."""

_TIES = 0x7469_6573


def quantize_rows(
    values: Float[Tensor, "b n"], scale: Float[Tensor, " b"] | None = None, precision: float = PRECISION
) -> Float[Tensor, "b n"]:
    """Each row in whole multiples of `precision` × its scale: (B, N) -> (B, N) whole numbers, float64.

    Args:
        scale: (B,) what rounding is relative to; by default the row's largest magnitude. A difference
            of two numbers takes the magnitude of those, since its rounding is theirs.
    A row whose scale is 0 is 0; one that isn't finite isn't finite afterwards.
    """
    values = values.detach().double()
    largest = values.abs().amax(dim=1) if scale is None else scale.detach().double()
    return (values / torch.where(largest == 0, 1, largest)[:, None] / precision).round()


def is_constant(values: Float[Tensor, "b n"], scale: Float[Tensor, " b"] | None = None) -> Bool[Tensor, " b"]:
    """Whether a row ranks nothing: all its values are equal once quantized."""
    quantized = quantize_rows(values, scale)
    return (quantized == quantized[:, :1]).all(dim=1)


def ranked_positions(values: Float[Tensor, "b n"], *, descending: bool) -> Int[Tensor, "b n"]:
    """Positions of each quantized row from its first to its last value, ties in the keyed order: (B, N) int64."""
    positions = keyed_permutation(values.shape[1], values.device)
    quantized = quantize_rows(values, precision=PIXEL_PRECISION)
    return positions[quantized[:, positions].argsort(dim=1, descending=descending, stable=True)]


def keyed_permutation(count: int, device: torch.device | str | None = None) -> Int[Tensor, " n"]:
    """The order in which `count` equal values go: a function of their number alone, (count,) int64."""
    return make_keys(_TIES, torch.arange(count, device=device)).argsort()
