"""Check JSON values against the types of a dataclass's fields, the schema of every file of results."""

import dataclasses
import math
import types
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from lowcurve.errors import InputError, describe

T = TypeVar("T")
NAMES: dict[Any, str] = {
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    type(None): "null",
    np.ndarray: "an array of numbers",
}


def read_as(kind: type[T], content: Any) -> T:
    """Make a dataclass from JSON values, each of the type that its field declares.

    Lists become tuples or arrays, and objects become dataclasses or mappings. In an array null becomes NaN.

    Args:
        kind: The dataclass.
        content: Values as `json.loads` returns them.

    Raises:
        InputError: If a value is missing, unknown or of another type. The error names its place.

    Example:
        >>> from lowcurve.results import Line
        >>> read_as(Line, {"y": [0.5, None]})
        Line(y=(0.5, None), low=None, high=None)
        >>> read_as(Line, {"y": [0.5, "much"]})
        Traceback (most recent call last):
        ...
        lowcurve.errors.InputError: Expected y.1 to be a finite number or null, got 'much'. Write it with lowcurve.results.dump.
    """
    made: T = _read(kind, content, "")
    return made


def _read(kind: Any, value: Any, place: str) -> Any:
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        return _read_union(inner, value, place)
    if dataclasses.is_dataclass(kind):
        return _read_dataclass(kind, value, place)
    if kind is np.ndarray:
        return _read_array(value, place)
    if origin is tuple and isinstance(value, list | tuple):
        if inner[-1] is Ellipsis:
            return tuple([_read(inner[0], one, f"{place}.{i}") for i, one in enumerate(value)])
        if len(value) == len(inner):
            return tuple([_read(one, v, f"{place}.{i}") for i, (one, v) in enumerate(zip(inner, value, strict=True))])
    if isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(value, Mapping):
        return {str(key): _read(inner[1], one, f"{place}.{key}") for key, one in value.items()}
    if kind is float and _is_number(value):
        return value
    if kind in (str, bool, int, type(None)) and type(value) is kind and (kind is not int or _is_number(value)):
        return value
    raise _wrong(place, _name(kind), value)


def _read_union(kinds: tuple[Any, ...], value: Any, place: str) -> Any:
    for kind in kinds:
        try:
            return _read(kind, value, place)
        except InputError:
            continue
    raise _wrong(place, " or ".join(dict.fromkeys(map(_name, kinds))), value)


def _read_dataclass(kind: Any, value: Any, place: str) -> Any:
    if not isinstance(value, Mapping):
        raise _wrong(place, f"an object with the fields of {kind.__name__}", value)
    hints, fields = _hints(kind), {field.name: field for field in dataclasses.fields(kind) if field.init}
    dot = f"{place}." if place else ""
    if unknown := value.keys() - fields.keys():
        received = f"{min(map(str, unknown))!r} among them"
        raise _wrong(place, f"an object with the fields {', '.join(fields)}", value, received)
    made = {}
    for name, field in fields.items():
        if name in value:
            made[name] = _read(hints[name], value[name], f"{dot}{name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise _wrong(f"{dot}{name}", _name(hints[name]), None, "nothing")
    return kind(**made)


def _read_array(value: Any, place: str) -> np.ndarray:
    try:
        array = np.asarray(value, dtype=np.float64)
    except (ValueError, TypeError, OverflowError):
        array = np.full(1, np.inf)
    if not isinstance(value, list | np.ndarray) or np.isinf(array).any():
        raise _wrong(place, _name(np.ndarray), value)
    return array


def _is_number(value: Any) -> bool:
    """Return whether a value is a finite number; the largest whole numbers are no floats."""
    try:
        return type(value) in (int, float) and math.isfinite(float(value))
    except OverflowError:
        return False


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _name(kind: Any) -> str:
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(_name, inner)))
    if origin is tuple:
        return "a list" if inner[-1] is Ellipsis else f"a list of {len(inner)}"
    return NAMES.get(kind, "an object")


def _wrong(place: str, expected: str, value: Any, received: str = "") -> InputError:
    shown = "a number too large" if isinstance(value, int) and abs(value) > 10**18 else describe(value)
    hint = "write it with lowcurve.results.dump"
    return InputError(f"{place or 'the content'} to be {expected}", received or shown[:80], hint)
