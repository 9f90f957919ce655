"""One self-contained HTML page, which opens offline and loads nothing from the network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from plotly.offline import get_plotlyjs

from lowcurve.report.figures import draw
from lowcurve.report.palette import Style, styles
from lowcurve.report.plots import draw_numbers
from lowcurve.report.surfaces import draw_values
from lowcurve.report.templates import read, render
from lowcurve.results import Plot, Result, Surface, Table

CONTENTS_FROM = 3
"""A page with at least so many results after the first table has a list of contents."""


@dataclass(frozen=True)
class _Section:
    id: str
    kind: str
    result: Result
    picture: str
    numbers: str


def page(
    title: str, lead: str, results: Sequence[Result], facts: Mapping[str, str], warnings: Sequence[str] = ()
) -> str:
    """Return a whole HTML document: title, lead, warnings and first table; then plots, galleries, further tables, facts.

    Style, scripts and images are inside. A name has one color, marker and dash on the whole page, a class one color. Plots
    follow the reader's light or dark scheme and have their numbers as a table below. A page with plots has about 5 MB
    (plotly's script, once), one without a few kB. Writes no file: `lowcurve.store` does.

    Args:
        title: Heading of the page.
        lead: Sentence below the heading.
        results: The results in reading order. The first table opens the page.
        facts: How the results were made, by name, at the end of the page.
        warnings: Sentences in a box above the first table.

    Example:
        >>> from lowcurve.results import Column
        >>> table = Table("Accuracy", (Column("network"),), (("CURE",),))
        >>> text = page("Smoke", "One network.", [table], {"seed": "0"})
        >>> text.startswith("<!doctype html>"), "plotly" in text
        (True, False)
    """
    first = next((result for result in results if isinstance(result, Table)), None)
    ordered = [*([first] if first else []), *(result for result in results if result is not first)]
    style_of = styles(ordered)
    sections = [_section(number, result, style_of) for number, result in enumerate(ordered, 1)]
    opening, following = (sections[:1], sections[1:]) if first else ([], sections)
    has_plots = any(isinstance(result, Plot | Surface) for result in ordered)
    whole = render(
        "page.html",
        title=title,
        lead=lead,
        warnings=warnings,
        opening=opening,
        following=following,
        contents=len(following) >= CONTENTS_FROM,
        facts=facts,
        style=read("style.css"),
        scripts=(get_plotlyjs(), read("page.js")) if has_plots else (),
    )
    return f"{str(whole).strip()}\n"


def _section(number: int, result: Result, style_of: Mapping[str, Style]) -> _Section:
    numbers = ""
    if isinstance(result, Surface):
        numbers = draw_values(result, style_of)
    elif isinstance(result, Plot):
        numbers = draw_numbers(result, style_of)
    return _Section(f"result-{number}", type(result).__name__.lower(), result, draw(result, style_of), numbers)
