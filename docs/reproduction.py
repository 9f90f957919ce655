"""Writes docs/reproduction.md from docs/results/reproduce-*.json: python docs/reproduction.py

Each of these files is the JSON that `lowcurve reproduce` wrote for one item. tests/test_readme.py holds the page against them.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from readme_tables import markdown

from lowcurve.experiments.papers import ITEMS
from lowcurve.results import Table, load

HERE = Path(__file__).parent
HEAD = """# The papers, made again

Written by `python docs/reproduction.py` from `docs/results/reproduce-*.json`, which `lowcurve reproduce` wrote; nothing is
typed by hand. A claim that "holds" is one of the paper's conclusions, of our networks on the data and at the scale that are
named: smaller networks, fewer images and shorter training than the paper's, so numbers differ where the paper's are of
other data.
"""
SHOWN = ("numbers", "discrepancy", "boundary", "paths", "families")


def page() -> str:
    """The page as Markdown: what was made of every item, paper by paper, then what was not."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted((HERE / "results").glob("reproduce-*.json")):
        content = json.loads(path.read_text())
        found.setdefault(content["facts"]["item"], []).append(content)
    parts = [HEAD]
    for key, item in ITEMS.items():
        parts.append(f"## {key}: {item.title} ({item.where})\n")
        if key not in found:
            parts.append(f"Not run at a laptop's scale yet: `lowcurve reproduce {key} --scale laptop`\n")
        for content in found.get(key, ()):
            parts += section(key, content)
    return "\n".join(parts)


def section(key: str, content: dict[str, Any]) -> Iterator[str]:
    """One item on one data set."""
    facts, results = content["facts"], {name: load(value) for name, value in content["results"].items()}
    yield f"### On {facts['data']}, at the scale {facts['scale']}\n"
    yield f"`lowcurve reproduce {key} --scale {facts['scale']} --data {facts['data']} --seeds {facts['seeds']}`\n"
    if "differs" in facts:
        yield f"{facts['differs']}\n"
    for name in ("beside the paper", *SHOWN):
        table = results.get(name)
        if isinstance(table, Table) and table.rows:
            yield markdown(table) + "\n"
            said = [
                table.caption,
                "; ".join(f"{k}: {v}" for k, v in table.conditions.items() if k not in ("item", "paper")),
            ]
            yield "\n\n".join(filter(None, said)) + ("\n" if any(said) else "")


if __name__ == "__main__":
    (HERE / "reproduction.md").write_text(page())
