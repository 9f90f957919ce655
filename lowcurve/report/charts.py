"""Drawings over two axes as SVG: the grid, the axes, lines, bands and points."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lowcurve.report.axes import Axis, Number
from lowcurve.report.palette import SHAPES

LEFT, RIGHT, TOP, BOTTOM = 64.0, 12.0, 12.0, 30.0
"""Room around the plotted area for the labels of the ticks, in units of the drawing."""


@dataclass(frozen=True)
class Frame:
    """The plotted area of a chart and its axes.

    Attributes:
        x: Horizontal axis.
        y: Vertical axis.
        width: Width of the whole drawing.
        height: Height of the whole drawing.
    """

    x: Axis
    y: Axis
    width: float = 640.0
    height: float = 340.0

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom end of the plotted area."""
        return LEFT, TOP, self.width - RIGHT, self.height - BOTTOM

    def across(self, value: Number) -> Number:
        """Return the horizontal place of a value, or None where it cannot be drawn.

        Args:
            value: A number on the horizontal axis.
        """
        share = self.x.share(value)
        return None if share is None else LEFT + share * (self.width - RIGHT - LEFT)

    def up(self, value: Number) -> Number:
        """Return the vertical place of a value, or None where it cannot be drawn.

        Args:
            value: A number on the vertical axis.
        """
        share = self.y.share(value)
        return None if share is None else self.height - BOTTOM - share * (self.height - BOTTOM - TOP)

    def data(self) -> dict[str, Any]:
        """Return the plotted area for the page's script, and of each axis its ends and whether it is logarithmic."""
        return {"frame": [*self.box], "axes": [[axis.low, axis.high, axis.logarithmic] for axis in (self.x, self.y)]}

    def ticks(self) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
        """Return places and labels of the ticks of both axes."""
        across = [(_text(self.across(value)), label) for value, label in self.x.ticks]
        up = [(_text(self.up(value)), label) for value, label in self.y.ticks]
        return across, up

    def places(self, x: Sequence[Number], y: Sequence[Number]) -> list[tuple[float, float] | None]:
        """Return the places of points; None for those that cannot be drawn.

        Args:
            x: Horizontal coordinates.
            y: Vertical coordinates.
        """
        pairs = zip(map(self.across, x), map(self.up, y), strict=True)
        return [None if a is None or b is None else (a, b) for a, b in pairs]


def line_path(places: Sequence[tuple[float, float] | None]) -> str:
    """Return a path through the places, broken where there is none.

    Args:
        places: The places.

    Example:
        >>> line_path([(0, 1), (2, 3.04), None, (4, 5)])
        'M0 1L2 3M4 5'
    """
    pieces, down = [], False
    for place in places:
        if place is not None:
            pieces.append(f"{'L' if down else 'M'}{_text(place[0])} {_text(place[1])}")
        down = place is not None
    return "".join(pieces)


def band_path(top: Sequence[tuple[float, float] | None], bottom: Sequence[tuple[float, float] | None]) -> str:
    """Return closed outlines around each unbroken stretch of a band.

    Args:
        top: Its upper edge.
        bottom: Its lower edge.

    Example:
        >>> band_path([(0, 0), (1, 0)], [(0, 5), (1, 5)])
        'M0 0L1 0L1 5L0 5Z'
    """
    stretches: list[list[tuple[tuple[float, float], tuple[float, float]]]] = [[]]
    for above, below in zip(top, bottom, strict=True):
        if above is None or below is None:
            stretches.append([])
        else:
            stretches[-1].append((above, below))
    outlines = ([*(a for a, _ in part), *(b for _, b in reversed(part))] for part in stretches if part)
    return "".join(f"{line_path(outline)}Z" for outline in outlines)


def marks_path(places: Sequence[tuple[float, float] | None], marker: str, *, outlined: bool = False) -> str:
    """Return one path with a mark of a shape at every place. A filled circle is a point, which the stroke makes round.

    Args:
        places: The places.
        marker: A name in `palette.SHAPES`.
        outlined: The mark is drawn as an outline.
    """
    shape = "h0" if marker == "circle" and not outlined else SHAPES[marker]
    return "".join(f"M{_text(p[0])} {_text(p[1])}{shape}" for p in places if p is not None)


def _text(place: Number) -> str:
    if place is None:
        return ""
    text = f"{place:.1f}"
    return text[:-2] if text.endswith(".0") else text
