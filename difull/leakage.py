"""Proof that nothing leaks between cells, or the name of what does.

Three statements that don't depend on each other: by taint, by derivative, by intervention. The model
is tested as it stands, training mode included, and left as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from backbones.split import identity
from core.errors import InputError
from core.keyed import keyed_normal, make_keys
from difull.cells import check_cell, check_divides
from difull.laboratory import laboratory, seeded
from difull.locality import kind_of, receptive_field
from difull.settings import DiPart, GridPG, GridSetting

EXTREME = 1e4
"""What the intervention calls extreme, in normalised input."""


@dataclass(frozen=True)
class LeakageProof:
    """The three statements, each True where it holds, and what was found where one doesn't.

    Attributes:
        taint: NaN wherever nothing may matter leaves the result finite and bit-identical.
        derivative: the gradient there is exactly 0, or not connected.
        intervention: other content there leaves the result bit-identical.
        found: what leaks, by name.
        numbers: what was measured.
    """

    subject: str
    taint: bool
    derivative: bool
    intervention: bool
    found: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    numbers: dict[str, float] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """All three hold."""
        return self.taint and self.derivative and self.intervention

    @property
    def report(self) -> str:
        """A text for people: a line for each statement, finding and number."""
        verdicts = {"taint": self.taint, "derivative": self.derivative, "intervention": self.intervention}
        lines = [f"{self.subject}: {'nothing leaks' if self.passed else 'LEAKS'}"]
        lines += [f"  {name}: {'holds' if holds else 'fails'}" for name, holds in verdicts.items()]
        lines += [f"  found: {finding}" for finding in self.found]
        lines += [f"  {note}" for note in self.notes]
        return "\n".join(lines + [f"  {name} = {value:g}" for name, value in self.numbers.items()])

    def to_dict(self) -> dict[str, Any]:
        """As written to `summary.json`."""
        return {**asdict(self), "passed": self.passed}


def gradient_of_logits(run: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """Gradient of a random mixture of all logits, shaped like the inputs; 0 where not connected."""
    with torch.enable_grad():
        leaf = inputs.detach().clone().requires_grad_(True)
        logits = seeded(run, leaf)
        if not logits.requires_grad:
            return torch.zeros_like(inputs)
        weights = keyed_normal(make_keys(0, device=logits.device)[None], tuple(logits.shape))[0].to(logits.dtype)
        (result,) = torch.autograd.grad((logits * weights).sum(), leaf, allow_unused=True)
    return torch.zeros_like(inputs) if result is None else result


def logit_functions(setting: GridSetting, cell: int) -> dict[str, Callable[[Tensor], Tensor]]:
    """Layer -> images to the head's logits through the cut at that layer: what attribution runs."""
    layout = setting.backbone.layout
    splits = {layer: setting.split(layer, cell) for layer in ("input", *(layout.taps if layout else ()))}
    return {layer: lambda images, split=split: split.rest(split.stem(images)) for layer, split in splits.items()}


def possible_region(
    setting: GridSetting, images: Float[Tensor, "b c h w"], cell: int = 0
) -> tuple[Bool[Tensor, "h w"], tuple[str, ...]]:
    """The pixels that may matter to a head by construction, (H, W), and what breaks that construction.

    DiFull, and GridPG for want of any other claim: the cell. DiPart: the receptive field of the
    head's part, from the reach of each step on a canvas of its own; with what is not local, by name.
    """
    check_divides(images.shape, setting.scale, "a grid of images")
    row, col = divmod(check_cell(cell, setting.scale), setting.scale)
    height, width = (side // setting.scale for side in images.shape[-2:])
    rows, cols = (row * height, (row + 1) * height - 1), (col * width, (col + 1) * width - 1)
    found: tuple[str, ...] = ()
    if isinstance(setting, GridPG):
        found = ("GridPG's one head reads the whole grid",)
    elif isinstance(setting, DiPart):
        layout, _ = setting._cut("input")
        if layout.to_map is identity:
            with laboratory(setting), torch.no_grad():
                features = layout.features(images[:1].clone())
                tall, wide = (side // setting.scale for side in features.shape[-2:])
                part_rows, part_cols = (row * tall, (row + 1) * tall - 1), (col * wide, (col + 1) * wide - 1)
                reach = receptive_field(layout.steps, images[:1], part_rows, part_cols)
            rows, cols = reach.rows, reach.cols
            found = tuple(f"{names} reads the whole map" for names in _by_kind(reach.not_local))
        else:
            found = (f"the tokens of {setting.name} read each other across the whole grid",)
    region = torch.zeros(images.shape[-2:], dtype=torch.bool, device=images.device)
    region[rows[0] : rows[1] + 1, cols[0] : cols[1] + 1] = True
    return region, found


def leakage_proof(setting: GridSetting, images: Float[Tensor, "b c h w"], cell: int = 0) -> LeakageProof:
    """Prove that a head depends on nothing but what it may: its cell, or in DiPart its receptive field.

    Tested at the input and at every tap, through the very functions that attribution runs, and also
    against the other images of the batch. DiPart's receptive field is put together from each step's
    own reach; a step that reads the whole map (squeeze-and-excitation, GroupNorm, BatchNorm in
    training mode, attention) fails it, even where the field covers the whole grid anyway. GridPG
    always fails: its head reads every cell.

    Args:
        images: (B, C, scale·h, scale·w), a few grids.
    Raises:
        InputError: images that don't divide into cells, a cell outside the grid.
    """
    check_cell(cell, setting.scale)
    with laboratory(setting):
        region, found = possible_region(setting, images, cell)
        trials = [_Trial(run, images, region) for run in logit_functions(setting, cell).values()]
        taint = not found and all(trial.taint() for trial in trials)
        gradient = max(trial.largest_gradient() for trial in trials)
        change = max(trial.largest_change() for trial in trials)
        tainted = max(trial.tainted_share() for trial in trials)
        if not found and not (taint and gradient == 0 and change == 0):
            found = _name_leak(setting, trials, images, region)
    share = float(region.double().mean())
    notes = ("nothing is impossible here: what may matter is the whole grid",) if share == 1 and not found else ()
    return LeakageProof(
        f"{type(setting).__name__} of {setting.name}, {setting.scale}×{setting.scale}, head of cell {cell}, "
        f"{len(images)} grids of {images.shape[-2]}×{images.shape[-1]} px",
        taint,
        gradient == 0,
        change == 0,
        found,
        notes,
        {
            "share_that_may_matter": share,
            "tainted_logits": tainted,
            "largest_gradient_elsewhere": gradient,
            "largest_logit_change": change,
        },
    )


class _Trial:
    """One way from images to logits, tried on the same grids."""

    def __init__(self, run: Callable[[Tensor], Tensor], images: Tensor, region: Tensor):
        self.run, self.images, self.region = run, images, region
        self.pair = torch.cat([images[:1], images[:1].flip(-1)])
        self.base = self.logits(images)
        self.alone = self.logits(self.pair)[:1]

    def logits(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            return seeded(self.run, images.clone())

    def elsewhere(self, content: Tensor) -> Tensor:
        """The images with other content where nothing may matter."""
        return torch.where(self.region, self.images, content)

    def beside(self, content: Tensor) -> Tensor:
        """The first image's logits, with other content in the other image of its batch."""
        return self.logits(torch.cat([self.images[:1], content]))[:1]

    def taint(self) -> bool:
        """NaN elsewhere, and in the other image: logits finite and bit-identical."""
        nan = torch.full_like(self.images, torch.nan)
        both = (self.logits(self.elsewhere(nan)), self.base), (self.beside(nan[:1]), self.alone)
        return all(bool(torch.isfinite(now).all()) and torch.equal(now, then) for now, then in both)

    def tainted_share(self) -> float:
        """Share of logits that NaN elsewhere reaches."""
        tainted = self.logits(self.elsewhere(torch.full_like(self.images, torch.nan)))
        return float((~torch.isfinite(tainted)).double().mean())

    def largest_gradient(self) -> float:
        """Of any logit with respect to any pixel elsewhere, or to the other image."""
        elsewhere = gradient_of_logits(self.run, self.images)[..., ~self.region]
        beside = gradient_of_logits(lambda images: self.run(images)[:1], self.pair)[1:]
        values = torch.cat([elsewhere.flatten(), beside.flatten()]).abs()
        return float(values.nan_to_num(nan=torch.inf).max()) if values.numel() else 0.0

    def largest_change(self) -> float:
        """Of any logit when the other pixels, or the other image, are replaced."""
        keys = make_keys(1, torch.arange(len(self.images), device=self.images.device))
        noise = keyed_normal(keys, tuple(self.images.shape[1:])).to(self.images.dtype)
        others = [
            self.images.roll(1, 0).flip(-1),
            self.images.flip(-2),
            noise,
            torch.zeros_like(noise),
            torch.full_like(noise, EXTREME),
            torch.full_like(noise, -EXTREME),
            EXTREME * noise.sign(),
        ]
        changes = [self.logits(self.elsewhere(other)) - self.base for other in others]
        changes += [self.beside(other[:1]) - self.alone for other in others]
        return max(float(change.abs().nan_to_num(nan=torch.inf).max()) for change in changes)


def _name_leak(setting: GridSetting, trials: list[_Trial], images: Tensor, region: Tensor) -> tuple[str, ...]:
    """What to tell where a setting whose steps are all in order leaks nevertheless."""
    nan = torch.full_like(images, torch.nan)
    named = []
    if not all(torch.equal(trial.beside(nan[:1]), trial.alone) for trial in trials):
        norms = [
            (path, kind_of(module))
            for path, module in setting.backbone.named_modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training
        ]
        through = " and ".join(_by_kind(norms)) or "no module known to do so"
        named.append(f"images of a batch reach each other, through {through}")
    reached = []
    for other in range(setting.cells):
        row, col = divmod(other, setting.scale)
        tall, wide = (side // setting.scale for side in images.shape[-2:])
        area = torch.zeros_like(region)
        area[row * tall : (row + 1) * tall, col * wide : (col + 1) * wide] = True
        content = torch.where(area & ~region, EXTREME * torch.ones_like(images), images)
        if any(not torch.equal(trial.logits(content), trial.base) for trial in trials):
            reached.append(other)
    if reached:
        named.append(
            f"the head reads more than its part: cell{'s' * (len(reached) > 1)} {', '.join(map(str, reached))}"
        )
    return tuple(named)


def _by_kind(modules: Iterable[tuple[str, str]]) -> list[str]:
    """(path, kind) of modules as one text per kind, with the first few paths."""
    kinds: dict[str, list[str]] = {}
    for path, kind in modules:
        kinds.setdefault(kind, []).append(path)
    return [
        f"{kind} ({', '.join(paths[:3])}{f' and {len(paths) - 3} more' if len(paths) > 3 else ''})"
        for kind, paths in kinds.items()
    ]


def influence_map(
    setting: GridSetting,
    images: Float[Tensor, "b c h w"],
    cell: int = 0,
    block: int = 8,
    *,
    layer: str = "input",
    chunk: int = 64,
) -> Bool[Tensor, "y x"]:
    """Which blocks of pixels can reach a head: (H/block, W/block) bool, over all of `images`.

    Block after block is tainted with NaN, and the gradient is looked at as well, so an operation that
    swallows NaN doesn't hide. An attention mask counts as passing, since it multiplies by 0.

    Args:
        images: (B, C, scale·h, scale·w); one or two grids will do.
        block: side in pixels of the input, or of the map at `layer`.
        chunk: the most grids that one pass takes.
    Raises:
        InputError: blocks that don't divide the map.
    """
    split = setting.split(layer, cell)
    with laboratory(setting), torch.no_grad():
        activations = seeded(split.stem, images.clone())
        height, width = split.to_map(activations).shape[-2:]
        if block < 1 or height % block or width % block:
            raise InputError(f"blocks of {block} don't divide the {height}×{width} map at {layer!r}")
        rows, cols = height // block, width // block
        reached = torch.zeros(rows * cols, dtype=torch.bool, device=images.device)
        # In training mode the images of a batch may reach each other, so each block has its own pass.
        together = 1 if any(module.training for module in setting.backbone.modules()) else max(1, chunk // len(images))
        for blocks in torch.arange(rows * cols, device=images.device).split(together):
            marks = torch.zeros(len(blocks), rows * cols, dtype=images.dtype, device=images.device)
            marks.scatter_(1, blocks[:, None], 1)
            fine = marks.unflatten(1, (1, rows, cols)).repeat_interleave(block, 2).repeat_interleave(block, 3)
            weights = split.spread(1 - fine).repeat_interleave(len(images), 0)
            tainted = torch.where(
                weights == 0, torch.nan, activations.repeat(len(blocks), *[1] * (activations.dim() - 1))
            )
            broken = ~torch.isfinite(seeded(split.rest, tainted)).flatten(1).all(dim=1)
            reached[blocks] |= broken.unflatten(0, (len(blocks), len(images))).any(dim=1)
        reached = reached.unflatten(0, (rows, cols))
        moved = split.to_map(gradient_of_logits(split.rest, activations)).ne(0).flatten(0, 1).any(dim=0)
        return reached | moved.unflatten(0, (rows, block)).unflatten(2, (cols, block)).any(dim=3).any(dim=1)
