"""One drawing function per kind of result: numbers in, a fragment of HTML out.

Whatever comes from outside (names, labels, notes) is escaped where it enters the page: here, in
`tables`, `plots` and `surfaces`.
"""

import base64
import io
from collections.abc import Mapping
from html import escape

import numpy as np
from PIL import Image

from lowcurve.errors import InputError
from lowcurve.report.palette import Style
from lowcurve.report.plots import draw_curves, draw_scatter
from lowcurve.report.surfaces import draw_surface
from lowcurve.report.tables import draw_name, draw_table
from lowcurve.results import Curves, Gallery, Result, Scatter, Surface, Table

IMAGE_SIDE = 112


def draw(result: Result, look: Mapping[str, Style]) -> str:
    """The result's picture, by its kind."""
    if isinstance(result, Table):
        return draw_table(result, look)
    if isinstance(result, Curves):
        return draw_curves(result, look)
    if isinstance(result, Surface):
        return draw_surface(result, look)
    return draw_scatter(result, look) if isinstance(result, Scatter) else draw_gallery(result, look)


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
        rows.append(f'<tr><th scope="row">{draw_name(name, look)}</th>{cells}</tr>')
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(gallery.title)}"><table class="gallery">'
        f"<thead><tr><td></td>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


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
