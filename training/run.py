"""A training from its options to its checkpoint: data, recipe, network, samples, epochs, export."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from checkpoints import Checkpoint, Task
from checkpoints.format import WEIGHTS
from checkpoints.lineage import lineage
from checkpoints.load import short_name
from faithfulness.core.errors import InputError
from faithfulness.core.files import sha256_file
from faithfulness.core.progress import Progress
from faithfulness.core.stopping import is_first
from faithfulness.data import IndexedData, OwnImages, OwnMasks
from training.batches import KeyedData
from training.composite import CompositeSpec
from training.fit import Fit, Hardware, writing
from training.folder import BEGAN, check_folder, check_same, digest_settings
from training.module import DeletionFineTuner
from training.options import TrainingOptions, named
from training.origin import origin
from training.recipe import Recipe
from training.telling import plan, result


def run_training(
    options: TrainingOptions, make_module: Callable[..., DeletionFineTuner], composite: CompositeSpec | None = None
) -> Checkpoint[Any]:
    """Train as the options say, and write the checkpoint folder.

    Args:
        make_module: the class of the task's Lightning module.
        composite: how a classifier sees grids.
    Raises:
        InputError: data, a network or a folder that can't be used; nothing is written then.
    """
    task, deletion = options.task, options.deletion()
    progress = Progress(options.quiet or not is_first())
    with progress.phase("loading the data"):
        train, val = _open(task, options)
    recipe = options.recipe(train.rendered)
    with progress.phase("loading the network"):
        checkpoint = _load(task, options, recipe, train)
    network = checkpoint.model
    recipe = recipe.override(loss=getattr(options, "loss", None) or getattr(network, "training_loss", None))
    settings = options.settings(recipe)
    deletion.grid.check(*network.input_size)
    train, val = (data.at_size(network.input_size[0]) for data in (train, val))
    _check_data(train, val, recipe)
    network = network.to(memory_format=torch.channels_last)
    about = {} if composite is None else {"composite": composite}
    out = options.out.resolve()
    module = make_module(network, deletion, recipe, options.seed, out / "deletions", train, **about)
    training, validation = (
        task.samples(data, network.data_config, training=trains, seed=options.seed, skip_corrupt=options.skip_corrupt)
        for data, trains in ((train, True), (val, False))
    )
    batches = KeyedData(training, validation, recipe.batch_size, options.seed, options.workers, recipe.accumulate)
    hardware = Hardware(options.accelerator, options.devices, options.num_nodes, options.strategy, options.precision)
    fit = Fit.prepare(options.out, module, batches, hardware, progress)
    if fit.trainer.is_global_zero:  # the others would ask for the size of every file too
        with progress.phase("reading the data's fingerprint"):
            settings[BEGAN] = origin(options, checkpoint, (train, val), fit.trainer.strategy.root_device.type)
        module.run = digest_settings(settings)
    grids = composite.to_dict() if composite else None
    save = partial(task.save_model, composite=grids)
    record = _write(fit, options, settings, checkpoint, save)
    return replace(
        checkpoint,
        name=short_name(options.out),
        path=str(options.out),
        deletion=deletion,
        classes=train.classes,
        training=record,
        sha256=None if record is None else sha256_file(options.out / WEIGHTS),
        composite=grids,
    )


def _write(
    fit: Fit,
    options: TrainingOptions,
    settings: dict[str, Any],
    checkpoint: Checkpoint[Any],
    save: Callable[..., None],
) -> dict[str, Any] | None:
    """All of a run that leaves something on disk. Returns what is recorded; None on all processes but the first."""
    if fit.trainer.is_global_zero:
        check_folder(options.out, options.inputs(), options.resume, options.overwrite)
        if options.resume and (caution := check_same(options.out, settings)):
            fit.progress.say(caution)
        fit.progress.say(plan(fit, checkpoint.architecture or checkpoint.name, options.precision))
    with writing(fit, options.resume), fit.ending():
        if fit.trainer.is_global_zero:  # hours of loading may have passed until the lock was there
            check_folder(options.out, options.inputs(), options.resume, options.overwrite)
        fit.run(settings, options.resume)
        if not fit.trainer.is_global_zero:
            return None
        with fit.progress.phase("writing the checkpoints"):
            parent = {
                "command": options.command(settings),
                "parent_sha256": checkpoint.sha256,
                **lineage(checkpoint, options.pretrained),
            }
            record = fit.export(settings, parent, save)
        print(result(options.out, fit.module.measure, fit.log.rows, record))
        return record


def _open(task: Task, options: TrainingOptions) -> list[IndexedData]:
    """Both splits; data that are rendered come at their own size, before the network's is known."""
    counts = (("train", options.train_images), ("val", options.val_images))
    train, val = (task.open_data(options.data, split, seed=options.seed, count=count) for split, count in counts)
    own = isinstance(val, OwnImages | OwnMasks)
    if train is val or (own and train.fingerprint() == val.fingerprint()):
        warnings.warn(
            f"{named(options.data)} gives the same samples to train and to validate on; give a function of the split, "
            'or {"train": …, "val": …}',
            stacklevel=4,
        )
    return [train, val]


def _load(task: Task, options: TrainingOptions, recipe: Recipe, data: IndexedData) -> Checkpoint[Any]:
    """The network to begin with; one that was given itself is copied, so that training leaves it as it is."""
    itself = options.model is not None and not isinstance(options.model, str)
    torch.manual_seed(options.seed)
    checkpoint = task.load_model(
        options.model if itself else recipe.model,
        arch=options.arch,
        num_classes=None if itself else len(data.classes),
        pretrained=options.pretrained,
        input_size=options.input_size,
        model_args=recipe.model_args,
        default_size=data.default_size,
    )
    if not data.suits(checkpoint.model.num_classes):
        raise InputError(
            f"{named(options.model) or recipe.model} has {checkpoint.model.num_classes} classes, "
            f"{named(options.data)} has {len(data.classes)}"
        )
    return replace(checkpoint, model=copy.deepcopy(checkpoint.model)) if itself else checkpoint


def _check_data(train: IndexedData, val: IndexedData, recipe: Recipe) -> None:
    """Enough images for a batch, and the same classes in both splits."""
    if len(train) < recipe.batch_size:
        raise InputError(
            f"{len(train)} training images are fewer than one batch of {recipe.batch_size}; lower --batch-size"
        )
    if not val.suits(len(train.classes)) or train.classes != val.classes:
        raise InputError(f"{train.name} has other classes in train than in val")
