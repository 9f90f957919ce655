"""Lines and points over two axes as SVG, with their numbers as data for the page's script."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from lowcurve.report.axes import Axis, Number, is_finite, make_axis, with_margin
from lowcurve.report.charts import Frame, band_path, line_path, marks_path
from lowcurve.report.palette import Style
from lowcurve.report.templates import render
from lowcurve.results import Curves, Line, Plot, Points, Scatter

MARKS = 24
"""The most marks on a line without gaps."""
BANDS = 10
"""Bands are drawn for at most so many lines. More of them would cover each other; the numbers have them."""


@dataclass(frozen=True)
class Layer:
    """A line or the points of one name, as paths.

    Attributes:
        style: Its style.
        line: Path of the line.
        band: Outline of the band around it.
        marks: Path of the filled marks.
        hollow: Path of the open marks.
    """

    style: Style
    line: str = ""
    band: str = ""
    marks: str = ""
    hollow: str = ""


def draw_curves(curves: Curves, style_of: Mapping[str, Style]) -> Markup:
    """Return lines and bands below a legend whose entries show and hide them.

    Args:
        curves: The lines.
        style_of: Styles by name.
    """
    values = [v for line in curves.lines.values() for part in (line.y, line.low, line.high) for v in part or ()]
    across = make_axis(curves.x, logarithmic=curves.x_logarithmic, tight=True)
    frame = Frame(across, _upright(values, curves.y_logarithmic))
    bands = sum(line.low is not None for line in curves.lines.values()) <= BANDS
    layers = [_line(curves, frame, line, style_of[name], band=bands) for name, line in curves.lines.items()]
    pairs = (pair for line in curves.lines.values() for pair in zip(curves.x, line.y, strict=True))
    lines = [
        {"name": name, **{part: _short(getattr(line, part)) for part in ("y", "low", "high") if getattr(line, part)}}
        for name, line in curves.lines.items()
    ]
    data = {"kind": "curves", "x": _short(curves.x), "lines": lines}
    return _plot(curves, frame, list(curves.lines), layers, data, [_count_undrawn(curves, pairs)], style_of)


def draw_scatter(scatter: Scatter, style_of: Mapping[str, Style]) -> Markup:
    """Return points below a legend whose entries show and hide them.

    With a diagonal, points below it have open markers. Notes count these points and those that cannot be drawn.

    Args:
        scatter: The points.
        style_of: Styles by name.
    """
    x = [v for points in scatter.points.values() for v in points.x]
    y = [v for points in scatter.points.values() for v in points.y]
    # A diagonal needs the same range on both axes.
    both = x + y if scatter.diagonal else None
    frame = Frame(_upright(both or x, scatter.x_logarithmic), _upright(both or y, scatter.y_logarithmic))
    layers = [_points(scatter, frame, points, style_of[name]) for name, points in scatter.points.items()]
    complete = [pair for points in scatter.points.values() for pair in _complete(points)]
    missing = len(x) - len(complete)
    notes = (
        _below(scatter) if scatter.diagonal else "",
        f"{_points_of(missing)} without a finite number cannot be drawn." if missing else "",
        _count_undrawn(scatter, complete),
    )
    lines = [{"name": name, "x": _short(p.x), "y": _short(p.y)} for name, p in scatter.points.items()]
    data = {"kind": "scatter", "lines": lines}
    return _plot(scatter, frame, list(scatter.points), layers, data, notes, style_of)


def _plot(
    plot: Plot,
    frame: Frame,
    names: Sequence[str],
    layers: Sequence[Layer],
    data: Mapping[str, Any],
    notes: Iterable[str],
    style_of: Mapping[str, Style],
) -> Markup:
    data = {**data, "labels": [plot.x_label, plot.y_label], **frame.data()}
    diagonal = ""
    if isinstance(plot, Scatter) and plot.diagonal:
        ends = [max(frame.x.low, frame.y.low), min(frame.x.high, frame.y.high)]
        diagonal = line_path(frame.places(ends, ends))
    return render(
        "plot.html",
        plot=plot,
        names=names,
        layers=layers,
        frame=frame,
        diagonal=diagonal,
        data=data,
        notes=[note for note in notes if note],
        style_of=style_of,
    )


def _upright(values: Iterable[Number], logarithmic: bool) -> Axis:
    return with_margin(make_axis(values, logarithmic=logarithmic))


def _line(curves: Curves, frame: Frame, line: Line, style: Style, *, band: bool) -> Layer:
    places = frame.places(curves.x, line.y)
    known = [place for place in places if place is not None]
    # A point between two gaps is visible only as a mark, so a line with gaps shows every mark.
    thin = len(known) == len(places) and len(known) > MARKS
    marked = [known[i] for i in np.linspace(0, len(known) - 1, MARKS).round().astype(int)] if thin else known
    outline = ""
    if band and line.low is not None and line.high is not None:
        outline = band_path(frame.places(curves.x, line.high), frame.places(curves.x, line.low))
    return Layer(style, line_path(places), outline, marks_path(marked, style.marker))


def _points(scatter: Scatter, frame: Frame, points: Points, style: Style) -> Layer:
    places = frame.places(points.x, points.y)
    below = [
        scatter.diagonal and is_finite(a) and is_finite(b) and b < a for a, b in zip(points.x, points.y, strict=True)
    ]
    filled, hollow = ([p for p, under in zip(places, below, strict=True) if under == which] for which in (False, True))
    return Layer(style, marks=marks_path(filled, style.marker), hollow=marks_path(hollow, style.marker, outlined=True))


def _short(values: Sequence[Number]) -> list[Number]:
    """Return numbers as the page shows them: four digits, and nothing for what is not finite."""
    return [float(f"{v:.4g}") if is_finite(v) else None for v in values]


def _below(scatter: Scatter) -> str:
    shares = (
        f"{sum(y < x for x, y in complete)} of {len(complete)} ({name})"
        for name, complete in ((name, _complete(points)) for name, points in scatter.points.items())
    )
    return f"Below the line y = x, with open markers: {', '.join(shares)}."


def _complete(points: Points) -> list[tuple[float, float]]:
    return [(x, y) for x, y in zip(points.x, points.y, strict=True) if is_finite(x) and is_finite(y)]


def _points_of(points: int) -> str:
    return f"{points} {'point' if points == 1 else 'points'}"


def _count_undrawn(plot: Plot, pairs: Iterable[tuple[Number, Number]]) -> str:
    """Count the numbers that are gaps on a logarithmic axis."""
    lost = sum(
        (plot.x_logarithmic and x is not None and x <= 0) or (plot.y_logarithmic and y is not None and y <= 0)
        for x, y in pairs
    )
    return f"{_points_of(lost)} at or below zero cannot stand on a logarithmic axis; see the numbers." if lost else ""
