"""Values over a plane: one flat map per network, which the page's script turns into a surface in space on demand."""

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from lowcurve.report.axes import is_finite, make_axis
from lowcurve.report.charts import Frame, line_path, marks_path
from lowcurve.report.contours import contour
from lowcurve.report.images import map_source
from lowcurve.report.palette import Style, class_color, overlays, scale, span_of
from lowcurve.report.templates import render
from lowcurve.results import Panel, Points, Surface

SHARPEST = 100
"""A map has at least so many pixels along a side."""
COARSEST = 51
"""The most grid points along a side of a surface in space. Ten thousand of them would be slow to turn."""
SHADES = 256
STEPS = 65_534
"""Values in space are kept in so many steps between the smallest and the largest; one more means none."""


@dataclass(frozen=True)
class _Drawn:
    """A panel with its map and the paths over it."""

    name: str
    panel: Panel
    source: str
    level: str
    lines: tuple[tuple[int, str, str, str], ...]
    marks: tuple[tuple[int, str], ...]


def draw_surface(surface: Surface, style_of: Mapping[str, Style]) -> Markup:
    """Return one map per panel, with one color scale and one legend, whose entries show and hide lines and marks.

    A surface of values carries a coarser grid too, from which the page's script draws it in space. Colors change at the
    surface's level.

    Args:
        surface: The values over a plane.
        style_of: Styles by name.
    """
    present = _present(surface)
    lines, marks = overlays(surface)
    low, high = span_of(surface)
    middle = (low + high) / 2 if surface.level is None else surface.level
    width = 320.0
    frame = Frame(make_axis(surface.x, tight=True), make_axis(surface.y, tight=True), width, width - 34)
    return render(
        "surface.html",
        surface=surface,
        frame=frame,
        classes=[(class_color(k), surface.classes[k]) for k in present],
        ramp=scale(surface),
        ticks=[f"{value:.3g}" for value in (low, middle, high)],
        lines=lines,
        marks=marks,
        panels=[_panel(surface, frame, name, panel) for name, panel in surface.panels.items()],
        data=_data(surface, frame, present),
        style_of=style_of,
    )


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
    down, across = (np.interp([v], axis, np.arange(len(axis))) for v, axis in ((y, surface.y), (x, surface.x)))
    found = float(_at(values, down, across)[0, 0])
    return found if np.isfinite(found) else None


def _present(surface: Surface) -> list[int]:
    """Return the classes that occur in some panel."""
    return sorted(
        {int(k) for panel in surface.panels.values() for k in np.unique(panel.values)} if surface.classes else ()
    )


def _panel(surface: Surface, frame: Frame, name: str, panel: Panel) -> _Drawn:
    lines, marks = overlays(surface)
    level = ""
    if surface.level is not None:
        found = contour(surface.x, surface.y, panel.values, surface.level)
        level = "".join(line_path(frame.places(*zip(*line, strict=True))) for line in found)
    paths = tuple((*lines[key], line_path(frame.places(line.x, line.y))) for key, line in panel.lines.items())
    points = tuple(
        (marks[key][0], marks_path(frame.places([x], [y]), marks[key][1], outlined=True))
        for key, (x, y) in panel.marks.items()
    )
    return _Drawn(name, panel, _map(surface, panel), level, paths, points)


def _map(surface: Surface, panel: Panel) -> str:
    """Return the map as an image: the class, or the color of the value, at equally spaced points of the plane."""
    down, across = (_resampled(axis) for axis in (surface.y, surface.x))
    if surface.classes:
        colors = np.array([_levels(class_color(k)) for k in range(len(surface.classes))])
        return map_source(
            panel.values.astype(int)[np.ix_(np.rint(down).astype(int), np.rint(across).astype(int))], colors
        )
    low, high = span_of(surface)
    values = _at(panel.values, down, across)
    shares = np.clip((values - low) / (high - low), 0, 1)
    places = np.where(np.isfinite(values), np.rint(np.nan_to_num(shares) * (SHADES - 1)), -1).astype(int)
    return map_source(places, _shades(scale(surface)))


def _resampled(axis: Sequence[float], least: int = SHARPEST) -> np.ndarray:
    """Return places in the axis, counted in its points, that are equally far apart in its values."""
    wanted = np.linspace(axis[0], axis[-1], max(len(axis), least))
    return np.interp(wanted, axis, np.arange(len(axis)))


def _at(values: np.ndarray, down: np.ndarray, across: np.ndarray) -> np.ndarray:
    """Interpolate values on a grid at places between its points."""
    for axis, places in enumerate((down, across)):
        first = np.minimum(places.astype(int), values.shape[axis] - 2)
        share = (places - first).reshape((-1, 1) if axis == 0 else (1, -1))
        one, other = np.take(values, first, axis), np.take(values, first + 1, axis)
        # Exactly on a point its neighbor does not count, not even as NaN.
        values = np.where(share == 0, one, np.where(share == 1, other, (1 - share) * one + share * other))
    return values


def _shades(ramp: Sequence[str]) -> np.ndarray:
    stops = np.array([_levels(color) for color in ramp], dtype=float)
    where = np.linspace(0, len(ramp) - 1, SHADES)
    return np.stack([np.interp(where, np.arange(len(ramp)), stops[:, k]) for k in range(3)], 1).round()


def _levels(color: str) -> list[int]:
    return [int(color[i : i + 2], 16) for i in (1, 3, 5)]


def _data(surface: Surface, frame: Frame, present: Sequence[int]) -> dict[str, Any]:
    """Return what the page's script needs: for values a coarse grid in space, for classes their names by color."""
    heading, rows = _class_numbers(surface, present) if surface.classes else _numbers(surface)
    shared = {
        "kind": "surface",
        "labels": [surface.x_label, surface.y_label],
        **frame.data(),
        "table": [heading, *rows],
    }
    if surface.classes:
        return {**shared, "classes": {class_color(k): surface.classes[k] for k in present}}
    low, high = span_of(surface, whole=True)
    return {
        **shared,
        "span": span_of(surface),
        "heights": [low, high],
        "ramp": scale(surface),
        "panels": [_in_space(surface, panel, low, high) for panel in surface.panels.values()],
    }


def _in_space(surface: Surface, panel: Panel, low: float, high: float) -> dict[str, Any]:
    """Return a panel's values on a coarse grid of equal steps, and the heights of its lines and marks."""
    down, across = (_resampled(axis, 2)[:: math.ceil(len(axis) / COARSEST)] for axis in (surface.y, surface.x))
    values = _at(panel.values, down, across)
    steps = np.where(np.isfinite(values), np.nan_to_num((values - low) / (high - low)) * STEPS, STEPS + 1)
    packed = base64.b64encode(np.rint(steps).astype("<u2").tobytes()).decode("ascii")
    lines, marks = overlays(surface)
    return {
        "shape": [len(down), len(across)],
        "values": packed,
        "lines": [[*lines[key][:2], _corners(surface, panel, line)] for key, line in panel.lines.items()],
        "marks": [[marks[key][0], _corners(surface, panel, Points((x,), (y,)))] for key, (x, y) in panel.marks.items()],
    }


def _corners(surface: Surface, panel: Panel, line: Points) -> list[list[float] | None]:
    corners = zip(line.x, line.y, interpolate(surface, panel, line), strict=True)
    return [
        [float(f"{v:.4g}") for v in (x, y, z)] if is_finite(x) and is_finite(y) and is_finite(z) else None
        for x, y, z in corners
    ]


def _numbers(surface: Surface) -> tuple[list[str], list[list[str]]]:
    heading = ["network", "smallest", "median", "largest"]
    heading += [] if surface.level is None else [f"points below {surface.level:g}"]
    rows = []
    for name, panel in surface.panels.items():
        known = panel.values[np.isfinite(panel.values)]
        cells = [f"{v:.4g}" for v in np.quantile(known, (0, 0.5, 1))] if known.size else ["–"] * 3
        below = [] if surface.level is None else [f"{(known < surface.level).mean():.1%}" if known.size else "–"]
        rows.append([name, *cells, *below])
    return heading, rows


def _class_numbers(surface: Surface, present: Sequence[int]) -> tuple[list[str], list[list[str]]]:
    rows = [[name, *(f"{(panel.values == k).mean():.1%}" for k in present)] for name, panel in surface.panels.items()]
    return ["network", *(f"points of {surface.classes[k]}" for k in present)], rows
