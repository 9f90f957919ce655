"""Writes the tables of README.md from the committed results: python docs/readme_tables.py

Between `<!-- table: FILE -->` and `<!-- end of table -->` stands the comparison of that result, or with `FILE#NAME` its table
of that name, as the run wrote it; no number is typed by hand. tests/test_readme.py holds README.md against it.
"""

import json
import re
from pathlib import Path

from lowcurve.results import Table, load

ROOT = Path(__file__).parents[1]
# A place that is still empty must not reach as far as the end of the next table.
PLACE = re.compile(r"<!-- table: (\S+) -->\n(?:(?:(?!<!-- table: ).)*?<!-- end of table -->\n)?", re.DOTALL)


def markdown(table: Table) -> str:
    """The table in Markdown; of a share with its interval only the share."""
    head = "| " + " | ".join(_cell(column.heading) for column in table.columns) + " |"
    numeric = [all(isinstance(row[k], int | float | tuple | None) for row in table.rows) for k in range(len(table.columns))]
    rule = "|" + "".join("---:|" if right else "---|" for right in numeric)
    rows = [
        "| "
        + " | ".join(
            _cell(c.write(v[0] if isinstance(v, tuple) else v)) for c, v in zip(table.columns, row, strict=True)
        )
        + " |"
        for row in table.rows
    ]
    return "\n".join([head, rule, *rows])


def _cell(text: str) -> str:
    """A bar within a cell would end it."""
    return text.replace("|", "\\|")


def named(place: str) -> Table:
    """The table of a result's file: the headline, or the one after #."""
    file, _, name = place.partition("#")
    table = load(json.loads((ROOT / file).read_text())["results"][name or "comparison"])
    if not isinstance(table, Table):
        raise TypeError(f"{place} is no table")
    return table


def written(readme: str) -> str:
    """README.md with every table as the results have it."""

    def fill(found: re.Match[str]) -> str:
        table = markdown(named(found[1]))
        return f"<!-- table: {found[1]} -->\n{table}\n<!-- end of table -->\n"

    return PLACE.sub(fill, readme)


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(written(path.read_text()))
