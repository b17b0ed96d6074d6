"""Whether anything leaks between cells: proven by structure where it can be, tested everywhere, named where found.

The three tests don't depend on each other: by taint, by derivative, by intervention. The model is
tested as it stands, training mode included, and left as it was.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from difull.cells import check_cell, check_divides
from difull.direct_convolutions import direct_convolutions
from difull.influence import by_kind, receptive_region
from difull.interventions import chosen_contents
from difull.locality import kind_of
from difull.settings import DiFull, GridSetting
from difull.structure import trace_structure
from difull.trials import Trial, intervene, largest_change, try_memory, ways_to_logits
from faithfulness.core.checks import check_images
from faithfulness.core.errors import InputError
from faithfulness.core.leakage import EXTREME, LeakageProof, caught_rate

TRIES = 200
"""Random contents per head and way to its logits."""

KNOWN = 4
"""Contents, the extremes, that are enough where a setting leaks by construction."""

ACROSS_BATCH = 8
"""Contents that are tried in the other images of a batch."""


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
    images of the batch. DiPart's receptive field is put together from the extent of each step's kernel; a step
    that reads the whole map (squeeze-and-excitation, GroupNorm, BatchNorm in training mode,
    attention) fails it, even where the field covers the whole grid anyway. GridPG always fails.

    Args:
        images: (B, C, scale·h, scale·w), a few grids.
        tries: random contents per head and way, besides the chosen ones; drawn by `seed`.
    Raises:
        InputError: images that don't divide into cells, a cell outside the grid, no tries.

    >>> import torch
    >>> from difull import DiFull, leakage_proof
    >>> from faithfulness import Backbone
    >>> features = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU())
    >>> head = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 5))
    >>> setting = DiFull(Backbone(features, head).eval(), scale=2)
    >>> proof = leakage_proof(setting, torch.rand(1, 3, 16, 16), cell=0, tries=5)
    >>> proof.passed, proof.verdict, proof.numbers["share_that_may_matter"]
    (True, 'proven', 0.25)
    """
    check_images(images)
    if not hasattr(setting, "cells"):
        raise InputError(f"expected DiFull, GridPG or DiPart, got {type(setting).__name__}")
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
    with direct_convolutions(setting, direct=not isinstance(setting, DiFull)):
        region, by_construction = receptive_region(setting, images, cell)
        chosen = chosen_contents(images, seed)[-KNOWN if by_construction else 0 :]
        trials = [Trial(name, run, images, region) for name, run in ways_to_logits(setting, cell).items()]
        for trial in trials:
            trial.taint()
            trial.differentiate()
            trial.across_batch(chosen[:: max(1, len(chosen) // ACROSS_BATCH)])
        if not region.all():
            for trial in trials if not by_construction else ():
                trial.with_gradients(chosen)
            intervene(trials, chosen, 0 if by_construction else tries, seed)
        notes = []
        if pristine is None:
            notes.append("memory of earlier calls isn't tested: the setting can't be copied")
        else:
            try_memory(pristine, cell, trials, chosen)
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


def _name_leaks(setting: GridSetting, cell: int, trials: list[Trial]) -> tuple[str, ...]:
    """What to tell where a setting whose steps are all in order leaks nevertheless."""
    named = []
    if any(trial.leaks_across_batch for trial in trials):
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
        elif trial.leaking or trial.gradient or (trial.untainted is False and not trial.leaks_across_batch):
            named.append(f"in {trial.name}, the head of cell {cell} reads more than its part")
    return tuple(named)


def _reached_cells(setting: GridSetting, trial: Trial) -> list[int]:
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
            if bool(largest_change(changed, trial.logits(grids)).any()):
                reached.append(other)
                break
    return reached
