"""Judge conclusions by intervals: a conclusion holds, does not hold, or cannot be told."""

import math
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise

from lowcurve.papers.common.lookup import read_cells, read_value
from lowcurve.results import Cell, Claim, Result, Table, holds, proportion

Interval = tuple[float, float]
DEVIATIONS = 2
"""Half the width of a mean over seeds, in standard deviations of the seeds."""


def as_interval(cell: Cell) -> Interval | None:
    """Return the interval of a cell, or None if it has none or an end is not known.

    Example:
        >>> as_interval((0.5, 0.4, 0.6)), as_interval((0.5, 0.4, None)), as_interval(0.5)
        ((0.4, 0.6), None, None)
    """
    if not isinstance(cell, tuple):
        return None
    low, high = read_value(cell[1]), read_value(cell[2])
    return None if math.isnan(low + high) else (low, high)


def read_interval(table: Table, row: str, heading: str) -> Interval | None:
    """Return the interval in which a number of a table lies, or None if the table does not tell.

    A mean over seeds has two standard deviations of the seeds to either side. A share of images also has its 95 % Wilson
    interval, by the number of images in the table's conditions. Other numbers have the interval of their cell.

    Args:
        table: The table.
        row: Name of the row.
        heading: Heading of the column.

    Example:
        >>> from lowcurve.results import Column
        >>> table = Table("t", (Column("network"), Column("PGD", form=".1%")), (("CURE", 0.5),), "", {"attacks": "100 of all"})
        >>> [round(end, 3) for end in read_interval(table, "CURE", "PGD")]
        [0.404, 0.596]
    """
    cell = read_cells(table)[row].get(heading)
    form = next(column.form for column in table.columns if column.heading == heading)
    value, ends = read_value(cell), list[float]()
    if (own := as_interval(cell)) is not None:
        width = DEVIATIONS if "seeds" in table.conditions else 1
        ends += [value + width * (end - value) for end in own]
    count = _count_images(table.conditions, heading)
    if form.endswith("%") and count and 0 <= value <= 1:
        share = proportion(round(value * count), count)
        ends += [share.low, share.high]
    return (min(ends), max(ends)) if ends else None


def is_told(first: Interval | None, second: Interval | None) -> bool | None:
    """Return True if two intervals have no number in common, and None if one is not known.

    Example:
        >>> is_told((1, 2), (3, 4)), is_told((1, 3), (2, 4)), is_told(None, (2, 4))
        (True, False, None)
    """
    if first is None or second is None:
        return None
    return first[1] < second[0] or second[1] < first[0]


def is_apart(interval: Interval | None, *thresholds: float) -> bool | None:
    """Return True if an interval contains no threshold, and None if it is not known.

    Example:
        >>> is_apart((0.4, 0.6), 0.7), is_apart((0.4, 0.6), 0.5), is_apart(None, 0.5)
        (True, False, None)
    """
    return None if interval is None else not any(interval[0] <= threshold <= interval[1] for threshold in thresholds)


def claim_order(tables: Result | Mapping[str, Result], heading: str, models: Sequence[str], where: str) -> Claim:
    """Claim that a number rises along a sequence of models.

    It holds if each model's interval lies above that of the model before. It does not hold if one lies below. Otherwise it
    cannot be told. It is "not run" if a model is missing.

    Args:
        tables: A table, or results of which the first table with this heading and these rows is taken.
        heading: Heading of the number.
        models: Rows in the order in which the number should rise.
        where: The place of the claim in the paper.

    Example:
        >>> from lowcurve.results import Column
        >>> rows = (("CURE", (2.0, 1.0, 3.0)), ("standard", (9.0, 8.0, 10.0)))
        >>> table = Table("t", (Column("network"), Column("C")), rows)
        >>> claim_order(table, "C", ("CURE", "standard"), "Table 1").shown
        'holds (2, 9)'
    """
    name = f"{heading}: {' < '.join(models)}"
    candidates = tables.values() if isinstance(tables, Mapping) else [tables]
    table = next((t for t in candidates if isinstance(t, Table) and _has(t, heading, models)), None)
    if table is None:
        return holds(name, where, None)
    cells = read_cells(table)
    values = [read_value(cells[model][heading]) for model in models]
    evidence = ", ".join(f"{value:.3g}" for value in values)
    intervals = [read_interval(table, model, heading) for model in models]
    neighbors = [(a < b, is_told(*ends)) for (a, b), ends in zip(pairwise(values), pairwise(intervals), strict=True)]
    reversed_one = any(not rises and told for rises, told in neighbors)
    if reversed_one or all(rises and told for rises, told in neighbors):
        return holds(name, where, not reversed_one, evidence, told=True)
    known = None not in [told for _, told in neighbors]
    return holds(name, where, all(rises for rises, _ in neighbors), evidence, told=False if known else None)


def judge_kept(row: Sequence[str], results: Mapping[str, Result]) -> str:
    """Judge a conclusion that was kept with a verdict by point estimates alone.

    An order of models is judged again by the intervals of its table. Any other conclusion cannot be told, because its
    interval was not kept.

    Args:
        row: Name, the paper's words, ours, and the place in the paper.
        results: The results that were kept with it.

    Example:
        >>> judge_kept(("C falls", "holds", "holds (2 and 9)", "Table 1"), {})
        'cannot be told (2 and 9; no interval)'
    """
    name, _, ours, where = row
    heading, _, models = name.partition(": ")
    if " < " in models:
        claim = claim_order(results, heading, models.split(" < "), where)
        if claim.ours is not None:
            return claim.shown
    evidence = re.fullmatch(r"(?:holds|does not hold)(?: \((.*)\))?", ours)
    return ours if evidence is None else holds(name, where, ours.startswith("holds"), evidence[1] or "").shown


def _has(table: Table, heading: str, rows: Sequence[str]) -> bool:
    headings = [column.heading for column in table.columns]
    return heading in headings and {str(row[0]) for row in table.rows} >= set(rows)


def _count_images(conditions: Mapping[str, str], heading: str) -> int | None:
    """Return the number of images of a share; the fewest if the rows of a table have several."""
    keys = ("clean",) if heading == "clean" and "clean" in conditions else ("attacks", "examples")
    said = next((conditions[key] for key in keys if key in conditions), "")
    counts = [int(number) for number in re.findall(r"\b(\d+)(?: classified rightly)?,? of ", said)]
    return min(counts, default=None)
