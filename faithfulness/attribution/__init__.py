"""Attribution methods: `(images, targets) → maps`, batched, signed, at any layer.

A new method is a new file in this folder that calls `register_attribution`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
