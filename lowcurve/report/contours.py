"""Lines of equal value on a grid."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

Point = tuple[float, float]
EDGES = {1: "lb", 2: "br", 3: "lr", 4: "rt", 5: "lbrt", 6: "bt", 7: "lt", 8: "tl", 9: "tb", 10: "tlbr", 11: "tr",
         12: "rl", 13: "rb", 14: "bl"}  # fmt: skip
"""The edges (left, bottom, right, top) that the line crosses, by which of a cell's corners are above the level."""


def contour(x: Sequence[float], y: Sequence[float], values: np.ndarray, level: float) -> list[list[Point]]:
    """Return the lines along which a function on a grid has a value, by linear interpolation along the grid's edges.

    Args:
        x: Rising horizontal coordinates.
        y: Rising vertical coordinates.
        values: The value values[i, j] belongs to (x[j], y[i]). Cells with a NaN have no line.
        level: The value.

    Returns:
        Lines as corners. A closed line ends where it begins.

    Example:
        >>> contour((0.0, 1.0), (0.0, 1.0), np.array([[0.0, 1.0], [0.0, 1.0]]), 0.25)
        [[(0.25, 0.0), (0.25, 1.0)]]
    """
    above = values >= level
    corners = (above[:-1, :-1], above[:-1, 1:], above[1:, 1:], above[1:, :-1])
    kinds = np.sum([corner.astype(int) << k for k, corner in enumerate(corners)], axis=0)
    known = np.isfinite(values)
    whole = known[:-1, :-1] & known[:-1, 1:] & known[1:, 1:] & known[1:, :-1]
    neighbors: dict[tuple[int, int, bool], list[tuple[int, int, bool]]] = defaultdict(list)
    for i, j in np.argwhere(whole & (kinds > 0) & (kinds < 15)).tolist():
        edges = {"l": (i, j, True), "r": (i, j + 1, True), "b": (i, j, False), "t": (i + 1, j, False)}
        names = EDGES[int(kinds[i, j])]
        for one, other in zip(names[::2], names[1::2], strict=True):
            neighbors[edges[one]].append(edges[other])
            neighbors[edges[other]].append(edges[one])
    return [[_crossing(x, y, values, level, edge) for edge in chain] for chain in _chains(neighbors)]


def _chains(
    neighbors: dict[tuple[int, int, bool], list[tuple[int, int, bool]]],
) -> list[list[tuple[int, int, bool]]]:
    """Join the pieces of the lines; those with ends first, so that only closed lines are left for the second turn."""
    found = []
    for start in [*(e for e, others in neighbors.items() if len(others) == 1), *neighbors]:
        chain = [start]
        while neighbors[chain[-1]]:
            following = neighbors[chain[-1]].pop()
            neighbors[following].remove(chain[-1])
            chain.append(following)
        if len(chain) > 1:
            found.append(chain)
    return found


def _crossing(
    x: Sequence[float], y: Sequence[float], values: np.ndarray, level: float, edge: tuple[int, int, bool]
) -> Point:
    """Return the place at which the function has the value on an edge of the grid."""
    i, j, upright = edge
    k, m = (i + 1, j) if upright else (i, j + 1)
    first, second = float(values[i, j]), float(values[k, m])
    share = (level - first) / (second - first)
    return x[j] + share * (x[m] - x[j]), y[i] + share * (y[k] - y[i])
