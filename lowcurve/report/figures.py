"""One drawing function per kind of result: numbers in, a piece of HTML out."""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from PIL import Image

from lowcurve.errors import InputError
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


def draw(result: Result, style_of: Mapping[str, Style]) -> Markup:
    """Return the picture of a result of any kind.

    Args:
        result: The result.
        style_of: Styles by name, the same for the whole page; see `styles`.
    """
    if isinstance(result, Table):
        return draw_table(result, style_of)
    if isinstance(result, Curves):
        return draw_curves(result, style_of)
    if isinstance(result, Surface):
        return draw_surface(result, style_of)
    return draw_scatter(result, style_of) if isinstance(result, Scatter) else draw_gallery(result, style_of)


def draw_gallery(gallery: Gallery, style_of: Mapping[str, Style]) -> Markup:
    """Return the images as lossless PNG, each with its note below it.

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
    return _Picture(_png(image), f"{label}: {note}" if note else label, width * factor, height * factor, note)


def _png(image: np.ndarray) -> str:
    """Return an image of shape (channels, height, width) with pixels in [0, 1] as a PNG data URI, rounded to 8 bits."""
    channels = image.shape[0]
    if channels not in (1, 3):
        raise InputError("images of 1 or 3 channels", f"{channels} channels", "give gray or red-green-blue pixels")
    levels = np.round(np.clip(np.nan_to_num(image), 0, 1) * 255).astype(np.uint8)
    picture = Image.fromarray(levels[0] if channels == 1 else np.ascontiguousarray(levels.transpose(1, 2, 0)))
    with io.BytesIO() as buffer:
        picture.save(buffer, format="PNG", optimize=True)
        return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
