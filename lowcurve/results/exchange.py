"""Results as JSON and back."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from lowcurve.errors import InputError, describe
from lowcurve.results.kinds import KINDS, Panel, Result
from lowcurve.results.schema import read_as


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
        InputError: If the kind of result is unknown, or a value is missing or of another type.

    Example:
        >>> from lowcurve.results import Column, Table
        >>> table = Table("t", (Column("a"),), ((1.5,),))
        >>> load(dump(table)) == table
        True
    """
    kind = content.get("kind") if isinstance(content, Mapping) else content
    if not isinstance(kind, str) or kind not in KINDS:
        raise InputError(f"a result of kind {', '.join(KINDS)}", describe(kind), "write it with lowcurve.results.dump")
    made: Result = read_as(KINDS[kind], {name: value for name, value in content.items() if name != "kind"})
    return made


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
