"""Checkpoints that labs can pass to each other: weights with the deletion they were trained on."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
