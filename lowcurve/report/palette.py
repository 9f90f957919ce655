"""Which color, marker and dash a network bears, the same in every figure of a page."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lowcurve.results import Curves, Gallery, Plot, Result, Table

# Okabe and Ito's palette in an order of falling contrast on white, without yellow (unreadable there) and with gray
# for black (unreadable on a dark page).
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#808080")
DASHES = {"solid": "", "dash": "4 2", "dot": "1.5 1.5", "longdash": "7 2"}
MARKERS = {
    "circle": "M8 5a3 3 0 1 0 6 0a3 3 0 1 0 -6 0",
    "square": "M8.3 2.3h5.4v5.4h-5.4z",
    "diamond": "M11 1.2l3.8 3.8l-3.8 3.8l-3.8 -3.8z",
    "triangle-up": "M11 1.5l3.6 6.4h-7.2z",
    "triangle-down": "M11 8.5l3.6 -6.4h-7.2z",
}


@dataclass(frozen=True)
class Style:
    """How one network looks in every figure: color, marker and dash, so that no reader depends on color alone."""

    color: str
    marker: str
    dash: str

    def swatch(self) -> str:
        """The line and its marker in small, as they stand in the plots."""
        return (
            '<svg class="swatch" viewBox="0 0 22 10" width="22" height="10" aria-hidden="true">'
            f'<path d="M0 5h22" stroke="{self.color}" stroke-width="2" stroke-dasharray="{DASHES[self.dash]}"/>'
            f'<path d="{MARKERS[self.marker]}" fill="{self.color}"/></svg>'
        )


def styles(results: Sequence[Result]) -> dict[str, Style]:
    """One style for each name that some plot bears, in the order in which the names are first seen on the page.

    Names that no plot bears take no color: a table of attacks leaves the palette to the networks. A name that begins
    with another and a comma, such as "CURE, estimate", bears that one's color in dots. 140 names come before two share a
    style.

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
    colors, markers, dashes = COLORS, tuple(MARKERS), tuple(DASHES)
    own = {
        name: Style(colors[i % len(colors)], markers[i % len(markers)], dashes[i // len(colors) % len(dashes)])
        for i, name in enumerate(name for name in seen if name not in kin)
    }
    return {name: replace(own[kin[name]], dash="dot") if name in kin else own[name] for name in seen}


def _names(result: Result) -> tuple[str, ...]:
    if isinstance(result, Table):
        return tuple(row[0] for row in result.rows if row and isinstance(row[0], str))
    if isinstance(result, Gallery):
        return result.row_labels
    return tuple(result.lines if isinstance(result, Curves) else result.points)
