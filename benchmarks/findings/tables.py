"""The record as text: a table for the terminal, and the section of the README."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.findings.claims import FINDINGS, Claim, Finding
from benchmarks.findings.judging import DOES_NOT, HOLDS, UNDECIDED, Judged, deciding, judge, networks_that_failed
from faithfulness.core.tables import format_table, wrap

BEGIN, END = "<!-- findings: begin, written by python -m benchmarks.findings --publish -->", "<!-- findings: end -->"


def value(number: float | None) -> str:
    """A number as it is read: three decimals, or its order where it is tiny."""
    if number is None:
        return "–"
    if number and abs(number) < 5e-4:
        return f"{number:.0e}"
    return f"{number:.0f}" if abs(number) >= 100 else f"{number:.3f}"


def range_text(claim: Claim) -> str:
    """The range as a reader says it."""
    if claim.high <= 0 and claim.low <= -1:
        return "< 0"
    if claim.low == 0 and claim.high == 2:
        return "> 0"
    if claim.high >= 2:
        return f"> {claim.low:g}"
    if claim.low <= -1:
        return f"< {claim.high:g}"
    return f"{claim.low:g} … {claim.high:g}"


def effect_text(judged: Judged) -> str:
    """Effect and interval."""
    if judged.quantity is None:
        return "–"
    low, high = judged.quantity["ci95"]
    return f"{value(judged.quantity['effect'])} [{value(low)}, {value(high)}]"


def test_text(judged: Judged) -> str:
    """The test's p, how many of what, and why it is undecided."""
    if judged.quantity is None:
        return ""
    parts = [] if judged.p is None else [f"p = {judged.p:.2g}"]
    if judged.refuted is not None and judged.verdict in (DOES_NOT, UNDECIDED) and judged.refuted < 1:
        parts.append(f"corrected against the range {judged.refuted:.2g}")
    parts.append(f"n = {judged.quantity['n']} {judged.quantity['unit']}")
    if each := judged.quantity.get("by_network"):
        same = sum((mean > 0) == (judged.quantity["effect"] > 0) for mean in each.values())
        parts.append(f"this sign in {same} of {len(each)} networks")
    return ", ".join(parts) + (f" ({judged.why})" if judged.why and not judged.why.startswith("p") else "")


def counted(judged: list[Judged]) -> str:
    """How many of the claims that decide hold."""
    found = [each.verdict == HOLDS for each in judged if each.claim.decides]
    return f"{sum(found)}/{len(found)}"


def noted(finding: Finding) -> str:
    """What is said behind a finding: that no network could be otherwise."""
    return " (by construction)" if finding.by_construction else ""


def terminal_table(record: Mapping[str, Any]) -> str:
    """A row per finding, with the claim that decides it under it."""
    rows, notes = [], []
    for finding in FINDINGS:
        verdict, judged = judge(record)[finding.key]
        shown = deciding(judged)
        rows.append(
            (
                wrap(finding.text + noted(finding), 40),
                finding.source.partition(" ")[0],
                range_text(shown.claim),
                effect_text(shown),
                counted(judged),
                verdict,
            )
        )
        notes.append(f"  {shown.claim.quantity}; {test_text(shown)}" if shown.quantity else "")
    header = ("finding", "source", "holds if", "effect [95% interval]", "claims", "verdict")
    text = format_table(header, rows, "<<<<><", notes)
    return "\n\n".join([text, "\n".join(cautions_of(record))]).rstrip()


def cautions_of(record: Mapping[str, Any]) -> list[str]:
    """Networks that didn't learn, and what the run says of itself."""
    failed = networks_that_failed(record)
    lines = [f"caution: {name} has accuracy {accuracy:.2f}; it decides nothing" for name, accuracy in failed.items()]
    return lines + [f"caution: {line}" for line in record["cautions"]]


def section(record: Mapping[str, Any]) -> str:
    """The README's part, in Markdown: what was found, and every claim with its numbers."""
    verdicts, settings = judge(record), record["settings"]
    lines = [
        BEGIN,
        "",
        f"Scale `{record['size']}`: {settings['images']} images for IDSDS, {settings['grids']} grids per setting, "
        f"{settings['pairs_of']} images for DEA; IG with {settings['steps']} steps and RISE with {settings['masks']} "
        f"masks; made by {commits_text(record)}.",
        "",
        "| finding | source | measured | verdict | claims that hold |",
        "|---|---|---|---|---|",
    ]
    for finding in FINDINGS:
        verdict, judged = verdicts[finding.key]
        lines.append(row(finding.text + noted(finding), finding.source, finding.how, f"**{verdict}**", counted(judged)))
    lines += ["", *networks_table(record), "", *[f"- {line}" for line in cautions_of(record)], ""]
    lines += ["| claim | holds if | effect [95% interval] | test | verdict |", "|---|---|---|---|---|"]
    for finding in FINDINGS:
        for each in verdicts[finding.key][1]:
            claim = each.claim
            lines.append(row(claim.quantity, range_text(claim), effect_text(each), test_text(each), verdict_text(each)))
    return "\n".join([*lines, "", END])


def verdict_text(judged: Judged) -> str:
    """A claim's verdict, and whether it counts."""
    return judged.verdict + ("" if judged.claim.decides else " (decides nothing)")


def commits_text(record: Mapping[str, Any]) -> str:
    """All commits that any step was made by."""
    found = [f"`{commit[:12]}`" for commit in record["commits"]]
    return f"commit{'s' * (len(found) > 1)} {', '.join(found)}"


def row(*cells: str) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


def networks_table(record: Mapping[str, Any]) -> list[str]:
    """Accuracy of every network, whole and with one cell deleted."""
    lines = ["| network | timm name | accuracy (mean IoU) | one cell deleted |", "|---|---|---|---|"]
    for name, found in record["models"].items():
        deleted = value(found["accuracy_deleted"]) if "accuracy_deleted" in found else "–"
        lines.append(row(name, f"`{found['network']}`", value(found["accuracy"]), deleted))
    return lines


def replaced(text: str, new: str) -> str:
    """A README with its section replaced."""
    before, _, rest = text.partition(BEGIN)
    return before + new + rest.partition(END)[2]
