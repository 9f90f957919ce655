"""Let timm be imported where torchvision is missing: it names classes of torchvision at import that networks never use."""

import importlib.machinery
import importlib.util
import sys
from types import ModuleType

MODULES = ("", ".ops", ".ops.misc", ".transforms", ".transforms.functional", ".datasets", ".utils")


class _Named(type):
    """A class whose unknown attributes are their own names, as those of an enumeration."""

    def __getattr__(cls, name: str) -> str:
        if name.startswith("__"):
            raise AttributeError(name)
        return name


class _Module(ModuleType):
    """A module that has every class."""

    __path__ = ()

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        made = _Named(name, (), {})
        setattr(self, name, made)
        return made


def provide() -> None:
    """Put modules in the place of torchvision, if it is not installed."""
    if "torchvision" in sys.modules or importlib.util.find_spec("torchvision") is not None:
        return
    for name in MODULES:
        module = _Module(f"torchvision{name}")
        module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, None)
        sys.modules[module.__name__] = module
        parent, _, child = module.__name__.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
