"""What a copy of a network must be, and a process of its own that asks."""

import copy
import io
import multiprocessing
import pickle

import torch


def pickled(thing):
    return pickle.loads(pickle.dumps(thing))


def saved(thing):
    file = io.BytesIO()
    torch.save(thing, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {"deepcopy": copy.deepcopy, "pickle": pickled, "torch.save": saved}


def renew(model):
    """Other weights throughout, small enough for a deep network."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator).to(parameter)
            parameter.copy_(parameter + 0.5 * parameter.std(correction=0) * noise + 0.01 * noise)


def cut_logits(model, images, **settings):
    """The logits through every cut of a network."""
    with torch.no_grad():
        splits = [model.split(layer, **settings) for layer in model.layers]
        return [split.rest(split.stem(images)) for split in splits]


def in_another_process(function, *arguments):
    """The result of a function in a freshly started process; all goes through pickles."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def run(explain, *arguments):
    """Call it."""
    torch.set_num_threads(1)
    return explain(*arguments)
