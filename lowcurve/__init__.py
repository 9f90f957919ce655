"""Measure, train, attack and show image classifiers of low curvature in input space.

Every name below is imported on first use, so that `import lowcurve` takes no time. `__init__.pyi` lists the names.

Example:
    >>> import lowcurve as lc
    >>> data = lc.load("digits")
    >>> model = lc.Network("small-convnet", data.shape, 10, *data.statistics(), width=4).build(seed=0).eval()
    >>> columns = lc.measure(model, data.test.take(slice(8)), {"curvature": lc.Curvature()})
    >>> columns["normalized curvature"].shape
    (8,)
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
