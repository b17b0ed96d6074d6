"""A page over many results that opens from disk: its template, its script, its words, and the tables beside it."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
