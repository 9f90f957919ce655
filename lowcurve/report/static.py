"""Figures for a paper as PDF, SVG or PNG. They need matplotlib: `pip install 'lowcurve[figures]'`.

Colors, markers and dashes are those of the page. Titles, captions and conditions are left to the paper.
"""

import io
from collections.abc import Mapping
from textwrap import fill
from typing import Any

import numpy as np

from lowcurve.errors import InputError
from lowcurve.libraries import require_library
from lowcurve.report.palette import Style, class_color, overlays, scale, span_of, styles
from lowcurve.results import Curves, Gallery, Panel, Plot, Result, Scatter, Surface, Table

FORMS = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {"Software": None}}
"""Formats, with the metadata to leave out so that the same result always makes the same file."""
LINES = {"solid": "-", "dash": "--", "dot": ":", "longdash": (0, (7, 2))}
MARKERS = {"circle": "o", "square": "s", "diamond": "D", "triangle-up": "^", "triangle-down": "v", "x": "X"}
WRITING = {"font.size": 9, "pdf.fonttype": 42, "svg.fonttype": "path", "svg.hashsalt": "lowcurve"}
ACROSS = {1: 1, 2: 2, 4: 2}
"""Panels in a row by the number of all panels; otherwise three."""


def static_figure(result: Result, form: str = "pdf", style_of: Mapping[str, Style] | None = None) -> bytes:
    """Draw curves, points, a surface or a gallery as the content of a PDF, SVG or PNG file (200 dots per inch).

    Writes no file and does not change matplotlib's settings.

    Args:
        result: The result to draw.
        form: "pdf", "svg" or "png".
        style_of: Styles by name of a page that shows the same figure; by default those of this result alone.

    Returns:
        The content of the file.

    Raises:
        InputError: If matplotlib is missing, the form is unknown, or the result is a table.

    Example:
        >>> from lowcurve.results import Line
        >>> curves = Curves("Accuracy", "radius", "accuracy", (0.0, 0.1), {"CURE": Line((0.9, 0.7))})
        >>> static_figure(curves, "svg")[:5]
        b'<?xml'
    """
    if form not in FORMS:
        raise InputError(f"a form among {', '.join(FORMS)}", repr(form), "write static_figure(result, 'pdf')")
    if isinstance(result, Table):
        raise InputError("a result with a picture", "a table", "the page shows it; leave it out here")
    style_of = styles([result]) if style_of is None else style_of
    matplotlib = _imported("matplotlib")
    with matplotlib.rc_context(WRITING), io.BytesIO() as buffer:
        figure = _imported("matplotlib.figure").Figure(layout="constrained")
        if isinstance(result, Surface):
            _surface(figure, result)
        elif isinstance(result, Gallery):
            _gallery(figure, result)
        else:
            _plot(figure, result, style_of)
        canvas = _imported("matplotlib.backends.backend_agg").FigureCanvasAgg(figure)
        canvas.print_figure(buffer, format=form, dpi=200, metadata=FORMS[form])
        return buffer.getvalue()


def _imported(name: str) -> Any:
    return require_library(name, install="'lowcurve[figures]'", purpose="for static figures")


def _plot(figure: Any, plot: Plot, style_of: Mapping[str, Style]) -> None:
    figure.set_size_inches(5.2, 3.1)
    axes = figure.add_subplot()
    if isinstance(plot, Curves):
        _curves(axes, plot, style_of)
    else:
        _scatter(axes, plot, style_of)
    axes.set(xlabel=_escape_dollars(plot.x_label), ylabel=_escape_dollars(plot.y_label))
    axes.set_xscale("log" if plot.x_logarithmic else "linear")
    axes.set_yscale("log" if plot.y_logarithmic else "linear")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e9ecef", linewidth=0.6)
    axes.set_axisbelow(True)
    _legend(figure, dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True)))


def _curves(axes: Any, curves: Curves, style_of: Mapping[str, Style]) -> None:
    for name, line in curves.lines.items():
        style = style_of[name]
        lone = {"marker": MARKERS[style.marker], "markersize": 3.5, "markevery": max(1, len(curves.x) // 12)}
        shape = {"color": style.color, "linestyle": LINES[style.dash], "linewidth": 1.4, **lone}
        axes.plot(curves.x, _numbers(line.y), label=_escape_dollars(name), **shape)
        if line.low is not None and line.high is not None:
            axes.fill_between(
                curves.x, _numbers(line.low), _numbers(line.high), color=style.color, alpha=0.16, linewidth=0
            )


def _scatter(axes: Any, scatter: Scatter, style_of: Mapping[str, Style]) -> None:
    both: list[float] = []
    for name, points in scatter.points.items():
        x, y = _numbers(points.x), _numbers(points.y)
        known = np.isfinite(x) & np.isfinite(y)
        known &= ~((x <= 0) & scatter.x_logarithmic) & ~((y <= 0) & scatter.y_logarithmic)
        x, y, style = x[known], y[known], style_of[name]
        both += [*x, *y]
        faces = np.where(y < x, "none", style.color) if scatter.diagonal else style.color
        shape = {"marker": MARKERS[style.marker], "s": 16, "edgecolors": style.color, "linewidths": 0.9, "alpha": 0.8}
        axes.scatter(x, y, facecolors=faces, label=_escape_dollars(name), **shape)
    if scatter.diagonal and both:
        ends = [min(both), max(both)]
        axes.plot(ends, ends, color="#59626b", linestyle="--", linewidth=1, zorder=0)


def _gallery(figure: Any, gallery: Gallery) -> None:
    rows, columns = gallery.pixels.shape[:2]
    letters = max(map(len, gallery.row_labels), default=0)
    figure.set_size_inches(1.05 * columns + 0.075 * letters, (1.2 if gallery.notes else 1.05) * rows + 0.25)
    cells = figure.subplots(rows, columns, squeeze=False)
    for i, j in np.ndindex(rows, columns):
        # Values outside [0, 1] are clipped, as on the page.
        image = np.minimum(np.maximum(np.nan_to_num(gallery.pixels[i, j].transpose(1, 2, 0)), 0.0), 1.0)
        axes = cells[i, j]
        axes.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        axes.set_xlabel(_escape_dollars(gallery.notes[i][j]) if gallery.notes else "", fontsize=7)
        if i == 0:
            axes.set_title(_escape_dollars(gallery.column_labels[j]), fontsize=9)
        if j == 0:
            axes.set_ylabel(_escape_dollars(gallery.row_labels[i]), rotation=0, ha="right", va="center")


def _surface(figure: Any, surface: Surface) -> None:
    across = ACROSS.get(len(surface.panels), 3)
    down = -(-len(surface.panels) // across) or 1
    lines = max((_title_of(name, panel).count("\n") for name, panel in surface.panels.items()), default=0)
    figure.set_size_inches(2.3 * across + 0.9, (2.6 + 0.12 * lines) * down + 0.3)
    cells = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True)
    for axes in cells.flat[len(surface.panels) :]:
        axes.set_visible(False)
    drawn = [
        _panel(axes, surface, name, panel)
        for axes, (name, panel) in zip(cells.flat, surface.panels.items(), strict=False)
    ]
    for number, axes in enumerate(cells.flat):
        if number + across >= len(surface.panels):
            axes.tick_params(labelbottom=True)
    figure.supxlabel(_escape_dollars(surface.x_label), fontsize=9)
    figure.supylabel(_escape_dollars(fill(surface.y_label, 32 * down)), fontsize=9)
    named = {label: part for axes in cells.flat for part, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    if surface.classes:
        patches = _imported("matplotlib.patches")
        present = sorted({int(k) for panel in surface.panels.values() for k in np.unique(panel.values)})
        named |= {_escape_dollars(surface.classes[k]): patches.Patch(color=class_color(k)) for k in present}
    elif drawn:
        bar = figure.colorbar(drawn[0], ax=cells, label=_escape_dollars(surface.value_label), shrink=0.85)
        if surface.level is not None:
            bar.ax.axhline(surface.level, color="#111111", linewidth=1)
    _legend(figure, named)


def _panel(axes: Any, surface: Surface, name: str, panel: Panel) -> Any:
    colors = _imported("matplotlib.colors")
    if surface.classes:
        shades = colors.ListedColormap([class_color(k) for k in range(len(surface.classes))])
        ends = (-0.5, len(surface.classes) - 0.5)
    else:
        shades, ends = colors.LinearSegmentedColormap.from_list("", scale(surface)), span_of(surface)
    # Rasterized: one picture in the file instead of ten thousand rectangles.
    shape = {"cmap": shades, "vmin": ends[0], "vmax": ends[1], "shading": "nearest", "rasterized": True}
    drawn = axes.pcolormesh(surface.x, surface.y, panel.values, **shape)
    known = panel.values[np.isfinite(panel.values)]
    if surface.level is not None and known.size and known.min() < surface.level < known.max():
        axes.contour(surface.x, surface.y, panel.values, levels=[surface.level], colors="#111111", linewidths=1.2)
    lines, marks = overlays(surface)
    for heading, line in panel.lines.items():
        _, color, dash = lines[heading]
        axes.plot(_numbers(line.x), _numbers(line.y), color="#ffffff", alpha=0.75, linewidth=3)
        shaped = {"color": color, "linestyle": LINES[dash], "linewidth": 1.5}
        axes.plot(_numbers(line.x), _numbers(line.y), label=_escape_dollars(heading), **shaped)
    for heading, (x, y) in panel.marks.items():
        shaped = {"marker": MARKERS[marks[heading][1]], "markersize": 6, "linestyle": "none"}
        axes.plot([x], [y], color="#ffffff", markeredgecolor="#111111", label=_escape_dollars(heading), **shaped)
    same = np.isclose(surface.x[-1] - surface.x[0], surface.y[-1] - surface.y[0])
    axes.set(xlim=(surface.x[0], surface.x[-1]), ylim=(surface.y[0], surface.y[-1]), aspect="equal" if same else "auto")
    axes.set_title(_escape_dollars(_title_of(name, panel)), fontsize=8 if panel.note else 9)
    return drawn


def _title_of(name: str, panel: Panel) -> str:
    """Return a panel's heading in lines that fit its width."""
    return "\n".join(fill(text, 32) for text in (name, panel.note) if text)


def _legend(figure: Any, named: Mapping[str, Any]) -> None:
    """Put a legend above the figure, in as many columns as fit its width."""
    if named:
        width, height = figure.get_size_inches()
        columns = max(1, int(15 * width / (max(map(len, named)) + 6)))  # with the line before the name
        figure.set_size_inches(width, height + 0.2 * -(-len(named) // columns))
        figure.legend(named.values(), named.keys(), loc="outside upper center", ncols=columns, frameon=False)


def _escape_dollars(text: str) -> str:
    """Escape dollars, between which matplotlib would read a formula."""
    return text.replace("$", r"\$")


def _numbers(values: tuple[float | None, ...]) -> np.ndarray:
    return np.array([np.nan if v is None else v for v in values], dtype=np.float64)
