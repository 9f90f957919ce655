"""What a terminal shows: tables, progress bars with the time left, the log."""

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from lowcurve.store import Run

T = TypeVar("T")
AUDIT = "audit"
log = logging.getLogger("lowcurve")


def claims(table: Any) -> Any:
    """A paper's numbers beside ours as the terminal shows them: sentences, which wrap."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as RichTable

    shown = RichTable(title=table.title, box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in table.columns:
        shown.add_column(column.heading)
    for row in table.rows:
        shown.add_row(*map(str, row))
    return shown


def table(table: Any) -> Any:
    """A result's table as the terminal shows it: without the intervals of shares and without sentences (`verdicts`)."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as RichTable

    shown = RichTable(title=table.title, box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    places = [number for number, column in enumerate(table.columns) if column.heading != AUDIT]
    for number in places:
        shown.add_column(table.columns[number].heading, justify="right" if number else "left", no_wrap=not number)
    for row in table.rows:
        # The interval of a share is in the report; a terminal is narrow.
        cells = (row[k][0] if isinstance(row[k], tuple) else row[k] for k in places)
        shown.add_row(*(table.columns[k].write(cell) for k, cell in zip(places, cells, strict=True)))
    return shown


def verdicts(table: Any) -> list[str]:
    """What the audit says of each network of the table, a line each."""
    found = [number for number, column in enumerate(table.columns) if column.heading == AUDIT]
    return [f"{row[0]}: {row[place]}" for place in found for row in table.rows if row[place] is not None]


@contextlib.contextmanager
def progress_bars() -> Iterator[Callable[[Iterable[T], str], Iterable[T]]]:
    """Bars with the time left, on a terminal; a line each otherwise."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as bars:

        def shown(iterable: Iterable[T], heading: str) -> Iterable[T]:
            for before in bars.tasks:  # work in several parts has one bar, the last part's
                if before.description == heading and before.finished:
                    bars.remove_task(before.id)
            return bars.track(iterable, description=heading)

        yield shown


@contextlib.contextmanager
def logged(run: "Run") -> Iterator[None]:
    """What is logged goes to the run's log and to the terminal."""
    from rich.logging import RichHandler

    with run.log() as file:
        on_disk = logging.StreamHandler(file)
        on_disk.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        on_screen = RichHandler(show_path=False, show_level=False, markup=False)
        on_screen.addFilter(
            lambda record: record.levelno < logging.ERROR
        )  # errors are said once, by the command itself
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
