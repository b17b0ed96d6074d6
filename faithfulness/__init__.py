"""Is this attribution map telling the truth about the model? Grids, deletion, networks and attribution methods."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
