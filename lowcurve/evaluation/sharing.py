"""How far a long evaluation is, and the shares of several processes put together."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lowcurve.types import Progress

TICKS = 200


class Ticker:
    """Work of known size that is done in uneven pieces, shown as a `Progress` over equal ticks.

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
        """So much more is done."""
        self.done += amount
        while self.shown < min(TICKS * self.done // self.work, TICKS):
            next(self.ticks, None)
            self.shown += 1
        if self.shown == TICKS:
            next(self.ticks, None)  # so that the bar learns that it is over

    def reach(self, amount: int) -> None:
        """So much is done altogether, at least."""
        self.advance(max(amount - self.done, 0))


def share_of(fabric: Any, count: int) -> Tensor:
    """The numbers of this process's examples: every so manyth; all of them where there are fewer than processes, or one alone.

    Example:
        >>> share_of(None, 3)
        tensor([0, 1, 2])
    """
    rows = torch.arange(count)
    return rows if fabric is None or fabric.world_size > count else rows[fabric.global_rank :: fabric.world_size]


def gathered(columns: dict[str, Tensor], mine: Tensor) -> dict[str, Tensor]:
    """Every process's rows of each column, in the order of the examples."""
    parts: list[tuple[dict[str, Tensor], Tensor] | None] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, (columns, mine))
    known = [part for part in parts if part is not None]
    order = torch.cat([rows for _, rows in known]).argsort()
    return {name: torch.cat([part[name] for part, _ in known])[order] for name in columns}


def agreed(fabric: Any, column: np.ndarray) -> np.ndarray:
    """What the first process found, where each has found it by itself: rounding may tell them apart.

    Example:
        >>> agreed(None, np.array([True, False])).tolist()
        [True, False]
    """
    if fabric is None or fabric.world_size == 1:
        return column
    known = [column]
    torch.distributed.broadcast_object_list(known, src=0)
    return known[0]
