"""One self-contained HTML page: it opens from a file, offline, and asks the network for nothing."""

from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files

from plotly.offline import get_plotlyjs

from lowcurve.report.figures import draw
from lowcurve.report.palette import Style, styles
from lowcurve.report.plots import draw_numbers
from lowcurve.report.surfaces import draw_values
from lowcurve.results import Plot, Result, Surface, Table

# The page's own promise to the browser: whatever a later hand adds, nothing is fetched.
POLICY = (
    "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'"
)
CONTENTS_FROM = 3


def page(
    title: str, lead: str, results: Sequence[Result], facts: Mapping[str, str], warnings: Sequence[str] = ()
) -> str:
    """A whole HTML document: title, lead, warnings and the first table; then plots, galleries, further tables, facts.

    Everything is inside: style, script, images. A name has one color, marker and dash on the whole page, a class one
    color. Plots follow the reader's light or dark scheme and have their numbers as a table below. About 5 MB where there
    are plots (plotly's script, once), a few kB where there are none. Writes no file: `lowcurve.store` does.

    Example:
        >>> from lowcurve.results import Column
        >>> table = Table("Accuracy", (Column("network"),), (("CURE",),))
        >>> text = page("Smoke", "One network.", [table], {"seed": "0"})
        >>> text.startswith("<!doctype html>"), "plotly" in text
        (True, False)
    """
    ordered = _reading_order(results)
    look = styles(ordered)
    sections = [_section(i, result, look) for i, result in enumerate(ordered, 1)]
    opening = 1 if ordered and isinstance(ordered[0], Table) else 0
    body = [
        f"<header><h1>{escape(title)}</h1><p class='lead'>{escape(lead)}</p></header>",
        _warnings(warnings),
        *sections[:opening],
        _contents(ordered, opening),
        *sections[opening:],
        _facts(facts),
    ]
    return _document(title, "\n".join(filter(None, body)), plots=any(isinstance(r, Plot | Surface) for r in ordered))


def _reading_order(results: Sequence[Result]) -> list[Result]:
    """The first table is the comparison and opens the page; the caller's order stays otherwise."""
    first = next((r for r in results if isinstance(r, Table)), None)
    return [*([first] if first else []), *(r for r in results if r is not first)]


def _section(number: int, result: Result, look: Mapping[str, Style]) -> str:
    caption = f"<p class='caption'>{escape(result.caption)}</p>" if result.caption else ""
    conditions = "; ".join(f"{escape(key)}: <span>{escape(value)}</span>" for key, value in result.conditions.items())
    measured = f"<p class='conditions'>Measured with {conditions}.</p>" if conditions else ""
    kind = type(result).__name__.lower()
    heading = f"<h2>{escape(result.title)}</h2>"
    numbers = draw_numbers(result, look) if isinstance(result, Plot) else ""
    if isinstance(result, Surface):
        numbers = draw_values(result, look)
    content = heading + draw(result, look) + caption + measured + numbers
    return f"<section id='result-{number}' class='{kind}'>{content}</section>"


def _warnings(warnings: Sequence[str]) -> str:
    if not warnings:
        return ""
    items = "".join(f"<li>{escape(warning)}</li>" for warning in warnings)
    heading = "Warning" if len(warnings) == 1 else "Warnings"
    return (
        f"<aside class='warnings' aria-labelledby='warnings'><h2 id='warnings'>{heading}</h2><ul>{items}</ul></aside>"
    )


def _contents(ordered: Sequence[Result], opening: int) -> str:
    links = [f"<li><a href='#result-{i}'>{escape(r.title)}</a></li>" for i, r in enumerate(ordered, 1) if i > opening]
    if len(links) < CONTENTS_FROM:
        return ""
    return f"<nav aria-label='Contents'><h2>Further down</h2><ol>{''.join(links)}</ol></nav>"


def _facts(facts: Mapping[str, str]) -> str:
    if not facts:
        return ""
    items = "".join(f"<div><dt>{escape(key)}</dt><dd>{escape(value)}</dd></div>" for key, value in facts.items())
    return f"<section id='facts'><h2>How this was made</h2><dl class='facts'>{items}</dl></section>"


def _document(title: str, body: str, plots: bool) -> str:
    room = files("lowcurve.report")
    scripts = (get_plotlyjs(), (room / "page.js").read_text("utf-8")) if plots else ()
    unseen = "<noscript><p class='note'>The plots need JavaScript; their numbers stand in the tables.</p></noscript>"
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            '<link rel="icon" href="data:,">',
            f"<title>{escape(title)}</title>",
            f"<style>{(room / 'style.css').read_text('utf-8')}</style>",
            "</head>",
            f"<body><main>{unseen if plots else ''}{body}</main>",
            *(f"<script>{script}</script>" for script in scripts),
            "</body></html>\n",
        ]
    )
