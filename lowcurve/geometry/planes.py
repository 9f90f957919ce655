"""Planes through input space, one per example.

x(a, b) = origin + a first + b second with orthonormal directions (l_2 over all pixels), so coordinates are l_2
lengths in pixel units. A step of t along v changes some pixel by t ||v||_inf. For steps of whole grey levels use
`pixels(levels) / LINF.length(v)[:, None]`, which is exact in every pixel where v is the sign of a gradient. Points
outside the pixel box are evaluated as they are, as in the papers; `box_excess` measures how far outside they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lowcurve.analysis.calculus import require_inputs
from lowcurve.analysis.norms import L2, dot, per_example
from lowcurve.errors import InputError
from lowcurve.types import Inputs


@dataclass(frozen=True)
class PlaneProjection:
    """Points projected onto planes.

    Attributes:
        coordinates: Shape (steps, batch, 2), the pairs (a, b).
        distance: Shape (steps, batch), the l_2 distance of each point from its plane.
    """

    coordinates: Tensor
    distance: Tensor


@dataclass(frozen=True)
class Plane:
    """One plane per example, x(a, b) = origin + a first + b second; `span` makes the directions orthonormal.

    Coordinates have the shape (n,) for all planes, or (batch, n) with a window for each. Points have the origin's
    precision and memory layout.

    Args:
        origin: Origins, shape (batch, ...).
        first: First directions, of the same shape.
        second: Second directions, of the same shape.

    Example:
        >>> plane = span(torch.tensor([[1.0, 1.0, 1.0]]), torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([[3.0, 4.0, 0.0]]))
        >>> plane.points(torch.tensor([0.5]), torch.tensor([0.0, 2.0]))
        tensor([[[[1.5000, 1.0000, 1.0000],
                  [1.5000, 3.0000, 1.0000]]]])

    Reference: yu2018interpreting, Eq. (1).
    """

    origin: Inputs
    first: Inputs
    second: Inputs

    def __post_init__(self) -> None:
        if not self.origin.shape == self.first.shape == self.second.shape:
            shapes = ", ".join(str(tuple(v.shape)) for v in (self.origin, self.first, self.second))
            raise InputError("an origin and two directions of one shape", shapes, "give one direction for each example")

    def __len__(self) -> int:
        return len(self.origin)

    def take(self, rows: Tensor) -> "Plane":
        """Select the planes of some examples."""
        return Plane(self.origin[rows], self.first[rows], self.second[rows])

    def grid(self, coordinates: Tensor) -> Tensor:
        """Return coordinates as (batch, n), in the planes' precision and on their device."""
        if coordinates.ndim == 1 or coordinates.shape[:-1] == (len(self),):
            return coordinates.to(self.origin).expand(len(self), -1)
        expected = f"coordinates of shape (n,) or ({len(self)}, n)"
        raise InputError(expected, tuple(coordinates.shape), "write torch.linspace(-1, 1, 101)")

    def at(self, rows: Tensor, a: Tensor, b: Tensor) -> Inputs:
        """Return one point for each row, with its own coordinates."""
        points = self.origin[rows]
        for coordinate, direction in ((a, self.first), (b, self.second)):
            points = points.addcmul(per_example(coordinate.to(points), points), direction[rows])
        return points

    def points(self, a: Tensor, b: Tensor) -> Tensor:
        """Return every point of the grid, shape (batch, len(a), len(b), ...), all in memory at once."""
        row, i, j = grid_indices(torch.arange(len(self) * a.shape[-1] * b.shape[-1], device=self.origin.device), a, b)
        found = self.at(row, self.grid(a)[row, i], self.grid(b)[row, j])
        return found.reshape(len(self), a.shape[-1], b.shape[-1], *found.shape[1:])

    def project(self, points: Tensor) -> PlaneProjection:
        """Project a sequence of points per example onto the planes, such as a trajectory.

        A trajectory far from its plane is not described by its projection: check the distance.

        Args:
            points: Points of shape (steps, batch, ...).

        Returns:
            Coordinates and distances.

        Raises:
            InputError: If the points have another shape.

        Example:
            >>> plane = Plane(torch.zeros(1, 3), torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[0.0, 1.0, 0.0]]))
            >>> plane.project(torch.tensor([[[2.0, 3.0, 4.0]]]))
            PlaneProjection(coordinates=tensor([[[2., 3.]]]), distance=tensor([[4.]]))
        """
        if points.shape[1:] != self.origin.shape:
            expected = f"points of shape (steps, {', '.join(map(str, self.origin.shape))})"
            raise InputError(expected, tuple(points.shape), "stack the steps, and write points[None] for one")
        offset = points.to(self.origin) - self.origin
        coordinates = []
        for v in (self.first, self.second):
            coordinates.append((offset * v).flatten(2).sum(2))
            offset = offset - coordinates[-1].view(*points.shape[:2], *[1] * (points.ndim - 2)) * v
        return PlaneProjection(torch.stack(coordinates, dim=-1), L2.length(offset.flatten(0, 1)).view(points.shape[:2]))


def span(origin: Inputs, first: Inputs, second: Inputs) -> Plane:
    """Return the planes through `origin` along two directions of any length; `second` is made orthogonal to `first`.

    For the plane through three points x, y, z: span(x, y - x, z - x). A sign direction given as `second` does not
    stay a sign direction.

    Args:
        origin: Origins, shape (batch, ...).
        first: First directions.
        second: Second directions.

    Returns:
        The planes.

    Raises:
        InputError: If a direction has no length or both are parallel, with the numbers of the examples.

    Example:
        >>> span(torch.zeros(1, 2), torch.tensor([[3.0, 0.0]]), torch.tensor([[5.0, 5.0]])).second
        tensor([[0., 1.]])
    """
    require_inputs(origin)
    require_direction(first, "first direction")
    require_direction(second, "second direction")
    first_unit = L2.unit(first)
    second_unit = remove_components(L2.unit(second), [first_unit])
    parallel = L2.length(second_unit) == 0
    if bool(parallel.any()):
        raise InputError(
            "two directions that span a plane", f"parallel ones at {_list_examples(parallel)}", "choose another one"
        )
    return Plane(origin, first_unit, L2.unit(second_unit))


def require_direction(v: Inputs, name: str = "direction") -> None:
    """Raise an error that names the examples whose direction is 0 or not finite.

    Args:
        v: Directions, shape (batch, ...).
        name: Name of the direction in the message.

    Raises:
        InputError: If a direction is 0 or not finite.
    """
    length = L2.length(v)
    wrong = ~((length > 0) & torch.isfinite(length))
    if bool(wrong.any()):
        hint = "leave these examples out, or take the direction of log_odds, whose gradient does not underflow"
        raise InputError(f"a {name} of finite length above 0", f"none at {_list_examples(wrong)}", hint)


def grid_indices(numbers: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the plane and the indices along a and along b of numbered grid points.

    Args:
        numbers: Numbers of the points.
        a: Coordinates along the first direction, the last axis of length n.
        b: The same along the second, the last axis of length m.

    Returns:
        Numbers of the planes, indices along a and indices along b.
    """
    return numbers // (a.shape[-1] * b.shape[-1]), numbers // b.shape[-1] % a.shape[-1], numbers % b.shape[-1]


def remove_components(v: Tensor, others: Sequence[Tensor]) -> Tensor:
    """Remove from unit vectors their parts along orthonormal others.

    Args:
        v: Unit vectors, shape (batch, ...).
        others: Orthonormal vectors of the same shape.

    Returns:
        The remainders; 0 where only rounding is left.
    """
    rest = v
    for _ in range(2):  # The first pass leaves rounding, which matters where the rest is short.
        for u in others:
            rest = rest - per_example(dot(u, rest), rest) * u
    return rest * per_example(L2.length(rest) > 10 * torch.finfo(v.dtype).eps, rest)


def _list_examples(wrong: Tensor) -> str:
    rows = torch.nonzero(wrong).flatten().tolist()
    return "examples " + ", ".join(map(str, rows[:5])) + (f" and {len(rows) - 5} more" if len(rows) > 5 else "")
