"""Licenses carried through training, local paths taken out, weights that say what they are."""

from pathlib import Path

import pytest
import torch

from checkpoints.format import Checkpoint
from checkpoints.header import read_metadata, save_weights
from checkpoints.licenses import chosen_license, license_fields
from checkpoints.lineage import chain, lineage
from checkpoints.release_card import score_table
from checkpoints.scrub import Scrubber, left_over, stand_in
from checkpoints.verify_runs import compare_tables
from faithfulness.backbones import adopt_classifier
from faithfulness.core import InputError
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
        (loaded("hf-hub:lab/net", training={"license": "mit"}), False, "mit"),
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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("imagefolder:/data/birds", "imagefolder:PATH"),
        ("voc:relative/folder", "voc:PATH"),
        ("hfds:org/name", None),
        ("hfds:/data/parquet", "hfds:PATH"),
        ("/home/me/net.py:make", "PATH/net.py:make"),
        ("method.py:f(steps=3)|abs", "PATH/method.py:f(steps=3)|abs"),
        ("~/runs/x", "PATH/x"),
        ("../runs/x/", "PATH/x"),
        ("C:\\runs\\x", "PATH/x"),
        ("digits", None),
        ("timm:resnet18", None),
        ("hf-hub:org/name", None),
        ("images/s", None),
        ("https://huggingface.co/a/b", None),
        ("12 images: too few, or 3/4 of them", None),
    ],
)
def test_what_stands_for_a_local_path(text, expected):
    assert stand_in(text) == expected
    assert stand_in(expected or text) in (None, expected)
    assert left_over([expected or text], []) is None


def test_commands_and_texts_are_cleaned_alike(tmp_path):
    (tmp_path / "base").mkdir()
    scrubber = Scrubber({"/w/runs/net": "net", "runs/net": "net"})
    line = (
        f"python -m eval.idsds --model /w/runs/net --baseline={tmp_path / 'base'} --data 'imagefolder:/a b/c' --limit 3"
    )
    made = scrubber.command(line)
    assert made == "python -m eval.idsds --model net --baseline=PATH/base --data imagefolder:PATH --limit 3"
    short = f"{tmp_path.name}/base"
    content = {
        "name": "runs/net",
        "evidence": [{"name": short}],
        "text": f"{short} beats runs/net in /w/x/y.txt",
        "n": 3,
    }
    cleaned = {"name": "net", "evidence": [{"name": "base"}], "text": "base beats net in PATH/y.txt", "n": 3}
    assert scrubber.clean(content) == cleaned
    assert scrubber.clean(cleaned) == cleaned


@pytest.mark.parametrize(
    ("text", "found"),
    [("see /home/me/x.txt", "/home/me/x.txt"), ("data=imagefolder:/a/b", "/a/b"), ("in /mnt/secret", "/mnt/secret")],
)
def test_left_over_paths_are_found(text, found):
    assert left_over(["fine", text], ["/mnt/secret"]) == found


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
