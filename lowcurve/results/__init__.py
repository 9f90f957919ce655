"""Results as plain numbers, without tensors, drawing or files.

A result holds everything that its picture needs, and the conditions under which its numbers hold. `dump` and `load` convert
it to JSON and back.
"""

from lowcurve.results.claims import NOT_IN_PAPER, Claim, comparison_table, holds
from lowcurve.results.comparison import join, merge
from lowcurve.results.exchange import dump, load
from lowcurve.results.kinds import (
    KINDS,
    Cell,
    Column,
    Conditions,
    Curves,
    Gallery,
    Line,
    Panel,
    Plot,
    Points,
    Result,
    Scatter,
    Surface,
    Table,
)
from lowcurve.results.naming import describe
from lowcurve.results.schema import read_as
from lowcurve.results.statistics import Proportion, Summary, proportion, summarize
from lowcurve.results.versions import code_version, training_version

__all__ = [
    "KINDS", "Cell", "Column", "Conditions", "Curves", "Gallery", "Line", "Panel", "Plot", "Points",
    "Result", "Scatter", "Surface", "Table",
    "Claim", "NOT_IN_PAPER", "comparison_table", "holds",
    "Proportion", "Summary", "proportion", "summarize",
    "describe", "dump", "load", "join", "merge", "read_as",
    "code_version", "training_version",
]  # fmt: skip
