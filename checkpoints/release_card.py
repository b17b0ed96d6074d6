"""The card of a release: metadata that the Hub reads, and what a reader must know."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from checkpoints.card import (
    deletion_text,
    in_timm,
    library_of,
    metrics_table,
    tags_of,
    training_text,
    use_text,
)
from checkpoints.lineage import chain
from checkpoints.release_files import RESULTS, SUMS
from faithfulness.core.shadows import ROOT

DATASETS = {"imagenet": "ILSVRC/imagenet-1k"}
"""What the Hub calls data; scenes of scikit-learn's digits come with this suite, and are on no hub."""
INDEXED = (
    "idsds",
    "single_deletion",
    "target_deletion_drop",
    "off_target_deletion_drop",
    "insertion",
    "off_target_mass",
)
"""The metrics that the card's index of results has."""


@dataclass(frozen=True)
class Facts:
    """All that a card says; `summaries` by the names of the results, every record without local paths.

    Attributes:
        name: of the release; `hub`: ORG/NAME, if it is pushed.
        license: of the release; `parent`: of the weights that it derives from, None for none.
        datasets: names on the Hub that the user gave.
        code: FILE.py:function in the release, for a network of the user's own.
    """

    name: str
    hub: str | None
    config: dict[str, Any]
    training: dict[str, Any]
    summaries: Mapping[str, dict[str, Any]]
    license: dict[str, str]
    parent: str | None
    datasets: list[str] | None
    code: str | None

    @property
    def segments(self) -> bool:
        """Whether it is a segmentation network."""
        return self.config.get("task") == "segmentation"

    @property
    def task(self) -> str:
        """The task, as the Hub calls it."""
        return "image-segmentation" if self.segments else "image-classification"

    @property
    def place(self) -> str:
        """What `--model` takes."""
        return f"hf-hub:{self.hub}" if self.hub else self.name


def release_card(facts: Facts) -> str:
    """The whole README, its metadata made and checked by huggingface_hub."""
    from huggingface_hub import ModelCard

    card = f"---\n{metadata(facts).to_yaml()}\n---\n\n{body(facts)}"
    return str(ModelCard(card))


def metadata(facts: Facts) -> Any:
    """The front matter, as huggingface_hub's `ModelCardData`; ValueError for what it refuses."""
    from huggingface_hub import ModelCardData

    trained_on = facts.training.get("data", {}).get("name")
    datasets = facts.datasets or list(filter(None, [dataset_of(trained_on, known=True)]))
    base = next((parent["name"] for parent in chain(facts.training) if parent.get("hub")), None)
    own = ["own-code"] if facts.code else []
    return ModelCardData(
        model_name=facts.name,
        base_model=base,
        datasets=datasets or None,
        library_name=library_of(facts.config),
        pipeline_tag=facts.task,
        tags=[*tags_of(facts.config), "in-domain-deletion", facts.config["architecture"], *own],
        eval_results=list(indexed(facts)) or None,
        **facts.license,  # type: ignore[arg-type]
    )


def dataset_of(name: object, known: bool = False) -> str | None:
    """What the Hub calls data that `--data` calls `name`; with `known`, None for a folder of somebody's."""
    kind, _, rest = str(name).partition(":")
    if kind == "hfds":
        return "/".join(rest.partition("@")[0].split("/")[:2]) if rest and rest != "PATH" else None
    if name is None or (known and kind not in DATASETS):
        return None
    return DATASETS.get(kind, kind)


def indexed(facts: Facts) -> Iterable[Any]:
    """The index of results: accuracy whole and deleted, and each method's mean and interval."""
    from huggingface_hub import EvalResult

    for summary in facts.summaries.values():
        data = summary["data"]
        common: dict[str, Any] = {
            "task_type": facts.task,
            "dataset_type": dataset_of(data["name"]) or "local",
            "dataset_name": f"{data['name']}, {data['n_images']} images",
            "dataset_split": data["split"],
        }
        for key, told in (("accuracy", "accuracy"), ("accuracy_deleted", "accuracy, one cell deleted")):
            if isinstance(value := summary["model"].get(key), float):
                yield EvalResult(**common, metric_type="accuracy", metric_name=told, metric_value=value)
        if isinstance(value := summary["model"].get("mean_iou"), float):
            yield EvalResult(**common, metric_type="mean_iou", metric_name="mean IoU", metric_value=value)
        for score in summary["scores"]:
            if score["metric"] not in INDEXED or not isinstance(score["mean"], int | float):
                continue
            settings = {key: score[key] for key in ("attribution", "layer", "ci95", "n", "n_undefined")}
            yield EvalResult(
                **common,
                metric_type=score["metric"],
                metric_name=f"{score['metric']} of {score['attribution']} at {score['layer']}",
                metric_value=score["mean"],
                metric_args=settings,
            )


def body(facts: Facts) -> str:
    """Below the front matter."""
    config, training = facts.config, facts.training
    data = training.get("data", {})
    counts = f" ({data['n_train']} images)" if "n_train" in data else ""
    parts = {
        "Use": _use(facts),
        "Deletion in training": deletion_text(config),
        "Accuracy": _accuracy(facts),
        "Scores of attributions": _scores(facts),
        "Leakage": _leakage(facts),
        "Training": training_text(training),
        "License": _license(facts),
        "Limits": _limits(facts),
        "Files": _files(facts),
        "Citation": citation(),
    }
    side = config["pretrained_cfg"]["input_size"][1]
    head = (
        f"# {facts.name}\n\n{config['architecture']}, {config['num_classes']} classes, {side} px, trained on "
        f"`{data.get('name', 'unknown')}`{counts}."
    )
    return "\n\n".join([head, *(f"## {title}\n\n{text}" for title, text in parts.items() if text)]) + "\n"


def _use(facts: Facts) -> str:
    trained_on = facts.training.get("data", {}).get("name", "")
    code = f"{facts.name}/{facts.code}" if facts.code else None
    folder = f"hf-hub:{facts.hub}" if facts.hub else None
    text = use_text(facts.place, facts.config, trained_on, folder, code)
    if facts.code:
        file = facts.code.partition(":")[0]
        text += f"\n\nThe network is made by the code in `{file}`, which loading runs: read it first."
    elif not in_timm(facts.config):
        text += "\n\nThe network is this suite's, so loading it takes this suite."
    return (
        text
        + f"\n\n`python -m checkpoints.verify {shlex.quote(facts.name)}` checks the folder and scores a sample again."
    )


def _accuracy(facts: Facts) -> str:
    parts = []
    if facts.training.get("metrics"):
        parts.append("On the validation split, at the end of training:\n\n" + metrics_table(facts.training))
    for name, summary in facts.summaries.items():
        evidence = summary.get("evidence")
        if not isinstance(evidence, dict):
            continue
        keys = ("accuracy", "accuracy_deleted", "agreement", "separability")
        rows = [
            [
                str(entry.get("name") or ("this model" if who == "model" else who)),
                *(_number(entry.get(key)) for key in keys),
            ]
            for who, entry in evidence.items()
        ]
        header = ("", "accuracy", "one cell deleted", "agreement", "separability")
        parts.append(f"Is deletion in-domain? On the {_data(summary)} of `{name}`:\n\n{_table(header, rows)}")
    return "\n\n".join(parts)


def _scores(facts: Facts) -> str:
    parts = []
    for name, summary in facts.summaries.items():
        if not summary["scores"]:
            continue
        settings = summary["settings"]
        grid = "×".join(map(str, settings["grid"])) + " cells, " if settings.get("grid") else ""
        fill = f"fill {settings['fill']}, " if settings.get("fill") else ""
        command = f"\n\n```sh\n{summary['command']}\n```" if summary.get("command") else ""
        parts.append(f"### {name}\n\n{grid}{fill}{_data(summary)}.{command}\n\n{score_table(summary['scores'])}")
    return "\n\n".join(parts)


def score_table(scores: Sequence[dict[str, Any]]) -> str:
    """A row per method and place, a column per metric: mean and 95 % interval."""
    scores = [score for score in scores if not score["metric"].startswith("stability_")]  # parts of `stability`
    metrics = list(dict.fromkeys(score["metric"] for score in scores))
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    for score in scores:
        place = f"{score['setting']} {score['scale']}×{score['scale']}" if score.get("setting") else ""
        low, high = score["ci95"]
        found = f"{_number(score['mean'])} [{_number(low)}, {_number(high)}]"
        row = rows.setdefault((score["attribution"], score["layer"], place), {})
        row[score["metric"]] = found
        row.setdefault("n", f"{score['n']} ({score['n_undefined']})")
    places = any(place for _, _, place in rows)
    header = ["attribution", "layer", *(["setting"] if places else []), *metrics, "n (undefined)"]
    lines = [
        [*(key if places else key[:2]), *(found.get(metric, "") for metric in metrics), found["n"]]
        for key, found in rows.items()
    ]
    return _table(header, lines)


def _leakage(facts: Facts) -> str:
    parts = []
    for name, summary in facts.summaries.items():
        if "proofs" not in summary:
            continue
        rows = [[str(proof["subject"]), str(proof["verdict"])] for proof in summary["proofs"]]
        rows += [
            [f"choice of the patch: {mask['record']}", "passed" if mask["passed"] else "LEAKS"]
            for mask in summary["masks"]
        ]
        verdict = "Nothing leaks." if summary["passed"] else "**Something leaks.**"
        parts.append(f"{verdict} By `{name}`:\n\n{_table(('', 'verdict'), rows)}")
    return "\n\n".join(parts) or "Not tested: no result of `eval.leakage` was given."


def _license(facts: Facts) -> str:
    own = facts.license.get("license_name") or facts.license["license"]
    if isinstance(source := facts.training.get("converted_from"), dict):
        file = f"`{source.get('file')}` (sha256 {str(source.get('sha256'))[:12]}…)"
        return f"{own}. The weights were converted from {file}, under {facts.parent or own}."
    if facts.parent is None:
        return f"{own}. The weights began as random numbers."
    bases = [str(parent["name"]) for parent in chain(facts.training) if parent.get("name")]
    source = f" ({', from '.join(bases)})" if bases else ""
    return f"{own}. The weights are a derivative of others under {facts.parent}{source}."


def _limits(facts: Facts) -> str:
    lines = ["A score holds for this network, grid, fill, data and count of images; others can't be set beside it."]
    if facts.segments:
        lines.append(
            "The network finds regions; attributions were scored on those that passed the filters of the command."
        )
    if not (facts.config.get("deletion") or {}).get("probability"):
        lines.append("The network never saw deleted patches: what deletion does to it is out of its domain.")
    if trained_on := facts.training.get("data", {}).get("name"):
        lines.append(f"Nothing is known of it on data other than `{trained_on}`.")
    told = [text for summary in facts.summaries.values() for text in summary.get("cautions", [])]
    lines += dict.fromkeys([*facts.training.get("cautions", []), *told])
    return "\n".join(f"- {line[0].upper()}{line[1:].rstrip('.')}." for line in lines)


def _files(facts: Facts) -> str:
    names = ", ".join(f"`{RESULTS}/{name}/`" for name in facts.summaries)
    return (
        f"Settings, versions, commit and fingerprints of the data are in `training.json`; per-image values and "
        f"summaries in {names}; digests of all files in `{SUMS}`."
    )


def citation() -> str:
    """Works to cite, from CITATION.cff; where that isn't installed, whose it is."""
    import yaml

    file = ROOT / "CITATION.cff"
    if not file.is_file():
        return "Cite the faithfulness suite, and the works whose protocols the results are of."
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    works = [f"{content['title']} {content['version']}"]
    for work in content["references"]:
        authors = ", ".join(
            " ".join(filter(None, [who.get("given-names"), who["family-names"]])) for who in work["authors"]
        )
        where = "; ".join(str(entry["value"]) for entry in work.get("identifiers", []))
        works.append(f"{authors}: {work['title']} ({work['year']}). {where}")
    return f"{content['message']}\n\n" + "\n".join(f"- {work}" for work in works)


def _data(summary: dict[str, Any]) -> str:
    data = summary["data"]
    return f"first {data['n_images']} images of `{data['name']}` ({data['split']})"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _number(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, int | float) else "–"
