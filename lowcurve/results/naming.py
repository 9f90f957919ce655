"""Exact names of settings."""

import dataclasses
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np

from lowcurve.errors import InputError


def describe(setting: Any) -> str:
    """Return an exact and stable name of a setting: a cache key, a caption, and a check when a run is resumed.

    Dataclasses are written with every field, functions with module and name, numbers so that they can be read back.

    Args:
        setting: Numbers, text, lists, mappings, dataclasses or functions of a module.

    Raises:
        InputError: For a lambda, a local function or any other object: two different ones could get the same name.

    Example:
        >>> import math
        >>> describe({"radius": 0.1, "loss": math.sqrt})
        "{'radius': 0.1, 'loss': math.sqrt}"
    """
    if isinstance(setting, np.generic):
        setting = setting.item()
    if setting is None or isinstance(setting, bool | int | float | str):
        return repr(setting)
    if isinstance(setting, Mapping):
        return "{" + ", ".join(f"{describe(k)}: {describe(v)}" for k, v in setting.items()) + "}"
    if isinstance(setting, tuple | list):
        return "(" + ", ".join(map(describe, setting)) + ")"
    if dataclasses.is_dataclass(setting) and not isinstance(setting, type):
        parts = (f"{f.name}={describe(getattr(setting, f.name))}" for f in dataclasses.fields(setting))
        return f"{type(setting).__name__}({', '.join(parts)})"
    name = getattr(setting, "__qualname__", None)
    owner = getattr(setting, "__self__", None)
    # The name of a bound method does not tell its object. A builtin is bound to its module.
    bound = owner is not None and not isinstance(owner, ModuleType | type)
    if name is None or "<" in name or bound:
        raise InputError(
            "a setting with an exact name (numbers, text, dataclasses, functions of a module)",
            name or type(setting).__name__,
            "give it as a function or a frozen dataclass at the top of a module",
        )
    return f"{setting.__module__}.{name}"
