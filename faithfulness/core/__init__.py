"""Words that every protocol shares: grid, deletion, keyed randomness, checks, results, statistics."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
