"""From the numbers of a record to verdicts: nothing but the record and the fixed ranges counts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.findings.claims import FINDINGS, Claim, Finding
from faithfulness.core.statistics import holm

HOLDS, DOES_NOT, UNDECIDED, NOT_RUN = "holds", "does not hold", "undecided", "not run"
LEVEL = 0.05


@dataclass(frozen=True)
class Judged:
    """A claim with its numbers.

    Attributes:
        quantity: of the record; None where it wasn't run. p: of its own test; None without one. refuted: p of the
            range, Holm-corrected over the finding's claims; None where it can't be refuted.
            why: of a claim that is undecided for another reason than its interval.
    """

    claim: Claim
    quantity: Mapping[str, Any] | None
    p: float | None
    verdict: str
    why: str = ""
    refuted: float | None = None


def why_not(quantity: Mapping[str, Any], failed: Mapping[str, float]) -> str:
    """Why no claim can be decided by a quantity; nothing where it can."""
    if known := [f"{name} has accuracy {failed[name]:.2f}" for name in quantity["models"] if name in failed]:
        return "; ".join(known)
    if quantity["n"] < quantity["least"]:
        return f"fewer than {quantity['least']}"
    numbers = [quantity["effect"], *quantity["ci95"]]
    return "not defined" if any(number is None or math.isnan(number) for number in numbers) else ""


def refutation(claim: Claim, quantity: Mapping[str, Any]) -> float:
    """p of what is seen if the effect lay in the claim's range; 1 where it does lie there.

    The quantity's own test where it has one, which is of the range's end 0; else by the end of the interval that
    points at the range, as if the effect were normal.
    """
    effect, (low, high) = quantity["effect"], quantity["ci95"]
    if claim.low <= effect <= claim.high:
        return 1.0
    if quantity["p"] is not None:
        return float(quantity["p"])
    gap, half = (claim.low - effect, high - effect) if effect < claim.low else (effect - claim.high, effect - low)
    return 2 * float(stats.norm.sf(float(stats.norm.ppf(0.975)) * gap / half)) if half > 0 else 0.0


def judge_claim(
    claim: Claim, quantity: Mapping[str, Any] | None, refuted: float | None, failed: Mapping[str, float]
) -> Judged:
    """Holds if the whole interval lies in the range, and p of its own test is below 5 % where it has one.

    Does not hold if none of the interval lies there, and the corrected p of the range is below 5 %.

    Args:
        refuted: that corrected p. failed: networks that didn't learn, and their accuracy.
    """
    if quantity is None:
        return Judged(claim, None, None, NOT_RUN)
    p = quantity["p"]
    if why := why_not(quantity, failed):
        return Judged(claim, quantity, p, UNDECIDED, why)
    low, high = quantity["ci95"]
    if claim.low <= low and high <= claim.high:
        shown = p is None or p < LEVEL
        return Judged(claim, quantity, p, HOLDS if shown else UNDECIDED, "" if shown else f"p = {p:.2g}", refuted)
    if high < claim.low or low > claim.high:
        shown = refuted is not None and refuted < LEVEL
        return Judged(claim, quantity, p, DOES_NOT if shown else UNDECIDED, "", refuted)
    return Judged(claim, quantity, p, UNDECIDED, "", refuted)


def judge_finding(finding: Finding, record: Mapping[str, Any]) -> tuple[str, list[Judged]]:
    """The verdict over all claims that decide: one that doesn't hold refutes; it holds if all were run and hold.

    That all hold needs no correction: each has to pass a test of its own (intersection-union; Berger 1982). That one
    of many doesn't is corrected for how many there are. Claims that don't decide are judged as if alone.
    """
    quantities = [record["quantities"].get(claim.quantity) for claim in finding.claims]
    failed = networks_that_failed(record)
    plain = np.array(
        [
            math.nan if found is None or why_not(found, failed) else refutation(claim, found)
            for claim, found in zip(finding.claims, quantities, strict=True)
        ]
    )
    decide = np.array([claim.decides for claim in finding.claims])
    corrected = np.where(decide, holm(np.where(decide, plain, math.nan)), plain)
    judged = [
        judge_claim(claim, found, None if math.isnan(p) else float(p), failed)
        for claim, found, p in zip(finding.claims, quantities, corrected, strict=True)
    ]
    verdicts = {each.verdict for each in judged if each.claim.decides}
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
    """The claim that a table shows: of those that decide one that refutes, else an open one, else the tightest."""

    def margin(each: Judged) -> tuple[int, float]:
        order = (DOES_NOT, UNDECIDED, HOLDS, NOT_RUN).index(each.verdict)
        if each.quantity is None or None in each.quantity["ci95"]:
            return order, math.inf
        low, high = each.quantity["ci95"]
        return order, min(low - each.claim.low, each.claim.high - high)

    return min((each for each in judged if each.claim.decides), key=margin)
