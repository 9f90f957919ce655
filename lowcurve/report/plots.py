"""Lines and points over two axes, with their numbers below.

Plots are plain dictionaries in the format of plotly. `page` adds the script that draws them.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, TypeGuard

import numpy as np
from markupsafe import Markup

from lowcurve.report.palette import Style
from lowcurve.report.tables import draw_table
from lowcurve.report.templates import render
from lowcurve.results import Cell, Column, Curves, Line, Plot, Points, Scatter, Table

SHOWN_POINTS = 200
"""The most points that a table of numbers shows."""


def draw_curves(curves: Curves, style_of: Mapping[str, Style]) -> Markup:
    """Return lines and bands as data for the page's script, below a legend whose entries show and hide them.

    Args:
        curves: The lines.
        style_of: Styles by name.
    """
    pairs = [_traces(curves, i, name, line, style_of[name]) for i, (name, line) in enumerate(curves.lines.items())]
    data = [band for band, _ in pairs if band] + [drawn for _, drawn in pairs]
    y = [v for line in curves.lines.values() for values in (line.y, line.low, line.high) for v in values or ()]
    layout = {"xaxis": _axis(curves.x, curves.x_logarithmic), "yaxis": _axis(y, curves.y_logarithmic)}
    lost = _count_undrawn(
        curves, (pair for line in curves.lines.values() for pair in zip(curves.x, line.y, strict=True))
    )
    return _plot(curves, tuple(curves.lines), {"data": data, "layout": layout}, [lost], style_of)


def draw_scatter(scatter: Scatter, style_of: Mapping[str, Style]) -> Markup:
    """Return points as data for the page's script, below a legend whose entries show and hide them.

    With a diagonal, points below it have open markers. Notes count these points and those that cannot be drawn.

    Args:
        scatter: The points.
        style_of: Styles by name.
    """
    clouds = scatter.points.items()
    data = [_point_trace(scatter, i, name, points, style_of[name]) for i, (name, points) in enumerate(clouds)]
    x = [v for _, points in clouds for v in points.x]
    y = [v for _, points in clouds for v in points.y]
    # A diagonal needs the same range on both axes.
    both = x + y if scatter.diagonal else []
    layout = {
        "xaxis": _axis(both or x, scatter.x_logarithmic),
        "yaxis": _axis(both or y, scatter.y_logarithmic),
        "shapes": _diagonal(both, scatter.x_logarithmic),
        "hovermode": "closest",
    }
    complete = [pair for _, points in clouds for pair in _complete(points)]
    missing = len(x) - len(complete)
    notes = (
        _below(scatter) if scatter.diagonal else "",
        f"{_points_of(missing)} without a finite number cannot be drawn." if missing else "",
        _count_undrawn(scatter, complete),
    )
    return _plot(scatter, tuple(scatter.points), {"data": data, "layout": layout}, notes, style_of)


def draw_numbers(plot: Plot, style_of: Mapping[str, Style]) -> Markup:
    """Return the plotted values as a table that opens on demand, thinned evenly beyond 200 points.

    Args:
        plot: Lines or points.
        style_of: Styles by name.
    """
    if isinstance(plot, Curves):
        count, (columns, rows) = len(plot.x), _curves_numbers(plot)
    else:
        count, (columns, rows) = sum(len(points.x) for points in plot.points.values()), _scatter_numbers(plot)
    share = f" ({len(rows)} of {count} points)" if len(rows) < count else ""
    table = draw_table(Table(f"{plot.title}: the numbers", columns, rows), style_of)
    return render("numbers.html", share=share, table=table)


def _plot(
    plot: Plot, names: Sequence[str], figure: Mapping[str, Any], notes: Iterable[str], style_of: Mapping[str, Style]
) -> Markup:
    members = "Lines" if isinstance(plot, Curves) else "Points"
    return render("plot.html", plot=plot, names=names, members=members, figure=figure, notes=notes, style_of=style_of)


def _thinned(count: int, most: int) -> list[int]:
    return list(range(count)) if count <= most else np.linspace(0, count - 1, most).round().astype(int).tolist()


def _curves_numbers(curves: Curves) -> tuple[tuple[Column, ...], tuple[tuple[Cell, ...], ...]]:
    columns = (Column(curves.x_label, form=".4g"), *(Column(name, form=".4g") for name in curves.lines))
    kept = _thinned(len(curves.x), SHOWN_POINTS)
    return columns, tuple((curves.x[i], *(_point(line, i) for line in curves.lines.values())) for i in kept)


def _scatter_numbers(scatter: Scatter) -> tuple[tuple[Column, ...], tuple[tuple[Cell, ...], ...]]:
    """Show equally many rows of each network, so that networks with the same examples show the same ones."""
    axes = (Column(label, form=".4g") for label in (scatter.x_label, scatter.y_label))
    most = max(1, SHOWN_POINTS // max(1, len(scatter.points)))
    rows = tuple(
        (name, i, points.x[i], points.y[i])
        for name, points in scatter.points.items()
        for i in _thinned(len(points.x), most)
    )
    return (Column("network"), Column("example", "Its place among the examples, from 0.", "d"), *axes), rows


def _point(line: Line, i: int) -> Cell:
    y = line.y[i]
    if line.low is None or line.high is None or y is None:
        return y
    low, high = line.low[i], line.high[i]
    return y if low is None or high is None else (y, low, high)


def escape_for_plotly(text: str) -> str:
    """Escape a text that plotly would read as HTML.

    Args:
        text: A name or title.
    """
    return escape(text, quote=False)


def _axis(values: Sequence[float | None], logarithmic: bool) -> dict[str, Any]:
    """Return an axis: labels only at powers of ten if there are enough of them, and from zero if nothing is below it."""
    drawn = [v for v in _drawable(values, logarithmic) if v is not None]
    if not logarithmic:
        return {"type": "linear", "rangemode": "nonnegative" if drawn and min(drawn) >= 0 else "normal"}
    decades = math.log10(max(drawn) / min(drawn)) if drawn else 0
    ticks = {"dtick": max(1, math.ceil(decades / 8))} if decades > 1.5 else {"dtick": "D2"}
    return {"type": "log", "exponentformat": "power", **ticks}


def _drawable(values: Sequence[float | None], logarithmic: bool) -> list[float | None]:
    return [float(v) if _finite(v) and not (logarithmic and v <= 0) else None for v in values]


def _traces(
    curves: Curves, number: int, name: str, line: Line, style: Style
) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """Return the traces of a line's band, or None, and of the line."""
    x, y = _drawable(curves.x, curves.x_logarithmic), _drawable(line.y, curves.y_logarithmic)
    shared = _trace(number, name)
    # A point between two gaps is visible only as a marker, so a line with gaps shows every marker.
    marker = {"color": style.color, "symbol": style.marker, "size": 7, "maxdisplayed": 0 if None in y else 24}
    drawn = {
        **shared,
        "x": x,
        "y": y,
        "mode": "lines+markers",
        "line": {"color": style.color, "dash": style.dash, "width": 2.25},
        "marker": marker,
        "cliponaxis": False,
    }
    if line.low is None or line.high is None:
        return None, drawn
    low, high = _drawable(line.low, curves.y_logarithmic), _drawable(line.high, curves.y_logarithmic)
    outline_x, outline_y = _outline(x, low, high)
    red, green, blue = (int(style.color[i : i + 2], 16) for i in (1, 3, 5))
    band = {
        **shared,
        "x": outline_x,
        "y": outline_y,
        "mode": "lines",
        "line": {"width": 0},
        "fill": "toself",
        "fillcolor": f"rgba({red},{green},{blue},0.16)",
        "hoverinfo": "skip",
    }
    return band, drawn


def _outline(
    x: Sequence[float | None], low: Sequence[float | None], high: Sequence[float | None]
) -> tuple[list[float | None], list[float | None]]:
    """Return closed polygons around each unbroken stretch of the band, with None between them."""
    stretches: list[list[tuple[float, float, float]]] = [[]]
    for point in zip(x, low, high, strict=True):
        position, bottom, top = point
        if position is None or bottom is None or top is None:
            stretches.append([])
        else:
            stretches[-1].append((position, bottom, top))
    outline_x: list[float | None] = []
    outline_y: list[float | None] = []
    for stretch in filter(None, stretches):
        forth, back = stretch, stretch[::-1]
        outline_x += [*(p[0] for p in forth), *(p[0] for p in back), None]
        outline_y += [*(p[2] for p in forth), *(p[1] for p in back), None]
    return outline_x, outline_y


def _trace(number: int, name: str) -> dict[str, Any]:
    """Return the entries that all traces of a name share. The legend finds them by the number."""
    return {"type": "scatter", "name": escape_for_plotly(name), "legendgroup": str(number)}


def _point_trace(scatter: Scatter, number: int, name: str, points: Points, style: Style) -> dict[str, Any]:
    """Return points as a trace. Those that cannot be drawn stay as gaps, so a point's number is its example's."""
    x, y = _drawable(points.x, scatter.x_logarithmic), _drawable(points.y, scatter.y_logarithmic)
    below = [a is not None and b is not None and b < a for a, b in zip(x, y, strict=True)]
    symbols = [f"{style.marker}-open" if under else style.marker for under in below]
    return {
        **_trace(number, name),
        "x": x,
        "y": y,
        "mode": "markers",
        "marker": {
            "color": style.color,
            "symbol": symbols if scatter.diagonal else style.marker,
            "size": 8,
            "opacity": 0.7,
            "line": {"color": style.color, "width": 1.5 if scatter.diagonal else 0},
        },
        # Plotly's own box for the name is white on a dark page and cuts long names, so the name is inside the text.
        "hovertemplate": "%{fullData.name}<br>example %{pointNumber}<br>%{x}, %{y}<extra></extra>",
        "cliponaxis": False,
    }


def _diagonal(values: Sequence[float | None], logarithmic: bool) -> list[dict[str, Any]]:
    """Return the line y = x through all values, if there are any. The page's script colors it."""
    drawn = [v for v in _drawable(values, logarithmic) if v is not None]
    if not drawn:
        return []
    low, high = min(drawn), max(drawn)
    ends = {"x0": low, "y0": low, "x1": high, "y1": high}
    return [{"type": "line", **ends, "layer": "below", "line": {"width": 1.5, "dash": "dash"}}]


def _below(scatter: Scatter) -> str:
    shares = (
        f"{sum(y < x for x, y in complete)} of {len(complete)} ({name})"
        for name, complete in ((name, _complete(points)) for name, points in scatter.points.items())
    )
    return f"Below the line y = x, with open markers: {', '.join(shares)}."


def _complete(points: Points) -> list[tuple[float, float]]:
    return [(x, y) for x, y in zip(points.x, points.y, strict=True) if _finite(x) and _finite(y)]


def _finite(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def _points_of(points: int) -> str:
    return f"{points} {'point' if points == 1 else 'points'}"


def _count_undrawn(plot: Plot, pairs: Iterable[tuple[float | None, float | None]]) -> str:
    """Count the numbers that are gaps on a logarithmic axis."""
    lost = sum(
        (plot.x_logarithmic and x is not None and x <= 0) or (plot.y_logarithmic and y is not None and y <= 0)
        for x, y in pairs
    )
    return f"{_points_of(lost)} at or below zero cannot stand on a logarithmic axis; see the numbers." if lost else ""
