"""Pictures of one's own under every method: what is found of each, and the files that it is written to."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import Tensor

import idsds
from checkpoints import CLASSIFICATION, Checkpoint
from eval.frame.memory import fitting_chunk
from eval.frame.methods import Method, make_methods
from eval.frame.part import Part
from eval.frame.run import Run
from faithfulness import core, report
from faithfulness.core.errors import unknown_name
from faithfulness.core.files import EXPLANATION, OF_EXPLANATION, atomic_file, files_in, sha256_file, write_json
from faithfulness.core.precision import use_precision
from faithfulness.core.progress import Progress, silence_lightning
from faithfulness.core.results import environment
from faithfulness.core.tables import format_table
from faithfulness.data import evaluation_transform, read_upright

SCHEMA = 1
NEW = ".new"
"""Where results are put together, inside their folder."""
TOP = 5
"""How many of the likeliest classes are recorded."""


def names_of(files: Sequence[Path]) -> list[str]:
    """A name for each picture's results: its own, with a number where two are called alike."""
    taken: list[str] = []
    for file in files:
        name, number = file.stem, 2
        while name.lower() in map(str.lower, taken):
            name, number = f"{file.stem}-{number}", number + 1
        taken.append(name)
    return taken


def start(options: Any) -> Run[Any]:
    """The model on its device, as every evaluation has it, without data."""
    progress = Progress(options.quiet)
    torch.manual_seed(options.seed)
    with progress.phase("loading the model"):
        checkpoint = CLASSIFICATION.load_model(
            options.model,
            arch=options.arch,
            num_classes=None,
            pretrained=options.pretrained,
            input_size=options.input_size,
            model_args=options.model_args,
            default_size=None,
        )
    silence_lightning()
    precision: Any = use_precision(options.precision)
    fabric = Fabric(accelerator=options.accelerator, devices=1, precision=precision)
    run: Run[Any] = Run(options, checkpoint, None, fabric, CLASSIFICATION, {}, progress)
    run.place(checkpoint.model)
    run.chunk = options.chunk or fitting_chunk(checkpoint.model, fabric.device, options.most)
    return run


class Explanation:
    """The methods, the cells and the class names, ready for one picture after another."""

    def __init__(self, run: Run[Any]):
        self.run, options, checkpoint = run, run.options, run.checkpoint
        trained = checkpoint.deletion
        grid = core.PatchGrid.of(options.grid) if options.grid else trained.grid if trained else core.PatchGrid()
        fill = core.FILLS.resolve(options.fill or (trained.fill if trained else "zeros"))
        grid.check(*checkpoint.model.input_size)
        self.deletion = core.DeletionSpec(grid, fill, 1.0)
        self.in_domain = bool(trained and trained.probability and (trained.grid, trained.fill) == (grid, fill))
        self.classes = class_names(checkpoint, options.pretrained)
        self.target = None if options.target is None else class_of(options.target, self.classes)
        self.methods: list[Method] = make_methods(
            options.attributions, options.layers, checkpoint.model, run.chunk, published=options.published
        )

    def picture(self, path: Path, name: str) -> dict[str, Any]:
        """What was found of a picture: pixels, classes, drops, and every method's map and cell sums."""
        run, model = self.run, self.run.checkpoint.model
        pixels = evaluation_transform(model.data_config)(read_upright(path))
        image = run.one(pixels)
        with run.autocast(), run.full_precision():
            whole, deleted = idsds.finite_logits(model, image, self.deletion, chunk=run.chunk, name=run.checkpoint.name)
        likely = whole[0].double().softmax(dim=0).sort(descending=True, stable=True)
        predicted = int(whole[0].argmax())
        target = predicted if self.target is None else self.target
        targets = torch.tensor([target], device=image.device)
        drops, scale = (measure(whole, deleted, targets) for measure in (idsds.drops_of, idsds.drop_scale))
        maps, part = {}, Part()
        with run.progress.phase(f"explaining {name}"), run.autocast():
            for method in self.methods:
                maps[method] = run.explain(part, method, image, targets)
        return {
            "name": name,
            "file": str(path),
            "sha256": sha256_file(path),
            "pixels": pixels,
            "predicted": self.classes[predicted],
            "likely": [
                {"class": self.classes[int(place)], "index": int(place), "probability": float(value)}
                for value, place in zip(likely.values[:TOP], likely.indices[:TOP], strict=True)
            ],
            "explained": self.classes[target],
            "drops": drops[0],
            "maps": [self.map_entry(method, found, drops, scale) for method, found in maps.items()],
        }

    def map_entry(self, method: Method, maps: Tensor, drops: Tensor, scale: Tensor) -> dict[str, Any]:
        """A method's map, its sums over the cells, and how these correlate with the drops."""
        sums = self.deletion.grid.sum(maps, tuple(self.run.checkpoint.model.input_size), method.upsample)
        rho = idsds.rank_correlation(drops, sums, scale)
        return {
            "attribution": method.label,
            "layer": method.layer,
            "label": method.name,
            "map": maps[0].sum(dim=0).float().cpu(),
            "cell_sums": sums[0],
            "rank_correlation": float(rho),
        }


def class_names(checkpoint: Checkpoint[Any], pretrained: bool) -> list[str]:
    """The checkpoint's own, those of ImageNet for timm's weights, else numbers."""
    from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset

    count = checkpoint.model.num_classes
    if checkpoint.classes:
        return list(checkpoint.classes)
    subset = infer_imagenet_subset({"num_classes": count}) if pretrained else None
    if subset is None:
        return [str(number) for number in range(count)]
    info = ImageNetInfo(subset)
    return [info.index_to_description(number).split(",")[0] for number in range(count)]


def class_of(name: str, classes: Sequence[str]) -> int:
    """The class that `--target` means: a name, else a number. Raises InputError for neither."""
    if name in classes:
        return classes.index(name)
    if name.isascii() and name.isdigit() and len(name) < 10 and int(name) < len(classes):
        return int(name)
    raise unknown_name("--target", name, classes)


def write(out: Path, work: Explanation, found: Sequence[dict[str, Any]]) -> None:
    """Write all into a folder inside, then put it in the place of what an earlier run left, `explain.json` last."""
    new = out / NEW
    shutil.rmtree(new, ignore_errors=True)
    try:
        for entry in found:
            write_picture(new, work, entry)
        write_json(new / EXPLANATION, summary_of(work, found))
        for old in [file for pattern in OF_EXPLANATION for file in out.glob(pattern)]:
            old.unlink()
        for name in sorted(files_in(new), key=lambda name: name == EXPLANATION):
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(new / name, out / name)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def write_picture(out: Path, work: Explanation, entry: dict[str, Any]) -> None:
    """A picture's maps, each in its own resolution, and the sheet of them."""
    maps = {f"{each['attribution']}@{each['layer']}": each["map"].numpy() for each in entry["maps"]}
    with atomic_file(out / "maps" / f"{entry['name']}.npz") as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, image=entry["pixels"].numpy(), **maps)
    with work.run.progress.phase(f"drawing {entry['name']}"):
        figure = draw(work, entry)
        for kind in dict.fromkeys(work.run.options.format):
            report.save_figure(figure, out / "pictures" / f"{entry['name']}.{kind}")


def summary_of(work: Explanation, found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The content of `explain.json`."""
    run, grid, options = work.run, work.deletion.grid, work.run.options
    settings = {"grid": [grid.rows, grid.cols], "fill": work.deletion.fill, "in_domain": work.in_domain}
    settings |= {name: getattr(options, name) for name in ("precision", "seed", "published")}
    return {
        "schema": SCHEMA,
        "protocol": "explain",
        "model": run.checkpoint.describe(),
        "settings": settings | {"input_size": list(run.checkpoint.model.input_size)},
        "images": [as_json(entry) for entry in found],
        "environment": environment(),
    }


def as_json(entry: dict[str, Any]) -> dict[str, Any]:
    """A picture's entry in `explain.json`: all but pixels and maps, which are in its .npz."""
    kept = {key: value for key, value in entry.items() if key not in ("pixels", "maps")}
    maps = []
    for each in entry["maps"]:
        shown = {key: value for key, value in each.items() if key not in ("map", "label")}
        maps.append(shown | {"shape": list(each["map"].shape), "cell_sums": each["cell_sums"].tolist()})
    return kept | {"drops": entry["drops"].tolist(), "maps": maps}


def draw(work: Explanation, entry: dict[str, Any]) -> Any:
    """The picture, the true drops, and for each method its map over the picture and its cell sums."""

    image = entry["pixels"].numpy() / 255.0
    common = {key: entry[key] for key in ("name", "predicted", "explained")} | {"index": 0, "image": image}
    kept = [
        common
        | {
            "method": each["label"],
            "map": each["map"].numpy(),
            "sums": each["cell_sums"].cpu().numpy(),
            "drops": entry["drops"].cpu().numpy(),
        }
        for each in entry["maps"]
    ]
    likely = ", ".join(f"{each['class']} ({100 * each['probability']:.0f} %)" for each in entry["likely"][:3])
    title = f"{work.run.checkpoint.name} on {Path(entry['file']).name}: {likely}"
    note = "the picture as the model sees it, resized and cropped"
    if not work.in_domain:
        note += "; the model wasn't trained with deleted cells, so the drops are out of its domain"
    return report.examples(kept, [each["label"] for each in entry["maps"]], work.deletion.grid, title, note)


def table_of(found: Sequence[dict[str, Any]]) -> str:
    """What was predicted and explained of each picture, and each method's correlation with the drops."""

    methods = [each["label"] for each in found[0]["maps"]]
    rows = [
        (
            Path(entry["file"]).name,
            f"{entry['predicted']} ({100 * entry['likely'][0]['probability']:.0f} %)",
            entry["explained"],
            *(report.number(each["rank_correlation"], 2) for each in entry["maps"]),
        )
        for entry in found
    ]
    table = format_table(("picture", "predicted", "explained", *methods), rows, "<<<" + ">" * len(methods))
    return f"{table}\nper method: rank correlation of its cell sums with the drops of deleted cells"
