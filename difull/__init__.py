"""Controlled grids: GridPG, DiFull, DiPart, what lies where it can't matter, and the proof of it."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
