"""GridPG, DiFull and DiPart: a backbone on a grid of images, with a head per cell.

A setting shares the backbone's parameters and never changes it: all that differs lies in how its
steps and its head are run. Each has `split(layer, cell)`, so every attribution method runs in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from difull.cells import BlockCells, MapCells, check_cell, check_divides, check_scale
from faithfulness.attribution.base import frozen
from faithfulness.backbones import Explainable, Layout, Split, as_explainable
from faithfulness.backbones.backbone import check_module
from faithfulness.backbones.split import Transform, identity, run_steps
from faithfulness.core.checks import check_images
from faithfulness.core.errors import InputError, is_out_of_memory
from faithfulness.core.keyed import keyed_uniform, make_keys


class GridSetting(Explainable):
    """Base of the settings.

    Args:
        backbone: a network with `split`, or any module with logits (then the input is its only layer).
        scale: cells per side.
    Raises:
        InputError: a scale below 1; a setting as the backbone.
    """

    def __init__(self, backbone: nn.Module, scale: int = 3):
        super().__init__()
        check_module(backbone)
        if isinstance(backbone, GridSetting):
            raise InputError(f"expected a backbone, got the setting {type(backbone).__name__}; pass its .backbone")
        self.backbone: Explainable = as_explainable(backbone)
        self.scale = check_scale(scale)
        self.name = getattr(self.backbone, "name", type(self.backbone).__name__)

    @property
    def cells(self) -> int:
        """Number of cells, and of heads."""
        return self.scale**2

    @property
    def layers(self) -> list[str]:
        """The backbone's layers."""
        return self.backbone.layers

    def forward(self, images: Float[Tensor, "b c h w"], cell: int = 0) -> Float[Tensor, "b k"]:
        """Logits (B, classes) of one cell's head for grids (B, C, scale·h, scale·w).

        Raises InputError for images that don't divide into cells, or that the backbone can't take.
        """
        return self.split("input", cell).rest(images)

    def heads(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b cells k"]:
        """The logits of all heads, (B, scale², classes)."""
        return torch.stack([self(images, cell) for cell in range(self.cells)], dim=1)

    def split(self, layer: str = "input", cell: int = 0) -> Split:
        """Cut at `layer`, seen from the head of `cell`.

        `stem` gives the activations of the whole grid, whatever the head sees of them.
        Raises InputError for an unknown layer or cell.
        """
        raise NotImplementedError

    def _check(self, images: Tensor) -> None:
        check_images(images)
        check_divides(images.shape, self.scale, "a grid of images")

    def _grid_layout(self, layout: Layout) -> Layout:
        """How the backbone runs on the whole grid."""
        raise NotImplementedError

    def _cut(self, layer: str) -> tuple[Layout, int]:
        """The layout on the grid, and the number of steps before `layer`."""
        layout = self.backbone.layout
        if layout is None:
            raise InputError(f"{self.name} offers no split into layers, which {type(self).__name__} needs at {layer!r}")
        self.backbone.split(layer)  # refuses an unknown layer, with near matches
        before = 0 if layer == "input" else layout.cut(layout.taps.get(layer, layer))
        return self._grid_layout(layout), before or 0

    def _to_cut(self, layout: Layout, cut: int, images: Tensor) -> Tensor:
        """The activations at a cut of grids."""
        self._check(images)
        return run_steps(layout.steps[:cut], images)

    def _from_cut(self, layout: Layout, cut: int, activations: Tensor) -> Tensor:
        """The features of activations at a cut, of grids themselves at cut 0."""
        if not cut:
            self._check(activations)
        return run_steps(layout.steps[cut:], activations.clone())


class DiFull(GridSetting):
    """Disconnected from the start: every cell runs through the network by itself.

    The head of a cell depends on that cell only, so any attribution elsewhere is wrong. Tokens of a
    transformer stay in their cell, each with its own class token.
    Source: Rao et al. 2022, section 3.

    >>> import torch
    >>> from difull import DiFull, compose_grid
    >>> from faithfulness import create_backbone
    >>> setting = DiFull(create_backbone("test_resnet", num_classes=3, input_size=64).eval(), scale=2)
    >>> grids = compose_grid(torch.rand(4, 3, 64, 64), scale=2)
    >>> others = torch.zeros_like(grids)
    >>> others[..., :64, :64] = grids[..., :64, :64]  # the same first cell
    >>> torch.equal(setting(grids, cell=0), setting(others, cell=0))
    True
    >>> setting.heads(grids).shape
    torch.Size([1, 4, 3])
    """

    one_stem = True

    def split(self, layer: str = "input", cell: int = 0) -> Split:
        inner = self.backbone.split(layer)
        check_cell(cell, self.scale)
        as_map = inner.to_map is identity or layer == "input"
        view = MapCells(self.scale) if as_map else BlockCells(self.scale, inner.to_map, inner.spread)

        stem = identity if layer == "input" else partial(self._stem, inner, view)
        return Split(layer, stem, partial(self._rest, inner, view, cell), view.to_map, view.spread, inner.upsample)

    def _stem(self, inner: Split, view: MapCells, images: Tensor) -> Tensor:
        self._check(images)
        return view.join([self._run(inner.stem, MapCells(self.scale).part(images, k)) for k in range(self.cells)])

    def _rest(self, inner: Split, view: MapCells, cell: int, activations: Tensor) -> Tensor:
        if inner.layer == "input":
            self._check(activations)
        return self._run(inner.rest, view.part(activations, cell))

    def _run(self, run: Transform, cells: Tensor) -> Tensor:
        with refusals(f"{self.name} can't take cells of {tuple(cells.shape[1:])}"):
            return run(cells)


class DiPart(GridSetting):
    """Disconnected at the head: features over the whole grid, each head pools one cell's part of them.

    A head sees its cell and what the receptive field of its part adds. A transformer has resampled
    position embeddings and a class token for every cell, which reads that cell's patches only; the
    patches read each other, so every pixel can matter (see README.md).
    Source: Rao et al. 2022, section 3.

    >>> import torch
    >>> from difull import DiPart, compose_grid
    >>> from faithfulness import create_backbone
    >>> setting = DiPart(create_backbone("test_resnet", num_classes=3, input_size=64).eval(), scale=2)
    >>> grids = compose_grid(torch.rand(4, 3, 64, 64), scale=2)
    >>> stem, rest = setting.split("final", cell=3)
    >>> features = stem(grids)  # of the whole grid; the head reads the lower right part of them
    >>> features.shape
    torch.Size([1, 96, 4, 4])
    >>> others = torch.zeros_like(features)
    >>> others[..., 2:, 2:] = features[..., 2:, 2:]
    >>> torch.equal(rest(features), rest(others))
    True
    """

    one_stem = True

    def split(self, layer: str = "input", cell: int = 0) -> Split:
        layout, cut = self._cut(layer)
        check_cell(cell, self.scale)
        rest = partial(self._rest, layout, cut, cell)
        if layer == "input":
            return Split(layer, identity, rest)
        view = self.view(layout)
        return Split(layer, partial(self._to_cut, layout, cut), rest, view.to_map, view.spread, layout.upsample)

    def _rest(self, layout: Layout, cut: int, cell: int, activations: Tensor) -> Tensor:
        features = self._from_cut(layout, cut, activations)
        return layout.head(self.head_part(features, cell))

    def heads(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b cells k"]:
        """The logits of all heads, (B, scale², classes); the features are computed once."""
        self._check(images)
        layout, _ = self._cut("input")
        features = run_steps(layout.steps, images.clone())
        return torch.stack([layout.head(self.head_part(features, cell)) for cell in range(self.cells)], dim=1)

    def head_part(self, features: Tensor, cell: int) -> Tensor:
        """The part of the features of the whole grid that the head of `cell` gets."""
        if features.dim() == 4:
            check_divides(features.shape, self.scale, f"the features of {self.name},")
        return self.view(self._cut("input")[0]).part(features, cell)

    def view(self, layout: Layout) -> MapCells:
        """How the activations of the grid hold its cells."""
        if layout.to_map is identity:
            return MapCells(self.scale)
        return BlockCells(self.scale, layout.to_map, layout.spread)

    def _grid_layout(self, layout: Layout) -> Layout:
        if layout.on_grid is not None:
            return layout.on_grid(self.scale, True)
        if layout.to_map is not identity:
            raise InputError(f"the activations of {self.name} aren't maps, so DiPart has no cell's part to pool")
        return layout


class GridPG(GridSetting):
    """The grid pointing game: one head over the whole grid; `cell` says only what is scored.

    A head that depends on where its features lie (VGG's classifier) slides over the grid as a
    convolution of one cell's size, and its logits are averaged; any other takes the whole grid.
    A transformer has resampled position embeddings and one class token.
    Source: Böhle et al. 2021; Rao et al. 2022, section 3.

    >>> import torch
    >>> from difull import GridPG, compose_grid
    >>> from faithfulness import create_backbone
    >>> setting = GridPG(create_backbone("test_resnet", num_classes=3, input_size=64).eval(), scale=2)
    >>> grids = compose_grid(torch.rand(4, 3, 64, 64), scale=2)
    >>> torch.equal(setting(grids, cell=0), setting(grids, cell=3))  # one head, which reads everything
    True
    """

    one_stem = True

    def __init__(self, backbone: nn.Module, scale: int = 3):
        super().__init__(backbone, scale)
        self._sliding: dict[tuple[int, ...], bool] = {}

    def split(self, layer: str = "input", cell: int = 0) -> Split:
        check_cell(cell, self.scale)
        if self.backbone.layout is None and layer == "input":
            return Split(layer, identity, self._run_whole)
        layout, cut = self._cut(layer)
        rest = partial(self._rest, layout, cut)
        if layer == "input":
            return Split(layer, identity, rest)
        return Split(layer, partial(self._to_cut, layout, cut), rest, layout.to_map, layout.spread, layout.upsample)

    def _rest(self, layout: Layout, cut: int, activations: Tensor) -> Tensor:
        return self._head(layout, self._from_cut(layout, cut, activations))

    def heads(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b cells k"]:
        """The one head's logits, as often as there are cells: (B, scale², classes)."""
        return self(images).unsqueeze(1).expand(-1, self.cells, -1)

    def _run_whole(self, images: Tensor) -> Tensor:
        self._check(images)
        with refusals(f"{self.name} can't take a grid of {tuple(images.shape[-2:])}"):
            return self.backbone(images)

    def _grid_layout(self, layout: Layout) -> Layout:
        return layout if layout.on_grid is None else layout.on_grid(self.scale, False)

    def _head(self, layout: Layout, features: Tensor) -> Tensor:
        if features.dim() != 4 or layout.to_map is not identity:
            with refusals(f"the head of {self.name} can't take the features of a grid, {tuple(features.shape[1:])}"):
                return layout.head(features)
        shape = tuple(features.shape[1:])
        if shape not in self._sliding:
            self._sliding[shape] = self._head_slides(layout, features)
        return slide_head(layout.head, features, self.scale) if self._sliding[shape] else layout.head(features)

    def _head_slides(self, layout: Layout, features: Tensor) -> bool:
        """Whether the head has to be slid: it isn't a pooling head, nor does it slide by itself."""
        keys = make_keys(0, features.shape[1], device=features.device)[None]
        probe = keyed_uniform(keys, tuple(features.shape[1:])).to(features.dtype)
        with torch.no_grad(), frozen(self):
            try:
                whole = layout.head(probe)
                if _same(whole, layout.head(probe.flip(2, 3))):
                    return False
            except RuntimeError as error:
                if is_out_of_memory(error):
                    raise
                return True
            return not _same(whole, slide_head(layout.head, probe, self.scale))


def slide_head(head: Transform, features: Tensor, scale: int) -> Tensor:
    """The mean of the head's logits over all windows of one cell's size: (B, C, h, w) -> (B, classes)."""
    check_divides(features.shape, scale, "to slide the head, the feature map")
    height, width = features.shape[-2] // scale, features.shape[-1] // scale
    windows = features.unfold(2, height, 1).unfold(3, width, 1).permute(0, 2, 3, 1, 4, 5)
    logits = head(windows.flatten(0, 2))
    return logits.unflatten(0, (len(features), -1)).mean(dim=1)


def _same(a: Tensor, b: Tensor) -> bool:
    """Equal but for rounding, which the order of a pool's summands changes."""
    tolerance = max(1e-4, 16 * torch.finfo(a.dtype).eps)
    return a.shape == b.shape and bool((a - b).abs().max() <= tolerance * a.abs().max())


@contextmanager
def refusals(what: str) -> Iterator[None]:
    """What a network refuses as InputError: sizes that don't fit; running out of memory stays itself."""
    try:
        yield
    except InputError:
        raise
    except (RuntimeError, AssertionError) as error:
        if is_out_of_memory(error):
            raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{what}: {reason}") from error


__all__ = ["DiFull", "DiPart", "GridPG", "GridSetting", "refusals", "slide_head"]
