"""Values over a plane: a flat map a network, side by side, which the page's script turns into a surface in space on demand."""

import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from lowcurve.report.palette import (
    MARK_SYMBOLS,
    OVERLAYS,
    Style,
    class_color,
    mark_swatch,
    overlay_swatch,
    patch,
    scale,
    span_of,
)
from lowcurve.report.plots import as_json, plotted
from lowcurve.report.tables import draw_name, draw_table
from lowcurve.results import Cell, Column, Panel, Points, Surface, Table

HALO = {"color": "rgba(255,255,255,0.75)", "width": 5.0}
"""Around every line over a map, so that it is seen on any color."""


def draw_surface(surface: Surface, look: Mapping[str, Style]) -> str:
    """A map a panel under one scale and one legend, whose entries show and hide lines and marks in all of them.

    Each panel's data serves both its flat map and, where there are numbers, its surface in space: a button turns to it, so that
    a page of many is quick. Colors part at the surface's level; the scale is one for all panels.
    """
    present = _present(surface)
    panels = "".join(_panel(surface, name, panel, present, look) for name, panel in surface.panels.items())
    turn = '<button type="button" class="turn" aria-pressed="false">Show as surfaces to turn</button>'
    return (
        f'<div class="keys">{_scale(surface, present)}{_names(surface)}{"" if surface.classes else turn}</div>'
        f'<div class="panels">{panels}</div>'
    )


def draw_values(surface: Surface, look: Mapping[str, Style]) -> str:
    """What can be said of the maps in numbers, a row a panel, as a table that opens on demand."""
    columns, rows = _class_numbers(surface) if surface.classes else _numbers(surface)
    table = draw_table(Table(f"{surface.title}: the numbers", (Column("network"), *columns), rows), look)
    return f"<details><summary>The numbers</summary>{table}</details>"


def over(surface: Surface, panel: Panel, line: Points) -> list[float | None]:
    """The panel's value at each corner of the line, linear between the grid's points; none outside the grid.

    Example:
        >>> panel = Panel(np.array([[0.0, 1.0], [2.0, 3.0]]))
        >>> over(Surface("s", "x", "y", (0.0, 1.0), (0.0, 1.0), {"a": panel}, "z"), panel, Points((0.5, 2.0), (0.5, 0.0)))
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
    """The interval of the axis in which the value lies, and how far along."""
    number = min(int(np.searchsorted(axis, value, side="right")) - 1, len(axis) - 2)
    return number, (value - axis[number]) / (axis[number + 1] - axis[number])


def _present(surface: Surface) -> list[int]:
    """The classes that some panel shows."""
    return sorted(
        {int(k) for panel in surface.panels.values() for k in np.unique(panel.values)} if surface.classes else ()
    )


def overlays(surface: Surface) -> tuple[list[str], list[str]]:
    """The names of lines and of marks, in the order in which they are first seen."""
    lines = dict.fromkeys(name for panel in surface.panels.values() for name in panel.lines)
    marks = dict.fromkeys(name for panel in surface.panels.values() for name in panel.marks)
    return list(lines), list(marks)


def _scale(surface: Surface, present: Sequence[int]) -> str:
    """The colors' meaning, as text of the page."""
    if surface.classes:
        entries = "".join(f"<li>{patch(class_color(k))}<span>{escape(surface.classes[k])}</span></li>" for k in present)
        return f'<ul class="classes" aria-label="Classes">{entries}</ul>'
    low, high = span_of(surface)
    middle = (low + high) / 2 if surface.level is None else surface.level
    ramp = ", ".join(scale(surface))
    ticks = "".join(f"<span>{value:.3g}</span>" for value in (low, middle, high))
    return (
        f'<div class="scale"><p class="label">{escape(surface.value_label)}</p>'
        f'<div class="ramp" style="background: linear-gradient(to right, {ramp})"></div>'
        f'<div class="ticks">{ticks}</div></div>'
    )


def _names(surface: Surface) -> str:
    lines, marks = overlays(surface)
    swatches = [overlay_swatch(i) for i in range(len(lines))] + [mark_swatch(i) for i in range(len(marks))]
    entries = "".join(
        f'<li><button type="button" aria-pressed="true" data-line="{i}"><span class="named">{swatch}'
        f"<span>{escape(name)}</span></span></button></li>"
        for i, (name, swatch) in enumerate(zip([*lines, *marks], swatches, strict=True))
    )
    level = surface.level
    if level is not None:
        said = escape(f"{surface.value_label} = {level:g}")
        entries = f'<li><span class="named">{overlay_swatch(None)}<span>{said}</span></span></li>{entries}'
    return f'<ul class="names" aria-label="Lines and marks, shown or hidden">{entries}</ul>' if entries else ""


def _panel(surface: Surface, name: str, panel: Panel, present: Sequence[int], look: Mapping[str, Style]) -> str:
    figure = {
        "data": [_map(surface, panel, present), *_lines(surface, panel), *_marks(surface, panel)],
        "layout": _layout(surface),
        **({"classes": [plotted(surface.classes[k]) for k in present]} if surface.classes else {}),
    }
    what = surface.value_label or "class"
    label = escape(f"{name}: {what} over {surface.x_label} and {surface.y_label}; its numbers stand in the table below")
    note = f'<p class="note">{escape(panel.note)}</p>' if panel.note else ""
    return (
        f'<div class="panel"><h3>{draw_name(name, look)}</h3><p class="label">{escape(surface.y_label)}</p>'
        f'<div class="drawing" role="group" aria-label="{label}"></div>'
        f'<script type="application/json">{as_json(figure)}</script>'
        f'<p class="label under">{escape(surface.x_label)}</p>{note}</div>'
    )


def _map(surface: Surface, panel: Panel, present: Sequence[int]) -> dict[str, Any]:
    """Colors by value; the level as a line of the same trace."""
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
    """Each line on a halo; customdata is how high it lies on the surface."""
    names, _ = overlays(surface)
    found = []
    for name, line in panel.lines.items():
        color, dash = OVERLAYS[names.index(name) % len(OVERLAYS)]
        heights = [None] * len(line.x) if surface.classes else over(surface, panel, line)
        shared = {
            "type": "scatter",
            "mode": "lines",
            "name": plotted(name),
            "legendgroup": str(names.index(name)),
            "x": [_finite(v) for v in line.x],
            "y": [_finite(v) for v in line.y],
        }
        found.append({**shared, "line": HALO, "hoverinfo": "skip", "meta": "halo"})
        found.append(
            {**shared, "line": {"color": color, "dash": dash, "width": 2.25}, "customdata": heights, **_said(name)}
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
        heights = [None] if surface.classes else over(surface, panel, Points((x,), (y,)))
        where = {"type": "scatter", "mode": "markers", "x": [x], "y": [y], "legendgroup": str(len(lines) + number)}
        found.append({**where, "name": plotted(name), "marker": marker, "customdata": heights, **_said(name)})
    return found


def _said(name: str) -> dict[str, str]:
    return {"hovertemplate": f"{plotted(name)}<br>%{{x:.4~g}}, %{{y:.4~g}}<extra></extra>"}


def _finite(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None


def _layout(surface: Surface) -> dict[str, Any]:
    """The window is the grid's; where both axes are as long, a length is as long along either."""
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
            axis: {"title": {"text": plotted(re.split("[,(]", label)[0].strip())}} for axis, label in labels.items()
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
