"""Parts for other programs: training loops, metrics, trackers, model hubs and other libraries' attacks.

Each module fits one library and imports it, so this package imports none of them before it is used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
