"""`eval.compare` on result folders made by hand: what it finds, what it says, and what it refuses."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from eval import compare as command
from eval import load_results
from eval.compare import compare
from faithfulness.core import InputError
from faithfulness.core.statistics import holm, signed_rank_test
from tests.reference.comparison_slow import slow_difference
from tests.reference.result_folders import (
    METHODS,
    METRIC,
    edit_summary,
    noisy,
    ranked_table,
    scores_of,
    write_grids,
    write_pairs,
    write_result,
)

OTHER = {"name": "resnet50", "architecture": "resnet50", "sha256": "b" * 64, "accuracy": 0.8}
UNTRAINED, COARSE = {"deletion": None}, {"deletion": {"grid": [2, 2], "fill": "zeros", "probability": 0.5}}
NEVER = {"deletion": {"grid": [4, 4], "fill": "zeros", "probability": 0.0}}


def folders(tmp_path, *values, **how):
    """A, B, … with these values of each method, of models of their own."""
    found = []
    for number, each in enumerate(values):
        model = {"name": f"net{number}", "sha256": str(number) * 64, "accuracy": 0.9 - 0.1 * number}
        found.append(write_result(tmp_path / f"r{number}", ranked_table(each), model=model, **how))
    return found


def told(capsys, *words):
    """The one line of a refusal."""
    assert command.main([*map(str, words)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    return said.err


def test_differences_are_those_of_the_images_that_both_have(tmp_path):
    a, b = noisy(1), noisy(2, shift=0.05)
    first = write_result(tmp_path / "a", ranked_table(a))
    part = {method: values[5:35] for method, values in b.items()}
    table = ranked_table(part, indices=np.arange(10, 40))
    other = write_result(tmp_path / "b", table, model=OTHER, settings={"limit": 30, "device": "cuda"})
    found = compare([first, other], seed=3).table
    assert found[["attribution", "layer"]].apply(tuple, axis=1).tolist() == [*reversed(METHODS)]  # A's best first
    p_values = []
    for row in found.itertuples():
        ours, theirs = a[row.attribution, row.layer][10:40], part[row.attribution, row.layer]
        expected = slow_difference(ours, theirs, np.arange(30))
        np.testing.assert_allclose((row.mean_reference, row.mean_other, row.difference), expected, atol=1e-12)
        assert (row.n, row.only_in_reference, row.only_in_other) == (30, 10, 0)
        assert row.low < row.difference < row.high
        p_values.append(signed_rank_test(ours - theirs)[0])
        assert row.p == pytest.approx(p_values[-1])
    np.testing.assert_allclose(found["p_holm"], holm(np.array(p_values)))
    assert found["better"].isin(["other", None]).all()
    pd.testing.assert_frame_equal(compare([first, other], seed=3).table, found)


def test_what_is_undefined_counts_as_the_protocol_counts_it(tmp_path):
    """0 where the mean in the summary has it so, as of IDSDS; left out otherwise, as of DEA."""
    a, b = noisy(1), noisy(2)
    a["ixg", "input"][:4] = math.nan
    b["ixg", "input"][3] = math.nan
    row = compare(folders(tmp_path, a, b)).table.set_index("attribution").loc["ixg"]
    expected = np.nan_to_num(a["ixg", "input"]).mean() - np.nan_to_num(b["ixg", "input"]).mean()
    assert row["difference"] == pytest.approx(expected)
    assert (row["n"], row["undefined_reference"], row["undefined_other"]) == (40, 4, 1)
    pairs = [write_pairs(tmp_path / "c", 1), write_pairs(tmp_path / "d", 2, drop=[0, 1])]
    table = compare(pairs).table
    row = table.set_index("metric").loc["target_deletion_drop"]
    assert (row["n"], row["n_pairs"], row["only_in_reference"]) == (17, 26, 3)  # the one pair of image 2 is undefined
    assert (row["undefined_reference"], row["undefined_other"]) == (1, 1)
    frames = [load_results(folder).per_image.query("metric == 'target_deletion_drop'") for folder in pairs]
    joined = frames[0].merge(frames[1], on=["index", "class"]).dropna()
    assert row["difference"] == pytest.approx((joined["value_x"] - joined["value_y"]).mean())


def test_better_goes_by_the_metrics_direction(tmp_path):
    pairs = [write_pairs(tmp_path / "a", 1, images=60), write_pairs(tmp_path / "b", 1, images=60, shift=1.0)]
    found = compare(pairs).table.set_index("metric")["better"]
    assert found.to_dict() == {"off_target_deletion_drop": "reference", "target_deletion_drop": "other"}


def test_grids_pair_where_they_hold_the_same_images(tmp_path, capsys):
    images = np.arange(24).reshape(6, 4)
    other = images.copy()
    other[2:4] += 100
    a, b = write_grids(tmp_path / "a"), write_grids(tmp_path / "b", 1, images=other)
    table = compare([a, b]).table
    assert table[["n", "n_pairs", "only_in_reference", "only_in_other"]].drop_duplicates().values.tolist() == [
        [4, 8, 4, 4]
    ]
    means = [load_results(folder).per_image.query("attribution == 'ixg' and index not in (2, 3)") for folder in (a, b)]
    row = table.set_index("attribution").loc["ixg"]
    assert row["difference"] == pytest.approx(means[0]["value"].mean() - means[1]["value"].mean())
    c = write_grids(tmp_path / "c", images=images + 7)
    assert "no grid has the same images; score both on the same with --compositions" in told(capsys, a, c)
    (tmp_path / "b" / "compositions" / "corners-2x2.parquet").unlink()
    assert "has no compositions/*.parquet" in told(capsys, a, b)


def test_more_than_two_are_held_against_the_first_and_ranked(tmp_path):
    found = compare(folders(tmp_path, noisy(1), noisy(2, shift=0.3), noisy(3, shift=-0.3)))
    assert found.table[["reference", "other"]].drop_duplicates().values.tolist() == [["A", "B"], ["A", "C"]]
    ranking = found.summary["protocols"][0]["ranking"]
    assert [(row["result"], row["mean_rank"]) for row in ranking] == [("B", 1), ("A", 2), ("C", 3)]
    assert ranking[0]["mean_gain"] == pytest.approx(0.3, abs=0.05)
    assert len(found.table) == 6
    np.testing.assert_allclose(found.table["p_holm"], holm(found.table["p"].to_numpy()))
    (row, *_) = found.summary["accuracy"]
    assert (row["n_models"], row["too_few"]) == (3, True)
    assert row["spearman"] == pytest.approx(0.5)  # accuracy falls from A to C, B scores best


def test_protocols_are_held_against_each_other_on_one_model(tmp_path):
    methods = [(name, "input") for name in ("ixg", "ig", "grad", "sg", "edge")] + [("gradcam", "final")]
    values = noisy(1, methods=methods)
    reverse = {method: -column for method, column in values.items()}
    a = write_result(tmp_path / "a", ranked_table(values))
    b = write_result(tmp_path / "b", ranked_table(values, METRIC["single"]), "single")
    c = write_result(tmp_path / "c", ranked_table(reverse, METRIC["incremental"]), "incremental")
    d = write_result(tmp_path / "d", ranked_table(values), model=OTHER)
    found = {(row["a"], row["b"]): row for row in compare([a, b, c, d]).summary["agreement"]}
    assert found.keys() == {("A", "B"), ("A", "C"), ("B", "C")}  # D is of another model
    assert (found["A", "B"]["spearman"], found["A", "B"]["kendall"]) == (1, 1)
    assert (found["A", "C"]["spearman"], found["A", "C"]["n_methods"]) == (-1, 5)  # without the control
    assert found["A", "B"]["spearman_ci95"] == [1, 1]  # the same images are drawn in both
    assert not found["A", "B"]["too_few"]
    lower = scores_of(ranked_table(values, METRIC["incremental"]), higher=False)
    settings = {"order": "descending"}
    write_result(
        tmp_path / "e", ranked_table(values, METRIC["incremental"]), "incremental", scores=lower, settings=settings
    )
    (row,) = compare([a, tmp_path / "e"]).summary["agreement"]
    assert row["spearman"] == -1


def test_the_publication_stands_beside_its_own_models(tmp_path, capsys):
    data = {"name": "imagenet:/data", "split": "val"}
    values = noisy(1)
    values["gradcam", "final"] += 0.236 - values["gradcam", "final"].mean()
    a = write_result(tmp_path / "a", ranked_table(values), data=data, model=OTHER)
    found = compare([a]).summary
    rows = {row["attribution"]: row for row in found["published"]}
    assert rows.keys() == {"ixg", "ig", "gradcam"}
    assert (rows["gradcam"]["published"], rows["gradcam"]["within"]) == (0.236, True)
    assert rows["gradcam"]["difference"] == pytest.approx(0, abs=1e-12)
    assert (rows["ixg"]["published"], rows["ixg"]["within"]) == (0.07, False)
    assert "this suite's parameters" in found["notes"][0]
    assert command.main([str(a)]) == 0
    assert "Beside the publication" in capsys.readouterr().out
    for change, why in (
        ({"data": {"name": "digits"}}, "of the ImageNet validation set, this is digits"),
        ({"data": data}, "resnet10t is no model of the publication"),
        ({"data": data, "model": OTHER, "settings": {"fill": "mean"}}, "of another fill than mean"),
        ({"data": data, "model": OTHER | UNTRAINED}, "deletion (4×4, zeros), this one was trained with none"),
        ({"data": data, "model": OTHER | COARSE}, "was trained with grid 2 2, fill zeros, probability 0.5"),
        ({"data": data, "model": OTHER | NEVER}, "was trained with none"),
    ):
        write_result(tmp_path / "b", ranked_table(values), **change)
        assert why in told(capsys, tmp_path / "b")
    for name in ("hfds:ILSVRC/imagenet-1k@v1", "hfds:/data/Imagenet-1k-256"):
        b = write_result(tmp_path / "b", ranked_table(values), data={"name": name}, model=OTHER)
        assert compare([b]).summary["published"]
    assert command.main(["--published"]) == 0
    assert "bagnet33 (BagNet-33)" in capsys.readouterr().out


def test_what_is_out_of_domain_is_another_kind(tmp_path, capsys):
    a = write_result(tmp_path / "a", ranked_table(noisy(1)))
    b = write_result(tmp_path / "b", ranked_table(noisy(2)), model=OTHER | UNTRAINED)
    c = write_result(tmp_path / "c", ranked_table(noisy(3)), model=COARSE | {"sha256": "c" * 64})
    assert "no two results are of one protocol" in (said := told(capsys, a, b))
    assert "idsds (out of domain) of resnet50" in said
    (found,) = compare([a, b, c]).summary["protocols"]
    assert found["protocol"] == "idsds (out of domain)"
    assert [(pair["reference"], pair["other"]) for pair in found["comparisons"]] == [("B", "C")]


def test_the_command_shows_and_writes_it(tmp_path, capsys):
    a, b = folders(tmp_path, noisy(1), noisy(2, shift=0.3))
    edit_summary(b, lambda summary: summary.update(cautions=["it is near chance"]))
    out = tmp_path / "out"
    assert command.main([str(a), str(b), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "caution, B: it is near chance\n" in printed
    assert "they differ in: model name net0 | net1; model sha256 00000000 | 11111111" in printed
    assert "B better" in printed
    summary = json.loads((out / "compare.json").read_text())
    assert (summary["schema"], summary["protocol"], summary["seed"]) == (1, "compare", 0)
    found = compare([a, b])
    files = ["compare.csv", "compare.json", "plots/difference-idsds-idsds.png"]
    assert summary == found.summary | {"finished": True, "files": files}
    csv = pd.read_csv(out / "compare.csv")
    pd.testing.assert_frame_equal(csv, found.table, check_dtype=False)
    assert [path.name for path in (out / "plots").iterdir()] == ["difference-idsds-idsds.png"]
    assert f"{found}\n" in printed
    assert "already holds a run (compare)" in told(capsys, a, b, "--out", out)
    assert "unknown --format 'gif'" in told(capsys, a, b, "--out", out, "--overwrite", "--format", "gif")
    assert (
        command.main([str(a), str(b), "--out", str(out), "--overwrite", "--seed", "1", "--format", "svg", "pdf"]) == 0
    )
    assert {path.suffix for path in (out / "plots").iterdir()} == {".svg", ".pdf"}
    assert json.loads((out / "compare.json").read_text())["seed"] == 1
    (out / "mine.txt").touch()
    capsys.readouterr()
    assert "which no run wrote" in told(capsys, a, b, "--out", out, "--overwrite")
    assert "which is read" in told(capsys, a, b, "--out", a)


def test_from_python_results_and_folders_are_taken(tmp_path, unchecked):
    a, b = folders(tmp_path, noisy(1), noisy(2))
    result = load_results(b)
    result.path = None
    found = compare([load_results(a), result])
    assert repr(found) == "<comparison of 2 results, 3 paired differences>"
    assert found.plot("idsds").get_suptitle() == "idsds: A net0, B net1"
    with pytest.raises(InputError, match="no differences in stability"):
        found.plot("stability")
    for wrong in ("text", [a, 3], [a]):
        with pytest.raises(InputError, match="expected"):
            compare(wrong)


REFUSED = {
    "other data": (
        {"data": {"fingerprint": "4567"}},
        "other data (digits, fingerprint 0123; digits, fingerprint 4567)",
    ),
    "other split": ({"data": {"split": "train"}}, "other data (digits, split val; digits, split train)"),
    "grid": ({"settings": {"grid": [8, 8]}}, "other grid (4 4; 8 8)"),
    "fill": ({"settings": {"fill": "mean"}}, "other fill (zeros; mean)"),
    "output": ({"settings": {"output": "probability"}}, "other output (logit; probability)"),
    "parameters": ({"settings": {"published": "idsds"}}, "other published (none; idsds)"),
    "a setting to come": ({"settings": {"sharpness": 2}}, "other sharpness (none; 2)"),
    "direction": ({"higher": False}, "other directions of idsds"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_of_another_question_is_refused(tmp_path, capsys, name):
    how, reason = REFUSED[name]
    a = write_result(tmp_path / "a", ranked_table(noisy(1)))
    b = write_result(tmp_path / "b", ranked_table(noisy(2)), **how)
    assert f"A ({a}) and B ({b}) can't be compared: {reason}" in told(capsys, a, b)


def test_another_layer_is_compared_only_when_asked_for(tmp_path, capsys):
    a = write_result(tmp_path / "a", ranked_table({("gradcam", "final"): np.arange(9.0)}))
    b = write_result(tmp_path / "b", ranked_table({("gradcam", "middle"): np.arange(9.0) ** 2}))
    said = told(capsys, a, b)
    assert "no attribution at a layer, with its metric and setting, is in both" in said
    assert "--across-layers" in said
    (row,) = compare([a, b], across_layers=True).table.itertuples()
    assert (row.layer, row.difference) == ("final|middle", pytest.approx(4 - 204 / 9))
    both = ranked_table({("gradcam", "final"): np.arange(9.0), ("gradcam", "middle"): np.zeros(9)})
    c = write_result(tmp_path / "c", both)
    assert compare([a, c], across_layers=True).table["layer"].tolist() == ["final"]


def swapped(folder):
    table = pd.read_parquet(folder / "per_image.parquet")
    table.rename(columns={"attribution": "layer", "layer": "attribution"}).to_parquet(folder / "per_image.parquet")


def numbers_swapped(folder):
    table = pd.read_parquet(folder / "per_image.parquet")
    table = table.assign(value=table["label"].astype(float))
    table.to_parquet(folder / "per_image.parquet")


def relabeled(folder):
    table = pd.read_parquet(folder / "per_image.parquet")
    table.assign(label=table["label"] + 1).to_parquet(folder / "per_image.parquet")


def rewritten(table, **how):
    return lambda folder: write_result(folder, table, **how)


def edited(change):
    return lambda folder: edit_summary(folder, change)


ALL_NAN = ranked_table({method: np.full(40, math.nan) for method in METHODS})
INFINITE = ranked_table(noisy(1) | {("ig", "input"): np.full(40, np.inf)})
HOSTILE = {
    "no result": (lambda folder: (folder / "summary.json").unlink(), "holds no evaluation"),
    "damaged": (lambda folder: (folder / "per_image.parquet").write_bytes(b"PAR1 no"), "holds no evaluation"),
    "no values": (lambda folder: (folder / "per_image.parquet").unlink(), "has no per_image.parquet"),
    "words swapped": (swapped, "which summary.json hasn't"),
    "other numbers": (numbers_swapped, "doesn't come to the mean idsds"),
    "other labels": (relabeled, "has label 0 in one and 1 in the other"),
    "NaN everywhere": (rewritten(ALL_NAN), "no value in per_image.parquet is defined"),
    "infinite": (rewritten(INFINITE, scores=scores_of(ranked_table(noisy(1)))), "infinite values"),
    "twice": (rewritten(pd.concat([ranked_table(noisy(1))] * 2)), "several values of one image"),
    "one image": (rewritten(ranked_table(noisy(1, 1))), "share 1 images; a paired comparison needs at least 2"),
    "no image": (rewritten(ranked_table(noisy(1), indices=range(50, 90))), "share 0 images"),
    "no column": (rewritten(ranked_table(noisy(1)).drop(columns="index")), "has no column index of whole numbers"),
    "text": (rewritten(ranked_table(noisy(1)), scores=[]), "gives no scores to compare"),
    "schema": (edited(lambda summary: summary.update(schema=2)), "has schema 2, expected 1"),
    "no deletion": (edited(lambda summary: summary["model"].update(deletion="4x4")), "has no model deletion"),
    "no settings": (edited(lambda summary: summary.pop("settings")), "summary.json has no settings"),
    "no data": (edited(lambda summary: summary["data"].pop("fingerprint")), "has no data fingerprint"),
    "an odd model": (edited(lambda summary: summary["model"].update(sha256=[])), "has no model that can be read"),
    "an interval": (edited(lambda summary: summary["scores"][0].update(ci95=[None, 1])), "has no scores that can"),
    "scores": (edited(lambda summary: summary["scores"][0].update(mean="high")), "has no scores that can be read"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_sound_result_is_refused_in_a_line(tmp_path, capsys, name):
    spoil, reason = HOSTILE[name]
    a, b = (write_result(tmp_path / letter, ranked_table(noisy(1))) for letter in "ab")
    spoil(b)
    assert reason in told(capsys, a, b)


def test_folders_that_say_nothing_together_are_refused(tmp_path, capsys):
    a = write_result(tmp_path / "a", ranked_table(noisy(1)))
    assert "is given twice" in told(capsys, a, a)
    (tmp_path / "link").symlink_to(a)
    assert "is given twice, first as" in told(capsys, a, tmp_path / "link")
    assert "expected folders of results, got none" in told(capsys)
    assert "expected two results or more, got one" in told(capsys, a)
    b = write_result(tmp_path / "b", ranked_table(noisy(1), METRIC["single"]), "single", model=OTHER)
    assert "nothing to compare: no two results are of one protocol" in told(capsys, a, b)
    assert "--seed must lie in" in told(capsys, a, b, "--seed", "-1")
