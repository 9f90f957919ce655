"""Compute the persistence of connected components and holes of {margin > t} on a slice, which grades its fragmentation.

Cubical persistence needs the optional package gudhi: `pip install lowcurve[topology]`.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lowcurve.errors import InputError
from lowcurve.libraries import require_library
from lowcurve.types import PerExample


@dataclass(frozen=True)
class Persistence:
    """The components and holes of {values > t} over all t, on one slice.

    Attributes:
        components: Shape (count, 2): the t at which each component appears, and the lower t at which it joins one
            that appeared earlier; -inf for the first. Longest first.
        holes: Shape (count, 2): the t at which each hole appears, and the lower t at which it is filled. Longest
            first.
    """

    components: Tensor
    holes: Tensor


def cubical_persistence(values: Tensor) -> tuple[Persistence, ...]:
    """Compute the persistence of the superlevel sets of each grid.

    Grid points are neighbors along rows and columns, not diagonally; a square is present with its four corners. The
    numbers depend on the plane and the spacing: two components on a slice may belong to one region of input space.

    Args:
        values: Finite values on grids, such as margins, shape (slices, rows, columns).

    Returns:
        One `Persistence` per slice.

    Raises:
        InputError: If gudhi is not installed or a value is not finite.

    Cost: about that of sorting the grid, on the CPU.

    Reference: Wagner, Chen and Vuçini 2012 (cubical persistence).
    """
    if values.ndim != 3 or not bool(torch.isfinite(values).all()):
        received = f"shape {tuple(values.shape)}, or others"
        raise InputError(
            "finite values on grids, (slices, rows, columns)", received, "write values[None] for one slice"
        )
    gudhi = require_library("gudhi", install="'lowcurve[topology]'", purpose="for persistence")
    return tuple(_persistence_of_grid(gudhi, grid) for grid in values.detach().double().cpu())


def fragmentation(values: Tensor) -> dict[str, PerExample]:
    """Measure the fragmentation of {margin > 0} on each grid.

    Args:
        values: Finite margins on grids, shape (slices, rows, columns).

    Returns:
        Columns:

        - "pieces" and "holes": the numbers of connected components and holes of {margin > 0}.
        - "separation": the margin below 0 at which the last of these components has joined another, 0 for at most one
            component.
        - "weight of lesser pieces": the sum over all components but the first of their height above 0. A weight near 0
            means specks that a little noise would make or remove.

    Raises:
        InputError: If gudhi is not installed or a value is not finite.

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


def _persistence_of_grid(gudhi: Any, grid: Tensor) -> Persistence:
    complex_ = gudhi.CubicalComplex(vertices=-grid.numpy())
    complex_.compute_persistence()
    return Persistence(
        *(_longest_first(-torch.as_tensor(complex_.persistence_intervals_in_dimension(k))) for k in (0, 1))
    )


def _longest_first(intervals: Tensor) -> Tensor:
    intervals = intervals.double().view(-1, 2)
    return intervals[(intervals[:, 0] - intervals[:, 1]).argsort(descending=True, stable=True)]
