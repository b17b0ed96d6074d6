"""What the grid commands share: compositions, batches of grids, settings with their methods, one pass over them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from backbones import TimmBackbone
from checkpoints import Checkpoint
from core.checks import check_logits, check_maps
from core.errors import InputError
from core.registry import Registry
from core.statistics import mean_interval
from data import ImageData, KeyedSamples
from difull import Compositions, DiFull, DiPart, GridPG, GridSetting, choose_confident, compose_grid, make_compositions
from eval.options import EvaluationOptions
from eval.report import caution_accuracy, caution_count
from eval.runner import Method, Runner, make_methods

SETTINGS: Registry[Callable[..., GridSetting]] = Registry("setting")
"""setting(backbone, scale) by the name that `--setting` takes."""
for _name, _setting in (("difull", DiFull), ("gridpg", GridPG), ("dipart", DiPart)):
    SETTINGS.register(_name, _setting)

METHODS = ("grad", "ixg", "ig", "gb", "gradcam", "layercam")
Predictions = list[tuple[np.ndarray, ...]]
"""Per batch: the grids' numbers (B,), the labels and the predicted classes of their cells (B, n²)."""
Key = tuple[str, int]
"""Kind and scale of compositions."""


def kind_of(setting: str) -> str:
    """The kind of composition that a setting is scored on, as published."""
    return "distinct" if setting == "gridpg" else "corners"


@dataclass(kw_only=True)
class GridOptions(EvaluationOptions):
    """What the grid protocols share.

    Args:
        setting: difull, gridpg, dipart: any of them.
        scale: cells per side: 2, 3, ...
        grids: how many grids per kind of composition and scale.
        one_use: no image in two grids of a kind and scale, as published.
        confidence: grids are made of images that the model classifies rightly with at least this confidence.
        choose_with: further models that must be as confident, so that all can be scored on the same grids.
        compositions: files, or folders of them, of an earlier run to use instead of choosing anew.
    """

    setting: list[str] = field(default_factory=lambda: ["difull"])
    scale: list[int] = field(default_factory=lambda: [2])
    grids: int = 500
    one_use: bool = False
    confidence: float = 0.99
    choose_with: list[str] | None = None
    compositions: list[str] | None = None
    attributions: list[str] = field(default_factory=lambda: list(METHODS))

    def check(self) -> None:
        """Raise InputError for values that no grid evaluation can use; settings by their plain names."""
        super().check()
        self.setting = list(dict.fromkeys(SETTINGS.resolve(name) for name in self.setting))
        self.scale = list(dict.fromkeys(self.scale))
        if not self.setting or not self.scale or not self.attributions:
            raise InputError("--setting, --scale and --attributions need at least one value each")
        if any(not isinstance(scale, int) or scale < 2 for scale in self.scale):
            raise InputError(f"--scale takes whole numbers of at least 2, got {self.scale}")
        if self.grids < 1:
            raise InputError(f"--grids must be at least 1, got {self.grids}")
        if not 0 <= self.confidence <= 1:
            raise InputError(f"--confidence must lie in [0, 1], got {self.confidence}")

    @property
    def keys(self) -> list[Key]:
        """The compositions that the settings need."""
        return list(dict.fromkeys((kind_of(setting), scale) for scale in self.scale for setting in self.setting))


class GridBatch(NamedTuple):
    """Normalised grids (B, C, n·h, n·w) on the device, the class of each cell (B, n²), and their numbers (B,)."""

    images: Tensor
    labels: Tensor
    indices: Tensor


class GridSamples(Dataset[Any]):
    """The cells of each grid as samples for a loader; a grid with a corrupt image is left out."""

    def __init__(self, samples: KeyedSamples, compositions: Compositions):
        self.samples, self.compositions = samples, compositions

    def __len__(self) -> int:
        return len(self.compositions)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        epoch, grid = key
        cells = [self.samples[epoch, int(index)] for index in self.compositions.indices[grid]]
        if any("image" not in cell for cell in cells):
            return {"index": grid}
        images = torch.stack([torch.as_tensor(cell["image"]) for cell in cells])
        return {"image": images, "label": torch.tensor(self.compositions.labels[grid]), "index": grid}


def grid_batches(
    runner: Runner, compositions: Compositions, checkpoint: Checkpoint | None = None
) -> Iterator[GridBatch]:
    """This process's batches of grids; a batch has as many pixels as one of single images."""
    size = max(1, runner.options.batch_size // compositions.scale**2)
    samples = GridSamples(runner.samples(checkpoint), compositions)
    for batch in runner.batches(samples, len(compositions), size, checkpoint):
        yield GridBatch(compose_grid(batch.images, compositions.scale), batch.labels, batch.indices)


def first_grid(runner: Runner, compositions: Compositions) -> Tensor:
    """The first grid (1, C, n·h, n·w) that can be read, the same on every process."""
    samples = GridSamples(runner.samples(), compositions)
    for number in range(len(samples)):
        sample = samples[0, number]
        if "image" in sample:
            (batch,) = runner.batches(_One(sample), runner.fabric.world_size, 1)
            return compose_grid(batch.images, compositions.scale)
    raise InputError(f"no grid of {runner.data.name} could be read")


class _One(Dataset[Any]):
    """One sample, whatever the key."""

    def __init__(self, sample: dict[str, Any]):
        self.sample = sample

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        return self.sample


def data_labels(data: ImageData) -> np.ndarray:
    """The classes (N,) of a data set."""
    return np.array([data.label(index) for index in range(len(data))], dtype=np.int64)


def confidences(runner: Runner, checkpoint: Checkpoint) -> tuple[Tensor, Tensor]:
    """Softmax probabilities (N, classes) of the evaluated images on every process, and their indices (N,)."""
    found = [(torch.empty(0, checkpoint.backbone.num_classes), torch.empty(0, dtype=torch.int64))]
    for batch in runner.batches(checkpoint=checkpoint):
        with runner.autocast(), torch.no_grad():
            logits = torch.cat([checkpoint.backbone(part) for part in batch.images.split(runner.options.chunk)])
        check_logits(logits, checkpoint.name)
        found.append((logits.double().softmax(dim=1).float().cpu(), batch.indices.cpu()))
    shared = [pair for rank in runner.share(found) for pair in rank]
    probabilities, indices = (torch.cat([pair[part] for pair in shared]) for part in (0, 1))
    order = indices.argsort()
    return probabilities[order], indices[order]


def prepare_compositions(runner: Runner, options: GridOptions) -> tuple[dict[Key, Compositions], dict[str, Any]]:
    """The compositions that the settings need, loaded or made, and what to record of the choice."""
    labels = data_labels(runner.data)
    if options.compositions is not None:
        loaded = load_compositions(options.compositions, options.keys)
        for (kind, scale), compositions in loaded.items():
            compositions.check(labels)
            if options.one_use and not compositions.one_use:
                raise InputError(f"--one-use, but the {kind} grids of {scale}×{scale} in --compositions share images")
        return loaded, {"compositions": list(options.compositions)}
    models = [runner.checkpoint, *map(runner.load_other, options.choose_with or [])]
    rows = [confidences(runner, model) for model in models]
    known, indices = torch.stack([row[0] for row in rows]), rows[0][1].numpy()
    if not len(indices):
        raise InputError(f"no image of {runner.data.name} could be read")
    accuracy = [float((row[0].argmax(dim=1).numpy() == labels[indices]).mean()) for row in rows]
    about = {
        "data": runner.data.name,
        "split": runner.data.split,
        "fingerprint": runner.data.fingerprint(),
        "confidence": options.confidence,
        "models": [{"name": model.name, "sha256": model.sha256} for model in models],
    }
    made, eligible = {}, np.empty(0)
    for kind, scale in options.keys:
        chosen = choose_confident(
            known,
            labels[indices],
            options.confidence,
            scale=scale,
            kind=kind,
            count=options.grids,
            reuse=not options.one_use,
        )
        eligible = indices[chosen]
        made[kind, scale] = make_compositions(
            labels, eligible, scale, options.grids, kind, options.seed, about, reuse=not options.one_use
        )
    return made, {"n_images": len(indices), "n_confident": len(eligible), "accuracy": accuracy[0]}


def load_compositions(paths: list[str], keys: list[Key]) -> dict[Key, Compositions]:
    """Read compositions from files and folders; InputError if one that is needed isn't among them."""
    files: list[Path] = []
    for text in paths:
        path = Path(text).expanduser()
        below = sorted(path.glob("*.parquet")) or sorted(path.glob("compositions/*.parquet"))
        if path.is_dir() and not below:
            raise InputError(f"no compositions (*.parquet) in {path}")
        files += below if path.is_dir() else [path]
    found = {(each.kind, each.scale): each for each in map(Compositions.load, files)}
    for kind, scale in keys:
        if (kind, scale) not in found:
            have = ", ".join(f"{kind} {scale}×{scale}" for kind, scale in found)
            raise InputError(
                f"--compositions has no {kind} grids of {scale}×{scale}, which the settings need; has {have}"
            )
    return {key: found[key] for key in keys}


def save_compositions(folder: Path, compositions: dict[Key, Compositions]) -> None:
    """Write each as `compositions/KIND-NxN.parquet`."""
    for (kind, scale), made in compositions.items():
        made.save(folder / "compositions" / f"{kind}-{scale}x{scale}.parquet")


@dataclass
class Case:
    """A setting at a scale, with the methods of every head that is scored."""

    name: str
    scale: int
    setting: GridSetting
    methods: dict[int, list[Method]]

    @property
    def title(self) -> str:
        """For tables and figures."""
        return f"{type(self.setting).__name__} {self.scale}×{self.scale}"

    @property
    def stem(self) -> str:
        """For file names."""
        return f"{self.name}-{self.scale}x{self.scale}"


def make_setting(name: str, backbone: TimmBackbone, scale: int) -> GridSetting:
    """A setting in evaluation mode; nothing of the backbone changes."""
    return SETTINGS[name](backbone, scale).eval()


class GridEvaluation:
    """One pass over all grids: every method of every case explains every scored head.

    A subclass takes the maps in `observe`, gives what it kept in `kept` and writes it in `finish`; a
    `baseline` is another model, whose heads see the same grids in its own size and normalisation.
    """

    baseline: Checkpoint | None = None

    def __init__(self, options: GridOptions):
        self.options = options
        self.runner = Runner.start(options)
        checkpoint = self.runner.checkpoint
        for name in options.setting:  # a method or layer that doesn't exist shows before the images are looked at
            self._methods(make_setting(name, checkpoint.backbone, options.scale[0]), 0)
        self.compositions, self.choice = prepare_compositions(self.runner, options)
        self.corrupt, self.runner.corrupt = self.runner.corrupt, set()
        self.cases = [self._case(name, scale) for scale in options.scale for name in options.setting]
        self.predictions: dict[str, Predictions] = {case.stem: [] for case in self.cases}
        self.of_baseline: dict[str, Predictions] = {case.stem: [] for case in self.cases}

    def _methods(self, setting: GridSetting, cell: int) -> list[Method]:
        options = self.options
        chunk = max(1, options.chunk // setting.cells)
        return make_methods(
            options.attributions,
            options.layers,
            self.runner.checkpoint,
            chunk,
            model=setting,
            cell=cell,
            published=options.published,
        )

    def _case(self, name: str, scale: int) -> Case:
        setting = make_setting(name, self.runner.checkpoint.backbone, scale)
        heads = self.compositions[kind_of(name), scale].heads
        return Case(name, scale, setting, {cell: self._methods(setting, cell) for cell in heads})

    def run(self) -> dict[str, Any] | None:
        """Explain all grids; returns what `finish` does on the first process, None on the others."""
        for (kind, scale), compositions in self.compositions.items():
            cases = [case for case in self.cases if (kind_of(case.name), case.scale) == (kind, scale)]
            for batch in grid_batches(self.runner, compositions):
                with self.runner.autocast():
                    for case in cases:
                        self._explain(case, batch)
            if self.baseline is not None:
                self._look(self.baseline, compositions, cases)
        costs = [
            [(method.seconds, method.maps) for methods in case.methods.values() for method in methods]
            for case in self.cases
        ]
        predicted = (self.predictions, self.of_baseline)
        gathered = self.runner.gather((self.kept(), predicted, costs, len(self.corrupt), len(self.runner.corrupt)))
        if gathered is None:
            return None
        kept, predictions, costs_of_all, corrupt, left_out = zip(*gathered, strict=True)
        self.predictions, self.of_baseline = (
            {stem: [part for rank in ranks for part in rank[stem]] for stem in self.predictions}
            for ranks in zip(*predictions, strict=True)
        )
        for number, case in enumerate(self.cases):
            methods = [method for each in case.methods.values() for method in each]
            for place, method in enumerate(methods):
                method.seconds = sum(rank[number][place][0] for rank in costs_of_all)
                method.maps = sum(rank[number][place][1] for rank in costs_of_all)
        self.choice = self.choice | {"n_corrupt": sum(corrupt), "n_grids_left_out": sum(left_out)}
        if not any(self.predictions.values()):
            raise InputError(f"no grid of {self.runner.data.name} could be read")
        return self.finish(list(kept))

    def _predict(self, setting: GridSetting, batch: GridBatch, name: str, into: Predictions) -> Tensor:
        """The classes that a setting's heads see (B, n²); kept with the grids' numbers and labels."""
        part = max(1, self.options.chunk // setting.cells)
        with torch.no_grad():
            logits = torch.cat([setting.heads(images) for images in batch.images.split(part)])
        predicted = check_logits(logits, name).argmax(dim=2)
        into.append(tuple(column.cpu().numpy() for column in (batch.indices, batch.labels, predicted)))
        return predicted

    def _look(self, baseline: Checkpoint, compositions: Compositions, cases: list[Case]) -> None:
        """The baseline's predictions on the grids."""
        settings = [make_setting(case.name, baseline.backbone, case.scale) for case in cases]
        for batch in grid_batches(self.runner, compositions, baseline):
            with self.runner.autocast():
                for case, setting in zip(cases, settings, strict=True):
                    self._predict(setting, batch, baseline.name, self.of_baseline[case.stem])

    def _explain(self, case: Case, batch: GridBatch) -> None:
        predicted = self._predict(case.setting, batch, self.runner.checkpoint.name, self.predictions[case.stem])
        for cell, methods in case.methods.items():
            for method in methods:
                with self.runner.timed(method, len(batch.images)):
                    maps = method.explain(batch.images, batch.labels[:, cell])
                maps = check_maps(maps, batch.images, f"attribution {method.label} in {case.title}")
                self.observe(case, cell, method, batch, predicted[:, cell], maps)

    def observe(self, case: Case, cell: int, method: Method, batch: GridBatch, predicted: Tensor, maps: Tensor) -> None:
        """Take in the maps (B, 1, h, w) of one head."""
        raise NotImplementedError

    def kept(self) -> Any:
        """What this process has to hand to the first one."""
        raise NotImplementedError

    def finish(self, kept: list[Any]) -> dict[str, Any]:
        """Write the run, from what all processes kept."""
        raise NotImplementedError

    def accuracy(self) -> list[dict[str, Any]]:
        """Accuracy of every cell's head on the grids, per setting and scale, with its interval over grids."""
        rows = []
        for case in self.cases:
            row: dict[str, Any] = {"setting": case.name, "scale": case.scale}
            for name, parts in (("accuracy", self.predictions[case.stem]), ("baseline", self.of_baseline[case.stem])):
                if not parts:
                    continue
                indices, labels, predicted = (np.concatenate(column) for column in zip(*parts, strict=True))
                row.setdefault("n", len(indices))
                right = (predicted == labels)[np.argsort(indices)].astype(np.float64)
                row[name] = float(right.mean())
                row[f"{name}_ci95"] = mean_interval(right.mean(axis=1), self.options.seed)
                row[f"{name}_per_cell"] = right.mean(axis=0).tolist()
            rows.append(row)
        return rows

    def cautions(self, accuracy: list[dict[str, Any]]) -> list[str]:
        """What the numbers can't bear: few grids, heads nearer to chance than to certainty."""
        lines = {}
        for row in accuracy:
            lines |= dict.fromkeys(caution_count(row["n"], "grids"))
            heads = f"heads of {row['setting']} {row['scale']}×{row['scale']}"
            lines |= dict.fromkeys(caution_accuracy(heads, row["accuracy"], len(self.runner.data.classes)))
        return list(lines)

    def describe_settings(self) -> dict[str, Any]:
        """The settings that every grid command records."""
        options = self.options
        return {
            "setting": options.setting,
            "scale": options.scale,
            "grids": {f"{kind} {scale}×{scale}": len(made) for (kind, scale), made in self.compositions.items()},
            "one_use": options.one_use,
            "confidence": options.confidence,
            "choice": self.choice,
            **self.runner.describe_settings(),
        }
