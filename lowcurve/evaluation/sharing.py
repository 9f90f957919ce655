"""Progress of long evaluations, and work that several processes share."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lowcurve.types import Progress

TICKS = 200


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


def share_of(fabric: Any, count: int) -> Tensor:
    """Return the numbers of this process's examples.

    Args:
        fabric: Lightning Fabric, or None for a single process.
        count: Number of examples; where there are fewer than processes, each process takes all of them.

    Example:
        >>> share_of(None, 3)
        tensor([0, 1, 2])
    """
    rows = torch.arange(count)
    return rows if fabric is None or fabric.world_size > count else rows[fabric.global_rank :: fabric.world_size]


def gather(columns: dict[str, Tensor], mine: Tensor) -> dict[str, Tensor]:
    """Return the columns of all processes together, in the order of the examples.

    Args:
        columns: This process's rows of each column.
        mine: Numbers of this process's examples.
    """
    parts: list[tuple[dict[str, Tensor], Tensor] | None] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, (columns, mine))
    known = [part for part in parts if part is not None]
    order = torch.cat([rows for _, rows in known]).argsort()
    return {name: torch.cat([part[name] for part, _ in known])[order] for name in columns}


def broadcast(fabric: Any, column: np.ndarray) -> np.ndarray:
    """Return the first process's column on every process, which rounding may have computed differently.

    Example:
        >>> broadcast(None, np.array([True, False])).tolist()
        [True, False]
    """
    if fabric is None or fabric.world_size == 1:
        return column
    known = [column]
    torch.distributed.broadcast_object_list(known, src=0)
    return known[0]
