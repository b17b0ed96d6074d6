"""Files of a user's own that go wrong in every way; `NAME -> a word of the refusal` for each of their functions."""

METHODS = """
import sys
import torch

calls = []
thing = 3

def fails(images, targets):
    return images / 0 + 1 // 0

def second(images, targets):
    calls.append(1)
    if len(calls) > 1:
        raise RuntimeError("second\\nline\\x1b[31m")
    return images

def exits(images, targets):
    sys.exit(0)

def forever(images, targets):
    return forever(images, targets)

def none(images, targets):
    return None

def sparse(images, targets):
    return images.to_sparse()

def uncolored(images, targets):
    return images[:, :0]

def flat(images, targets):
    return images[:, 0]

def complex_(images, targets):
    return images + 0j

def whole(images, targets):
    return images.long()

def nan(images, targets):
    return images * float("nan")

def fewer(images, targets):
    return images[:1]

def elsewhere(images, targets):
    return images.to("meta")

def generator(images, targets):
    yield images

def array(images, targets):
    return images.numpy()

def one(images):
    return images

def four(a, b, c, d):
    return a

class Plain:
    pass

class Fails:
    def __init__(self, model, layer=None):
        raise ValueError("at once")

def nothing(model, layer=None):
    return None

def leaves(model, layer=None):
    sys.exit(0)
"""
OF_METHODS = {
    "fails": "ZeroDivisionError",
    "second": "own.py, line 14",
    "exits": "sys.exit(0)",
    "forever": "RecursionError",
    "none": "returned None",
    "sparse": "sparse_coo",
    "uncolored": "(2, 0, 64, 64)",
    "flat": "(2, 64, 64)",
    "complex_": "complex64",
    "whole": "int64",
    "nan": "NaN",
    "fewer": "(1, 3, 64, 64)",
    "elsewhere": "meta",
    "generator": "generator",
    "array": "ndarray",
    "one": "takes (images)",
    "four": "takes (a, b, c, d)",
    "Plain": "takes no arguments",
    "Fails": "at once",
    "nothing": "returned None",
    "leaves": "sys.exit(0)",
    "thing": "is int",
    "nope": "unknown function",
}

NETWORKS = """
import sys
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, then=lambda net, logits: logits):
        super().__init__()
        self.conv, self.then, self.passes = nn.Conv2d(3, 10, 3), [then], 0

    def forward(self, images):
        self.passes += 1
        return self.then[0](self, self.conv(images).mean(dim=(2, 3)))

def fail(net, logits):
    raise RuntimeError("as ever")

def fail_later(net, logits):
    if net.passes > 2:
        raise RuntimeError("later")
    return logits

def drift(net, logits):
    with torch.no_grad():
        net.conv.weight.add_(1)
    return logits

def fails():
    return Net(fail)

def fails_later():
    return Net(fail_later)

def exits():
    return Net(lambda net, logits: sys.exit(0))

def drifts():
    return Net(drift)

def mapping():
    return Net(lambda net, logits: {"out": logits})

def mapping_later():
    return Net(lambda net, logits: {"out": logits} if net.passes > 2 else logits)

def pair():
    return Net(lambda net, logits: (logits, logits))

def nothing():
    return Net(lambda net, logits: None)

def array():
    return Net(lambda net, logits: logits.detach().numpy())

def whole():
    return Net(lambda net, logits: logits.long())

def one_row():
    return Net(lambda net, logits: logits[0])

def three():
    return Net(lambda net, logits: logits[:, :3])

def nan():
    return Net(lambda net, logits: logits * float("nan"))

def detached():
    return Net(lambda net, logits: logits.detach())

def elsewhere():
    return Net(lambda net, logits: logits.to("meta"))

def meta():
    return Net().to("meta")

def without_gradients():
    with torch.inference_mode():
        return Net()

def no_network():
    return None

def a_class():
    return Net

def asks(a, b, c):
    return Net()

def raises():
    raise ValueError("no network")

def leaves():
    sys.exit(0)
"""
OF_NETWORKS = {
    "fails": "as ever",
    "fails_later": "RuntimeError: later",
    "exits": "sys.exit(0)",
    "drifts": "changes its own",
    "mapping": "dict",
    "mapping_later": "dict",
    "pair": "tuple",
    "nothing": "NoneType",
    "array": "ndarray",
    "whole": "int64",
    "one_row": "(10,)",
    "three": "3 classes",
    "nan": "NaN",
    "detached": "no gradient",
    "elsewhere": "meta",
    "meta": "meta device",
    "without_gradients": "inference_mode",
    "no_network": "NoneType",
    "a_class": "got type",
    "asks": "takes (a, b, c)",
    "raises": "no network",
    "leaves": "sys.exit(0)",
}

SAMPLES = """
import sys
import torch
from torch.utils.data import Dataset

PIXELS = torch.zeros(3, 64, 64, dtype=torch.uint8)

class Samples(Dataset):
    def __init__(self, sample, count=8):
        self.sample, self.count = sample, count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return self.sample(index)

class Named(Samples):
    classes = 3

class Told(Samples):
    targets = ["a"] * 8

def made(sample, count=8, kind=Samples):
    return lambda split: kind(sample, count)

fails = made(lambda index: 1 // 0)
fails_later = made(lambda index: (PIXELS, index) if index < 2 else [][index])
exits = made(lambda index: sys.exit(0))
nothing = made(lambda index: None)
alone = made(lambda index: PIXELS)
word = made(lambda index: (PIXELS, "x"))
negative = made(lambda index: (PIXELS, -1))
endless = made(lambda index: (PIXELS, 10**30))
not_a_number = made(lambda index: (PIXELS, float("nan")))
array = made(lambda index: (PIXELS.numpy(), 0))
gray = made(lambda index: (PIXELS[:1], 0))
sparse = made(lambda index: (PIXELS.float().to_sparse(), 0))
elsewhere = made(lambda index: (PIXELS.to("meta"), 0))
flat = made(lambda index: (PIXELS[:, :0], 0))
empty = made(lambda index: (PIXELS, 0), 0)
short_of_none = made(lambda index: (PIXELS, 0), -3)
one_name = made(lambda index: (PIXELS, 0), kind=Named)
letters = made(lambda index: (PIXELS, 0), kind=Told)

def generator(split):
    yield PIXELS

def no_data(split):
    return None

def raises(split):
    raise KeyError(split)

def leaves(split):
    sys.exit(0)
"""
OF_SAMPLES = {
    "fails": "fails[0]: ZeroDivisionError",
    "fails_later": "IndexError",
    "exits": "sys.exit(0)",
    "nothing": "NoneType",
    "alone": "expected two",
    "word": "'x'",
    "negative": "label -1",
    "endless": "label 1000",
    "not_a_number": "nan",
    "array": "ndarray",
    "gray": "(1, 64, 64)",
    "sparse": "sparse_coo",
    "elsewhere": "uint8",
    "flat": "(3, 0, 64)",
    "empty": "is empty",
    "short_of_none": "__len__",
    "one_name": "list of names",
    "letters": "'a'",
    "generator": "generator",
    "no_data": "NoneType",
    "raises": "KeyError",
    "leaves": "sys.exit(0)",
}

FILES = {
    "raises": ("x = 1\nraise KeyError('at import')\n", "line 2"),
    "exits": ("import sys\nsys.exit(0)\n", "sys.exit(0)"),
    "recursive": ("def f():\n    f()\nf()\n", "RecursionError"),
    "syntax": ("def f(:\n", "SyntaxError"),
    "deep": ("x = " + "(" * 5000 + ")" * 5000, "SyntaxError"),
    "binary": (b"\xff\xfe\0", "SyntaxError"),
    "empty": ("", "unknown function"),
}
