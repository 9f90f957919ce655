"""Terminal output: tables, progress bars with the time left, the log."""

import contextlib
import json
import logging
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

if TYPE_CHECKING:
    from lowcurve.results import Cell, Column, Result, Table
    from lowcurve.store import Run
    from lowcurve.study.settings import Study

T = TypeVar("T")
AUDIT = "audit"
WIDTH = 160
"""Characters of a line where there is no terminal."""
log = logging.getLogger("lowcurve")
_AS_JSON = [False]
"""Whether the command prints JSON. Threads read it, too, so it is no context variable."""


@contextlib.contextmanager
def printing(*, as_json: bool) -> Iterator[None]:
    """Print one JSON document to standard output inside the block, and everything else to standard error.

    Args:
        as_json: False prints for people, as usual.
    """
    before = _AS_JSON[0]
    _AS_JSON[0] = as_json
    try:
        yield
    finally:
        _AS_JSON[0] = before


def print_json(content: Any) -> bool:
    """Print the content as JSON if the command was given --json.

    Args:
        content: Mappings, lists, text and numbers.

    Returns:
        Whether it was printed; if not, the command prints for people.
    """
    if _AS_JSON[0]:
        print(json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False))
    return _AS_JSON[0]


def message_stream() -> TextIO:
    """Return the stream for messages: standard output, or standard error if that is for JSON."""
    return sys.stderr if _AS_JSON[0] else sys.stdout


def table_content(table: "Table") -> dict[str, Any]:
    """Return a result's table for `print_json`: a mapping from headings to cells for each row.

    Args:
        table: The table. A cell with an interval becomes {"value", "low", "high"}.
    """
    headings = [column.heading for column in table.columns]
    rows = [
        {
            heading: dict(zip(("value", "low", "high"), cell, strict=True)) if isinstance(cell, tuple) else cell
            for heading, cell in zip(headings, row, strict=True)
        }
        for row in table.rows
    ]
    return {"title": table.title, "conditions": dict(table.conditions), "rows": rows}


def claims_table(table: Any) -> Any:
    """Return a paper's numbers next to ours as a table of rich, whose sentences wrap."""
    shown = empty_table(table.title)
    for column in table.columns:
        shown.add_column(column.heading)
    for row in table.rows:
        shown.add_row(*map(str, row))
    return shown


def result_table(table: "Table", unfinished: Collection[str] = ()) -> Any:
    """Return a result's table as a table of rich, without the audit's sentences (`audit_lines`).

    Args:
        table: The table.
        unfinished: Rows whose missing cells are still to come.
    """
    shown = empty_table(table.title)
    places = [number for number, column in enumerate(table.columns) if column.heading != AUDIT]
    for number in places:
        shown.add_column(table.columns[number].heading, justify="right" if number else "left", no_wrap=not number)
    rows = [*table.rows, *((name,) for name in unfinished if name not in {row[0] for row in table.rows})]
    for row in rows:
        cells = [write_cell(table.columns[k], row[k]) if k < len(row) and row[k] is not None else "" for k in places]
        shown.add_row(*(cell or ("\N{HORIZONTAL ELLIPSIS}" if row[0] in unfinished else "") for cell in cells))
    return shown


def write_cell(column: "Column", cell: "Cell") -> str:
    """Return a cell in few characters: a share with its interval in whole per cent.

    Example:
        >>> from lowcurve.results import Column
        >>> write_cell(Column("clean", "", ".1%"), (0.981, 0.961, 0.991)), write_cell(Column("C"), 3.97)
        ('98.1% [96-99]', '3.97')
    """
    if not isinstance(cell, tuple):
        return column.write(cell)
    value, low, high = cell
    if not column.form.endswith("%") or low is None or high is None:
        return column.write(value)
    return f"{column.write(value)} [{100 * low:.0f}-{100 * high:.0f}]"


def row_in_words(table: "Table", name: str) -> str:
    """Return a row of a table as one line."""
    row = next((row for row in table.rows if row[0] == name), (name,))
    pairs = list(zip(table.columns, row, strict=False))[1:]
    cells = [f"{c.heading} {write_cell(c, cell)}" for c, cell in pairs if cell is not None and c.heading != AUDIT]
    return f"{name}: {', '.join(cells)}"


def headline_of(study: "Study", run: "Run", before: "Mapping[str, Table]") -> "Table | None":
    """Return the table that compares the networks, as far as it is known, with its conditions as title.

    Args:
        study: Settings of the study.
        run: Run in which the results are.
        before: Accuracies by network that are known before its attacks are done.
    """
    from lowcurve.results import Table
    from lowcurve.study.comparison import compare
    from lowcurve.study.pipeline import scope_of

    parts: dict[str, Mapping[str, Result]] = {f"attack-{name}": {"robustness": table} for name, table in before.items()}
    parts |= run.parts(scope_of(study, run.read_examples()))
    kinds = ("robustness", "geometry")
    few = {name: {kind: part[kind] for kind in kinds if kind in part} for name, part in parts.items()}
    table = compare(few, [*{*run.networks(), *before}]).get("comparison")
    return with_conditions(table, study) if isinstance(table, Table) else None


def with_conditions(table: "Table", study: "Study") -> "Table":
    """Return the table that compares the networks with radius, norm, suite and numbers of images in its title."""
    told = []
    if any(column.heading == study.suite for column in table.columns):
        of = table.conditions.get("examples (robustness)", table.conditions.get("examples", ""))
        told += [f"{study.norm} radius {study.radius}", f"attacks: {study.attacks}", of, "in brackets 95 % intervals"]
    measured = table.conditions.get("examples (curvature of the loss in input space)")
    if measured:
        told += [f"curvature at {measured}"]
    return replace(table, title="\n".join([table.title, "; ".join(filter(None, told))]).strip())


def console() -> Any:
    """Return the console of the command: as wide as the terminal; elsewhere wide enough for every table."""
    from rich.console import Console

    return Console() if is_terminal() else Console(width=WIDTH)


def is_terminal() -> bool:
    """Return whether a person watches standard output."""
    from rich.console import Console

    return not _AS_JSON[0] and bool(Console().is_terminal)


def empty_table(title: str) -> Any:
    """Return a table of rich with this title, as all commands print them."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as RichTable

    return RichTable(title=title, box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))


def audit_lines(table: "Table") -> list[str]:
    """Return the audit's verdict on each network of the table, one line each."""
    places = [number for number, column in enumerate(table.columns) if column.heading == AUDIT]
    return [f"{row[0]}: {row[place]}" for place in places for row in table.rows if row[place] is not None]


@contextlib.contextmanager
def progress_bars() -> Iterator[Callable[[Iterable[T], str], Iterable[T]]]:
    """Show the bar of what runs now, with the time left, on a terminal; elsewhere a line when something begins."""
    from lowcurve.progress import no_other_bars, open_bars

    with no_other_bars():
        if not is_terminal():
            told: set[str] = set()

            def tell(iterable: Iterable[T], heading: str) -> Iterable[T]:
                if heading not in told:
                    log.info("%s", heading)
                told.add(heading)
                return iterable

            yield tell
            return
        with open_bars() as bars:

            def track(iterable: Iterable[T], heading: str) -> Iterable[T]:
                for before in bars.tasks:
                    bars.remove_task(before.id)
                found: Iterable[T] = bars.track(iterable, description=heading)
                return found

            yield track


@contextlib.contextmanager
def log_to(run: "Run") -> Iterator[None]:
    """Send log messages to the run's log and to the terminal."""
    from rich.logging import RichHandler

    with run.log() as file:
        on_disk = logging.StreamHandler(file)
        on_disk.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        on_screen: logging.Handler = RichHandler(show_path=False, show_level=False, markup=False)
        if not is_terminal():  # lines that a log keeps whole
            on_screen = logging.StreamHandler(message_stream())
            on_screen.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        # The command itself prints errors.
        on_screen.addFilter(lambda record: record.levelno < logging.ERROR)
        handlers: list[logging.Handler] = [on_disk, on_screen]
        for handler in handlers:
            log.addHandler(handler)
        log.setLevel(logging.INFO)
        logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
        try:
            yield
        finally:
            for handler in handlers:
                log.removeHandler(handler)
