"""One drawing function per kind of result: numbers in, a piece of HTML out."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from lowcurve.report.images import pixels_source
from lowcurve.report.palette import Style
from lowcurve.report.plots import draw_curves, draw_scatter
from lowcurve.report.surfaces import draw_surface
from lowcurve.report.tables import draw_table
from lowcurve.report.templates import render
from lowcurve.results import Curves, Gallery, Result, Scatter, Surface, Table

IMAGE_SIDE = 112
"""Images are enlarged up to this side, in CSS pixels."""


@dataclass(frozen=True)
class _Picture:
    source: str
    alt: str
    width: int
    height: int
    note: str


def draw(result: Result, style_of: Mapping[str, Style], *, cards: bool = False) -> Markup:
    """Return the picture of a result of any kind.

    Args:
        result: The result.
        style_of: Styles by name, the same for the whole page; see `styles`.
        cards: Show the rows of a table as cards on a phone.
    """
    if isinstance(result, Table):
        return draw_table(result, style_of, cards=cards)
    if isinstance(result, Curves):
        return draw_curves(result, style_of)
    if isinstance(result, Surface):
        return draw_surface(result, style_of)
    return draw_scatter(result, style_of) if isinstance(result, Scatter) else draw_gallery(result, style_of)


def draw_gallery(gallery: Gallery, style_of: Mapping[str, Style]) -> Markup:
    """Return the images without loss, each with its note below it.

    They are enlarged by a whole factor without smoothing.

    Args:
        gallery: The images.
        style_of: Styles by name.
    """
    rows = []
    for i, name in enumerate(gallery.row_labels):
        notes = gallery.notes[i] if gallery.notes else ("",) * len(gallery.column_labels)
        cells = zip(gallery.pixels[i], gallery.column_labels, notes, strict=True)
        rows.append((name, [_picture(image, f"{name}, {label}", note) for image, label, note in cells]))
    return render("gallery.html", gallery=gallery, rows=rows, style_of=style_of)


def _picture(image: np.ndarray, label: str, note: str) -> _Picture:
    height, width = image.shape[1:]
    factor = max(1, IMAGE_SIDE // max(height, width, 1))
    return _Picture(pixels_source(image), f"{label}: {note}" if note else label, width * factor, height * factor, note)
