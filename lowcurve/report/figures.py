"""One drawing function per kind of result: numbers in, a fragment of HTML out.

Whatever comes from outside (names, labels, notes) is escaped here, where it enters the page. Plots are plain
dictionaries in the format of plotly, so that drawing them needs no plotly; `page` adds the script that shows them.
"""

import base64
import io
import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from PIL import Image

from lowcurve.errors import InputError
from lowcurve.report.palette import Style
from lowcurve.results import Cell, Column, Curves, Gallery, Line, Result, Table

SHOWN_POINTS = 200
SHORT, PROSE = 16, 30
"""Up to so many letters a text may be a number; beyond so many it is a sentence and wants room."""
IMAGE_SIDE = 112


def draw(result: Result, look: Mapping[str, Style]) -> str:
    """The result's picture, by its kind."""
    if isinstance(result, Table):
        return draw_table(result, look)
    return draw_curves(result, look) if isinstance(result, Curves) else draw_gallery(result, look)


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


def draw_curves(curves: Curves, look: Mapping[str, Style]) -> str:
    """The plot as data for the page's script, under a legend whose entries show and hide their lines.

    Legend and axis labels are text of the page: they wrap on a narrow screen, where a plot would clip them.
    """
    pairs = [_traces(curves, i, name, line, look[name]) for i, (name, line) in enumerate(curves.lines.items())]
    data = [band for band, _ in pairs if band] + [drawn for _, drawn in pairs]
    y = [v for line in curves.lines.values() for values in (line.y, line.low, line.high) for v in values or ()]
    layout = {"xaxis": _axis(curves.x, curves.x_logarithmic), "yaxis": _axis(y, curves.y_logarithmic)}
    entries = "".join(
        f'<li><button type="button" aria-pressed="true" data-line="{i}">{_name(name, look)}</button></li>'
        for i, name in enumerate(curves.lines)
    )
    label = escape(f"Plot: {curves.y_label} over {curves.x_label}; its numbers stand in the table below")
    lost = _undrawn(curves)
    return (
        f'<ul class="names" aria-label="Lines, shown or hidden">{entries}</ul>'
        f'<p class="label">{escape(curves.y_label)}</p><div class="drawing" role="group" aria-label="{label}"></div>'
        f'<script type="application/json">{_json({"data": data, "layout": layout})}</script>'
        f'<p class="label under">{escape(curves.x_label)}</p>' + (f'<p class="note">{lost}</p>' if lost else "")
    )


def draw_numbers(curves: Curves, look: Mapping[str, Style]) -> str:
    """The plotted values as a table that opens on demand, thinned evenly (both ends kept) beyond 200 points."""
    count = len(curves.x)
    thinned = np.linspace(0, count - 1, SHOWN_POINTS).round().astype(int).tolist()
    kept = thinned if count > SHOWN_POINTS else range(count)
    columns = (Column(curves.x_label, form=".4g"), *(Column(name, form=".4g") for name in curves.lines))
    rows = tuple((curves.x[i], *(_point(line, i) for line in curves.lines.values())) for i in kept)
    share = f" ({SHOWN_POINTS} of {count} points)" if count > SHOWN_POINTS else ""
    table = draw_table(Table(f"{curves.title}: the numbers", columns, rows), look)
    return f"<details><summary>The numbers{share}</summary>{table}</details>"


def draw_gallery(gallery: Gallery, look: Mapping[str, Style]) -> str:
    """The images as lossless PNG, enlarged by a whole factor without smoothing, each with its note below it."""
    head = "".join(f'<th scope="col">{escape(label)}</th>' for label in gallery.column_labels)
    rows = []
    for i, name in enumerate(gallery.row_labels):
        notes = gallery.notes[i] if gallery.notes else ("",) * len(gallery.column_labels)
        cells = "".join(
            _picture(image, f"{name}, {label}", note)
            for image, label, note in zip(gallery.pixels[i], gallery.column_labels, notes, strict=True)
        )
        rows.append(f'<tr><th scope="row">{_name(name, look)}</th>{cells}</tr>')
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(gallery.title)}"><table class="gallery">'
        f"<thead><tr><td></td>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _name(name: str, look: Mapping[str, Style]) -> str:
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
            content = _name(text, look) if i == 0 else escape(text)
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


def _plotted(text: str) -> str:
    """Plotly reads a little HTML in names and titles; escaped, they are shown as they are written."""
    return escape(text, quote=False)


def _axis(values: Sequence[float | None], logarithmic: bool) -> dict[str, Any]:
    """Powers of ten as the only labels where there are enough of them; no room below zero for what has none."""
    drawn = [v for v in _drawable(values, logarithmic) if v is not None]
    if not logarithmic:
        return {"type": "linear", "rangemode": "nonnegative" if drawn and min(drawn) >= 0 else "normal"}
    decades = math.log10(max(drawn) / min(drawn)) if drawn else 0
    ticks = {"dtick": max(1, math.ceil(decades / 8))} if decades > 1.5 else {"dtick": "D2"}
    return {"type": "log", "exponentformat": "power", **ticks}


def _drawable(values: Sequence[float | None], logarithmic: bool) -> list[float | None]:
    return [None if v is None or not math.isfinite(v) or (logarithmic and v <= 0) else float(v) for v in values]


def _traces(
    curves: Curves, number: int, name: str, line: Line, style: Style
) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """The line's band, if it has one, and the line; the legend finds both by their number."""
    x, y = _drawable(curves.x, curves.x_logarithmic), _drawable(line.y, curves.y_logarithmic)
    shared = {"type": "scatter", "name": _plotted(name), "legendgroup": str(number)}
    # A point alone between two gaps is only its marker, so that a line with gaps shows them all.
    marker = {"color": style.color, "symbol": style.marker, "size": 7, "maxdisplayed": 0 if None in y else 24}
    drawn = {
        **shared,
        "x": x,
        "y": y,
        "mode": "lines+markers",
        "line": {"color": style.color, "dash": style.dash, "width": 2.25},
        "marker": marker,
        "cliponaxis": False,
    }
    if line.low is None or line.high is None:
        return None, drawn
    low, high = _drawable(line.low, curves.y_logarithmic), _drawable(line.high, curves.y_logarithmic)
    outline_x, outline_y = _outline(x, low, high)
    red, green, blue = (int(style.color[i : i + 2], 16) for i in (1, 3, 5))
    band = {
        **shared,
        "x": outline_x,
        "y": outline_y,
        "mode": "lines",
        "line": {"width": 0},
        "fill": "toself",
        "fillcolor": f"rgba({red},{green},{blue},0.16)",
        "hoverinfo": "skip",
    }
    return band, drawn


def _outline(
    x: Sequence[float | None], low: Sequence[float | None], high: Sequence[float | None]
) -> tuple[list[float | None], list[float | None]]:
    """Closed polygons around each unbroken stretch of the band, a null between them."""
    stretches: list[list[tuple[float, float, float]]] = [[]]
    for point in zip(x, low, high, strict=True):
        position, bottom, top = point
        if position is None or bottom is None or top is None:
            stretches.append([])
        else:
            stretches[-1].append((position, bottom, top))
    outline_x: list[float | None] = []
    outline_y: list[float | None] = []
    for stretch in filter(None, stretches):
        forth, back = stretch, stretch[::-1]
        outline_x += [*(p[0] for p in forth), *(p[0] for p in back), None]
        outline_y += [*(p[2] for p in forth), *(p[1] for p in back), None]
    return outline_x, outline_y


def _undrawn(curves: Curves) -> str:
    """A gap on a logarithmic axis hides a number; say how many."""
    lost = sum(
        (curves.x_logarithmic and x <= 0) or (curves.y_logarithmic and y is not None and y <= 0)
        for line in curves.lines.values()
        for x, y in zip(curves.x, line.y, strict=True)
    )
    points = "point" if lost == 1 else "points"
    return f"{lost} {points} at or below zero cannot stand on a logarithmic axis; see the numbers." if lost else ""


def _point(line: Line, i: int) -> Cell:
    y = line.y[i]
    if line.low is None or line.high is None or y is None:
        return y
    low, high = line.low[i], line.high[i]
    return y if low is None or high is None else (y, low, high)


def _picture(image: np.ndarray, label: str, note: str) -> str:
    height, width = image.shape[1:]
    factor = max(1, IMAGE_SIDE // max(height, width, 1))
    size = f'width="{width * factor}" height="{height * factor}"'
    alt = escape(f"{label}: {note}" if note else label)
    shown = f'<div class="note">{escape(note)}</div>' if note else ""
    return f'<td><img src="{_png(image)}" alt="{alt}" {size}>{shown}</td>'


def _png(image: np.ndarray) -> str:
    """Channels first, pixels in [0, 1] -> a PNG as a data URI, without loss up to rounding to 8 bits."""
    channels = image.shape[0]
    if channels not in (1, 3):
        raise InputError("images of 1 or 3 channels", f"{channels} channels", "give gray or red-green-blue pixels")
    levels = np.round(np.clip(np.nan_to_num(image), 0, 1) * 255).astype(np.uint8)
    picture = Image.fromarray(levels[0] if channels == 1 else np.ascontiguousarray(levels.transpose(1, 2, 0)))
    with io.BytesIO() as buffer:
        picture.save(buffer, format="PNG", optimize=True)
        return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _json(content: Any) -> str:
    """JSON in which no text can end the script that holds it."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
