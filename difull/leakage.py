"""Whether anything leaks between cells: proven by structure where it can be, tested everywhere, named where found.

The three tests don't depend on each other: by taint, by derivative, by intervention. The model is
tested as it stands, training mode included, and left as it was.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core.errors import InputError
from core.leakage import EXTREME, LeakageProof, caught_rate, gradient_of_logits, seeded
from difull.cells import check_cell, check_divides
from difull.influence import by_kind, possible_region
from difull.interventions import chosen_contents, random_contents
from difull.laboratory import laboratory
from difull.locality import kind_of
from difull.settings import DiFull, GridSetting
from difull.structure import through, trace_structure

TRIES = 200
"""Random contents per head and way to its logits."""

TOGETHER = 32
"""Grids in one pass."""

KNOWN = 4
"""Contents, the extremes, that are enough where a setting leaks by construction."""

BESIDE = 8
"""Contents that are tried in the other images of a batch."""

ALONE = 20
"""Contents that are also tried in batches of one."""

Run = Callable[[Tensor], Tensor]


def leakage_proof(
    setting: GridSetting,
    images: Float[Tensor, "b c h w"],
    cell: int | None = None,
    *,
    tries: int = TRIES,
    seed: int = 0,
) -> LeakageProof:
    """Whether a head (None: every one) depends on nothing but what it may: its cell, or DiPart's receptive field.

    `structure` proves it for DiFull over a stateless backbone in evaluation mode, for all heads: see
    `trace_structure`. The other statements are tests, made through `forward`, `heads` and `split` at the
    input and every tap, in batches of many and of one, on fresh copies too, and against the other
    images of the batch. DiPart's receptive field is put together from each step's own reach; a step
    that reads the whole map (squeeze-and-excitation, GroupNorm, BatchNorm in training mode,
    attention) fails it, even where the field covers the whole grid anyway. GridPG always fails.

    Args:
        images: (B, C, scale·h, scale·w), a few grids.
        tries: random contents per head and way, besides the chosen ones; drawn by `seed`.
    Raises:
        InputError: images that don't divide into cells, a cell outside the grid, no tries.
    """
    proofs = leakage_proofs(setting, images, None if cell is None else [cell], tries=tries, seed=seed)
    if len(proofs) == 1:
        return proofs[0]
    taints = [proof.taint for proof in proofs]
    numbers = {
        name: (min if name.endswith("tried") else max)(proof.numbers[name] for proof in proofs)
        for name in proofs[0].numbers
    }
    return replace(
        proofs[0],
        subject=proofs[0].subject.replace(f"head of cell {0}", "every head"),
        taint=False if False in taints else None if None in taints else True,
        derivative=all(proof.derivative for proof in proofs),
        intervention=all(proof.intervention for proof in proofs),
        found=tuple(dict.fromkeys(finding for proof in proofs for finding in proof.found)),
        notes=tuple(dict.fromkeys(note for proof in proofs for note in proof.notes)),
        numbers=numbers,
    )


def leakage_proofs(
    setting: GridSetting,
    images: Float[Tensor, "b c h w"],
    cells: list[int] | None = None,
    *,
    tries: int = TRIES,
    seed: int = 0,
) -> list[LeakageProof]:
    """`leakage_proof` of each of the cells, all by default; the structure is traced once."""
    if tries < 1:
        raise InputError(f"expected at least 1 try, got {tries}")
    cells = [check_cell(cell, setting.scale) for cell in (range(setting.cells) if cells is None else cells)]
    check_divides(images.shape, setting.scale, "a grid of images")
    pristine = _copied(setting)
    structure = trace_structure(setting if pristine is None else pristine, images)
    proofs = [_test_head(pristine, setting, images, cell, tries, seed) for cell in cells]
    return [
        replace(
            proof,
            structure=structure.holds,
            found=tuple(dict.fromkeys((*structure.found, *proof.found))),
            notes=(*structure.notes, *proof.notes),
        )
        for proof in proofs
    ]


def ways_to_logits(setting: GridSetting, cell: int) -> dict[str, Run]:
    """Every way from grids to a head's logits: training and accuracy run `heads`, attribution `split`."""
    layout = setting.backbone.layout
    ways: dict[str, Run] = {
        "forward": partial(setting, cell=cell),
        "heads": lambda images: setting.heads(images)[:, cell],
    }
    layers = ("input", *(layout.taps if layout else ()))
    return ways | {f"split at {layer}": partial(through, setting, layer, cell) for layer in layers}


def _copied(setting: GridSetting) -> GridSetting | None:
    """The setting as it is, before anything runs; None where it can't be copied."""
    try:
        return copy.deepcopy(setting)
    except Exception:
        return None


def _test_head(
    pristine: GridSetting | None, setting: GridSetting, images: Tensor, cell: int, tries: int, seed: int
) -> LeakageProof:
    """The three tests of one head; on a copy, if there is one, that goes back to `pristine` for every head."""
    setting = setting if pristine is None else copy.deepcopy(pristine)
    with laboratory(setting, plain=not isinstance(setting, DiFull)):
        region, by_construction = possible_region(setting, images, cell)
        chosen = chosen_contents(images, seed)[-KNOWN if by_construction else 0 :]
        trials = [_Trial(name, run, images, region) for name, run in ways_to_logits(setting, cell).items()]
        for trial in trials:
            trial.taint()
            trial.derive()
            trial.beside(chosen[:: max(1, len(chosen) // BESIDE)])
        if not region.all():
            for trial in trials if not by_construction else ():
                trial.with_gradients(chosen)
            _intervene(trials, chosen, 0 if by_construction else tries, seed)
        notes = []
        if pristine is None:
            notes.append("memory of earlier calls isn't tested: the setting can't be copied")
        else:
            _test_memory(pristine, cell, trials, chosen)
        found = by_construction or _name_leaks(setting, cell, trials)
    taints = [trial.untainted for trial in trials]
    share = float(region.double().mean())
    gradient, change = (max(getattr(trial, name) for trial in trials) for name in ("gradient", "change"))
    tried = min(trial.random for trial in trials)
    if any(holds is None for holds in taints):
        notes.append("taint can't be told: the model refuses NaN; the other statements cover it")
    if refused := sum(trial.refused for trial in trials):
        notes.append(f"the model refused {refused} contents")
    if share == 1 and not found:
        notes.append("nothing is impossible here: what may matter is the whole grid")
    elif not found:
        notes.append(
            f"{min(trial.tried for trial in trials)} contents tried each way, {tried} of them at random, "
            f"{min(trial.alone for trial in trials)} in batches of one: a leak that {caught_rate(tried):.1%} of such "
            "random contents set off, or more, would have been caught (95 %); a rarer one may not"
        )
    numbers = {
        "share_that_may_matter": share,
        "tainted_logits": max(trial.tainted_share for trial in trials),
        "largest_gradient_elsewhere": gradient,
        "largest_logit_change": change,
        "contents_tried": float(min(trial.tried for trial in trials)),
        "random_contents_tried": float(tried),
        "contents_alone_tried": float(min(trial.alone for trial in trials)),
        "smallest_rate_caught": caught_rate(tried),
    }
    taint = False if by_construction or False in taints else None if None in taints else True
    subject = (
        f"{type(setting).__name__} of {setting.name}, {setting.scale}×{setting.scale}, head of cell {cell}, "
        f"{len(images)} grids of {images.shape[-2]}×{images.shape[-1]} px"
    )
    return LeakageProof(subject, taint, gradient == 0, change == 0, found, tuple(notes), numbers)


def _intervene(trials: list[_Trial], chosen: Tensor, tries: int, seed: int) -> None:
    """Other content elsewhere, in every trial: the chosen ones, then random ones."""
    count = len(chosen) + tries
    for start in range(0, count, TOGETHER):
        numbers = torch.arange(start, min(start + TOGETHER, count)) - len(chosen)
        numbers = numbers[numbers >= 0]
        contents = chosen[start : start + TOGETHER]
        if len(numbers):
            contents = torch.cat([contents, random_contents(trials[0].images, numbers, seed)])
        for trial in trials:
            trial.intervene(contents, start, len(chosen), max(1, count // ALONE))


class _Trial:
    """One way from images to logits, tried on the same grids."""

    def __init__(self, name: str, run: Run, images: Tensor, region: Tensor):
        self.name, self.run, self.images, self.region = name, run, images, region
        self.pair = torch.cat([images[:1], images[:1].flip(-1)])
        self.base, self.alone_base = self.logits(images), self.logits(images[:1])
        self.untainted: bool | None = True
        self.tainted_share = self.gradient = self.change = 0.0
        self.tried = self.random = self.alone = self.refused = 0
        self.leaking: list[tuple[Tensor, int]] = []
        """The first contents that leaked elsewhere in the grid, with the size of their batch."""
        self.beside_leaks = self.remembers = False
        self._clean: dict[tuple[int, int], Tensor] = {}

    def logits(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            return seeded(self.run, images.clone())

    def with_gradients(self, contents: Tensor) -> None:
        """As training and gradient methods run it: other content elsewhere must leave these logits as they are, too."""
        grids = self.images[:1].expand(len(contents), *self.images.shape[1:])
        try:
            with torch.enable_grad():
                clean, changed = (
                    seeded(self.run, images.clone().requires_grad_()).detach()
                    for images in (grids, self.elsewhere(grids, contents))
                )
        except Exception:
            self.refused += len(contents)
            return
        changes = _change(changed, clean)
        self.change = max(self.change, float(changes.max()))
        self.leaking += [(contents[number], len(contents)) for number in changes.nonzero().flatten()[:1].tolist()]

    def elsewhere(self, images: Tensor, content: Tensor) -> Tensor:
        """The images with other content where nothing may matter."""
        return torch.where(self.region, images, content)

    def taint(self) -> None:
        """NaN elsewhere, in batches of many and of one, and in the other image: logits finite and bit-identical."""
        nan = torch.full_like(self.images, torch.nan)
        try:
            many = self.logits(self.elsewhere(self.images, nan))
            alone = self.logits(self.elsewhere(self.images[:1], nan[:1]))
            beside = self.logits(torch.cat([self.images[:1], nan[:1]]))[:1]
        except Exception:
            self.untainted = None
            return
        self.tainted_share = float((~torch.isfinite(many)).double().mean())
        pairs = [(many, self.base), (alone, self.alone_base), (beside, self.logits(self.pair)[:1])]
        self.untainted = all(bool(torch.isfinite(now).all()) and torch.equal(now, then) for now, then in pairs)
        self.beside_leaks |= not torch.equal(*pairs[2])

    def derive(self) -> None:
        """The largest gradient of any logit with respect to a pixel elsewhere, or to the other image."""
        flat = self.elsewhere(self.images[:1], torch.ones_like(self.images[:1]))
        values = [
            gradient_of_logits(self.run, each)[..., ~self.region] for each in (self.images, self.images[:1], flat)
        ]
        values.append(gradient_of_logits(lambda images: self.run(images)[:1], self.pair)[1:])
        together = torch.cat([value.flatten() for value in values]).abs().nan_to_num(nan=torch.inf)
        self.gradient = float(together.max()) if together.numel() else 0.0

    def intervene(self, contents: Tensor, start: int, chosen: int, spread: int) -> None:
        """Try contents number `start` … elsewhere, random from number `chosen` on; each `spread`th alone too."""
        self._try(contents, start)
        self.random += max(0, len(contents) - max(0, chosen - start))
        for number in range(-start % spread, len(contents), spread):
            self.alone += self._try(contents[number : number + 1], 0, count=False)

    def _try(self, contents: Tensor, start: int, count: bool = True) -> int:
        """Put each content beside a grid's own part, all in one batch; how many the model took."""
        order = (torch.arange(len(contents)) + start) % len(self.images)
        key = len(contents), start % len(self.images)
        grids = self.images[order.to(self.images.device)]
        if key not in self._clean:
            self._clean[key] = self.logits(grids)
        try:
            changed = self.logits(self.elsewhere(grids, contents))
        except Exception:
            if len(contents) > 1:
                return sum(self._try(content, 0, count) for content in contents.split(1))
            self.refused += 1
            return 0
        changes = _change(changed, self._clean[key])
        self.change = max(self.change, float(changes.max()))
        leaking = changes.nonzero().flatten()[:1].tolist()
        self.leaking += [(contents[number], len(contents)) for number in leaking if len(self.leaking) < 8]
        self.tried += len(contents) if count else 0
        return len(contents)

    def beside(self, contents: Tensor) -> None:
        """The first image's logits, with other contents in the other images of its batch."""
        for others in contents.split(3):
            batch = torch.cat([self.images[:1], others])
            clean = torch.cat([self.images[:1], self.images[:1].flip(-1).expand_as(others)])
            try:
                changes = _change(self.logits(batch)[:1], self.logits(clean)[:1])
            except Exception:
                self.refused += len(others)
                continue
            self.change = max(self.change, float(changes.max()))
            self.beside_leaks |= bool(changes.any())


def _change(now: Tensor, then: Tensor) -> Tensor:
    """The largest change of a logit of each image (B,); 0 only where all are bit-identical."""
    same = (now == then) | (now.isnan() & then.isnan())
    change = (now - then).abs().nan_to_num(nan=torch.inf).masked_fill(same, 0)
    return change.flatten(1).max(dim=1).values


def _test_memory(pristine: GridSetting, cell: int, trials: list[_Trial], chosen: Tensor) -> None:
    """On copies that never ran: what the first call sees elsewhere must reach neither that call nor the next one."""
    for trial in trials:
        fresh, other = (ways_to_logits(copy.deepcopy(pristine), cell)[trial.name] for _ in range(2))
        with torch.no_grad():
            clean = seeded(fresh, trial.images.clone())
            calls = [
                seeded(other, images) for images in (trial.elsewhere(trial.images, 1 + chosen[0]), trial.images.clone())
            ]
        at_once, later = (float(_change(now, clean).max()) for now in calls)
        trial.change = max(trial.change, at_once, later)
        trial.remembers = bool(later)


def _name_leaks(setting: GridSetting, cell: int, trials: list[_Trial]) -> tuple[str, ...]:
    """What to tell where a setting whose steps are all in order leaks nevertheless."""
    named = []
    if any(trial.beside_leaks for trial in trials):
        norms = [
            (path, kind_of(module))
            for path, module in setting.backbone.named_modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training
        ]
        through_what = " and ".join(by_kind(norms)) or "no module known to do so"
        named.append(f"images of a batch reach each other, through {through_what}")
    for trial in trials:
        if trial.remembers:
            named.append(f"in {trial.name}, the head of cell {cell} depends on what an earlier call has seen elsewhere")
        reached = _reached_cells(setting, trial)
        if reached:
            where = f"cell{'s' * (len(reached) > 1)} {', '.join(map(str, reached))}"
            named.append(f"in {trial.name}, the head of cell {cell} reads more than its part: {where}")
        elif trial.leaking or trial.gradient or (trial.untainted is False and not trial.beside_leaks):
            named.append(f"in {trial.name}, the head of cell {cell} reads more than its part")
    return tuple(named)


def _reached_cells(setting: GridSetting, trial: _Trial) -> list[int]:
    """The cells whose content alone changes the logits, by what was seen to leak and by extremes."""
    if not (trial.leaking or trial.gradient or trial.untainted is False):
        return []
    tall, wide = (side // setting.scale for side in trial.images.shape[-2:])
    one = torch.full_like(trial.images[0], EXTREME)
    reached = []
    for other in range(setting.cells):
        row, col = divmod(other, setting.scale)
        area = torch.zeros_like(trial.region)
        area[row * tall : (row + 1) * tall, col * wide : (col + 1) * wide] = True
        for content, size in (*trial.leaking, (one, len(trial.images))):
            grids = trial.images[torch.arange(size, device=area.device) % len(trial.images)]
            changed = trial.logits(torch.where(area & ~trial.region, content, grids))
            if bool(_change(changed, trial.logits(grids)).any()):
                reached.append(other)
                break
    return reached
