"""Verdicts on the published findings: the rule, what it is given, and the record that is committed."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from benchmarks.findings.__main__ import HOME, judged_again
from benchmarks.findings.claims import FINDINGS, Claim, Finding
from benchmarks.findings.judging import judge, judge_claim, judge_finding, verdicts_of
from benchmarks.findings.quantities import by_seeds, largest, over_networks, paired, quantity, resampled, unpaired
from benchmarks.findings.tables import range_text, section, terminal_table
from faithfulness.core.errors import InputError

RECORD = HOME / "results" / "findings.json"


@pytest.fixture(scope="module")
def record():
    return json.loads(RECORD.read_text(encoding="utf-8"))


def made(effect, low, high, **more):
    return quantity(effect, (low, high), 50, "images", ["net"], **more)


def test_verdicts_follow_from_the_numbers_of_the_record(record):
    assert verdicts_of(record) == record["verdicts"]


def test_the_readme_is_in_step_with_the_record(record):
    assert section(record) in (HOME / "README.md").read_text(encoding="utf-8")


def test_the_record_is_small_and_has_every_claim(record):
    assert RECORD.stat().st_size < 300_000
    assert {claim.quantity for finding in FINDINGS for claim in finding.claims} <= set(record["quantities"])


def test_the_record_is_of_code_that_is_committed(record):
    assert len(record["environment"]["commit"]) == 40


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (made(0.2, 0.1, 0.3), "holds"),
        (made(0.2, 0.0, 0.3), "holds"),
        (made(0.2, -0.1, 0.3), "undecided"),
        (made(-0.2, -0.3, -0.1), "does not hold"),
        (made(0.2, 0.1, 0.3, least=51), "undecided"),
        (made(0.2, 0.1, math.nan), "undecided"),
        (None, "not run"),
    ],
)
def test_a_claim_is_decided_by_its_whole_interval(found, verdict):
    assert judge_claim(Claim("a", 0.0, 2.0), found, None, {}).verdict == verdict


@pytest.mark.parametrize(("p", "verdict"), [(0.04, "holds"), (0.06, "undecided"), (None, "holds")])
def test_where_there_is_a_test_it_must_agree(p, verdict):
    assert judge_claim(Claim("a", 0.0, 2.0), made(0.2, 0.1, 0.3), p, {}).verdict == verdict


def test_a_network_that_did_not_learn_decides_nothing():
    claim, found = Claim("a", 0.0, 2.0), made(0.2, 0.1, 0.3)
    judged = judge_claim(claim, found, None, {"net": 0.31})
    assert (judged.verdict, judged.why) == ("undecided", "net has accuracy 0.31")
    assert judge_claim(claim, found, None, {"other": 0.31}).verdict == "holds"


def of_claims(*quantities, models=None):
    """A finding that each of these is above 0, and its record."""
    names = [str(place) for place in range(len(quantities))]
    finding = Finding("key", "somebody", "text", "how", tuple(Claim(name, 0.0, 2.0) for name in names))
    known = {name: found for name, found in zip(names, quantities, strict=True) if found}
    return finding, {"quantities": known, "models": models or {}}


@pytest.mark.parametrize(
    ("quantities", "verdict"),
    [
        ([made(0.2, 0.1, 0.3), made(0.3, 0.1, 0.4)], "holds"),
        ([made(0.2, 0.1, 0.3), made(0.3, -0.1, 0.4)], "undecided"),
        ([made(0.2, 0.1, 0.3), None], "undecided"),
        ([made(0.2, -0.1, 0.3), made(-0.3, -0.4, -0.2)], "does not hold"),
        ([None, None], "not run"),
        # Holm: the smaller of two counts twice
        ([made(0.2, 0.1, 0.3, p=0.03), made(0.2, 0.1, 0.3, p=0.04)], "undecided"),
        ([made(0.2, 0.1, 0.3, p=0.02), made(0.2, 0.1, 0.3, p=0.04)], "holds"),
    ],
)
def test_a_finding_needs_all_its_claims_and_falls_with_one(quantities, verdict):
    assert judge_finding(*of_claims(*quantities))[0] == verdict


def test_another_number_in_the_record_is_another_verdict(record):
    key = next(key for key, (verdict, _) in judge(record).items() if verdict == "holds")
    name = next(finding for finding in FINDINGS if finding.key == key).claims[0].quantity
    changed = {**record["quantities"], name: record["quantities"][name] | {"effect": 1e12, "ci95": [1e12, 1e12]}}
    assert judge({**record, "quantities": changed})[key][0] != "holds"


def test_differences_of_single_networks_go_by_the_spread_over_seeds():
    seeds = np.array([0.30, 0.33, 0.36])
    found = by_seeds(0.2, seeds, 1 + 1 / 3, ["a"])
    half = 4.302653 * 0.03 * math.sqrt(4 / 3)
    assert found["ci95"] == pytest.approx([0.2 - half, 0.2 + half], rel=1e-6)
    edge = by_seeds(half, seeds, 1 + 1 / 3, ["a"])
    assert edge["ci95"][0] == pytest.approx(0, abs=1e-7)
    assert edge["p"] == pytest.approx(0.05, abs=1e-7)  # interval and test say the same


def test_pairs_of_one_image_count_as_one():
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=30), generator.normal(size=30)
    once = paired(a, b, np.arange(30), "images", ["net"])
    thrice = paired(np.tile(a, 3), np.tile(b, 3), np.tile(np.arange(30), 3), "images", ["net"])
    assert once["n"] == 30
    assert once["effect"] == pytest.approx((a - b).mean())
    assert once["sd"] == pytest.approx((a - b).std(ddof=1))
    assert thrice["ci95"] == pytest.approx(once["ci95"])
    assert thrice["p"] == pytest.approx(once["p"]) == pytest.approx(stats.wilcoxon(a - b)[1])


def test_other_samples_are_compared_as_scipy_does():
    generator = np.random.default_rng(1)
    a, b = generator.normal(0.5, 1, 40), generator.normal(0, 2, 30)
    found = unpaired(a, b, "grids", [])
    assert found["p"] == pytest.approx(stats.ttest_ind(a, b, equal_var=False)[1])
    assert found["effect"] == pytest.approx(a.mean() - b.mean())
    assert found["ci95"][0] < found["effect"] < found["ci95"][1]
    ranks = over_networks(np.array([1.0, 2, 3, 4, 5, 6]), np.array([6.0, 5, 4, 3, 1, 2]), [])
    assert ranks["effect"] == pytest.approx(stats.spearmanr([1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 1, 2])[0])
    assert (ranks["n"], ranks["unit"]) == (6, "networks")


def test_a_statistic_is_resampled_whole():
    values = np.random.default_rng(2).normal(3, 1, 200)
    found = resampled(lambda rows: values[rows].mean(axis=1), 200, "grids", [])
    assert found["effect"] == pytest.approx(values.mean())
    assert found["ci95"][1] - found["ci95"][0] == pytest.approx(2 * 1.96 * values.std() / 200**0.5, rel=0.15)
    assert largest(np.array([1.0, 3.0]), "grids", [])["effect"] == 3


def test_ranges_read_as_they_are_meant():
    ranges = {(-2.0, 0.0): "< 0", (0.0, 2.0): "> 0", (-0.1, 0.1): "-0.1 … 0.1", (-2.0, 0.1): "< 0.1"}
    assert {low_high: range_text(Claim("a", *low_high)) for low_high in ranges} == ranges
    assert range_text(Claim("a", 0.01, 1e9)) == "> 0.01"


def test_the_table_has_every_finding_and_fits(record):
    lines = terminal_table(record).splitlines()
    assert max(map(len, lines[:2])) <= 110
    for finding in FINDINGS:
        assert any(finding.text[:30] in line for line in lines)


@pytest.mark.parametrize("content", ["{}", "nothing", '{"quantities": 3}'])
def test_what_is_no_record_is_said_in_a_line(tmp_path, content):
    file = tmp_path / "findings.json"
    file.write_text(content)
    with pytest.raises(InputError, match=r"no findings\.json of this command"):
        judged_again(Path(file))
