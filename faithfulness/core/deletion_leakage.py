"""Tests that deletion leaks neither the deleted pixels nor, by its choice of patch, the label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.special import xlogy
from scipy.stats import random_table
from torch import Tensor

from faithfulness.core.deletion import FILLS, delete_cells
from faithfulness.core.errors import InputError
from faithfulness.core.grid import PatchGrid
from faithfulness.core.keyed import keyed_normal, make_keys
from faithfulness.core.leakage import EXTREME, LeakageProof, gradient_of_logits

QUANTILES = 8
TABLES_AT_ONCE = 256


def deletion_leakage(
    fill: str = "zeros", grid: PatchGrid | None = None, size: tuple[int, int] | None = None, seed: int = 0
) -> LeakageProof:
    """Test that a deleted image carries nothing of the deleted pixels, for every cell of the grid.

    Taint: NaN in the deleted patch leaves the deleted image finite and bit-identical. Derivative: its
    gradient with respect to the patch is 0. Intervention: other content there changes no bit.

    Args:
        fill: a registered fill; `blur` fails.
        size: height and width in pixels; 16 per cell, and 64 at least, by default.
    Raises:
        InputError: an unknown fill, a grid that doesn't divide the size.
    """
    name, grid = FILLS.resolve(fill), grid or PatchGrid()
    height, width = size or (grid.rows * max(16, -(-64 // grid.rows)), grid.cols * max(16, -(-64 // grid.cols)))
    cells = torch.arange(grid.cells)
    images, other = (keyed_normal(make_keys(seed, part, cells), (3, height, width)) for part in (0, 1))
    patch = grid.mask(cells, height, width)

    def delete(content: Tensor) -> Tensor:
        return delete_cells(content, cells, grid, name)

    base = delete(images)
    tainted = delete(images.masked_fill(patch, torch.nan))
    gradient = float(gradient_of_logits(delete, images).abs().masked_select(patch).max())
    changed = [delete(torch.where(patch, content, images)) for content in (other, EXTREME * other.sign(), 0 * other)]
    change = max(float((now - base).abs().max()) for now in changed)
    taint = bool(torch.isfinite(tainted).all()) and torch.equal(tainted, base)
    passed = taint and gradient == 0 and change == 0
    return LeakageProof(
        f"fill {name!r}, {grid.rows}×{grid.cols} cells of {height}×{width} px",
        taint,
        gradient == 0,
        change == 0,
        () if passed else (f"fill {name!r} reads the deleted pixels",),
        numbers={
            "cells": float(grid.cells),
            "largest_gradient_of_deleted_pixels": gradient,
            "largest_change_by_deleted_pixels": change,
        },
    )


@dataclass(frozen=True)
class MaskLeakage:
    """What the choice of the deleted patch tells of the sample.

    Attributes:
        information: variable -> its mutual information with the choice, in bits.
        by_chance: variable -> the mean information of independent choices with the same frequencies.
        p_values: variable -> share of independent choices that tell at least as much.
        level: the p-value below which a variable counts as told, over all variables together.
        samples: how many samples were looked at.
    """

    information: dict[str, float]
    by_chance: dict[str, float]
    p_values: dict[str, float]
    level: float
    samples: int

    @property
    def found(self) -> tuple[str, ...]:
        """The variables that the mask tells more of than chance does (Bonferroni)."""
        return tuple(name for name, p in self.p_values.items() if p * len(self.p_values) <= self.level)

    @property
    def passed(self) -> bool:
        """The mask tells nothing beyond sampling noise."""
        return not self.found

    def to_dict(self) -> dict[str, Any]:
        """As written to `summary.json`."""
        return {**asdict(self), "found": self.found, "passed": self.passed}

    @property
    def report(self) -> str:
        """A text for people: a line per variable."""
        lines = [f"choice of the patch, {self.samples} samples: {'nothing leaks' if self.passed else 'LEAKS'}"]
        for name, bits in self.information.items():
            verdict = "told by the mask" if name in self.found else "within sampling noise"
            chance, p = self.by_chance[name], self.p_values[name]
            lines.append(f"  {name}: {bits:.4f} bits, {chance:.4f} by chance (p = {p:.4f}): {verdict}")
        return "\n".join(lines)


def mask_leakage(
    cells: Int[Tensor, " n"],
    labels: Int[Tensor, " n"],
    brightness: Float[Tensor, "n k"] | None = None,
    *,
    permutations: int = 9999,
    seed: int = 0,
    level: float = 0.001,
) -> MaskLeakage:
    """Test whether the choice of the deleted patch tells the label, or how bright the image is where.

    The mutual information is compared with that of random tables with the same margins: a
    permutation test, whose cost doesn't grow with the samples.

    Args:
        cells: (N,) the deleted cell of each sample, -1 for none.
        labels: (N,) their classes.
        brightness: (N, cells) mean value of each cell of each image, e.g. `grid.sum(images)`: adds the
            brightness of the image (in eighths), its brightest and its darkest cell as variables.
        level: accepted probability of a false alarm, over all variables together.
    Raises:
        InputError: shapes that don't fit; too few permutations for the level.
    """
    variables = {"label": _codes(labels)}
    if brightness is not None:
        if brightness.dim() != 2 or len(brightness) != len(cells):
            raise InputError(f"expected brightness ({len(cells)}, cells), got {tuple(brightness.shape)}")
        mean = brightness.double().mean(dim=1)
        edges = torch.quantile(mean, torch.linspace(0, 1, QUANTILES + 1, dtype=torch.float64)[1:-1].to(mean.device))
        variables["brightness of the image"] = _codes(torch.bucketize(mean, edges))
        variables["brightest cell"] = _codes(brightness.argmax(dim=1))
        variables["darkest cell"] = _codes(brightness.argmin(dim=1))
    chosen = _codes(cells)
    if any(len(codes) != len(chosen) for codes in variables.values()) or not len(chosen):
        raise InputError(f"expected as many labels as cells, at least one, got {len(labels)} and {len(cells)}")
    if len(variables) / (permutations + 1) > level:
        needed = int(np.ceil(len(variables) / level)) - 1
        raise InputError(f"a level of {level:g} needs at least {needed} permutations, got {permutations}")
    tests = {name: _test(chosen, codes, permutations, seed) for name, codes in variables.items()}
    information, by_chance, p_values = ({name: test[i] for name, test in tests.items()} for i in range(3))
    return MaskLeakage(information, by_chance, p_values, level, len(chosen))


def _test(a: NDArray[np.int64], b: NDArray[np.int64], permutations: int, seed: int) -> tuple[float, float, float]:
    """Mutual information in bits, its mean by chance, and the p-value."""
    table = np.zeros((a.max() + 1, b.max() + 1), dtype=np.int64)
    np.add.at(table, (a, b), 1)
    rows, cols = table.sum(axis=1), table.sum(axis=0)
    if len(rows) == 1 or len(cols) == 1:
        return 0.0, 0.0, 1.0
    observed = _information(table[None])[0]
    generator, draw = np.random.default_rng(seed), random_table(rows, cols)
    sizes = [min(TABLES_AT_ONCE, permutations - start) for start in range(0, permutations, TABLES_AT_ONCE)]
    chance = np.concatenate([_information(draw.rvs(size=size, random_state=generator)) for size in sizes])
    more = int((chance >= observed - 1e-12).sum())
    return float(observed), float(chance.mean()), (1 + more) / (1 + permutations)


def _information(tables: NDArray[np.number]) -> NDArray[np.float64]:
    """Mutual information of each contingency table (tables, rows, columns), in bits."""
    shares = tables / tables.sum(axis=(1, 2), keepdims=True)

    def entropy(parts: NDArray[np.float64], axes: Sequence[int]) -> NDArray[np.float64]:
        return -xlogy(parts, parts).sum(axis=tuple(axes))

    joint = entropy(shares, (1, 2))
    return (entropy(shares.sum(axis=2), (1,)) + entropy(shares.sum(axis=1), (1,)) - joint) / np.log(2)


def _codes(values: Tensor) -> NDArray[np.int64]:
    """Whole numbers (N,) as 0 … distinct values - 1."""
    if values.dim() != 1 or values.is_floating_point():
        raise InputError(f"expected whole numbers (N,), got {values.dtype} {tuple(values.shape)}")
    return np.unique(values.detach().cpu().numpy(), return_inverse=True)[1].astype(np.int64)
