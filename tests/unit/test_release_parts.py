"""Licenses carried through training, local paths taken out, weights that say what they are."""

import json
from pathlib import Path

import pytest
import torch

from checkpoints import load_model, load_segmenter
from checkpoints.card import training_text
from checkpoints.format import Checkpoint
from checkpoints.header import read_metadata, save_weights
from checkpoints.licenses import chosen_license, license_fields
from checkpoints.lineage import chain, lineage
from checkpoints.release import replacing
from checkpoints.release_card import Facts, release_card, score_table
from checkpoints.verify_means import departure
from checkpoints.verify_runs import compare_tables
from eval.frame import localization
from eval.frame.grids import Case
from faithfulness.backbones import adopt_classifier
from faithfulness.core import InputError
from faithfulness.core.results import summarize_scores
from tests.reference.networks import plain_cnn
from training.telling import result

NC = {"hf_hub_id": "timm/convnext_tiny.fb_in22k", "license": "cc-by-nc-4.0", "tag": "fb_in22k", "architecture": "c"}


def loaded(path, training=None, config=None, sha256=None):
    model = plain_cnn()
    model.pretrained_cfg = config
    return Checkpoint(adopt_classifier(model, 32), "name", path, "net", training=training, sha256=sha256)


def test_a_license_goes_through_any_number_of_trainings(tmp_path):
    record = lineage(loaded("timm:c", config=NC), pretrained=True)
    assert record["license"] == "cc-by-nc-4.0"
    assert record["base_model"]["name"] == "timm/convnext_tiny.fb_in22k"
    for stage in range(3):
        parent = loaded(str(tmp_path), training={**record, "command": f"train {stage}"}, sha256=f"{stage}")
        record = lineage(parent, pretrained=False)
    assert record["license"] == "cc-by-nc-4.0"
    assert [base["sha256"] for base in chain(record)] == ["2", "1", "0", None]
    assert [base.get("command") for base in chain(record)] == ["train 2", "train 1", "train 0", None]
    assert [base["name"] for base in chain(record) if base["hub"]] == ["timm/convnext_tiny.fb_in22k"]


@pytest.mark.parametrize(
    ("checkpoint", "pretrained", "expected"),
    [
        (loaded("timm:c", config=NC), False, None),  # timm tells its weights' license of an untrained network too
        (loaded("timm:c", config={"architecture": "c"}), True, "unknown"),
        (loaded("torchvision:fcn_resnet50"), True, "unknown"),
        (loaded("torchvision:fcn_resnet50"), False, None),
        (loaded(None, config=NC), False, "unknown"),
        (loaded("net.py:make"), False, "unknown"),
        (loaded(".", training=None), False, "unknown"),
        (loaded(".", training={"settings": {}}), False, "unknown"),
        (loaded(".", training={"license": "unknown"}), False, "unknown"),
        (loaded(".", training={"license": None}, config=NC), False, None),
        (loaded(".", config={"license": "mit"}), False, "mit"),
        (loaded("pyproject.toml", config=NC), False, "unknown"),
        (loaded("hf-hub:lab/net"), False, "unknown"),
        (loaded("hf-hub:lab/net", training={"license": "mit"}), False, "unknown"),
        (loaded("hf-hub:lab/net", training={"license": None}), False, "unknown"),
        (loaded("hf-hub:lab/net", config={"license": "mit"}), False, "unknown"),
    ],
)
def test_what_is_known_of_the_license(checkpoint, pretrained, expected):
    found = lineage(checkpoint, pretrained)
    assert found["license"] == expected
    from_scratch = expected is None and checkpoint.path != "."
    assert (found["base_model"] is None) == from_scratch


def test_a_card_on_the_hub_tells_the_license(tmp_path, monkeypatch):
    card = tmp_path / "README.md"
    card.write_text("---\nlicense: other\nlicense_name: seer-license\n---\n# Net\n")
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda name, file: str(card))
    found = lineage(loaded("hf-hub:lab/net", sha256="1"), pretrained=False)
    assert found["license"] == "seer-license"
    assert found["base_model"] == {"name": "lab/net", "hub": True, "sha256": "1", "license": "seer-license"}


@pytest.mark.parametrize("told", [None, "mit", "unknown"])
def test_a_record_on_the_hub_does_not_wash_a_license(tmp_path, monkeypatch, told):
    card = tmp_path / "README.md"
    card.write_text("---\nlicense: cc-by-nc-4.0\n---\n# Net\n")
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda name, file: str(card))
    assert lineage(loaded("hf-hub:lab/net", training={"license": told}), pretrained=False)["license"] == "cc-by-nc-4.0"


@pytest.mark.parametrize("word", ["pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "weights", "input_size"])
@pytest.mark.parametrize("load", [load_model, load_segmenter])
def test_no_argument_loads_weights_that_nothing_tells_of(load, word):
    with pytest.raises(InputError, match=f"--model-args.{word}: "):
        load("test_resnet", num_classes=3, model_args={word: True})


def test_a_training_ends_with_how_to_hand_it_on():
    rows = [{"seconds": 3.0}]
    said = result(
        Path("my runs/x"), "accuracy", rows, {"epoch": 0, "metrics": {"accuracy": 1.0, "accuracy_deleted": 0.9}}
    )
    assert said.endswith("python -m checkpoints.release 'my runs/x' --results RESULTS --out RELEASE")


@pytest.mark.parametrize(
    ("parent", "asked", "stated", "expected"),
    [
        (None, "mit", None, ("mit", None)),
        ("apache-2.0", None, None, ("apache-2.0", "apache-2.0")),
        ("apache-2.0", "cc-by-nc-4.0", None, ("cc-by-nc-4.0", "apache-2.0")),
        ("cc-by-nc-4.0", None, None, ("cc-by-nc-4.0", "cc-by-nc-4.0")),
        ("unknown", None, "cc-by-nc-sa-4.0", ("cc-by-nc-sa-4.0", "cc-by-nc-sa-4.0")),
        ("unknown", "mit", "none", ("mit", None)),
        ("dinov3-license", None, None, ("dinov3-license", "dinov3-license")),
        ("other", None, None, ("other", "other")),
    ],
)
def test_licenses_that_a_release_may_have(parent, asked, stated, expected):
    assert chosen_license(parent, asked, stated) == expected


@pytest.mark.parametrize(
    ("parent", "asked", "stated", "reason"),
    [
        (None, None, None, "--license is needed"),
        ("unknown", "mit", None, "state it with --parent-license"),
        ("apache", None, None, "unknown license .of the training record"),
        ("ofl-1.1", "mit", None, "can't leave"),
        ("ms-pl", "mit", None, "can't leave"),
        ("c-uda", "mit", None, "can't leave"),
        ("cc-by-nc-4.0", "apache-2.0", None, "derives from weights under cc-by-nc-4.0"),
        ("cc-by-nc-sa-4.0", "mit", None, "can't leave"),
        ("dinov3-license", "mit", None, "can't leave"),
        ("unknown", "mit", "cc-by-nc-4.0", "can't leave"),
        ("mit", None, "apache-2.0", "says mit already"),
        ("unknown", "mit", "other", "unknown license"),
        (None, "unknown", None, "unknown license"),
        (None, "apache-2", None, "did you mean apache-2.0"),
    ],
)
def test_licenses_that_are_refused(parent, asked, stated, reason):
    with pytest.raises(InputError, match=reason):
        chosen_license(parent, asked, stated)


def test_the_hub_knows_the_license():
    assert license_fields("mit") == {"license": "mit"}
    assert license_fields("other") == {"license": "other"}
    assert license_fields("dinov3-license") == {"license": "other", "license_name": "dinov3-license"}


def test_weights_have_the_same_bytes_each_time(tmp_path):
    state = {"b": torch.arange(3.0), "a": torch.ones(2, 2)}
    told = {"format": "pt", "architecture": 'é"x', "deletion": "null", "task": "classification"}
    contents = set()
    for number in range(12):
        save_weights(tmp_path / f"{number}.safetensors", state, told)
        contents.add((tmp_path / f"{number}.safetensors").read_bytes())
    assert len(contents) == 1
    assert read_metadata(tmp_path / "0.safetensors") == told


def test_scores_stand_in_a_row_per_method():
    score = {"attribution": "a|abs", "layer": "input", "mean": 0.5, "ci95": [0.4, None], "n": 3, "n_undefined": 1}
    table = score_table([{**score, "metric": "insertion"}, {**score, "metric": "stability", "mean": None}])
    assert table.splitlines()[-1] == r"| a\|abs | input | 0.500 [0.400, –] | – [0.400, –] | 3 (1) |"


@pytest.mark.parametrize(("moved", "rows", "outcome"), [(5e-5, 40, "passed"), (0.04, 1, "passed"), (0.04, 3, "failed")])
def test_a_sample_may_be_rounded_but_not_another(moved, rows, outcome):
    """One swap of ranks in 40 values is rounding; three are more than that."""
    import pandas as pd

    named = {"attribution": "ixg", "layer": "input", "metric": "idsds"}
    again = pd.DataFrame({"index": range(40), **named, "value": [float("nan"), *([0.5] * 39)]})
    released = again.copy()
    released.loc[released.index[-rows:], "value"] += moved
    assert compare_tables("x", released, again, 40).outcome == outcome
    assert compare_tables("x", released.iloc[1:], again, 40).outcome == "failed"


@pytest.mark.parametrize("model", ["--model PATH/base", "--model=PATH/base"])
def test_a_stage_goes_on_with_the_one_before_it(model):
    training = {"command": f"python -m training.x {model}", "base_model": {"command": "python -m training.x"}}
    assert "--model" in training_text(training)
    assert "stage1" in training_text(training).partition("--out stage1")[2]
    assert "PATH/base" not in training_text(training)


def test_an_old_release_comes_back_where_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").write_text("x")
    rename = Path.rename

    def fails(self, target):
        if self.name.startswith(".out.") and not self.name.endswith(".replaced"):
            raise OSError("no space")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(OSError, match="no space"), replacing(out) as new:
        (new / "new").write_text("y")
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*"))] == ["out", "out/old"]


@pytest.mark.parametrize(("probability", "never"), [(0, True), (0.5, False)])
def test_a_card_says_what_the_network_never_saw(probability, never):
    config = {
        **{"architecture": "resnet18", "num_classes": 10, "pretrained_cfg": {"input_size": [3, 32, 32]}},
        "deletion": {"grid": [4, 4], "fill": "zeros", "probability": probability},
    }
    training = {"data": {"name": "digits"}, "license": "mit"}
    card = release_card(Facts("demo", None, config, training, {}, {"license": "mit"}, None, None, None))
    assert ("never saw deleted patches" in card) == never
    assert "datasets:" not in card  # the scenes of digits are on no hub


@pytest.mark.parametrize("undefined", [0.0, None, "localization", "impossible_attribution"])
def test_scores_follow_from_their_values_as_each_protocol_counts(undefined):
    """In any order of the rows; half an interval more is found."""
    import numpy as np
    import pandas as pd

    random = np.random.default_rng(0)
    values = random.random(40)
    values[[3, 8, 9]] = np.nan
    named = {"attribution": "a", "layer": "input", "metric": str(undefined)}
    rows = pd.DataFrame({"index": np.arange(40) // 4, "value": values, **named})
    if isinstance(undefined, str):
        case = object.__new__(Case)
        vars(case).update(name="corners", scale=2)
        score = localization._score(rows, case, undefined, {}, 0).to_dict()
    else:
        score = summarize_scores(values, seed=0, undefined_as=undefined, higher_is_better=True, **named).to_dict()
    score = json.loads(json.dumps(score))
    assert departure(score, rows, 0) is None
    assert departure(score, rows.iloc[::-1], 1) is None
    low, high = score["ci95"]
    for change in ({"n": 39}, {"n_undefined": 2}, {"mean": 0.9}, {"ci95": [low, high + (high - low) / 8]}):
        assert next(iter(change)) in str(departure(score | change, rows, 0))
