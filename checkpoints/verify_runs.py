"""What can be checked of a release by running it: plain timm gives the same logits, a sample gets the same scores."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from checkpoints.card import in_timm
from checkpoints.protocols import evaluated, told_options
from checkpoints.release_files import CONFIG, PER_IMAGE, RESULTS, read_json, results_of
from checkpoints.results import read_summary
from checkpoints.verify_files import FAILED, IMPOSSIBLE, PASSED, Check, read_table
from checkpoints.verify_means import PER_SAMPLE
from faithfulness.core.errors import InputError, machine_failure

IMAGES = 8
"""Of noise, drawn by a seed, that both see."""
ROUNDING = 1e-4
"""How far logits may differ, relative to the largest: float32, with convolutions in another memory layout."""
KEYS = ("index", "class", "attribution", "layer", "metric")
VALUE_SLACK, SHARE, MEAN_SLACK = 1e-4, 0.95, 0.01
"""Of a sample's values at least that share must agree to `VALUE_SLACK`, and each method's mean to `MEAN_SLACK`."""
REASON = (
    "values agree to 1e-4 in 95 % of the rows, and means to 0.01: another machine rounds logits otherwise, by about "
    "1e-6, which swaps two cells where their sums or drops nearly tie; one swap of 16 moves a correlation by up to 0.04"
)
_PLAIN = """
import sys
import timm, torch
from safetensors.torch import load_file, save_file
folder, images, logits = sys.argv[1:]
model = timm.create_model("local-dir:" + folder, pretrained=True).eval()
with torch.no_grad():
    save_file({"logits": model(load_file(images)["images"]).contiguous()}, logits)
ours = {"faithfulness", "idsds", "difull", "dea", "checkpoints", "training", "eval"}
sys.exit(3 if ours & {name.partition(".")[0] for name in sys.modules} else 0)
"""
"""What a stranger would write; the suite must not be needed for it."""


def check_loading(folder: Path, code: str | None, own_code: bool) -> Iterator[Check]:
    """The suite loads the network strictly, and plain timm in a fresh process gives the same logits."""
    config = read_json(folder / CONFIG)
    if code is not None and not own_code:
        yield Check("loads", IMPOSSIBLE, f"{code} makes the network; read it, then pass --own-code to run it")
        return
    try:
        model = _load(folder, config, code)
    except InputError as error:
        yield Check("loads", FAILED, str(error))
        return
    tensors = len(model.state_dict())
    yield Check("loads", PASSED, f"{tensors} tensors, every one in its place, none that isn't a number")
    if not in_timm(config):
        why = "a segmentation head" if config.get("task") == "segmentation" else f"{config['architecture']}"
        yield Check("loads without this suite", IMPOSSIBLE, f"timm has no such network ({why})")
        return
    yield _compare_plain(folder, model)


def _load(folder: Path, config: dict[str, Any], code: str | None) -> Any:
    from checkpoints import load_model, load_segmenter

    load = load_segmenter if config.get("task") == "segmentation" else load_model
    arch = f"{folder / code}" if code else None
    return load(str(folder), arch=arch).model.eval()


def _compare_plain(folder: Path, model: Any) -> Check:
    """The logits of the suite's network beside those of timm's, in a process that never imports the suite."""
    import torch
    from safetensors.torch import load_file, save_file

    name = "loads without this suite"
    images = torch.randn(IMAGES, *model.data_config["input_size"], generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as scratch:
        paths = [str(folder.resolve()), f"{scratch}/images.safetensors", f"{scratch}/logits.safetensors"]
        save_file({"images": images}, paths[1])
        command = [sys.executable, "-I", "-c", _PLAIN, *paths]
        done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False)
        if done.returncode == 3:
            return Check(name, FAILED, "timm imported this suite")
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
            return Check(name, FAILED, f"timm can't load it: {reason[:200]}")
        plain = load_file(paths[2])["logits"]
    with torch.no_grad():
        ours = model(images)
    apart = float((ours - plain).abs().max() / ours.abs().max().clamp(min=1e-12))
    detail = f"logits of {IMAGES} images of noise differ by {apart:.1g} of the largest (at most {ROUNDING:g})"
    return Check(name, PASSED if apart <= ROUNDING else FAILED, detail)


def check_scores(folder: Path, data: str | None, sample: int, code: str | None) -> Iterator[Check]:
    """A sample of each result, scored again and held against what was released, image by image."""
    for name in results_of(folder):
        place = folder / RESULTS / name
        label = f"{name} again"
        summary = read_summary(place)
        try:
            yield _score_again(label, folder, place, summary, data, sample, code)
        except InputError as error:
            yield Check(label, FAILED, str(error))
        except (OSError, MemoryError, RuntimeError) as error:
            if machine_failure(error) is None:
                raise
            yield Check(label, IMPOSSIBLE, str(machine_failure(error)))


def _score_again(
    label: str, folder: Path, place: Path, summary: dict[str, Any], data: str | None, sample: int, code: str | None
) -> Check:
    protocol = str(summary["protocol"])
    if protocol not in PER_SAMPLE:
        return Check(label, IMPOSSIBLE, "what it scores is no sample of images; the card has the command")
    options = told_options(protocol, None, summary.get("command"))
    if options is None:
        return Check(label, IMPOSSIBLE, "it was computed from Python: there is no command to run again")
    drawn = options.get("data", "digits") == "digits"
    source = "digits" if drawn else data
    if source is None:
        return Check(label, IMPOSSIBLE, f"its data are {summary['data']['name']}; give them with --data")
    named = options.get("attributions")
    kept = [method for method in named or [] if not method.startswith("PATH/")]
    if named and not kept:
        return Check(label, IMPOSSIBLE, "its methods are in files that aren't released")
    count = min(sample, int(summary["data"]["n_images"]))
    given = {key: value for key, value in options.items() if key not in ("baseline", "overwrite")}
    given |= {"model": str(folder), "data": source, "limit": count} | ({"attributions": kept} if named else {})
    if code is not None:
        given["arch"] = f"{folder / code}"
    result = evaluated(protocol, given)
    other = (summary["data"].get("fingerprint"), result.summary["data"]["fingerprint"])
    if other[0] != other[1]:
        return Check(label, FAILED, f"{source} are other data: fingerprint {other[1]}, released {other[0]}")
    return compare_tables(label, read_table(place), result.per_image, count)


def compare_tables(label: str, released: Any, again: Any, count: int) -> Check:
    """Values of the first `count` images side by side, by image, method and metric."""
    if released is None:
        return Check(label, IMPOSSIBLE, f"it has no {PER_IMAGE}")
    keys = [key for key in KEYS if key in again]
    if not {*keys, "value"} <= {*released.columns}:
        return Check(label, FAILED, f"{PER_IMAGE} lacks {', '.join({*keys, 'value'} - {*released.columns})}")
    released = released[released["index"].isin(again["index"].unique())]
    methods = again[["attribution", "layer"]].drop_duplicates()
    released = released.merge(methods, on=["attribution", "layer"])
    both = released[[*keys, "value"]].merge(
        again[[*keys, "value"]], on=keys, how="outer", suffixes=("", "_again"), indicator=True
    )
    if (both["_merge"] != "both").any():
        lone = int((both["_merge"] != "both").sum())
        return Check(label, FAILED, f"{lone} of {len(both)} rows are in one of the two only")
    apart = (both["value"] - both["value_again"]).abs()
    undefined = both["value"].isna(), both["value_again"].isna()
    agrees = (apart <= VALUE_SLACK) | (undefined[0] & undefined[1])
    by = ["attribution", "layer", "metric"]
    means = both.fillna({"value": 0.0, "value_again": 0.0}).groupby(by)[["value", "value_again"]].mean()
    moved = (means["value"] - means["value_again"]).abs().max()
    share = float(agrees.mean())
    agreed = f"{int(agrees.sum())} of {len(both)} values agree to {VALUE_SLACK:g}"
    detail = f"first {count} images: {agreed}, means to {moved:.1g}"
    return Check(label, PASSED if share >= SHARE and moved <= MEAN_SLACK else FAILED, detail)
