"""Turn columns of numbers into a table's cells and a figure's bands."""

from collections.abc import Sequence, Sized

import numpy as np

from lowcurve.results.kinds import Cell, Column, Line
from lowcurve.results.statistics import summarize

NETWORK = Column("network", "How it was trained.")
CELLS = "Each cell: median and, in brackets, the 10 and 90 % quantiles over examples."


def counted(examples: Sized, part: str) -> dict[str, str]:
    """Return the condition that says how many examples of which part of the data were used."""
    return {"examples": f"{len(examples)} of the {part} set"}


def spread(values: np.ndarray) -> Cell:
    """Return the median between the 10 and 90 % quantiles."""
    found = summarize(values)
    return (found.median, found.low, found.high)


def band(columns: Sequence[np.ndarray]) -> Line:
    """Return the median of each column between its 10 and 90 % quantiles."""
    found = [summarize(values) for values in columns]
    return Line(*(tuple(getattr(s, part) for s in found) for part in ("median", "low", "high")))
