"""Progress of long evaluations, and work that several processes share."""

from collections.abc import Iterator
from typing import Any, TypeVar

import torch

from lowcurve.errors import InputError
from lowcurve.types import Progress

T = TypeVar("T")
TICKS = 200
LOST = (
    "connection closed by peer",
    "connection reset by peer",
    "broken pipe",
    "gloo",
    "nccl",
    "tcpstore",
    "eaddrinuse",
)
"""Words in torch's errors where another process is gone or cannot be reached."""


class Ticker:
    """Shows work of known size, done in uneven pieces, as a `Progress` over equal ticks.

    Args:
        progress: How ticks are shown.
        heading: Text next to the bar.
        work: Amount of work in any unit.

    Example:
        >>> seen = []
        >>> def progress(ticks, heading):
        ...     for tick in ticks:
        ...         seen.append(tick)
        ...         yield tick
        >>> ticker = Ticker(progress, "attacking", 1000)
        >>> ticker.advance(500)
        >>> len(seen)
        100
        >>> ticker.reach(1000)
        >>> len(seen)
        200
    """

    def __init__(self, progress: Progress[int], heading: str, work: int) -> None:
        self.work, self.done, self.shown = max(work, 1), 0, 0
        self.ticks: Iterator[int] = iter(progress(range(TICKS), heading))

    def advance(self, amount: int) -> None:
        """Add an amount to the work that is done."""
        self.done += amount
        while self.shown < min(TICKS * self.done // self.work, TICKS):
            next(self.ticks, None)
            self.shown += 1
        if self.shown == TICKS:
            next(self.ticks, None)  # exhausts the iterator, so that the bar closes

    def reach(self, amount: int) -> None:
        """Raise the work that is done to an amount, if it is below."""
        self.advance(max(amount - self.done, 0))


def agree(fabric: Any, failure: Exception | None) -> None:
    """Raise an error of one process in all of them. Every process calls this.

    Args:
        fabric: Lightning Fabric.
        failure: The error of this process, None if it has none.
    """
    # The other processes need the sentence only; the error itself may hold what cannot be sent.
    if failure is not None and not isinstance(failure, InputError):
        failure = RuntimeError(f"{type(failure).__name__}: {failure}")
    for error in gather(fabric, failure):
        if error is not None:
            raise error


def gather(fabric: Any, own: T) -> list[T]:
    """Return what each process of several has, on every process.

    Args:
        fabric: Lightning Fabric.
        own: What this process has.
    """
    found: list[Any] = [None] * fabric.world_size
    torch.distributed.all_gather_object(found, own)
    return found


def is_process_error(error: BaseException) -> bool:
    """Return whether an error says that another process is gone or cannot be reached.

    Example:
        >>> is_process_error(RuntimeError("Connection closed by peer [127.0.0.1]:29500"))
        True
    """
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in LOST)


def broadcast(fabric: Any, found: T) -> T:
    """Return what the first process found on every process, such as a column that rounding may have computed differently.

    Example:
        >>> broadcast(None, [True, False])
        [True, False]
    """
    if fabric is None or fabric.world_size == 1:
        return found
    known = [found]
    torch.distributed.broadcast_object_list(known, src=0)
    return known[0]
