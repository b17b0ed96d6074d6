"""Does anything leak between the cells of a grid, or out of a deleted patch? Proven where it can be, else tested.

python -m eval.leakage --model runs/demo/checkpoint --setting difull dipart
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from backbones import device_of
from core import DeletionSpec, InputError
from core.cli import run_command
from core.deletion_leakage import MaskLeakage, deletion_leakage, mask_leakage
from core.keyed import make_keys
from core.results import write_per_image, write_summary
from data import Samples, normalize, open_data
from difull import Compositions, LeakageProof, influence_map
from difull.figures import influence_figure, save_figure
from difull.leakage import TRIES, leakage_proofs
from eval.difull import BLOCKS
from eval.grids import SETTINGS, first_grid, grid_batches, make_setting
from eval.options import EvaluationOptions
from eval.report import format_table
from eval.runner import Runner
from training.module import _AUGMENT, digest_pixels


@dataclass(kw_only=True)
class SharedOptions(EvaluationOptions):
    """What the runner needs of the options below."""

    protocol_name: ClassVar[str] = "leakage"
    deletions: Path | None = None


@dataclass(kw_only=True)
class LeakageOptions:
    """Find what leaks; exit status 1 if something does.

    Args:
        model: checkpoint folder, weight file (with --arch), timm:NAME, or hf-hub:ORG/NAME.
        data: digits, imagefolder:PATH or imagenet:PATH.
        split: which split of the data.
        setting: difull, gridpg, dipart: any of them.
        scale: cells per side: 2, 3, ...
        grids: how many grids each head is tested on.
        tries: random contents per head and way to its logits, besides the chosen ones.
        fill: fills to test; the checkpoint's own by default.
        deletions: folder of a training run's record of deletions; MODEL/deletions by default, if there is one.
        mask_images: how many of the recorded samples are loaded again to test their brightness.
        limit: take the grids from the first N images only.
        chunk: the most images in one pass over the recorded samples and the measured influence; bounds the memory.
        out: folder for summary.json, per_image.parquet and plots.
        overwrite: replace the run in --out.
        pretrained: timm's weights for timm:NAME; untrained otherwise.
        arch: timm name of a weight file's architecture.
        model_args: further arguments of timm's model.
        input_size: side of the images in pixels; the model's own by default, 64 for digits.
        accelerator: auto, cpu, cuda, ...
        precision: 32-true or 64-true.
        seed: keys everything random.
        skip_corrupt: count corrupt images and go on.
    """

    protocol_name: ClassVar[str] = SharedOptions.protocol_name

    model: str = ""
    data: str = "digits"
    split: str = "val"
    setting: list[str] = field(default_factory=lambda: ["difull", "dipart"])
    scale: list[int] = field(default_factory=lambda: [2])
    grids: int = 2
    tries: int = TRIES
    fill: list[str] | None = None
    deletions: Path | None = None
    mask_images: int = 2048
    limit: int | None = None
    chunk: int = 256
    out: Path = Path("runs/evaluation")
    overwrite: bool = False
    pretrained: bool = False
    arch: str | None = None
    model_args: dict[str, Any] | None = None
    input_size: int | None = None
    accelerator: str = "auto"
    precision: Literal["32-true", "64-true"] = "32-true"
    seed: int = 0
    skip_corrupt: bool = False

    def check(self) -> None:
        """Raise InputError for values that no test can use; settings by their plain names."""
        self.setting = list(dict.fromkeys(SETTINGS.resolve(name) for name in self.setting))
        self.scale = list(dict.fromkeys(self.scale))
        if not self.setting or not self.scale:
            raise InputError("--setting and --scale need at least one value each")
        if any(not isinstance(scale, int) or scale < 2 for scale in self.scale):
            raise InputError(f"--scale takes whole numbers of at least 2, got {self.scale}")
        for name in ("grids", "tries", "mask_images"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(self, name)}")

    def shared(self) -> SharedOptions:
        """What the runner needs of these options."""
        names = {each.name for each in fields(SharedOptions)} & {each.name for each in fields(self)}
        return SharedOptions(**{name: getattr(self, name) for name in names})


def grids_without_choice(runner: Runner, scale: int, grids: int) -> Compositions:
    """The first images of the data as grids: whether something leaks doesn't depend on the class."""
    cells = scale**2
    count = min(grids, runner.count // cells)
    if not count:
        raise InputError(f"a {scale}×{scale} grid needs {cells} images, {runner.data.name} gives {runner.count}")
    indices = np.arange(count * cells).reshape(count, cells)
    labels = np.array([[runner.data.label(int(index)) for index in row] for row in indices])
    return Compositions(indices, labels, scale, "corners")


def prove_settings(runner: Runner, options: LeakageOptions) -> tuple[list[LeakageProof], dict[int, dict[str, Any]]]:
    """What is proven or tested of every head of each setting and scale, and what can reach the first head."""
    proofs, pictures = [], {}
    for scale in options.scale:
        compositions = grids_without_choice(runner, scale, options.grids)
        grids = torch.cat([batch.images for batch in grid_batches(runner, compositions)])
        grid = first_grid(runner, compositions)
        height, width = grid.shape[-2:]
        sides = range(1, height + 1)
        block = next(s for s in sides if height % s == 0 and width % s == 0 and max(height, width) <= BLOCKS * s)
        pictures[scale] = {}
        for name in options.setting:
            setting = make_setting(name, runner.checkpoint.backbone, scale)
            proofs += leakage_proofs(setting, grids, tries=options.tries, seed=options.seed)
            reach = influence_map(setting, grid, 0, block, chunk=max(1, options.chunk // setting.cells))
            pictures[scale][type(setting).__name__] = reach.cpu().numpy()
    return proofs, pictures


def read_deletions(folder: Path) -> pd.DataFrame:
    """The record of a training run: epoch, index, label, cell, pixels; InputError for anything else."""
    files = sorted(folder.glob("*.parquet"))
    if not files:
        raise InputError(f"no record of deletions (*.parquet) in {folder}")
    try:
        table = pd.concat([pd.read_parquet(file) for file in files], ignore_index=True)
        return table[["epoch", "index", "label", "cell", "pixels"]].astype(np.int64)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{folder} holds no record of deletions: {str(error).splitlines()[0]}") from error


def recorded_brightness(record: pd.DataFrame, runner: Runner, deletion: DeletionSpec) -> Tensor | None:
    """Mean of each cell (N, cells) of the recorded samples as training saw them before the deletion.

    None where the checkpoint doesn't say what it was trained on. Raises InputError where the samples, loaded
    again, aren't the recorded ones.
    """
    made = (runner.checkpoint.training or {}).get("settings")
    if not made or "data" not in made or "seed" not in made:
        return None
    backbone = runner.checkpoint.backbone
    size, seed = backbone.input_size[0], int(made["seed"])
    data = open_data(made["data"], "train", size=size, seed=seed, count=made.get("train_images"))
    if record["index"].max() >= len(data):
        raise InputError(f"the record has sample {record['index'].max()}, but {data.name} has only {len(data)}")
    samples = Samples(data, backbone.data_config, training=True, seed=seed)
    found, device = [], device_of(backbone)
    for start in range(0, len(record), runner.options.chunk):
        part = record.iloc[start : start + runner.options.chunk]
        keys = list(zip(part["epoch"].tolist(), part["index"].tolist(), strict=True))
        images = torch.stack([torch.as_tensor(samples[key]["image"]) for key in keys]).to(device)
        epoch, index = (torch.tensor(column, device=device) for column in zip(*keys, strict=True))
        images = data.augment(images, make_keys(make_keys(seed, epoch, index), _AUGMENT))
        other = int((digest_pixels(images).cpu() != torch.from_numpy(part["pixels"].to_numpy().copy())).sum())
        if other:
            raise InputError(
                f"{other} of {len(part)} samples of {data.name} have other pixels than the record says; audit the "
                "record with the data, and the versions of libraries, that it was made with"
            )
        pixels = deletion.grid.sum(normalize(images, backbone.data_config))
        found.append((pixels / (images[0].numel() / deletion.grid.cells)).cpu())
    return torch.cat(found)


def audit_masks(runner: Runner, options: LeakageOptions, deletion: DeletionSpec) -> dict[str, MaskLeakage]:
    """What the choice of the patch told of label and brightness in a real run; empty without a record of any."""
    folder = options.deletions or Path(options.model).expanduser() / "deletions"
    if options.deletions is None and not folder.is_dir():
        return {}
    record = read_deletions(folder)
    if (record["cell"] < 0).all():
        print(f"choice of the patch: nothing to test, {folder} records no deletion")
        return {}
    columns = {name: torch.from_numpy(record[name].to_numpy().copy()) for name in ("cell", "label")}
    audits = {"label": mask_leakage(columns["cell"], columns["label"], seed=options.seed)}
    keys = make_keys(options.seed, *(torch.from_numpy(record[name].to_numpy().copy()) for name in ("epoch", "index")))
    chosen = keys.argsort(stable=True)[: options.mask_images].numpy()
    brightness = recorded_brightness(record.iloc[chosen], runner, deletion)
    if brightness is not None:
        cells, labels = (columns[name][torch.from_numpy(chosen)] for name in ("cell", "label"))
        audits["brightness"] = mask_leakage(cells, labels, brightness, seed=options.seed)
    return audits


def rows_of(proof: LeakageProof) -> dict[str, Any]:
    """A proof as `summary.json` has it."""
    return {"subject": proof.subject, "verdict": proof.verdict, **proof.to_dict()}


def evaluate(options: LeakageOptions) -> int:
    """Prove and test, write the verdicts, and return 0 if nothing leaks, else 1."""
    options.check()
    runner = Runner.start(options.shared())
    deletion = runner.checkpoint.deletion or DeletionSpec()
    size = runner.checkpoint.backbone.input_size
    deletion.grid.check(*size)
    audits = audit_masks(runner, options, deletion)
    proofs, pictures = prove_settings(runner, options)
    proofs += [deletion_leakage(fill, deletion.grid, size, options.seed) for fill in options.fill or [deletion.fill]]
    passed = all(proof.passed for proof in proofs) and all(audit.passed for audit in audits.values())
    table = pd.DataFrame(
        [
            {"subject": proof.subject, "metric": name, "value": value}
            for proof in proofs
            for name, value in proof.numbers.items()
        ]
    )
    with runner.options.result_folder() as folder:
        write_per_image(folder, table)
        write_summary(
            folder,
            protocol=options.protocol_name,
            model=runner.checkpoint.describe(),
            data=runner.describe_data(),
            settings={
                **{
                    name: getattr(options, name)
                    for name in ("setting", "scale", "grids", "tries", "fill", "mask_images")
                },
                **runner.describe_settings(),
            },
            scores=[],
            passed=passed,
            proofs=[rows_of(proof) for proof in proofs],
            masks=[
                {"record": name, "passed": audit.passed, "found": audit.found, **asdict(audit)}
                for name, audit in audits.items()
            ],
        )
        for scale, maps in pictures.items():
            picture = influence_figure(maps, 0, scale)
            save_figure(picture, folder / "plots" / f"influence-{scale}x{scale}.png")
    print_proofs(proofs, audits)
    print(f"{'nothing leaks' if passed else 'LEAKS'}; results: {options.out}/summary.json, plots/")
    return 0 if passed else 1


def print_proofs(proofs: list[LeakageProof], audits: dict[str, MaskLeakage]) -> None:
    """A line per subject with its verdict and statements, then what was found."""
    rows = [(proof.subject, proof.verdict, *proof.statements.values()) for proof in proofs]
    print(format_table(("", "verdict", "structure", "taint", "derivative", "intervention"), rows, "<<<<<<"))
    for proof in proofs:
        for finding in proof.found:
            print(f"{proof.subject}: found: {finding}")
    for note in dict.fromkeys(note for proof in proofs for note in proof.notes):
        print(note)
    for report in dict.fromkeys(audit.report for audit in audits.values()):
        print(report)


if __name__ == "__main__":
    sys.exit(run_command(LeakageOptions, evaluate))
