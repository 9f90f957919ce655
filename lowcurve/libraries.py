"""Import other libraries, and tell in one sentence if one is missing."""

import importlib
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NoReturn

from lowcurve.errors import InputError, nearest

LOGGERS = {"csv": "", "tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow", "trackio": "trackio"}
"""The library that each logger of trainings needs, if any."""


def require_library(*modules: str, install: str, purpose: str = "") -> ModuleType:
    """Import the first of these modules that is installed.

    Args:
        *modules: Modules by falling preference, such as "lightning.pytorch" and "pytorch_lightning".
        install: What to install, as pip names it.
        purpose: What needs the library, such as "for parquet files".

    Returns:
        The module.

    Raises:
        InputError: If none is installed.

    Example:
        >>> require_library("a_missing_library", "math", install="math").__name__
        'math'
        >>> require_library("a_missing_library", install="a-missing-library")
        Traceback (most recent call last):
        ...
        lowcurve.errors.InputError: Expected the library a_missing_library, got an environment without it. \
Run pip install a-missing-library.
    """
    for module in modules:
        try:
            return importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] != module.partition(".")[0]:
                raise  # the library is there, and misses another one
    names = " or ".join(dict.fromkeys(module.partition(".")[0] for module in modules))
    wanted = f"{names} {purpose}".rstrip()
    raise InputError(f"the library {wanted}", "an environment without it", f"run pip install {install}")


def base_class(name: str, *modules: str, install: str) -> Any:
    """Return a class of another library to inherit from, or a stand-in if the library is missing.

    A module can thus define its subclasses without the library. Creating an instance then raises the error of
    `require_library`.

    Args:
        name: Name of the class.
        *modules: Modules that have it, by falling preference.
        install: What to install, as pip names it.

    Example:
        >>> class Part(base_class("Callback", "a_missing_library", install="a-missing-library")): ...
        >>> Part()
        Traceback (most recent call last):
        ...
        lowcurve.errors.InputError: Expected the library a_missing_library, got an environment without it. \
Run pip install a-missing-library.
    """
    try:
        return getattr(require_library(*modules, install=install), name)
    except InputError:

        def refuse(_: type, *_args: object, **_words: object) -> NoReturn:
            require_library(*modules, install=install)
            raise AssertionError("the library appeared after this module was imported")

        return type(name, (), {"__new__": refuse})


def require_logger_names(kinds: Sequence[str]) -> None:
    """Raise an error for loggers that do not exist.

    Args:
        kinds: Names of loggers.

    Raises:
        InputError: If a name is none of csv, tensorboard, wandb, mlflow and trackio.
    """
    for kind in kinds:
        if kind not in LOGGERS:
            hint = nearest(kind, LOGGERS, "write --loggers csv,tensorboard")
            raise InputError(f"loggers among {', '.join(LOGGERS)}", repr(kind), hint)
