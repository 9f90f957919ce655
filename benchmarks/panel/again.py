"""The panel run again on today's audit: its verdicts beside the first ones, which are the evidence of the error rates."""

from collections.abc import Sequence
from typing import Any

from lowcurve.results import Column, Table, dump
from panel.figures import Row, is_alarm, judged, misjudged, numbers, summarize_panel


def summarize(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the summary of the panel with the tables of the repeated run."""
    found = summarize_panel(rows)
    found["results"] |= {"again": dump(verdicts(rows)), "changed": dump(changed(rows))}
    return found


def brief(row: Row) -> dict[str, Any]:
    """Return what a repeated run adds to a row: the verdict, the raised tests, the times."""
    now = judged(row)
    kept = {name: now[name] for name in ("level", "suite", "suite seconds", "audit seconds", "version")}
    return kept | {"fail": numbers(now, "fail"), "flag": numbers(now, "flag")}


def verdicts(rows: Sequence[Row]) -> Table:
    """Return for each set how many evaluations got an alarm at first, and how many get one today.

    Args:
        rows: Rows of the panel, those of a repeated run with "again".
    """
    found = [(judged(row), row["again"]) for row in rows if "again" in row]
    cells: list[tuple[Any, ...]] = []
    for name in dict.fromkeys(row["half"] for row, _ in found):
        here = [(row, now) for row, now in found if row["half"] == name]
        sides = (
            [pair for pair in here if pair[0]["masked"] and misjudged(pair[0])],
            [pair for pair in here if not pair[0]["masked"]],
        )
        counts = [
            count
            for side in sides
            for count in (len(side), sum(is_alarm(row) for row, _ in side), sum(is_alarm(now) for _, now in side))
        ]
        cells.append((name, *counts))
    heads = ("wrong", "found at first", "found today", "honest", "alarms at first", "alarms today")
    return Table("The panel again", (Column("set"), *(Column(head, form="d") for head in heads)), tuple(cells))


def changed(rows: Sequence[Row]) -> Table:
    """Return the evaluations whose alarm is another one today."""
    cells = []
    for row in rows:
        first, now = judged(row), row.get("again")
        if now is not None and is_alarm(first) != is_alarm(now):
            failed = ", ".join(map(str, numbers(first, "fail"))) or "–"
            cells.append((row["name"], row["half"], failed, ", ".join(map(str, now["fail"])) or "–"))
    columns = tuple(map(Column, ("network and ball", "set", "failed at first", "failed today")))
    return Table("Verdicts that are others today", columns, tuple(cells))
