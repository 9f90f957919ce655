"""The progress bars of long computations in a terminal or a notebook."""

import contextlib
import importlib.util
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from lowcurve.types import Progress, silent

T = TypeVar("T")
DELAY = 2.0
"""Seconds before a bar appears: quick tasks show none."""
_exclusive = 0


def choose_progress(progress: Progress[int] | bool | None, fabric: Any = None) -> Progress[int]:
    """Return how a function shows its progress.

    Args:
        progress: None shows a bar in a terminal or a notebook. True shows a bar in any case, False none. A function
            (iterable, heading) -> iterable is used as it is.
        fabric: Processes that share the work. By default only the first one shows a bar.

    Example:
        >>> choose_progress(False) is silent
        True
    """
    if progress is None:
        first = fabric is None or fabric.global_rank == 0
        progress = first and not _exclusive and _is_watched()
    if isinstance(progress, bool):
        return progress_bar if progress else silent
    return progress


def progress_bar(iterable: Iterable[T], heading: str) -> Iterator[T]:
    """Yield the items and show a bar on stderr once they have taken longer than `DELAY` seconds.

    Example:
        >>> list(progress_bar(range(3), "counting"))
        [0, 1, 2]
    """
    items = list(iterable)
    started, bar, task = time.monotonic(), None, None
    try:
        for done, item in enumerate(items):
            if bar is None and time.monotonic() - started > DELAY:
                bar = _open_bar()
                task = bar.add_task(heading, total=len(items))
            if bar is not None:
                bar.update(task, completed=done)
            yield item
        if bar is not None:
            bar.update(task, completed=len(items))
    finally:
        if bar is not None:
            bar.stop()


@contextlib.contextmanager
def no_other_bars() -> Iterator[None]:
    """Keep `choose_progress(None)` silent inside, where another display has the terminal."""
    global _exclusive
    _exclusive += 1
    try:
        yield
    finally:
        _exclusive -= 1


def _is_watched() -> bool:
    if "ipykernel" in sys.modules:
        return importlib.util.find_spec("ipywidgets") is not None  # without it rich prints warnings instead of bars
    return sys.stderr is not None and sys.stderr.isatty()


def _open_bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    bar = Bars(*columns, console=console, transient=console.is_terminal)
    bar.start()
    return bar
