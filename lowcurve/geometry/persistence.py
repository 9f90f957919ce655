"""How long the pieces and holes of {margin > t} on a slice last while t falls: fragmentation by degrees, not by counting.

Cubical persistence of numbers on a grid, by gudhi, which is optional: `pip install lowcurve[topology]`.
"""

import importlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lowcurve.errors import InputError
from lowcurve.types import PerExample


@dataclass(frozen=True)
class Persistence:
    """The pieces and the holes of {values > t} for all t, of one slice.

    pieces, holes: (count, 2), the t at which each appears, and the lower t at which it joins a piece that appeared before it
    (or is filled); the first piece never does: -inf. Longest first.
    """

    components: Tensor
    holes: Tensor


def cubical_persistence(values: Tensor) -> tuple[Persistence, ...]:
    """Of every grid of values (slices, rows, columns), such as margins: when its pieces and holes come and go.

    Grid points are neighbors along rows and columns, not across corners; a square is there with its four corners. Numbers of
    a plane and a spacing: two pieces on a slice may be one region outside it.
    Cost: about that of sorting the grid, on the CPU. Errors: InputError without gudhi, or where a value is not finite.

    Reference: Wagner, Chen and Vuçini 2012 (cubical persistence).
    """
    if values.ndim != 3 or not bool(torch.isfinite(values).all()):
        received = f"shape {tuple(values.shape)}, or others"
        raise InputError(
            "finite values on grids, (slices, rows, columns)", received, "write values[None] for one slice"
        )
    gudhi = _gudhi()
    return tuple(_of_one(gudhi, grid) for grid in values.detach().double().cpu())


def fragmentation(values: Tensor) -> dict[str, PerExample]:
    """Of every grid of margins, how fragmented {margin > 0} is.

    Columns: "pieces" and "holes" of {margin > 0}, their counts; "separation", how far below 0 the margin falls before the last
    of these pieces has joined another (0 for one piece, or none); "weight of lesser pieces", the sum over all of them but
    the first of how high each rises above 0: near 0 where they are specks that a little noise would make or unmake.

    Example:
        >>> ridge = torch.tensor([[[3.0, -1.0, 2.0, -2.0, 0.5]]])  # three peaks, and what lies between them
        >>> found = fragmentation(ridge)  # doctest: +SKIP
        >>> found["components"], found["separation"], found["weight of lesser components"]  # doctest: +SKIP
        (tensor([3.]), tensor([2.]), tensor([2.5000]))
    """
    rows = []
    for slice_ in cubical_persistence(values):
        alive = slice_.components[(slice_.components[:, 0] > 0) & (slice_.components[:, 1] <= 0)]
        holes = (slice_.holes[:, 0] > 0) & (slice_.holes[:, 1] <= 0)
        lesser = alive[alive[:, 1].isfinite()]
        depth = -lesser[:, 1].amin() if len(lesser) else torch.zeros(()).double()
        rows.append(torch.stack([torch.tensor(float(len(alive))), holes.sum(), depth, lesser[:, 0].sum()]))
    table = torch.stack(rows).to(values) if rows else values.new_zeros(0, 4)
    return dict(zip(("pieces", "holes", "separation", "weight of lesser pieces"), table.unbind(1), strict=True))


def _of_one(gudhi: Any, grid: Tensor) -> Persistence:
    complex_ = gudhi.CubicalComplex(vertices=-grid.numpy())
    complex_.compute_persistence()
    return Persistence(
        *(_longest_first(-torch.as_tensor(complex_.persistence_intervals_in_dimension(k))) for k in (0, 1))
    )


def _longest_first(intervals: Tensor) -> Tensor:
    intervals = intervals.double().view(-1, 2)
    return intervals[(intervals[:, 0] - intervals[:, 1]).argsort(descending=True, stable=True)]


def _gudhi() -> Any:
    try:
        return importlib.import_module("gudhi")
    except ImportError:
        raise InputError("gudhi for persistence", "no such package", "pip install 'lowcurve[topology]'") from None
