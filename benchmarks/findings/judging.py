"""From the numbers of a record to verdicts: nothing but the record and the fixed ranges counts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.findings.claims import FINDINGS, Claim, Finding
from faithfulness.core.statistics import holm

HOLDS, DOES_NOT, UNDECIDED, NOT_RUN = "holds", "does not hold", "undecided", "not run"
LEVEL = 0.05


@dataclass(frozen=True)
class Judged:
    """A claim with its numbers.

    Attributes:
        quantity: of the record; None where it wasn't run. p: Holm-corrected over the finding's claims; None without
            a test. why: of a claim that is undecided for another reason than its interval.
    """

    claim: Claim
    quantity: Mapping[str, Any] | None
    p: float | None
    verdict: str
    why: str = ""


def judge_claim(
    claim: Claim, quantity: Mapping[str, Any] | None, p: float | None, failed: Mapping[str, float]
) -> Judged:
    """Holds if the whole interval lies in the range, does not if none of it does; where there is a test, only if p
    is below 5 % as well.

    Args:
        p: corrected. failed: networks that didn't learn, and their accuracy.
    """
    if quantity is None:
        return Judged(claim, None, None, NOT_RUN)
    if known := [f"{name} has accuracy {failed[name]:.2f}" for name in quantity["models"] if name in failed]:
        return Judged(claim, quantity, p, UNDECIDED, "; ".join(known))
    if quantity["n"] < quantity["least"]:
        return Judged(claim, quantity, p, UNDECIDED, f"fewer than {quantity['least']}")
    effect, ends = quantity["effect"], quantity["ci95"]
    if effect is None or any(end is None or math.isnan(end) for end in ends):
        return Judged(claim, quantity, p, UNDECIDED, "not defined")
    low, high = ends
    shown = p is None or p < LEVEL
    if claim.low <= low and high <= claim.high:
        verdict = HOLDS if shown else UNDECIDED
    elif high < claim.low or low > claim.high:
        verdict = DOES_NOT if shown else UNDECIDED
    else:
        return Judged(claim, quantity, p, UNDECIDED)
    return Judged(claim, quantity, p, verdict, "" if shown else f"p = {p:.2g}")


def judge_finding(finding: Finding, record: Mapping[str, Any]) -> tuple[str, list[Judged]]:
    """The verdict over all claims: one that doesn't hold refutes; it holds only if all were run and hold."""
    quantities = [record["quantities"].get(claim.quantity) for claim in finding.claims]
    tested = [math.nan if found is None or found["p"] is None else found["p"] for found in quantities]
    corrected = [None if math.isnan(p) else float(p) for p in holm(np.array(tested))]
    failed = networks_that_failed(record)
    judged = [
        judge_claim(claim, found, p, failed)
        for claim, found, p in zip(finding.claims, quantities, corrected, strict=True)
    ]
    verdicts = {each.verdict for each in judged}
    if verdicts == {NOT_RUN}:
        return NOT_RUN, judged
    if DOES_NOT in verdicts:
        return DOES_NOT, judged
    return (HOLDS if verdicts == {HOLDS} else UNDECIDED), judged


def networks_that_failed(record: Mapping[str, Any]) -> dict[str, float]:
    """Networks that are too far from right to decide anything, and their accuracy."""
    return {name: found["accuracy"] for name, found in record["models"].items() if found["accuracy"] < found["least"]}


def judge(record: Mapping[str, Any]) -> dict[str, tuple[str, list[Judged]]]:
    """Finding -> its verdict and its claims."""
    return {finding.key: judge_finding(finding, record) for finding in FINDINGS}


def verdicts_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a record says of its own verdicts, as JSON."""
    return {
        key: {"verdict": verdict, "claims": {each.claim.quantity: each.verdict for each in judged}}
        for key, (verdict, judged) in judge(record).items()
    }


def deciding(judged: list[Judged]) -> Judged:
    """The claim that a table shows for the finding: one that refutes, else one that is open, else the tightest."""

    def margin(each: Judged) -> tuple[int, float]:
        order = (DOES_NOT, UNDECIDED, HOLDS, NOT_RUN).index(each.verdict)
        if each.quantity is None or None in each.quantity["ci95"]:
            return order, math.inf
        low, high = each.quantity["ci95"]
        return order, min(low - each.claim.low, each.claim.high - high)

    return min(judged, key=margin)
