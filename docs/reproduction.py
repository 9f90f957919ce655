"""Writes docs/reproduction.md, .html and pictures from docs/results/reproduce-*.json: python docs/reproduction.py

Each of these files is the JSON that `lowcurve reproduce` wrote for one item. tests/test_readme.py holds the page against them.
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
from readme_tables import markdown

from lowcurve.papers.common.units import make_units_table
from lowcurve.papers.items import ITEMS
from lowcurve.report import page as html
from lowcurve.report import static_figure
from lowcurve.results import Cell, Column, Curves, Result, Scatter, Table, beside, dump, load, merge

HERE = Path(__file__).parent
HEAD = """# The papers, made again

Written by `python docs/reproduction.py` from `docs/results/reproduce-*.json`, which `lowcurve reproduce` wrote; nothing is
typed by hand. A claim that "holds" is one of the paper's conclusions, of our networks on the data and at the scale that are
named: smaller networks, fewer images and shorter training than the paper's, so numbers differ where the paper's are of
other data, and only conclusions are counted as agreeing or differing. `docs/reproduction.html` has the same tables as one page.
Pictures bear the number of the paper's figure that they can be laid beside.
"""
SHOWN = (
    "numbers", "discrepancy", "boundary", "paths", "families", "colors", "robustness", "wide", "cross-sections", "attacked",
    "distances", "bounds", "accuracy",
)  # fmt: skip
MOST = 12
"""Rows of a table that is not the claims'; longer ones stand in the page that the command writes."""
PICTURES = "reproduction"
"""The folder of what is drawn, beside the page."""
DRAWN = 3
"""So many pictures of an item on one data set at most; the page that the command writes has all."""
SCALES = ("laptop", "paper")
NOT_RUN = (
    "At the scale of the paper these are networks of the papers' sizes on whole data sets: hours of a GPU, and none was at "
    "hand. The commands stand ready and are tried at the smallest scale by the tests; given again, each goes on where it was."
)


def found() -> dict[str, list[dict[str, Any]]]:
    """What was made of every item."""
    made: dict[str, list[dict[str, Any]]] = {key: [] for key in ITEMS}
    for path in sorted((HERE / "results").glob("reproduce-*.json")):
        content = json.loads(path.read_text())
        made[content["facts"]["item"]].append(content)
    return {key: together(contents) for key, contents in made.items()}


def together(contents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What was made of an item, with the rows of a table that were made in runs of their own as one."""
    kinds: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for content in contents:
        kinds.setdefault(tuple(content["facts"][fact] for fact in ("scale", "data", "seeds")), []).append(content)
    return [joined(runs) if len(runs) > 1 else runs[0] for runs in kinds.values()]


def joined(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Runs of different rows: their results below one another, the first run first, and what the paper says beside them;
    what differs from the paper is told as by the last."""
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
    table = beside(said[-1].title, claims(results, facts["data"]), said[-1].caption, said[-1].conditions)
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


def page() -> str:
    """The page as Markdown: a summary of all items, the units, then what was made of every item, paper by paper."""
    why = yaml.safe_load((HERE / "why.yaml").read_text())
    parts = [HEAD, "## All items\n", markdown(summary()) + "\n"]
    parts += ["## Not run\n", f"{NOT_RUN}\n", markdown(not_run()) + "\n"]
    parts += ["## Units\n", markdown(make_units_table()) + "\n"]
    for key, contents in found().items():
        item = ITEMS[key]
        parts.append(f"## {key}: {item.title} ({item.where})\n")
        if not contents:
            parts.append(f"Not run yet: `lowcurve reproduce {key} --scale {SCALES[0]}`\n")
        if contents and key in why:
            parts.append(f"Why it differs: {why[key]}\n")
        for content in contents:
            parts += section(key, content)
    return "\n".join(parts)


def summary() -> Table:
    """Every item with what was made of it: conclusions that hold, that do not, numbers beside the paper's."""
    headings = ("item", "where", "scale", "data", "agrees", "differs", "numbers", "beyond the paper", "not run")
    rows: list[tuple[Cell, ...]] = []
    for key, contents in found().items():
        if not contents:
            rows.append((key, ITEMS[key].where, "not run", *[None] * 6))
        for content in contents:
            table = load(content["results"]["beside the paper"])
            assert isinstance(table, Table)
            kinds = Counter(verdict(*row) for row in table.rows)
            counts = (kinds[name] for name in headings[4:])
            rows.append((key, ITEMS[key].where, content["facts"]["scale"], content["facts"]["data"], *counts))
    return Table("Items", tuple(Column(name, form="d") for name in headings), tuple(rows))


def not_run() -> Table:
    """Every item at every scale above smoke at which nothing was made of it, with the command that makes it."""
    rows: list[tuple[Cell, ...]] = []
    for key, contents in found().items():
        for scale in SCALES:
            data = ITEMS[key].data_at(scale, None)
            if scale not in {content["facts"]["scale"] for content in contents}:
                pieces = " --minutes 8" if scale == "paper" else ""
                rows.append((key, scale, data, f"lowcurve reproduce {key} --scale {scale}{pieces}"))
    columns = (Column("item"), Column("scale"), Column("data"), Column("command"))
    return Table("Not run", columns, tuple(rows), NOT_RUN)


def verdict(name: Cell, paper: Cell, ours: Cell, where: Cell) -> str:  # noqa: ARG001 (a row of the table)
    """What a claim came to."""
    if ours == "not run":
        return "not run"
    if str(where).startswith("not in the"):
        return "beyond the paper"
    if paper != "holds":
        return "numbers"
    return "agrees" if str(ours).startswith("holds") else "differs"


def web_page() -> str:
    """The summary, the units and every item's claims as one page that opens offline."""
    results = [summary(), not_run(), make_units_table()]
    for key, contents in found().items():
        for content in contents:
            table = load(content["results"]["beside the paper"])
            assert isinstance(table, Table)
            title = f"{key} on {content['facts']['data']}, at the scale {content['facts']['scale']}"
            results.append(replace(table, title=title))
    return html("The papers, made again", "Every number beside the paper's, with its conditions.", results, {})


def section(key: str, content: dict[str, Any]) -> Iterator[str]:
    """One item on one data set."""
    facts, results = content["facts"], {name: load(value) for name, value in content["results"].items()}
    yield f"### On {facts['data']}, at the scale {facts['scale']}\n"
    rows = f' --rows "{facts["rows"]}"' if "rows" in facts else ""
    yield f"`lowcurve reproduce {key} --scale {facts['scale']} --data {facts['data']} --seeds {facts['seeds']}{rows}`\n"
    if "runs" in facts:
        yield f"Its rows are of {facts['runs']} runs, of different versions of the code.\n"
    if "differs" in facts:
        yield f"{facts['differs']}\n"
    for name in ("beside the paper", *SHOWN):
        table = results.get(name)
        if isinstance(table, Table) and table.rows and (name == "beside the paper" or len(table.rows) <= MOST):
            yield markdown(table) + "\n"
            said = [
                "" if table.caption == facts.get("differs") else table.caption,
                "; ".join(f"{k}: {v}" for k, v in table.conditions.items() if k not in ("item", "paper")),
            ]
            yield "\n\n".join(filter(None, said)) + ("\n" if any(said) else "")
    for place, plot in drawn(key, content):
        conditions = "; ".join(f"{k}: {v}" for k, v in plot.conditions.items())
        title = plot.title if plot.title.startswith("Figure") else f"{ITEMS[key].where}: {plot.title}"
        yield f"![{title}]({place})\n"
        yield f"{title}{conditions and f' ({conditions})'}.\n"


def drawn(key: str, content: dict[str, Any]) -> Iterator[tuple[str, Curves | Scatter]]:
    """The curves and points of an item that is a figure of its paper, and where their pictures are."""
    facts = content["facts"]
    loaded = {name: load(value) for name, value in content["results"].items()} if "Figure" in ITEMS[key].where else {}
    plots = {name: plot for name, plot in loaded.items() if isinstance(plot, Curves | Scatter)}
    for name, plot in list(plots.items())[:DRAWN]:
        words = (key.replace("/", "-"), facts["data"], facts["scale"], re.sub(r"\W+", "-", name))
        yield f"{PICTURES}/{'-'.join(words)}.svg", plot


def pictures() -> dict[str, Curves | Scatter]:
    """Everything that is drawn, by its place."""
    return {
        place: plot for key, contents in found().items() for content in contents for place, plot in drawn(key, content)
    }


if __name__ == "__main__":
    (HERE / "reproduction.md").write_text(page())
    (HERE / "reproduction.html").write_text(web_page())
    shutil.rmtree(HERE / PICTURES, ignore_errors=True)
    (HERE / PICTURES).mkdir()
    for place, plot in pictures().items():
        (HERE / place).write_bytes(static_figure(plot, "svg"))
