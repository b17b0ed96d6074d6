"""One way from a grid of images to a head's logits, tried: by taint, by derivative, by other content elsewhere."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from difull.interventions import random_contents
from difull.settings import GridSetting
from difull.structure import logits_by_split
from faithfulness.core.leakage import gradient_of_logits, seeded

TOGETHER = 32
"""Grids in one pass."""

ALONE = 20
"""Contents that are also tried in batches of one."""

Run = Callable[[Tensor], Tensor]


def ways_to_logits(setting: GridSetting, cell: int) -> dict[str, Run]:
    """Every way from grids to a head's logits: training and accuracy run `heads`, attribution `split`."""
    layout = setting.backbone.layout
    ways: dict[str, Run] = {
        "forward": partial(setting, cell=cell),
        "heads": lambda images: setting.heads(images)[:, cell],
    }
    layers = ("input", *(layout.taps if layout else ()))
    return ways | {f"split at {layer}": partial(logits_by_split, setting, layer, cell) for layer in layers}


class Trial:
    """One way from images to logits, tried on the same grids; what was found adds up over the calls.

    Attributes:
        region: (H, W), the pixels that may matter; "elsewhere" is the rest.
        untainted: whether NaN elsewhere left the logits alone; None where the model refuses NaN.
        gradient, change: the largest gradient elsewhere, and the largest change of a logit by content there.
        tried, random, alone, refused: contents that were tried, at random among them, in batches of one, and
            those that the model refused.
        leaking: the first contents that leaked elsewhere in the grid, with the size of their batch.
        leaks_across_batch: whether the other images of a batch matter.
        remembers: whether an earlier call matters.
    """

    def __init__(self, name: str, run: Run, images: Tensor, region: Tensor):
        self.name, self.run, self.images, self.region = name, run, images, region
        self.pair = torch.cat([images[:1], images[:1].flip(-1)])
        self.base, self.alone_base = self.logits(images), self.logits(images[:1])
        self.untainted: bool | None = True
        self.tainted_share = self.gradient = self.change = 0.0
        self.tried = self.random = self.alone = self.refused = 0
        self.leaking: list[tuple[Tensor, int]] = []
        self.leaks_across_batch = self.remembers = False
        self._clean: dict[tuple[int, int], Tensor] = {}

    def logits(self, images: Tensor) -> Tensor:
        """Logits without gradients, with the same dropout every time."""
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
        changes = largest_change(changed, clean)
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
        self.leaks_across_batch |= not torch.equal(*pairs[2])

    def differentiate(self) -> None:
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
        changes = largest_change(changed, self._clean[key])
        self.change = max(self.change, float(changes.max()))
        leaking = changes.nonzero().flatten()[:1].tolist()
        self.leaking += [(contents[number], len(contents)) for number in leaking if len(self.leaking) < 8]
        self.tried += len(contents) if count else 0
        return len(contents)

    def across_batch(self, contents: Tensor) -> None:
        """The first image's logits, with other contents in the other images of its batch."""
        for others in contents.split(3):
            batch = torch.cat([self.images[:1], others])
            clean = torch.cat([self.images[:1], self.images[:1].flip(-1).expand_as(others)])
            try:
                changes = largest_change(self.logits(batch)[:1], self.logits(clean)[:1])
            except Exception:
                self.refused += len(others)
                continue
            self.change = max(self.change, float(changes.max()))
            self.leaks_across_batch |= bool(changes.any())


def intervene(trials: list[Trial], chosen: Tensor, tries: int, seed: int) -> None:
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


def try_memory(pristine: GridSetting, cell: int, trials: list[Trial], chosen: Tensor) -> None:
    """On copies that never ran: what the first call sees elsewhere must reach neither that call nor the next one."""
    for trial in trials:
        fresh, other = (ways_to_logits(copy.deepcopy(pristine), cell)[trial.name] for _ in range(2))
        with torch.no_grad():
            clean = seeded(fresh, trial.images.clone())
            calls = [
                seeded(other, images) for images in (trial.elsewhere(trial.images, 1 + chosen[0]), trial.images.clone())
            ]
        at_once, later = (float(largest_change(now, clean).max()) for now in calls)
        trial.change = max(trial.change, at_once, later)
        trial.remembers = bool(later)


def largest_change(now: Tensor, then: Tensor) -> Tensor:
    """The largest change of a logit of each image (B,); 0 only where all are bit-identical."""
    same = (now == then) | (now.isnan() & then.isnan())
    change = (now - then).abs().nan_to_num(nan=torch.inf).masked_fill(same, 0)
    return change.flatten(1).max(dim=1).values
