"""Tables of numbers as HTML."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from lowcurve.report.palette import Style
from lowcurve.report.templates import render
from lowcurve.results import Cell, Column, Table

SHORT, PROSE = 16, 30
"""A text of at most 16 letters may be a number; one of more than 30 letters is a sentence and needs width."""
LONG = 24
"""A longer table is folded, and becomes part of the document when it is opened."""


@dataclass(frozen=True)
class _Text:
    text: str
    interval: str
    kind: str


def draw_table(table: Table, style_of: Mapping[str, Style], *, cards: bool = False) -> Markup:
    """Return the table with numbers aligned right, and below it the meanings of its columns.

    Args:
        table: The table.
        style_of: Styles by name; a name in the first column gets its swatch.
        cards: On a phone, show each row as a card instead of scrolling sideways.
    """
    numeric = [_numeric([row[i] for row in table.rows]) for i in range(len(table.columns))]
    rows = [
        [_text(*parts, place == 0) for place, parts in enumerate(zip(table.columns, row, numeric, strict=True))]
        for row in table.rows
    ]
    folded = len(rows) > LONG and not cards
    return render("table.html", table=table, numeric=numeric, rows=rows, style_of=style_of, cards=cards, folded=folded)


def _text(column: Column, cell: Cell, numeric: bool, is_name: bool) -> _Text:
    text, interval = column.write(cell), ""
    if isinstance(cell, tuple):
        text, _, interval = text.partition(" ")
    is_prose = isinstance(cell, str) and len(cell) > PROSE and not is_name
    return _Text(text, interval, "prose" if is_prose else "number" if numeric else "")


def _numeric(cells: Sequence[Cell]) -> bool:
    """Return True for numbers and short texts that begin with a digit, such as "8/255" or "3 of 10"."""
    return all(not isinstance(cell, str) or (cell[:1].isdigit() and len(cell) < SHORT) for cell in cells)
