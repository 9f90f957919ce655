"""Narrow results to their kind, and read the cells of tables."""

from typing import TypeVar

from lowcurve.results import Cell, Curves, Result, Surface, Table

R = TypeVar("R", bound=Result)


def as_table(result: Result) -> Table:
    """Return a result that must be a table.

    Args:
        result: Any result.

    Raises:
        TypeError: If it is of another kind.
    """
    return _check_kind(result, Table)


def as_curves(result: Result) -> Curves:
    """Return a result that must be curves.

    Args:
        result: Any result.

    Raises:
        TypeError: If it is of another kind.
    """
    return _check_kind(result, Curves)


def as_surface(result: Result) -> Surface:
    """Return a result that must be a surface.

    Args:
        result: Any result.

    Raises:
        TypeError: If it is of another kind.
    """
    return _check_kind(result, Surface)


def read_records(table: Result) -> list[dict[str, Cell]]:
    """Return each row as a mapping from headings to cells.

    Args:
        table: A table; results of other kinds raise `TypeError`.

    Example:
        >>> from lowcurve.results import Column
        >>> read_records(Table("t", (Column("network"), Column("C")), (("CURE", 2.0),)))
        [{'network': 'CURE', 'C': 2.0}]
    """
    found = as_table(table)
    headings = [column.heading for column in found.columns]
    return [dict(zip(headings, row, strict=True)) for row in found.rows]


def read_cells(table: Result) -> dict[str, dict[str, Cell]]:
    """Return the cells by row and heading. A row is named by its first cell.

    Args:
        table: A table whose rows have different names.

    Example:
        >>> from lowcurve.results import Column
        >>> read_cells(Table("t", (Column("network"), Column("C")), (("CURE", 2.0),)))["CURE"]["C"]
        2.0
    """
    return {str(row[0]): record for row, record in zip(as_table(table).rows, read_records(table), strict=True)}


def read_value(cell: Cell) -> float:
    """Return a cell's number without its interval, or NaN for an empty cell.

    Args:
        cell: A number, a number with its interval, or None.

    Example:
        >>> read_value((0.5, 0.4, 0.6))
        0.5
    """
    number = cell[0] if isinstance(cell, tuple) else cell
    return float("nan") if number is None else float(number)


def _check_kind(result: Result, kind: type[R]) -> R:
    if not isinstance(result, kind):
        raise TypeError(f"the result {result.title!r} is {type(result).__name__}, not {kind.__name__}")
    return result
