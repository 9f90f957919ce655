"""Terminal output: tables, progress bars with the time left, the log."""

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from lowcurve.results import Table
    from lowcurve.store import Run

T = TypeVar("T")
AUDIT = "audit"
log = logging.getLogger("lowcurve")


def claims_table(table: Any) -> Any:
    """Return a paper's numbers next to ours as a table of rich, whose sentences wrap."""
    shown = _empty(table.title)
    for column in table.columns:
        shown.add_column(column.heading)
    for row in table.rows:
        shown.add_row(*map(str, row))
    return shown


def result_table(table: "Table") -> Any:
    """Return a result's table as a table of rich, without intervals and without the audit's sentences (`audit_lines`)."""
    shown = _empty(table.title)
    places = [number for number, column in enumerate(table.columns) if column.heading != AUDIT]
    for number in places:
        shown.add_column(table.columns[number].heading, justify="right" if number else "left", no_wrap=not number)
    for row in table.rows:
        # A terminal is too narrow for the intervals; they are in the report.
        cells = [row[k] for k in places]
        values = [cell[0] if isinstance(cell, tuple) else cell for cell in cells]
        shown.add_row(*(table.columns[k].write(value) for k, value in zip(places, values, strict=True)))
    return shown


def _empty(title: str) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as RichTable

    return RichTable(title=title, box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))


def audit_lines(table: "Table") -> list[str]:
    """Return the audit's verdict on each network of the table, one line each."""
    places = [number for number, column in enumerate(table.columns) if column.heading == AUDIT]
    return [f"{row[0]}: {row[place]}" for place in places for row in table.rows if row[place] is not None]


@contextlib.contextmanager
def progress_bars() -> Iterator[Callable[[Iterable[T], str], Iterable[T]]]:
    """Show bars with the time left on a terminal, or one line per bar elsewhere."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from lowcurve.progress import no_other_bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with no_other_bars(), Progress(*columns) as bars:

        def track(iterable: Iterable[T], heading: str) -> Iterable[T]:
            for before in bars.tasks:  # work in several parts keeps only its last bar
                if before.description == heading and before.finished:
                    bars.remove_task(before.id)
            return bars.track(iterable, description=heading)

        yield track


@contextlib.contextmanager
def log_to(run: "Run") -> Iterator[None]:
    """Send log messages to the run's log and to the terminal."""
    from rich.logging import RichHandler

    with run.log() as file:
        on_disk = logging.StreamHandler(file)
        on_disk.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        on_screen = RichHandler(show_path=False, show_level=False, markup=False)
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
