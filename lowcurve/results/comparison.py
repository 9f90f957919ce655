"""Combine the results of several networks."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from lowcurve.errors import InputError
from lowcurve.results.kinds import Cell, Column, Curves, Gallery, Result, Scatter, Surface, Table


def merge(parts: Sequence[Result]) -> Result:
    """Merge results of one kind: tables get all rows, figures all lines, points or panels.

    Title and caption are the first result's. Conditions that all share are kept.

    Args:
        parts: One result per network, with the same columns or axes.

    Raises:
        InputError: If kinds, columns or axes differ.

    Example:
        >>> first, second = (Table("t", (Column("network"),), ((name,),)) for name in ("standard", "CURE"))
        >>> merge([first, second]).rows
        (('standard',), ('CURE',))
    """
    first = parts[0]
    shared = {k: v for k, v in first.conditions.items() if all(p.conditions.get(k) == v for p in parts)}
    tables = [p for p in parts if isinstance(p, Table)]
    curves = [p for p in parts if isinstance(p, Curves)]
    scatters = [p for p in parts if isinstance(p, Scatter)]
    galleries = [p for p in parts if isinstance(p, Gallery)]
    surfaces = [p for p in parts if isinstance(p, Surface)]
    if isinstance(first, Table) and len(tables) == len(parts) and len({t.columns for t in tables}) == 1:
        return dataclasses.replace(first, rows=tuple(row for t in tables for row in t.rows), conditions=shared)
    if isinstance(first, Curves) and len(curves) == len(parts) and len({c.x for c in curves}) == 1:
        lines = {name: line for c in curves for name, line in c.lines.items()}
        return dataclasses.replace(first, lines=lines, conditions=shared)
    if isinstance(first, Scatter) and len(scatters) == len(parts) and len(set(map(_axes, scatters))) == 1:
        points = {name: points for s in scatters for name, points in s.points.items()}
        return dataclasses.replace(first, points=points, conditions=shared)
    if isinstance(first, Gallery) and len(galleries) == len(parts) and len({g.column_labels for g in galleries}) == 1:
        return dataclasses.replace(
            first,
            row_labels=tuple(label for g in galleries for label in g.row_labels),
            pixels=np.concatenate([g.pixels for g in galleries]),
            notes=tuple(row for g in galleries for row in g.notes),
            conditions=shared,
        )
    if isinstance(first, Surface) and len(surfaces) == len(parts) and len(set(map(_grid, surfaces))) == 1:
        panels = {name: panel for s in surfaces for name, panel in s.panels.items()}
        return dataclasses.replace(first, panels=panels, conditions=shared)
    kinds = ", ".join(sorted({type(p).__name__ for p in parts}))
    raise InputError("results of one kind with the same columns or axis", kinds, "run the step again for all networks")


def _axes(scatter: Scatter) -> tuple[str | bool, ...]:
    return scatter.x_label, scatter.y_label, scatter.x_logarithmic, scatter.y_logarithmic, scatter.diagonal


def _grid(surface: Surface) -> tuple[object, ...]:
    labels = surface.x_label, surface.y_label, surface.value_label
    return *labels, surface.x, surface.y, surface.classes, surface.level


def join(title: str, tables: Sequence[Table], columns: Sequence[str], caption: str = "") -> Table:
    """Join chosen columns of several tables, with rows matched by their first cell.

    Missing cells are empty. A condition in which the tables differ is kept once per table, with the table's name.

    Args:
        title: Title of the new table.
        tables: The tables.
        columns: Headings of the columns to keep, in this order.
        caption: Caption of the new table.

    Example:
        >>> a = Table("a", (Column("network"), Column("accuracy")), (("CURE", 0.9),))
        >>> b = Table("b", (Column("network"), Column("curvature")), (("CURE", 2.0),))
        >>> join("both", [a, b], ["network", "curvature", "accuracy"]).rows
        (('CURE', 2.0, 0.9),)
    """
    found: dict[str, Column] = {}
    cells: dict[Cell, dict[str, Cell]] = {}
    for table in tables:
        found |= {column.heading: column for column in table.columns}
        for row in table.rows:
            names = (column.heading for column in table.columns)
            cells.setdefault(row[0], {}).update(dict(zip(names, row, strict=True)))
    chosen = tuple(found[name] for name in columns if name in found)
    rows = tuple(tuple(row.get(column.heading) for column in chosen) for row in cells.values())
    values = {k: {t.conditions[k] for t in tables if k in t.conditions} for t in tables for k in t.conditions}
    conditions = {
        key if len(values[key]) == 1 else f"{key} ({table.title.lower()})": value
        for table in tables
        for key, value in table.conditions.items()
    }
    return Table(title, chosen, rows, caption, conditions)
