"""Colors, markers and dashes: the same for a network, a class or a number in every figure of a page."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lowcurve.results import Curves, Gallery, Plot, Result, Surface, Table

# Okabe and Ito's palette by falling contrast on white, without yellow (unreadable there) and with gray instead of black
# (unreadable on a dark page).
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#808080")
DASHES = {"solid": "", "dash": "4 2", "dot": "1.5 1.5", "longdash": "7 2"}
SHAPES = {
    "circle": "m-3 0a3 3 0 1 0 6 0a3 3 0 1 0-6 0z",
    "square": "m-2.7-2.7h5.4v5.4h-5.4z",
    "diamond": "m0-3.8l3.8 3.8-3.8 3.8-3.8-3.8z",
    "triangle-up": "m0-3.7l3.6 6.4h-7.2z",
    "triangle-down": "m0 3.7l3.6-6.4h-7.2z",
    "x": "m-2.6-3.9l2.6 2.6 2.6-2.6 1.3 1.3-2.6 2.6 2.6 2.6-1.3 1.3-2.6-2.6-2.6 2.6-1.3-1.3 2.6-2.6-2.6-2.6z",
}
"""Marks, drawn from their middle."""
MARKERS = ("circle", "square", "diamond", "triangle-up", "triangle-down")
"""The marks of networks, in turn."""

# Tol's muted scheme, safe for color blindness. A second and third round are lighter and darker.
CLASSES = (
    "#332288", "#ddcc77", "#44aa99", "#cc6677", "#88ccee", "#882255", "#117733", "#bbbbbb", "#aa4499", "#999933",
)  # fmt: skip
# Viridis in nine steps for numbers without a middle; otherwise blue above and orange below a nearly white level.
RISING = ("#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725")
PARTED = ("#6e2f00", "#b44e00", "#e08a4f", "#f5c6a5", "#f7f7f7", "#b3d4e8", "#5ba3cf", "#0072b2", "#013d66")
OVERLAYS = (("#a3005f", "dash"), ("#111111", "dot"), ("#00694b", "solid"), ("#111111", "longdash"))
"""Color and dash of the lines over a map, in turn."""
MARK_SYMBOLS = ("circle", "x", "diamond", "triangle-up", "square")
"""The marks over a map, in turn."""


@dataclass(frozen=True)
class Style:
    """The style of one network in every figure, readable without color.

    Attributes:
        color: Hexadecimal color.
        marker: A name in `MARKERS`.
        dash: A name in `DASHES`.
    """

    color: str
    marker: str
    dash: str


def styles(results: Sequence[Result]) -> dict[str, Style]:
    """Assign one style to each name that occurs in a plot, in the order in which the names first occur on the page.

    Names that occur in no plot take no color: a table of attacks leaves the palette to the networks. A name that begins
    with another and a comma, such as "CURE, estimate", has that one's color, dotted; one that adds a remark in brackets, such
    as "CURE (upper bound)", has its style. The first 140 names differ.

    Args:
        results: All results of the page.

    Example:
        >>> from lowcurve.results import Line
        >>> line = Line((1.0,))
        >>> curves = Curves("accuracy", "radius", "accuracy", (0.0,), {"CURE": line, "standard": line})
        >>> {name: style.marker for name, style in styles([curves]).items()}
        {'CURE': 'circle', 'standard': 'square'}
    """
    drawn = {name for result in results if isinstance(result, Plot) for name in _names(result)}
    seen = dict.fromkeys(name for result in results for name in _names(result) if name in drawn)
    kin = {name: head for name in seen if (head := name.partition(", ")[0]) in seen and head != name}
    same = {name: head for name in seen if (head := name.partition(" (")[0]) in seen and head != name}
    colors, markers, dashes = COLORS, MARKERS, tuple(DASHES)
    own = {
        name: Style(colors[i % len(colors)], markers[i % len(markers)], dashes[i // len(colors) % len(dashes)])
        for i, name in enumerate(name for name in seen if name not in kin and name not in same)
    }
    found = {
        name: replace(own[kin[name]], dash="dot") if name in kin else own[name] for name in seen if name not in same
    }
    return {name: found[same[name]] if name in same else found[name] for name in seen}


def _names(result: Result) -> tuple[str, ...]:
    if isinstance(result, Table):
        return tuple(row[0] for row in result.rows if row and isinstance(row[0], str))
    if isinstance(result, Gallery):
        return result.row_labels
    if isinstance(result, Surface):
        return tuple(result.panels)
    return tuple(result.lines if isinstance(result, Curves) else result.points)


def class_color(number: int) -> str:
    """Return the color of a class, the same on every page of a data set.

    Args:
        number: The place of the class among all classes.

    Example:
        >>> class_color(0), class_color(10), class_color(20)
        ('#332288', '#857ab8', '#1f1452')
    """
    rounds, place = divmod(number, len(CLASSES))
    towards, share = (("#000000", 0.0), ("#ffffff", 0.4), ("#000000", 0.4))[rounds % 3]
    pairs = ((int(c[i : i + 2], 16) for c in (CLASSES[place], towards)) for i in (1, 3, 5))
    return "#" + "".join(f"{round((1 - share) * own + share * other):02x}" for own, other in pairs)


def overlays(surface: Surface) -> tuple[dict[str, tuple[int, str, str]], dict[str, tuple[int, str]]]:
    """Return the lines and the marks over a surface by name, in the order in which they first occur.

    Each line has its number in the legend, color and dash; each mark has its number and its shape.

    Args:
        surface: The surface with its panels.
    """
    lines = dict.fromkeys(name for panel in surface.panels.values() for name in panel.lines)
    marks = dict.fromkeys(name for panel in surface.panels.values() for name in panel.marks)
    return (
        {name: (i, *OVERLAYS[i % len(OVERLAYS)]) for i, name in enumerate(lines)},
        {name: (len(lines) + i, MARK_SYMBOLS[i % len(MARK_SYMBOLS)]) for i, name in enumerate(marks)},
    )


def scale(surface: Surface) -> tuple[str, ...]:
    """Return the colors of a surface's values, from the lowest to the highest in equal steps.

    Args:
        surface: The surface; with a level, the middle color is nearly white.
    """
    return RISING if surface.level is None else PARTED


def span_of(surface: Surface, *, whole: bool = False) -> tuple[float, float]:
    """Return the values of the first and the last color, the same for all panels.

    Args:
        surface: The surface. With a level, both values are equally far from it.
        whole: Return the smallest and the largest value instead, as an axis shows them.
    """
    values = np.concatenate([panel.values.ravel() for panel in surface.panels.values()] or [np.zeros(1)])
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    if surface.level is not None and not whole:
        reach = max(surface.level - low, high - surface.level)
        low, high = surface.level - reach, surface.level + reach
    return (low, high) if low < high else (low - 1.0, high + 1.0)
