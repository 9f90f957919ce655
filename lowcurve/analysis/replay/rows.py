"""Rows of several vectors an example: row k * batch + i belongs to example i."""

from torch import Tensor


def times(t: Tensor, factor: Tensor | float, *, over: bool = False) -> Tensor:
    """t * factor, each example's factor for all of its rows; written over t if asked for, else laid out as the factor is."""
    if isinstance(factor, Tensor) and _rows_each(t, factor) > 1:
        rows = each(t, len(factor))
        return rows.mul_(factor).flatten(0, 1) if over else (factor * rows).flatten(0, 1)
    return t.mul_(factor) if over else factor * t


def each(rows: Tensor, batch: int) -> Tensor:
    """Rows as (vectors, batch, ...), a view."""
    return rows.view(-1, batch, *rows.shape[1:])


def _rows_each(t: Tensor, factor: Tensor) -> int:
    """How many rows of t belong to one of factor's, 1 where plain broadcasting is right."""
    batch = len(factor) if factor.ndim == t.ndim else 1
    return 1 if batch == 1 else len(t) // batch


def taken(values: Tensor, rows: Tensor) -> Tensor:
    """The rows of what has an axis of examples; what is the same for all examples stays."""
    return values if values.ndim == 0 or len(values) == 1 else values[rows]
