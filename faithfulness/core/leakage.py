"""What a test of leakage states, and the arithmetic that such tests share."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from faithfulness.core.keyed import keyed_normal, make_keys

EXTREME = 1e4
"""What an intervention calls extreme, in normalized input."""

Verdict = Literal["proven", "tested", "leaks"]


@dataclass(frozen=True)
class LeakageProof:
    """What is stated of a subject, each statement True where it holds, and what was found where one doesn't.

    Only `structure` proves; the other three are tests, which see what they tried.

    Attributes:
        taint: NaN wherever nothing may matter leaves the result finite and bit-identical. None where
            that can't be told, because the model refuses NaN.
        derivative: the gradient there is exactly 0, or not connected.
        intervention: other content there leaves the result bit-identical.
        structure: the result is computed from what may matter alone, as its traced graph shows. None
            where that doesn't apply or can't be shown; then the verdict rests on the tests.
        found: what leaks, by name.
        notes: what the statements rest on, and what they leave open.
        numbers: what was measured.
    """

    subject: str
    taint: bool | None
    derivative: bool
    intervention: bool
    found: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    numbers: dict[str, float] = field(default_factory=dict)
    structure: bool | None = None

    @property
    def passed(self) -> bool:
        """Nothing was found to leak: no statement fails."""
        return self.taint is not False and self.derivative and self.intervention and self.structure is not False

    @property
    def verdict(self) -> Verdict:
        """ "proven" by structure, "tested" and found clean, or "leaks"."""
        if not self.passed:
            return "leaks"
        return "proven" if self.structure else "tested"

    @property
    def statements(self) -> dict[str, str]:
        """Statement -> "proven", "holds", "fails", or why there is none."""
        told = {True: "holds", False: "fails", None: "can't be told"}
        structure = {True: "proven", False: "fails", None: "no proof"}[self.structure]
        tests = {"taint": self.taint, "derivative": self.derivative, "intervention": self.intervention}
        return {"structure": structure, **{name: told[holds] for name, holds in tests.items()}}

    @property
    def report(self) -> str:
        """A text for people: a line for each statement, finding and number."""
        verdict = {"proven": "nothing leaks (proven)", "tested": "nothing leaks (tested, not proven)", "leaks": "LEAKS"}
        lines = [f"{self.subject}: {verdict[self.verdict]}"]
        for name, told in self.statements.items():
            kind = "proof" if name == "structure" else "test"
            lines.append(f"  {name} ({kind}): {told}")
        lines += [f"  found: {finding}" for finding in self.found]
        lines += [f"  {note}" for note in self.notes]
        return "\n".join(lines + [f"  {name} = {value:g}" for name, value in self.numbers.items()])

    def to_dict(self) -> dict[str, Any]:
        """As written to `summary.json`."""
        return {**asdict(self), "passed": self.passed, "verdict": self.verdict}


def caught_rate(tries: int) -> float:
    """The rate of leaking inputs above which `tries` random ones, none leaking, would have shown one.

    At 95 % confidence: 1 - 0.05^(1/tries), just under the rule of three, 3/tries.
    """
    return min(1.0, 3 / tries) if tries else 1.0


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


def seeded(run: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """run(images), with the same dropout every time and the global generators untouched."""
    with forked_generators(images.device):
        torch.default_generator.manual_seed(0)  # `torch.manual_seed` visits every device, 2 ms each time
        if images.device.type == "cuda":
            torch.cuda.manual_seed(0)
        return run(images)


def forked_generators(device: torch.device) -> AbstractContextManager[None]:
    """Leave the global generators of the CPU and of `device` untouched."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
