"""One self-contained HTML page, which opens offline and loads nothing from the network."""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from lowcurve.report.figures import draw
from lowcurve.report.palette import Style, styles
from lowcurve.report.templates import read, render
from lowcurve.results import Result, Table

CONTENTS_FROM = 3
"""A page with at least so many headings has a bar of contents."""
FOR_SCRIPTS = re.compile(r'<script type="application/json">.*?</script>|</?template>', re.DOTALL)
"""The numbers of figures, inside which every < is escaped, and the wrapping of long tables. Only scripts need them."""
SCRIPTS = ("page.js", "figures.js", "export.js", "space.js")


@dataclass(frozen=True)
class Raised:
    """A test of an audit that warned or failed.

    Attributes:
        test: Its name.
        outcome: "warned" or "failed".
        figures: Its numbers, in a sentence.
        meaning: Their meaning for the robust accuracy.
        advice: What to do.
    """

    test: str
    outcome: str
    figures: str
    meaning: str
    advice: str = ""


@dataclass(frozen=True)
class Verdict:
    """The audit's verdict on one network.

    Attributes:
        network: Its name.
        verdict: The verdict in words.
        counted: How many tests passed, warned, failed and were not applicable, in words.
        raised: The tests that warned or failed.
    """

    network: str
    verdict: str
    counted: str
    raised: Sequence[Raised] = ()


@dataclass(frozen=True)
class Group:
    """Results under one heading, folded until the reader opens them.

    Attributes:
        title: Heading.
        conclusion: What they say, in one sentence.
        results: The results in reading order.
        verdicts: Verdicts of the audit, above the results.
        facts: Facts by name, below the results.
        commands: Commands to copy, below the facts.
    """

    title: str
    conclusion: str
    results: Sequence[Result] = ()
    verdicts: Sequence[Verdict] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    commands: Sequence[str] = ()


@dataclass(frozen=True)
class _Section:
    id: str
    kind: str
    result: Result
    picture: Markup


@dataclass(frozen=True)
class _Folded:
    id: str
    group: Group
    sections: Sequence[_Section]


def page(
    title: str,
    lead: str,
    results: Sequence[Result],
    facts: Mapping[str, str],
    warnings: Sequence[str] = (),
    *,
    findings: Sequence[str] = (),
    groups: Sequence[Group] = (),
    interactive: bool = True,
) -> str:
    """Return a whole HTML document: title, findings, warnings and open results; then folded groups and facts.

    Style, scripts and images are inside. A name has one color, marker and dash on the whole page, a class one color. Charts
    follow the reader's light or dark scheme. Scripts sort and search the tables, show a chart's numbers, save it as SVG, PNG
    or CSV, and turn surfaces; without them everything else is there. Writes no file: `lowcurve.store` does.

    Args:
        title: Heading of the page.
        lead: Sentence below the heading.
        results: The open results. The first table comes first, unless the page has findings: then their order is kept.
        facts: How the results were made, by name, at the end of the page.
        warnings: Sentences in a box above the results.
        findings: What was found, in a few sentences, above everything else.
        groups: Folded groups of further results.
        interactive: Add the scripts.

    Example:
        >>> from lowcurve.results import Column
        >>> table = Table("Accuracy", (Column("network"),), (("CURE",),))
        >>> text = page("Smoke", "One network.", [table], {"seed": "0"}, interactive=False)
        >>> text.startswith("<!doctype html>"), "<script" in text
        (True, False)
    """
    ordered = list(results)
    first = next((result for result in ordered if isinstance(result, Table)), None)
    if first is not None and not findings:
        ordered = [first, *(result for result in ordered if result is not first)]
    style_of = styles([*ordered, *(result for group in groups for result in group.results)])
    names = _Names()
    opening = [_section(result, style_of, names, cards=result is first) for result in ordered]
    folded = [
        _Folded(names.new(group.title), group, [_section(result, style_of, names) for result in group.results])
        for group in groups
    ]
    entries = [(f.id, f.group.title) for f in folded] or [(s.id, s.result.title) for s in opening]
    whole = render(
        "page.html",
        title=title,
        lead=lead,
        findings=findings,
        warnings=warnings,
        opening=opening,
        folded=folded,
        entries=entries if len(entries) >= CONTENTS_FROM else [],
        facts=facts,
        style=read("style.css"),
        scripts=[*map(read, SCRIPTS)] if interactive else [],
        interactive=interactive,
        style_of=style_of,
    )
    text = str(whole).strip() + "\n"
    return text if interactive else FOR_SCRIPTS.sub("", text)


class _Names:
    """Names of the page's sections for links: short, readable, and each once."""

    def __init__(self) -> None:
        self.given: set[str] = set()

    def new(self, title: str) -> str:
        """Return a name that was not given before."""
        short = re.sub("[^a-z0-9]+", "-", title.lower()).strip("-")[:60].rstrip("-") or "section"
        numbered = (f"{short}-{number}" for number in itertools.count(2))
        name = next(name for name in itertools.chain([short], numbered) if name not in self.given)
        self.given.add(name)
        return name


def _section(result: Result, style_of: Mapping[str, Style], names: _Names, *, cards: bool = False) -> _Section:
    kind = type(result).__name__.lower()
    drawn = draw(result, style_of, cards=cards)
    return _Section(names.new(result.title), f"{kind} figure" if not isinstance(result, Table) else kind, result, drawn)
