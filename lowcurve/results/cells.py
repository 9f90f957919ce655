"""Turn columns of numbers into a table's cells and a figure's bands."""

from collections.abc import Sequence
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

    Args:
        values: One number per example, or None.
    """
    if values is None:
        return None
    found = summarize(values)
    return (found.median, found.low, found.high)


def band(columns: Sequence[np.ndarray]) -> Line:
    """Return a line through the medians, with a band between the 10 and 90 % quantiles.

    Args:
        columns: For each point of the line, one number per example.
    """
    found = [summarize(values) for values in columns]
    return Line(*(tuple(getattr(s, part) for s in found) for part in ("median", "low", "high")))
