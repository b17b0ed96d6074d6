"""IDSDS: the in-domain single-deletion score (Hesse, Schaub-Meyer, Roth, NeurIPS 2024)."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
