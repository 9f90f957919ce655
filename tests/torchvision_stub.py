"""Let libraries be imported where torchvision is missing: they name classes of it at import that these tests never use."""

import importlib
import importlib.machinery
import importlib.util
import sys
import warnings
from types import ModuleType

MODULES = (
    "", ".ops", ".ops.misc", ".transforms", ".transforms.functional", ".datasets", ".utils", ".models", ".models.resnet",
    ".datasets.vision", ".datasets.folder", ".transforms.functional_tensor",
)  # fmt: skip


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
        made = _Named(name, (), {"__init__": lambda *_args, **_options: None})
        setattr(self, name, made)
        return made


def import_timm() -> ModuleType:
    """Return timm.

    Raises:
        ImportError: If timm is not installed.
    """
    return import_library("timm")


def import_library(library: str, *unused: str) -> ModuleType:
    """Return a library, imported with modules in the place of torchvision if that is not installed.

    Args:
        library: The module to import.
        *unused: Other modules that it imports and these tests do not use.

    Raises:
        ImportError: If the library is not installed.
    """
    added = [] if importlib.util.find_spec("torchvision") else [f"torchvision{name}" for name in MODULES]
    added += [name for name in unused if name not in sys.modules and not importlib.util.find_spec(name)]
    for name in added:
        module = _Module(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(library)
    finally:
        for name in added:  # transformers would take them for torchvision
            del sys.modules[name]
