"""Write docs/reproduction.md and docs/reproduction/ from docs/results/reproduce-*.json: python docs/reproduction.py

Each of these files is the JSON that `lowcurve reproduce` wrote for one item. A test compares the pages with them.
"""

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from pages import markdown

from lowcurve.papers.common.judging import judge_kept
from lowcurve.papers.common.units import make_units_table
from lowcurve.papers.items import ITEMS
from lowcurve.report import static_figure
from lowcurve.results import Cell, Column, Curves, Result, Scatter, Table, comparison_table, dump, load, merge

HERE = Path(__file__).parent
PAPERS = {
    "moosavi2019cure": "CURE: Robustness via curvature regularization, and vice versa",
    "srinivas2022lcnn": "LCNN: Efficient training of low-curvature neural networks",
    "yu2018interpreting": "Interpreting adversarial robustness: a view from decision surface in input space",
    "fawzi2018topology": "Empirical study of the topology and geometry of deep networks",
    "bardusco_report": "Robustness and curvature in deep learning (report)",
}
HEAD = """# What agrees with the papers, and what does not

<!-- Written by docs/reproduction.py from docs/results/. -->

`lowcurve reproduce` makes the tables and figures of five papers again. This page says which of the papers' conclusions hold
for our networks, which do not and why, and what was not run. Each paper has a page with every number next to ours.

Read the comparison with care. Most items were made at a *laptop's scale*: smaller networks, fewer images and shorter
training than the paper's. Numbers therefore differ; only conclusions, such as "CURE is more robust than the standard
network", are counted as agreeing or differing.

A conclusion agrees or differs only if intervals tell it: the 95 % intervals of the shares and means compared, or two standard
deviations of the seeds. It cannot be told if they overlap, or if no interval was kept. Statements about formulas, and about
every pair or image that was tried, are exact.

Robust accuracies under `strong` at l_2 radii were measured before that suite had its minimum-norm attack. On some networks they
are too high; they will be measured again.
"""
SHOWN = (
    "numbers", "discrepancy", "boundary", "paths", "families", "colors", "robustness", "wide", "cross-sections", "attacked",
    "distances", "bounds", "accuracy",
)  # fmt: skip
MOST_ROWS = 12
"""Longer tables are left to the page that `lowcurve reproduce` writes."""
PAGES = "reproduction"
"""The folder of the papers' pages and their pictures."""
MOST_PICTURES = 3
"""The most pictures of an item on one data set; the page that `lowcurve reproduce` writes has all of them."""
SCALES = ("laptop", "paper")
NOT_RUN = """At the paper's scale the networks have the papers' sizes and see whole data sets, which takes hours of a GPU. None
was available. The commands are ready: the tests run each of them at the smallest scale. A command that is given again continues
where it stopped.
"""


Contents = dict[str, list[dict[str, Any]]]


def found() -> Contents:
    """Read what was made of every item."""
    made: Contents = {key: [] for key in ITEMS}
    for path in sorted((HERE / "results").glob("reproduce-*.json")):
        content = json.loads(path.read_text())
        made[content["facts"]["item"]].append(content)
    return {key: [judged(key, content) for content in together(contents)] for key, contents in made.items()}


EXACT = ("moosavi2019cure/theorem-1", "srinivas2022lcnn/theorem-1")
"""Items whose conclusions are of formulas, not of a sample. So is section 8.1 of yu2018interpreting."""


def judged(key: str, content: dict[str, Any]) -> dict[str, Any]:
    """Return an item with its conclusions judged by intervals.

    Results of earlier code were judged by their point estimates. They are judged again by the intervals that were kept.
    """
    table, claims = claims_of(content), ITEMS[key].claims
    results = {name: load(value) for name, value in content["results"].items()}
    if claims is not None:
        again = comparison_table(
            table.title, claims(results, content["facts"]["data"]), table.caption, table.conditions
        )
    elif key in EXACT or content["facts"].get("verdicts") == "by intervals":
        return content
    else:
        exact = [str(row[3]) == "section 8.1" for row in table.rows]
        rows = tuple(
            (*row[:2], row[2] if kept else judge_kept([str(cell) for cell in row], results), *row[3:])
            for row, kept in zip(table.rows, exact, strict=True)
        )
        again = replace(table, rows=rows)
    return {**content, "results": {**content["results"], "beside the paper": dump(again)}}


def together(contents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Merge the contents of an item: runs that made different rows of one table become one."""
    kinds: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for content in contents:
        kinds.setdefault(tuple(content["facts"][fact] for fact in ("scale", "data", "seeds")), []).append(content)
    return [joined(runs) if len(runs) > 1 else runs[0] for runs in kinds.values()]


def joined(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Join runs of different rows: results one below another in order of time, and the comparisons with the paper.

    The differences from the paper are those of the last run.
    """
    runs = sorted(runs, key=lambda run: str(run["facts"]["written"]))
    of = [rows_of(run) for run in runs]
    rows = [row for rows in of for row in rows]
    assert len(rows) == len(set(rows)), f"twice among the rows of {runs[0]['facts']['item']}: {rows}"
    loaded = [{name: load(value) for name, value in run["results"].items()} for run in runs]
    said = [found.pop("beside the paper") for found in loaded]
    names = dict.fromkeys(name for found in loaded for name in found)
    results = {
        name: merged({", ".join(rows): found[name] for rows, found in zip(of, loaded, strict=True) if name in found})
        for name in names
    }
    facts = {**runs[-1]["facts"], "rows": ",".join(rows), "runs": str(len(runs))}
    facts.pop("took", None)  # that of one of them
    claims = ITEMS[facts["item"]].claims
    assert claims is not None, f"{facts['item']} has no claims of rows that are put together"
    table = comparison_table(said[-1].title, claims(results, facts["data"]), said[-1].caption, said[-1].conditions)
    return {
        "facts": facts,
        "results": {name: dump(result) for name, result in {"beside the paper": table, **results}.items()},
    }


def rows_of(run: dict[str, Any]) -> list[str]:
    """The rows that a run was asked for, or all that its table has."""
    if "rows" in run["facts"]:
        return str(run["facts"]["rows"]).split(",")
    table = load(run["results"]["numbers"])
    assert isinstance(table, Table)
    return [str(row[0]) for row in table.rows]


def merged(parts: dict[str, Result]) -> Result:
    """Results by the rows that they have, as one; of conditions that not all share it is said whose they are."""
    result = merge(list(parts.values()))
    apart: dict[str, list[str]] = {}
    for rows, part in parts.items():
        for key, value in part.conditions.items():
            if key not in result.conditions:
                apart.setdefault(key, []).append(f"{value} ({rows})")
    return replace(result, conditions={**result.conditions, **{key: "; ".join(said) for key, said in apart.items()}})


def pages() -> dict[str, str]:
    """Return every page as Markdown by its path below docs/: the summary, the units, and one page for each paper."""
    why = yaml.safe_load((HERE / "why.yaml").read_text())
    made = found()
    written = {"reproduction.md": summary_page(made, why), f"{PAGES}/units.md": units_page()}
    for paper, title in PAPERS.items():
        items = {key: contents for key, contents in made.items() if key.startswith(f"{paper}/")}
        written[f"{PAGES}/{paper}.md"] = "\n".join([f"# {title}\n", *paper_page(items, why)])
    assert sum(key.split("/")[0] in PAPERS for key in made) == len(made)
    return written


def summary_page(made: Contents, why: dict[str, str]) -> str:
    """Return the one-page summary: counts for each paper, conclusions that differ with the reason, and what was not run."""
    counts = {paper: verdicts_of({k: c for k, c in made.items() if k.startswith(f"{paper}/")}) for paper in PAPERS}
    total: Counter[str] = sum(counts.values(), Counter())
    judged_ones = total["agrees"] + total["differs"] + total["cannot be told"]
    held = (
        f"**Of {judged_ones} conclusions of the papers, {total['agrees']} hold, {total['differs']} do not, and "
        f"{total['cannot be told']} cannot be told from what was kept.**"
    )
    columns = ("paper", "agree", "differ", "cannot be told", "numbers", "beyond the paper")
    kinds = ("agrees", "differs", "cannot be told", "numbers", "beyond the paper")
    rows = tuple(
        (f"[{title}]({PAGES}/{paper}.md)", *(counts[paper][kind] for kind in kinds)) for paper, title in PAPERS.items()
    )
    table = Table("Papers", tuple(Column(name, form="d") for name in columns), rows)
    parts = [HEAD, held + "\n", markdown(table) + "\n", "## What differs, and why\n"]
    different = [key for key in why if verdicts_of({key: made[key]})["differs"]]
    parts += [f"* {_link(key)}: {why[key].split('. ')[0].rstrip('.')}." for key in different]
    parts += ["\n## What was not run\n", NOT_RUN, markdown(not_run(made)) + "\n"]
    parts += [
        f"The papers' lengths and weights in our units, with the words they were read from: [units]({PAGES}/units.md).\n"
    ]
    return "\n".join(parts)


def _link(key: str) -> str:
    return f"[{key}]({PAGES}/{key.split('/')[0]}.md#{_anchor(key)})"


def _anchor(key: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", key.lower())


def units_page() -> str:
    """Return the page of unit conversions."""
    head = "# The papers' units\n\nEach length or weight of a paper in our units, with the words it was read from.\n"
    return f"{head}\n{markdown(make_units_table())}\n"


def paper_page(items: Contents, why: dict[str, str]) -> Iterator[str]:
    """Yield the sections of a paper's page, item by item."""
    for key, contents in items.items():
        item = ITEMS[key]
        yield f"## {item.title} ({item.where}) {{#{_anchor(key)}}}\n"
        yield f"Item `{key}`.\n" if contents else f"Not run yet: `lowcurve reproduce {key} --scale {SCALES[0]}`\n"
        if contents and key in why:
            yield f"**Why our numbers differ.** {why[key].replace(chr(10), chr(10) * 2)}\n"
        for content in contents:
            yield from section(key, content)


def verdicts_of(made: Contents) -> Counter[str]:
    """Count the claims of these items by their verdict."""
    return Counter(
        verdict(*row) for contents in made.values() for content in contents for row in claims_of(content).rows
    )


def claims_of(content: dict[str, Any]) -> Table:
    """Return the paper's numbers next to ours."""
    table = load(content["results"]["beside the paper"])
    assert isinstance(table, Table)
    return table


def not_run(made: Contents) -> Table:
    """Return, for each paper and scale above smoke, the items that were not made, with the command that makes one."""
    missing: dict[tuple[str, str], list[str]] = {}
    for key, contents in made.items():
        paper, name = key.split("/")
        for scale in SCALES:
            if scale not in {content["facts"]["scale"] for content in contents}:
                missing.setdefault((paper, scale), []).append(name)
    rows = tuple((paper, scale, ", ".join(names)) for (paper, scale), names in missing.items())
    return Table("Not run", (Column("paper"), Column("scale"), Column("items")), rows)


def verdict(name: Cell, paper: Cell, ours: Cell, where: Cell) -> str:  # noqa: ARG001 (a row of the table)
    """Return the verdict on a claim."""
    if ours == "not run":
        return "not run"
    if str(where).startswith("not in the"):
        return "beyond the paper"
    if paper != "holds":
        return "numbers"
    if str(ours).startswith("cannot be told"):
        return "cannot be told"
    return "agrees" if str(ours).startswith("holds") else "differs"


def section(key: str, content: dict[str, Any]) -> Iterator[str]:
    """Yield one item on one data set: the command, what differs from the paper, the tables and the pictures."""
    facts, results = content["facts"], {name: load(value) for name, value in content["results"].items()}
    yield f"### On {facts['data']}, at the scale {facts['scale']}\n"
    rows = f' --rows "{facts["rows"]}"' if "rows" in facts else ""
    yield f"`lowcurve reproduce {key} --scale {facts['scale']} --data {facts['data']} --seeds {facts['seeds']}{rows}`\n"
    if "runs" in facts:
        yield f"Its rows come from {facts['runs']} runs of different versions of the code.\n"
    if "differs" in facts:
        yield bullets("Other than in the paper:", re.split(r"(?<=[.!?]) (?=[A-Z'‖])", facts["differs"]))
    for name in ("beside the paper", *SHOWN):
        table = results.get(name)
        if isinstance(table, Table) and table.rows and (name == "beside the paper" or len(table.rows) <= MOST_ROWS):
            yield markdown(table) + "\n"
            if table.caption and table.caption != facts.get("differs"):
                yield f"{table.caption}\n"
            yield from conditions_of(table)
    for place, plot in drawn(key, content):
        title = plot.title if plot.title.startswith("Figure") else f"{ITEMS[key].where}: {plot.title}"
        yield f"![{title}]({place.removeprefix(f'{PAGES}/')})\n"
        yield f"{title}.\n"
        yield from conditions_of(plot)


def conditions_of(result: Result) -> Iterator[str]:
    """Yield the conditions of a result as a list that opens on demand."""
    said = [
        f"{name}: {value}"
        for name, value in result.conditions.items()
        if name not in ("item", "paper", "scale", "data")
    ]
    if said:
        lines = "\n".join(f"* {line}" for line in said)
        yield f"<details markdown><summary>Conditions</summary>\n\n{lines}\n\n</details>\n"


def bullets(head: str, lines: list[str]) -> str:
    """Return a list with a heading."""
    return f"{head}\n\n" + "\n".join(f"* {line}" for line in lines) + "\n"


def drawn(key: str, content: dict[str, Any]) -> Iterator[tuple[str, Curves | Scatter]]:
    """The curves and points of an item that is a figure of its paper, and where their pictures are."""
    facts = content["facts"]
    loaded = {name: load(value) for name, value in content["results"].items()} if "Figure" in ITEMS[key].where else {}
    plots = {name: plot for name, plot in loaded.items() if isinstance(plot, Curves | Scatter)}
    for name, plot in list(plots.items())[:MOST_PICTURES]:
        words = (key.replace("/", "-"), facts["data"], facts["scale"], re.sub(r"\W+", "-", name))
        yield f"{PAGES}/{'-'.join(words)}.svg", plot


def pictures() -> dict[str, Curves | Scatter]:
    """Everything that is drawn, by its place."""
    return {
        place: plot for key, contents in found().items() for content in contents for place, plot in drawn(key, content)
    }


if __name__ == "__main__":
    shutil.rmtree(HERE / PAGES, ignore_errors=True)
    (HERE / PAGES).mkdir()
    for place, text in pages().items():
        (HERE / place).write_text(text)
    for place, plot in pictures().items():
        (HERE / place).write_bytes(static_figure(plot, "svg"))
