"""The progress bars of long computations in a terminal or a notebook."""

import contextlib
import html
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from lowcurve.types import Progress, silent

T = TypeVar("T")
DELAY = 2.0
"""Seconds before a bar appears: quick tasks show none."""
NOTEBOOK_PAUSE = 0.2
"""Seconds between two messages to a notebook."""
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


def open_bars() -> Any:
    """Return the bars of rich on stderr, which leave nothing on a terminal."""
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
    return Bars(*columns, console=console, transient=console.is_terminal)


class NotebookBar:
    """A bar in a notebook: one line below the cell that is renewed, and removed at the end.

    It has the methods of rich's bars that `progress_bar` uses. Rich itself needs ipywidgets there.
    """

    def __init__(self) -> None:
        self.handle: Any = None
        self.heading, self.total, self.started, self.renewed = "", 1, time.monotonic(), 0.0

    def start(self) -> None:
        """Do nothing; the first `update` shows the line."""

    def add_task(self, heading: str, total: int) -> int:
        """Name what is counted, and return its number."""
        self.heading, self.total, self.started = heading, max(total, 1), time.monotonic()
        return 0

    def update(self, _: int, completed: int) -> None:
        """Show how much is done."""
        if time.monotonic() - self.renewed < NOTEBOOK_PAUSE and completed < self.total:
            return
        self.renewed, gone = time.monotonic(), time.monotonic() - self.started
        left = f", {gone / completed * (self.total - completed):.0f} s left" if completed else ""
        self._show(f"{self.heading}: {completed} of {self.total}{left}", completed / self.total)

    def stop(self) -> None:
        """Remove the line."""
        if self.handle is not None:
            self.handle.update({"text/plain": "", "text/html": ""}, raw=True)

    def _show(self, text: str, share: float) -> None:
        from IPython.display import display

        bar = f"<progress max='1' value='{share:.3f}'></progress> {html.escape(text)}"
        content = {"text/plain": text, "text/html": bar}
        if self.handle is None:
            self.handle = display(content, raw=True, display_id=True)
        else:
            self.handle.update(content, raw=True)


def _in_notebook() -> bool:
    return "ipykernel" in sys.modules


def _is_watched() -> bool:
    return _in_notebook() or (sys.stderr is not None and sys.stderr.isatty())


def _open_bar() -> Any:
    bar = NotebookBar() if _in_notebook() else open_bars()
    bar.start()
    return bar
