"""Turn columns of numbers into a table's cells and a figure's bands."""

from collections.abc import Sequence, Sized

import numpy as np

from lowcurve.results.kinds import Cell, Column, Line
from lowcurve.results.statistics import summarize

NETWORK = Column("network", "How it was trained.")
CELLS = "Each cell: median and, in brackets, the 10 and 90 % quantiles over examples."


def count_examples(examples: Sized, part: str) -> dict[str, str]:
    """Return a result's condition on its number of examples, such as "100 of the test set".

    Args:
        examples: The examples.
        part: The part of the data set that they come from.
    """
    return {"examples": f"{len(examples)} of the {part} set"}


def spread(values: np.ndarray) -> Cell:
    """Return the median with the 10 and 90 % quantiles.

    Args:
        values: One number per example.
    """
    found = summarize(values)
    return (found.median, found.low, found.high)


def band(columns: Sequence[np.ndarray]) -> Line:
    """Return a line through the medians, with a band between the 10 and 90 % quantiles.

    Args:
        columns: For each point of the line, one number per example.
    """
    found = [summarize(values) for values in columns]
    return Line(*(tuple(getattr(s, part) for s in found) for part in ("median", "low", "high")))
