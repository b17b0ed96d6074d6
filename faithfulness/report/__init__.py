"""Pictures and tables of results, in one style; the only room that draws.

Every figure function takes plain data and a title, and returns a `Figure`, made without a display;
`save_figure` writes it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
