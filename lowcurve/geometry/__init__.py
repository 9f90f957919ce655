"""Measure curvature, decision boundaries, slices and paths of a field of the input."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
