"""Values over a plane: one flat map per network, which the page's script turns into a surface in space on demand."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from lowcurve.report.palette import MARK_SYMBOLS, OVERLAYS, Style, class_color, scale, span_of
from lowcurve.report.plots import escape_for_plotly
from lowcurve.report.tables import draw_table
from lowcurve.report.templates import render
from lowcurve.results import Cell, Column, Panel, Points, Surface, Table

HALO = {"color": "rgba(255,255,255,0.75)", "width": 5.0}
"""Drawn below every line over a map, so that the line is visible on any color."""


def draw_surface(surface: Surface, style_of: Mapping[str, Style]) -> Markup:
    """Return one map per panel, with one color scale and one legend, whose entries show and hide lines and marks.

    The data of a panel serves its flat map and, unless it shows classes, its surface in space: a button turns to it. Colors
    change at the surface's level.

    Args:
        surface: The values over a plane.
        style_of: Styles by name.
    """
    present = _present(surface)
    lines, marks = overlays(surface)
    low, high = span_of(surface)
    middle = (low + high) / 2 if surface.level is None else surface.level
    return render(
        "surface.html",
        surface=surface,
        classes=[(class_color(k), surface.classes[k]) for k in present],
        ramp=scale(surface),
        ticks=[f"{value:.3g}" for value in (low, middle, high)],
        lines=[(name, *OVERLAYS[i % len(OVERLAYS)]) for i, name in enumerate(lines)],
        marks=[(name, MARK_SYMBOLS[i % len(MARK_SYMBOLS)]) for i, name in enumerate(marks)],
        panels=[(name, panel, _figure(surface, panel, present)) for name, panel in surface.panels.items()],
        style_of=style_of,
    )


def draw_values(surface: Surface, style_of: Mapping[str, Style]) -> Markup:
    """Return numbers about the maps, one row per panel, as a table that opens on demand.

    Args:
        surface: The values over a plane.
        style_of: Styles by name.
    """
    columns, rows = _class_numbers(surface) if surface.classes else _numbers(surface)
    table = draw_table(Table(f"{surface.title}: the numbers", (Column("network"), *columns), rows), style_of)
    return render("numbers.html", share="", table=table)


def interpolate(surface: Surface, panel: Panel, line: Points) -> list[float | None]:
    """Interpolate a panel's values linearly at each corner of a line; None outside the grid.

    Args:
        surface: The surface, whose axes are the grid.
        panel: One of its panels.
        line: Corners of a line over the plane.

    Example:
        >>> panel = Panel(np.array([[0.0, 1.0], [2.0, 3.0]]))
        >>> surface = Surface("s", "x", "y", (0.0, 1.0), (0.0, 1.0), {"a": panel}, "z")
        >>> interpolate(surface, panel, Points((0.5, 2.0), (0.5, 0.0)))
        [1.5, None]
    """
    return [_between(surface, panel.values, x, y) for x, y in zip(line.x, line.y, strict=True)]


def _between(surface: Surface, values: np.ndarray, x: float | None, y: float | None) -> float | None:
    if x is None or y is None or not (surface.x[0] <= x <= surface.x[-1] and surface.y[0] <= y <= surface.y[-1]):
        return None
    (i, across), (j, along) = _place(surface.y, y), _place(surface.x, x)
    rows = values[i : i + 2, j : j + 2] @ np.array([1 - along, along])
    found = float(rows @ np.array([1 - across, across]))
    return found if np.isfinite(found) else None


def _place(axis: Sequence[float], value: float) -> tuple[int, float]:
    """Return the number of the axis' interval that holds the value, and the value's share of it."""
    number = min(int(np.searchsorted(axis, value, side="right")) - 1, len(axis) - 2)
    return number, (value - axis[number]) / (axis[number + 1] - axis[number])


def _present(surface: Surface) -> list[int]:
    """Return the classes that occur in some panel."""
    return sorted(
        {int(k) for panel in surface.panels.values() for k in np.unique(panel.values)} if surface.classes else ()
    )


def overlays(surface: Surface) -> tuple[list[str], list[str]]:
    """Return the names of all lines and all marks, in the order in which they first occur.

    Args:
        surface: The surface with its panels.
    """
    lines = dict.fromkeys(name for panel in surface.panels.values() for name in panel.lines)
    marks = dict.fromkeys(name for panel in surface.panels.values() for name in panel.marks)
    return list(lines), list(marks)


def _figure(surface: Surface, panel: Panel, present: Sequence[int]) -> dict[str, Any]:
    """Return a panel as a figure of plotly."""
    classes = {"classes": [escape_for_plotly(surface.classes[k]) for k in present]} if surface.classes else {}
    data = [_map(surface, panel, present), *_lines(surface, panel), *_marks(surface, panel)]
    return {"data": data, "layout": _layout(surface), **classes}


def _map(surface: Surface, panel: Panel, present: Sequence[int]) -> dict[str, Any]:
    """Return the map as a trace: colors by value, the level as a line."""
    grid = {"x": list(surface.x), "y": list(surface.y), "showscale": False}
    if surface.classes:
        count, colors = len(present), [class_color(k) for k in present]
        stops = [[(k + end) / count, color] for k, color in enumerate(colors) for end in (0, 1)]
        places = {number: k for k, number in enumerate(present)}
        classes = [[places[int(v)] for v in row] for row in panel.values.tolist()]
        ends = {"zmin": -0.5, "zmax": count - 0.5, "colorscale": stops}
        return {
            "type": "heatmap",
            **grid,
            "z": classes,
            **ends,
            "hovertemplate": "%{x:.4~g}, %{y:.4~g}: %{text}<extra></extra>",
        }
    low, high = span_of(surface)
    ramp = scale(surface)
    shades = [[k / (len(ramp) - 1), color] for k, color in enumerate(ramp)]
    z = [[_short(v) for v in row] for row in panel.values.tolist()]
    shared = {**grid, "z": z, "zmin": low, "zmax": high, "colorscale": shades}
    shared["hovertemplate"] = "%{x:.4~g}, %{y:.4~g}: %{z:.4~g}<extra></extra>"
    contours: dict[str, Any] = {"coloring": "heatmap"}
    if surface.level is not None:
        contours |= {"start": surface.level, "end": surface.level, "size": 1}
    width = 0 if surface.level is None else 1.75
    return {"type": "contour", **shared, "contours": contours, "line": {"color": "#111111", "width": width}}


def _short(value: float) -> float | None:
    return float(f"{value:.4g}") if np.isfinite(value) else None


def _lines(surface: Surface, panel: Panel) -> list[dict[str, Any]]:
    """Return each line above a halo; customdata is its height on the surface."""
    names, _ = overlays(surface)
    found = []
    for name, line in panel.lines.items():
        color, dash = OVERLAYS[names.index(name) % len(OVERLAYS)]
        heights = [None] * len(line.x) if surface.classes else interpolate(surface, panel, line)
        shared = {
            "type": "scatter",
            "mode": "lines",
            "name": escape_for_plotly(name),
            "legendgroup": str(names.index(name)),
            "x": [_finite(v) for v in line.x],
            "y": [_finite(v) for v in line.y],
        }
        found.append({**shared, "line": HALO, "hoverinfo": "skip", "meta": "halo"})
        found.append(
            {**shared, "line": {"color": color, "dash": dash, "width": 2.25}, "customdata": heights, **_hover(name)}
        )
    return found


def _marks(surface: Surface, panel: Panel) -> list[dict[str, Any]]:
    lines, marks = overlays(surface)
    found = []
    for name, (x, y) in panel.marks.items():
        number = marks.index(name)
        marker = {
            "symbol": MARK_SYMBOLS[number % len(MARK_SYMBOLS)],
            "size": 10,
            "color": "#ffffff",
            "line": {"color": "#111111", "width": 1.5},
        }
        heights = [None] if surface.classes else interpolate(surface, panel, Points((x,), (y,)))
        where = {"type": "scatter", "mode": "markers", "x": [x], "y": [y], "legendgroup": str(len(lines) + number)}
        found.append(
            {**where, "name": escape_for_plotly(name), "marker": marker, "customdata": heights, **_hover(name)}
        )
    return found


def _hover(name: str) -> dict[str, str]:
    return {"hovertemplate": f"{escape_for_plotly(name)}<br>%{{x:.4~g}}, %{{y:.4~g}}<extra></extra>"}


def _finite(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None


def _layout(surface: Surface) -> dict[str, Any]:
    """Return a layout whose window is the grid, with equal scales if both axes are equally long."""
    width, height = surface.x[-1] - surface.x[0], surface.y[-1] - surface.y[0]
    same = abs(width - height) < 1e-6 * max(width, height)
    shown = {"zeroline": False, "showgrid": False, "nticks": 6, "constrain": "domain"}
    layout: dict[str, Any] = {
        "xaxis": {**shown, "range": [surface.x[0], surface.x[-1]]},
        "yaxis": {**shown, "range": [surface.y[0], surface.y[-1]], **({"scaleanchor": "x"} if same else {})},
        "hovermode": "closest",
    }
    if not surface.classes:
        labels = {"xaxis": surface.x_label, "yaxis": surface.y_label, "zaxis": ""}  # the scale's label is enough
        layout["scene"] = {
            axis: {"title": {"text": escape_for_plotly(re.split("[,(]", label)[0].strip())}}
            for axis, label in labels.items()
        }
        layout["scene"]["zaxis"]["range"] = list(span_of(surface, whole=True))
    return layout


def _numbers(surface: Surface) -> tuple[tuple[Column, ...], tuple[tuple[Cell, ...], ...]]:
    columns = [Column("smallest", form=".4g"), Column("median", form=".4g"), Column("largest", form=".4g")]
    if surface.level is not None:
        columns.append(Column(f"below {surface.level:g}", "Share of the grid's points.", ".1%"))
    rows: list[tuple[Cell, ...]] = []
    for name, panel in surface.panels.items():
        known = panel.values[np.isfinite(panel.values)]
        cells = [float(v) for v in np.quantile(known, (0, 0.5, 1))] if known.size else [None] * 3
        below = [] if surface.level is None else [float((known < surface.level).mean()) if known.size else None]
        rows.append((name, *cells, *below))
    return tuple(columns), tuple(rows)


def _class_numbers(surface: Surface) -> tuple[tuple[Column, ...], tuple[tuple[Cell, ...], ...]]:
    present = _present(surface)
    columns = (Column(surface.classes[k], "Share of the grid's points.", ".1%") for k in present)
    rows: list[tuple[Cell, ...]] = []
    for name, panel in surface.panels.items():
        rows.append((name, *(float((panel.values == k).mean()) for k in present)))
    return tuple(columns), tuple(rows)
