"""Segmentation: does deleting what a map highlights change the target region, and only it?"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
