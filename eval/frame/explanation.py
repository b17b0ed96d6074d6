"""Pictures of one's own under every method: what is found of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from PIL import Image
from torch import Tensor

import idsds
from checkpoints import CLASSIFICATION, Checkpoint
from eval.frame.memory import fitting_chunk
from eval.frame.methods import Method, make_methods
from eval.frame.part import Part
from eval.frame.run import Run
from faithfulness import core
from faithfulness.core.errors import InputError, unknown_name
from faithfulness.core.files import sha256_file
from faithfulness.core.precision import use_precision
from faithfulness.core.progress import Progress, silence_lightning
from faithfulness.data import evaluation_transform, read_upright
from faithfulness.data.pictures import to_rgb

TOP = 5
"""How many of the likeliest classes are recorded."""
Picture = Path | Image.Image | Tensor
"""A file, or what is in memory: uint8 (3, H, W) where it is a tensor."""


def as_picture(given: Any) -> Picture:
    """What somebody hands over as a picture; InputError for anything else."""
    if isinstance(given, str | Path):
        return Path(given)
    if isinstance(given, Image.Image):
        return given
    array = (
        given.cpu() if isinstance(given, Tensor) else torch.from_numpy(given) if isinstance(given, np.ndarray) else None
    )
    if array is None or array.dtype != torch.uint8 or array.ndim != 3 or array.shape[0] != 3:
        got = type(given).__name__ if array is None else f"{array.dtype} {tuple(array.shape)}"
        raise InputError(f"expected a picture as a file, as a PIL image or as uint8 (3, H, W), got {got}")
    return array


def names_of(pictures: Sequence[Picture]) -> list[str]:
    """A name for each picture's results: its file's, with a number where two are called alike, or its place."""
    taken: list[str] = []
    for place, picture in enumerate(pictures, start=1):
        own = picture.stem if isinstance(picture, Path) else f"picture-{place}"
        name, number = own, 2
        while name.lower() in map(str.lower, taken):
            name, number = f"{own}-{number}", number + 1
        taken.append(name)
    return taken


def start(options: Any, callables: Mapping[str, Any]) -> Run[Any]:
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
    run: Run[Any] = Run(options, checkpoint, None, fabric, CLASSIFICATION, dict(callables), progress)
    run.place(checkpoint.model)
    run.chunk = options.chunk or fitting_chunk(checkpoint.model, fabric.device, options.most)
    return run


class Explainer:
    """The methods, the cells and the class names, ready for one picture after another."""

    def __init__(self, run: Run[Any]):
        self.run, options, checkpoint = run, run.options, run.checkpoint
        trained = checkpoint.deletion
        grid = core.PatchGrid.of(options.grid) if options.grid else trained.grid if trained else core.PatchGrid()
        fill = core.FILLS.resolve(options.fill or (trained.fill if trained else "zeros"))
        grid.check(*checkpoint.model.input_size)
        self.deletion = core.DeletionSpec(grid, fill, 1.0)
        self.trained = trained if trained and trained.probability else None
        self.classes = class_names(checkpoint, options.pretrained)
        self.target = None if options.target is None else class_of(options.target, self.classes)
        self.methods: list[Method] = make_methods(
            options.attributions,
            options.layers,
            checkpoint.model,
            run.chunk,
            run.callables,
            published=options.published,
        )

    @property
    def in_domain(self) -> bool:
        """Whether the model was trained with the deletion whose drops are taken."""
        trained, own = self.trained, self.deletion
        return trained is not None and (trained.grid, trained.fill) == (own.grid, own.fill)

    @property
    def cautions(self) -> list[str]:
        """What the drops can't bear, a line each."""
        if self.in_domain:
            return []
        if self.trained is None:
            return ["the model wasn't trained with deleted cells, so the drops are out of its domain"]
        grid = self.trained.grid
        return [
            f"the model was trained with {grid.rows}×{grid.cols} cells and fill {self.trained.fill}, not with these, "
            "so the drops are out of its domain"
        ]

    def picture(self, given: Picture, name: str) -> dict[str, Any]:
        """What was found of a picture: pixels, classes, drops, and every method's map and cell sums."""
        run, model = self.run, self.run.checkpoint.model
        pixels = evaluation_transform(model.data_config)(decoded(given))
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
            "file": str(given) if isinstance(given, Path) else None,
            "sha256": sha256_file(given) if isinstance(given, Path) else None,
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
            "upsample": method.upsample,
            "map": maps[0].sum(dim=0).float().cpu(),
            "cell_sums": sums[0],
            "rank_correlation": float(rho),
        }


def decoded(given: Picture) -> Image.Image:
    """A picture as RGB, a file's turned upright."""
    if isinstance(given, Path):
        return read_upright(given)
    if isinstance(given, Tensor):
        return Image.fromarray(given.permute(1, 2, 0).numpy())
    try:
        return to_rgb(given)
    except ValueError as error:
        raise InputError(f"can't take a picture of mode {given.mode} ({error})") from error


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
