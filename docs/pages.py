"""Fill the tables of README.md and docs/*.md, and write docs/reference/cli.md: python docs/pages.py

`<!-- table: FILE -->` is followed by the comparison of that result, or with `FILE#NAME` by its table of that name, as the run
wrote it. Of several files, `<!-- table: FILE FILE -->`, it is one table. `<!-- checks -->` is followed by the audit's tests,
`<!-- schema -->` by the fields of its file, `<!-- networks: GROUP -->` by the networks of a group that comes with the
package. A test compares the pages with what this script writes.
"""

import contextlib
import io
import json
import re
from dataclasses import replace
from pathlib import Path

from lowcurve.results import Table, load
from lowcurve.study.findings import shorten_verdicts

ROOT = Path(__file__).parents[1]
# A place that is still empty must not reach as far as the end of the next table.
PLACE = re.compile(
    r"<!-- (table: [^>]+|checks|schema|networks: [^>]+) -->\n"
    r"(?:(?:(?!<!-- (?:table: |checks|schema|networks: )).)*?<!-- end of table -->\n)?",
    re.DOTALL,
)


def markdown(table: Table) -> str:
    """Return the table in Markdown. Of a share with its interval it has only the share."""
    numeric = [
        all(isinstance(row[k], int | float | tuple | None) for row in table.rows) for k in range(len(table.columns))
    ]
    rule = "|" + "".join("---:|" if right else "---|" for right in numeric)
    head = [column.heading for column in table.columns]
    rows = [
        [c.write(v[0] if isinstance(v, tuple) else v) for c, v in zip(table.columns, row, strict=True)]
        for row in table.rows
    ]
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |" for cells in (head, *rows)]
    return "\n".join([lines[0], rule, *lines[1:]])


def table_at(place: str) -> Table:
    """Return the table of a result's file: the headline, or the one named after #.

    Of several files it is one table, in which each network has the name of its architecture, too.
    """
    contents, tables = [], []
    for word in place.split():
        file, _, name = word.partition("#")
        contents.append(json.loads((ROOT / file).read_text()))
        results = contents[-1]["results"]
        table = load(results[name or "comparison"])
        if not isinstance(table, Table):
            raise TypeError(f"{word} is no table")
        tables.append(shorten_verdicts(table, load(results["audit"]) if "audit" in results else None))
    if len(tables) == 1:
        return tables[0]
    rows = [
        (f"{content['settings']['network']}, {row[0]}", *row[1:])
        for content, table in zip(contents, tables, strict=True)
        for row in table.rows
    ]
    return replace(tables[0], rows=tuple(rows))


def checks() -> str:
    """Return the audit's tests with what they mean and what to do, as a list."""
    from lowcurve.evaluation.audit import CHECKS

    lines = []
    for check in sorted(CHECKS, key=lambda check: check.number):
        lines += [f"* **{check.number}. {check.name}** is raised if {check.raised_if}."]
        lines += [f"    * {check.means}", f"    * *What to do:* {check.hint}"]
    return "\n".join(lines)


def schema() -> str:
    """Return the fields of an audit's file as tables."""
    from lowcurve.evaluation.audit.exchange import FIELDS, FINDING_FIELDS, REMEDY_FIELDS, SHARE_FIELDS

    tables = {"": FIELDS, "A share of images": SHARE_FIELDS, "A finding": FINDING_FIELDS, "A remedy": REMEDY_FIELDS}
    parts = []
    for name, fields in tables.items():
        rows = [f"| `{field}` | {text} |" for field, text in fields.items()]
        parts += ["\n".join([*([f"{name}:", ""] if name else []), "| field | meaning |", "|---|---|", *rows])]
    return "\n\n".join(parts)


def networks_of(group: str) -> Table:
    """Return the networks of a group that comes with the package, with what was measured on them."""
    from lowcurve.results import Column
    from lowcurve.store import list_pretrained

    members = [one for one in list_pretrained().values() if one.group == group]
    columns = [Column(heading, **told) for heading, told in members[0].shared["columns"].items()]
    cells = [[one.card["measured"][column.heading] for column in columns] for one in members]
    rows = [
        (one.name, *(tuple(cell) if isinstance(cell, list) else cell for cell in row))
        for one, row in zip(members, cells, strict=True)
    ]
    return Table("", (Column("name", ""), *columns), tuple(rows))


def filled(text: str) -> str:
    """Return a page with every table as the results have it."""

    def fill(found: re.Match[str]) -> str:
        kind, _, place = found[1].partition(": ")
        written = {"table": table_at, "networks": networks_of}.get(kind)
        text = markdown(written(place)) if written else {"checks": checks, "schema": schema}[kind]()
        return f"<!-- {found[1]} -->\n{text}\n<!-- end of table -->\n"

    return PLACE.sub(fill, text)


def pages_with_tables() -> list[Path]:
    """Return README.md and the pages below docs/ that have a table of a result."""
    return [
        path for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))) if PLACE.search(path.read_text())
    ]


def command_line() -> str:
    """Return the reference of the command line: the help of each command, whole."""
    from lowcurve.cli.commands import COMMANDS, main

    parts = ["# Command line\n", "Written by `python docs/pages.py` from the commands' own help.\n"]
    for command in ("", *COMMANDS):
        words = [command, "--help-all"] if command else ["--help"]
        with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.suppress(SystemExit):
            main(words)
        parts += [f"## lowcurve {command}".rstrip() + "\n", f"```text\n{said.getvalue().rstrip()}\n```\n"]
    return "\n".join(parts)


if __name__ == "__main__":
    for path in pages_with_tables():
        path.write_text(filled(path.read_text()))
    (ROOT / "docs" / "reference" / "cli.md").write_text(command_line())
