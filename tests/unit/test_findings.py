"""Verdicts on the published findings: the rule, what it is given, and the record that is committed."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from benchmarks.findings.__main__ import HOME, check_committed, judged_again, main
from benchmarks.findings.claims import FINDINGS, Claim, Finding
from benchmarks.findings.judging import deciding, judge, judge_claim, judge_finding, refutation, verdicts_of
from benchmarks.findings.quantities import (
    by_seeds,
    largest,
    mean_over_networks,
    over_networks,
    paired,
    quantity,
    resampled,
    spread,
    unpaired,
)
from benchmarks.findings.steps import Steps
from benchmarks.findings.tables import counted, range_text, section, terminal_table
from faithfulness.core.errors import InputError

RECORD = HOME / "results" / "findings.json"


@pytest.fixture(scope="module")
def record():
    if not RECORD.is_file():
        pytest.skip("no record is committed: the run of benchmarks.findings is still to be made")
    return json.loads(RECORD.read_text(encoding="utf-8"))


def made(effect, low, high, **more):
    return quantity(effect, (low, high), 50, "images", ["net"], **more)


def test_verdicts_follow_from_the_numbers_of_the_record(record):
    assert verdicts_of(record) == record["verdicts"]


def test_the_readme_is_in_step_with_the_record(record):
    assert section(record) in (HOME / "README.md").read_text(encoding="utf-8")


def test_the_record_is_small_and_has_every_claim(record):
    assert RECORD.stat().st_size < 300_000
    missing = {c for finding in FINDINGS for c in finding.claims if c.quantity not in record["quantities"]}
    assert not [claim for claim in missing if claim.decides]
    for network in {claim.quantity.partition(":")[0] for claim in missing}:
        assert any(caution.startswith(f"no grids of {network}:") for caution in record["cautions"])


def test_the_record_is_of_code_that_is_committed(record):
    check_committed(record)


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
    assert judge_claim(Claim("a", 0.0, 2.0), found, 0.01, {}).verdict == verdict


@pytest.mark.parametrize(("p", "verdict"), [(0.04, "holds"), (0.06, "undecided"), (None, "holds")])
def test_where_there_is_a_test_it_must_agree(p, verdict):
    assert judge_claim(Claim("a", 0.0, 2.0), made(0.2, 0.1, 0.3, p=p), 1.0, {}).verdict == verdict


@pytest.mark.parametrize(("refuted", "verdict"), [(0.04, "does not hold"), (0.06, "undecided")])
def test_a_claim_is_refuted_by_the_corrected_p_alone(refuted, verdict):
    found = made(-0.2, -0.3, -0.1, p=0.01)
    assert judge_claim(Claim("a", 0.0, 2.0), found, refuted, {}).verdict == verdict


def test_what_an_interval_says_against_a_range():
    claim = Claim("a", 0.0, 2.0)
    assert refutation(claim, made(-0.2, -0.4, 0.0)) == pytest.approx(0.05)  # its end is the range's
    assert refutation(claim, made(2.1, 2.05, 2.2)) == pytest.approx(2 * stats.norm.sf(2 * 1.959964), rel=1e-5)
    assert refutation(claim, made(0.1, -0.1, 0.3)) == 1
    assert refutation(claim, made(-0.2, -0.2, -0.2)) == 0
    assert refutation(claim, made(-0.2, -0.4, 0.0, p=0.03)) == 0.03


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
        # all that hold need no correction, one that doesn't does: Holm counts the smaller of two twice
        ([made(0.2, 0.1, 0.3, p=0.03), made(0.2, 0.1, 0.3, p=0.04)], "holds"),
        ([made(0.2, 0.1, 0.3, p=0.03), made(0.2, 0.1, 0.3, p=0.06)], "undecided"),
        ([made(-0.2, -0.3, -0.1, p=0.03), made(0.2, 0.1, 0.3)], "undecided"),
        ([made(-0.2, -0.3, -0.1, p=0.02), made(0.2, 0.1, 0.3)], "does not hold"),
        ([made(-0.2, -0.39, -0.01), made(0.2, 0.1, 0.3)], "undecided"),
        ([made(-0.2, -0.39, -0.01)], "does not hold"),
    ],
)
def test_a_finding_needs_all_its_claims_and_falls_with_one(quantities, verdict):
    assert judge_finding(*of_claims(*quantities))[0] == verdict


def test_a_network_that_the_paper_has_no_like_of_is_reported_and_decides_nothing():
    wrong, right = made(-0.2, -0.3, -0.1), made(0.2, 0.1, 0.3)
    finding = Finding("key", "somebody", "text", "how", (Claim("vit: a", 0.0, 2.0), Claim("vgg8: a", 0.0, 2.0)))
    verdict, judged = judge_finding(finding, {"quantities": {"vit: a": wrong, "vgg8: a": right}, "models": {}})
    assert (verdict, [each.verdict for each in judged]) == ("holds", ["does not hold", "holds"])
    assert deciding(judged).claim.quantity == "vgg8: a"
    assert counted(judged) == "1/1"
    verdict, _ = judge_finding(finding, {"quantities": {"vit: a": right, "vgg8: a": wrong}, "models": {}})
    assert verdict == "does not hold"


def test_findings_on_grids_are_decided_without_the_vit():
    decided = [claim for finding in FINDINGS for claim in finding.claims if claim.decides]
    assert not any("vit" in claim.quantity for claim in decided)
    assert {"resnet10", "vgg8", "resnet10-nobn"} <= {claim.quantity.partition(":")[0] for claim in decided}


def test_what_no_network_could_refute_is_named():
    named = {finding.key for finding in FINDINGS if finding.by_construction}
    assert named == {"identity", "gradient-difull", "constant-gradient", "dea-cost"}
    table = terminal_table({"quantities": {}, "models": {}, "cautions": []})
    assert " ".join(table.split()).count("by construction") == len(named)


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


@pytest.mark.filterwarnings("error")
def test_values_that_do_not_spread_give_no_warning():
    ones, fewer = np.full(5, 0.1) * 3, np.full(4, 0.3)
    same, above = unpaired(ones, ones, "grids", []), unpaired(ones, fewer - 0.2, "grids", [])
    assert (same["effect"], same["p"], above["p"]) == (0, 1, 0)
    assert above["ci95"] == pytest.approx([0.2, 0.2])
    assert math.isnan(over_networks(np.ones(5), np.arange(5.0), [])["effect"])
    assert mean_over_networks({"a": 0.5, "b": 0.5})["p"] == 0
    assert math.isnan(mean_over_networks({"a": 0.5})["ci95"][0])


def test_networks_are_the_unit_of_what_is_said_of_many():
    values = [-0.1, -0.3, -0.2, 0.05, -0.15]
    found = mean_over_networks(dict(zip("abcde", values, strict=True)))
    test: Any = stats.ttest_1samp(values, 0)
    assert found["p"] == pytest.approx(test.pvalue)
    assert found["ci95"] == pytest.approx(list(test.confidence_interval()))
    assert (found["n"], found["unit"], found["models"]) == (5, "networks", list("abcde"))


def test_the_largest_spread_over_seeds_is_corrected_for_the_others():
    values = {"ig": np.array([0.1, 0.2, 0.3]), "ixg": np.array([0.1, 0.11, 0.12])}
    found = spread(values, "seeds", ["a", "b", "c"])
    assert (found["effect"], found["of"]) == (pytest.approx(0.1), "ig")
    assert found["by_method"] == pytest.approx({"ig": 0.1, "ixg": 0.01})
    limits = 0.1 * np.sqrt(2 / stats.chi2.ppf([1 - 0.025 / 2, 0.025], 2))
    assert found["ci95"] == pytest.approx(limits.tolist())


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


def test_a_step_is_made_once_and_again_only_as_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.findings.steps.commit", lambda: "a" * 40)
    calls, file = [], tmp_path / "made"

    def make():
        calls.append(1)
        file.touch()

    for _ in range(2):
        Steps(tmp_path).once("grids/net", {"images": 3, "at": [1, 2]}, file, make)
    assert len(calls) == 1
    with pytest.raises(InputError, match=r"has grids/net with images 3, asked 4; pass another --out"):
        Steps(tmp_path).once("grids/net", {"images": 4, "at": [1, 2]}, file, make)
    file.unlink()
    monkeypatch.setattr("benchmarks.findings.steps.commit", lambda: "b" * 40)
    again = Steps(tmp_path)
    again.once("grids/net", {"images": 3, "at": [1, 2]}, file, make)
    assert (len(calls), again.commits) == (2, {"grids/net": ["a" * 40, "b" * 40]})


def test_a_step_that_was_killed_is_made_again_as_it_was_begun(tmp_path):
    def killed():
        (tmp_path / "made").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Steps(tmp_path).once("net", {"images": 3}, tmp_path / "made", killed)
    with pytest.raises(InputError, match="images 3, asked 4"):
        Steps(tmp_path).once("net", {"images": 4}, tmp_path / "made", killed)
    calls = []
    Steps(tmp_path).once("net", {"images": 3}, tmp_path / "made", lambda: calls.append(1))
    assert calls == [1]


@pytest.mark.parametrize("wrong", ["a" * 40 + "+changes", "unknown"])
@pytest.mark.parametrize("place", ["environment", "steps"])
def test_only_what_commits_made_is_published(tmp_path, monkeypatch, wrong, place):
    monkeypatch.setattr("benchmarks.findings.__main__.HOME", tmp_path)
    made_by = {"environment": "b" * 40, "steps": "b" * 40} | {place: wrong}
    content = {"quantities": {}, "models": {}, "cautions": [], "commits": []}
    content |= {"environment": {"commit": made_by["environment"]}, "steps": {"net": [made_by["steps"]]}}
    file = tmp_path / "findings.json"
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"made by commits alone, got"):
        main(record=file, publish=True)
    assert not (tmp_path / "results").exists()
    check_committed({**content, "environment": {"commit": "b" * 40}, "steps": {"net": ["c" * 40]}})


@pytest.mark.parametrize("minutes", [0, -1, math.nan])
def test_no_time_at_all_is_refused(tmp_path, minutes):
    with pytest.raises(InputError, match="--minutes must be more than 0"):
        main(out=tmp_path, minutes=minutes)
