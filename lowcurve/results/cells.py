"""Turn columns of numbers into a table's cells and a figure's bands."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from lowcurve.results.kinds import Cell, Column, Line
from lowcurve.results.statistics import summarize

NETWORK = Column("network", "How it was trained.")
CELLS = "Each cell: median and, in brackets, the 10 and 90 % quantiles over examples."


class DescribedExamples(Protocol):
    """Examples that say where they come from, such as `data.Examples`."""

    def describe(self, part: str) -> str:
        """Return "the first 100 of the test set"."""
        ...


def count_examples(examples: DescribedExamples, part: str) -> dict[str, str]:
    """Return a result's condition on its examples, such as "a random 100 of the test set, seed 0".

    Args:
        examples: The examples.
        part: The part of the data set that they come from.
    """
    return {"examples": examples.describe(part)}


def spread(values: np.ndarray | None) -> Cell:
    """Return the median with the 10 and 90 % quantiles, or an empty cell for numbers that could not be computed.

    Where there is NaN, the cell is a text that counts it.

    Args:
        values: One number per example, or None.

    Example:
        >>> spread(np.array([1.0, 2.0, 3.0])), spread(np.array([1.0, 2.0, 3.0, np.nan]))
        ((2.0, 1.2, 2.8), '2 [1.2, 2.8], 1 of 4 NaN')
    """
    if values is None:
        return None
    found = summarize(values)
    if not found.missing:
        return (found.median, found.low, found.high)
    quantiles = f"{found.median:.3g} [{found.low:.3g}, {found.high:.3g}], " if found.count else ""
    return f"{quantiles}{found.missing} of {found.count + found.missing} NaN"


def count_missing(columns: Mapping[str, np.ndarray | None]) -> dict[str, str]:
    """Return a result's condition on numbers that are NaN, and nothing if there are none.

    Args:
        columns: One number per example, by name. None is a column that could not be computed.

    Example:
        >>> count_missing({"C": np.array([1.0, np.nan]), "slope": np.ones(2)})
        {'NaN, left out': '1 of 2 for C'}
    """
    counts = {
        name: (int(np.isnan(values).sum()), values.size) for name, values in columns.items() if values is not None
    }
    said = [f"{missing} of {size} for {name}" for name, (missing, size) in counts.items() if missing]
    return {"NaN, left out": ", ".join(said)} if said else {}


def band(columns: Sequence[np.ndarray]) -> Line:
    """Return a line through the medians, with a band between the 10 and 90 % quantiles.

    Args:
        columns: For each point of the line, one number per example.
    """
    found = [summarize(values) for values in columns]
    return Line(*(tuple(getattr(s, part) for s in found) for part in ("median", "low", "high")))
