"""A table of numbers, and a name with its style: what plots and galleries have in common with it."""

from collections.abc import Mapping, Sequence
from html import escape

from lowcurve.report.palette import Style
from lowcurve.results import Cell, Column, Table

SHORT, PROSE = 16, 30
"""Up to so many letters a text may be a number; beyond so many it is a sentence and wants room."""


def draw_table(table: Table, look: Mapping[str, Style]) -> str:
    """The table, numbers aligned right, with the columns' meanings in a legend below it."""
    numeric = [_numeric([row[i] for row in table.rows]) for i in range(len(table.columns))]
    head = "".join(
        f'<th scope="col"{_kind(right)}{_title(column)}>{escape(column.heading)}</th>'
        for column, right in zip(table.columns, numeric, strict=True)
    )
    rows = "".join(f"<tr>{_row(table.columns, row, numeric, look)}</tr>" for row in table.rows)
    meant = [column for column in table.columns if column.meaning]
    legend = "".join(f"<div><dt>{escape(c.heading)}</dt><dd>{escape(c.meaning)}</dd></div>" for c in meant)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(table.title)}">'
        f'<table class="numbers"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
        + (f'<dl class="legend">{legend}</dl>' if legend else "")
    )


def draw_name(name: str, look: Mapping[str, Style]) -> str:
    """The name, with its swatch if some plot of the page bears it."""
    if name not in look:
        return escape(name)
    return f'<span class="named">{look[name].swatch()}<span>{escape(name)}</span></span>'


def _row(columns: Sequence[Column], row: Sequence[Cell], numeric: Sequence[bool], look: Mapping[str, Style]) -> str:
    cells = []
    for i, (column, cell, right) in enumerate(zip(columns, row, numeric, strict=True)):
        text = column.write(cell)
        if isinstance(cell, tuple):
            value, _, interval = text.partition(" ")
            content = f'{escape(value)} <span class="interval">{escape(interval)}</span>'
        else:
            content = draw_name(text, look) if i == 0 else escape(text)
        kind = ' class="prose"' if isinstance(cell, str) and len(cell) > PROSE else _kind(right)
        cells.append(f'<th scope="row"{_kind(right)}>{content}</th>' if i == 0 else f"<td{kind}>{content}</td>")
    return "".join(cells)


def _numeric(cells: Sequence[Cell]) -> bool:
    """Texts that begin with a digit ("8/255", "3 of 10") are numbers to the eye, but no sentence is."""
    return all(not isinstance(cell, str) or (cell[:1].isdigit() and len(cell) < SHORT) for cell in cells)


def _kind(right: bool) -> str:
    return ' class="number"' if right else ""


def _title(column: Column) -> str:
    return f' title="{escape(column.meaning)}"' if column.meaning else ""
