"""Networks that can be cut at named layers: any timm model, and the user's own.

A new family of networks is a new file in this folder that registers itself with timm.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
