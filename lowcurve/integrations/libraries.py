"""The import of other libraries, as this folder's modules use it; see `lowcurve.libraries`."""

from lowcurve.libraries import base_class, require_library

__all__ = ["base_class", "require_library"]
