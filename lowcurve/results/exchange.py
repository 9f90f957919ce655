"""Results as JSON and back."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from lowcurve.errors import InputError
from lowcurve.results.kinds import KINDS, Column, Curves, Gallery, Line, Panel, Points, Result, Scatter, Surface, Table


def dump(result: Result) -> dict[str, Any]:
    """Convert a result to plain JSON values.

    Pixels are rounded to four decimals and a surface's values to five digits. Numbers that are not finite become null.

    Args:
        result: The result.
    """
    kind = next(name for name, cls in KINDS.items() if isinstance(result, cls))
    content = {f.name: _plain(getattr(result, f.name)) for f in dataclasses.fields(result)}
    return {"kind": kind, **content}


def load(content: Mapping[str, Any]) -> Result:
    """Convert the JSON values of `dump` back to a result.

    Args:
        content: What `dump` returned.

    Raises:
        InputError: If the kind of result is unknown.

    Example:
        >>> table = Table("t", (Column("a"),), ((1.5,),))
        >>> load(dump(table)) == table
        True
    """
    fields = {name: _tuples(value) for name, value in content.items() if name != "kind"}
    kind = content.get("kind")
    if kind == "table":
        return Table(**{**fields, "columns": tuple(Column(**c) for c in fields["columns"])})
    if kind == "curves":
        return Curves(**{**fields, "lines": {name: Line(**line) for name, line in fields["lines"].items()}})
    if kind == "scatter":
        return Scatter(**{**fields, "points": {name: Points(**points) for name, points in fields["points"].items()}})
    if kind == "gallery":
        return Gallery(**{**fields, "pixels": np.asarray(fields["pixels"], dtype=np.float64)})
    if kind == "surface":
        return Surface(**{**fields, "panels": {name: _panel(panel) for name, panel in fields["panels"].items()}})
    raise InputError(f"a result of kind {', '.join(KINDS)}", repr(kind), "write it with lowcurve.results.dump")


def _panel(content: Mapping[str, Any]) -> Panel:
    values = np.asarray(content["values"], dtype=np.float64)  # null becomes NaN
    return Panel(
        values, {name: Points(**line) for name, line in content["lines"].items()}, content["marks"], content["note"]
    )


def _digits(value: float) -> float | None:
    return float(f"{value:.5g}") if math.isfinite(value) else None


def _plain(value: Any) -> Any:
    if isinstance(value, Panel):
        values = [[_digits(v) for v in row] for row in value.values.tolist()]
        return {"values": values, "lines": _plain(value.lines), "marks": _plain(value.marks), "note": value.note}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return np.round(value, 4).tolist()
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _tuples(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _tuples(v) for k, v in value.items()}
    if isinstance(value, list):
        return tuple(_tuples(v) for v in value)
    return value
