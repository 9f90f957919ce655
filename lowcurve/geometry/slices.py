"""Evaluate functions on planes through input space, one plane per example.

x(a, b) = origin + a first + b second with orthonormal directions (l_2 over all pixels), so coordinates are l_2
lengths in pixel units. A step of t along v changes some pixel by t ||v||_inf. For steps of whole grey levels use
`pixels(levels) / LINF.length(v)[:, None]`, which is exact in every pixel where v is the sign of a gradient. Points
outside the pixel box are evaluated as they are, as in the papers; `box_excess` measures how far outside they are.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lowcurve import randomness
from lowcurve.analysis.calculus import gradient, require_inputs
from lowcurve.analysis.chunks import in_chunks
from lowcurve.analysis.norms import L2, LINF, Norm, dot, per_example
from lowcurve.errors import InputError
from lowcurve.losses import require_eval
from lowcurve.types import Field, IndexableField, Inputs, PerExample, Progress, Vectors, silent


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
        row, i, j = _grid_indices(torch.arange(len(self) * a.shape[-1] * b.shape[-1], device=self.origin.device), a, b)
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
    second_unit = _remove_components(L2.unit(second), [first_unit])
    parallel = L2.length(second_unit) == 0
    if bool(parallel.any()):
        raise InputError(
            "two directions that span a plane", f"parallel ones at {_list_examples(parallel)}", "choose another one"
        )
    return Plane(origin, first_unit, L2.unit(second_unit))


def random_directions(x: Inputs, count: int = 2, *, seed: int = 0, orthogonal_to: Sequence[Inputs] = ()) -> Vectors:
    """Draw orthonormal vectors per example, uniform among those orthogonal to the given ones.

    Each example has its own random stream, identified by its pixels, so the vectors are the same for every network
    and every batch. For a random plane: span(x, *random_directions(x)).

    Args:
        x: Inputs, shape (batch, ...).
        count: Number of vectors per example.
        seed: Seed of the vectors.
        orthogonal_to: Vectors to which the new ones are orthogonal, each of x's shape.

    Returns:
        Vectors of shape (count, batch, ...).

    Raises:
        InputError: If there are fewer dimensions than vectors.

    Example:
        >>> u, v = random_directions(torch.zeros(1, 3), orthogonal_to=[torch.tensor([[0.0, 0.0, 2.0]])])
        >>> L2.length(u), dot(u, v).abs() < 1e-6, u[0, 2].abs() < 1e-6
        (tensor([1.]), tensor([True]), tensor(True))

    Reference: bardusco_report, Fig. 3; moosavi2019cure, Fig. 1 (v).
    """
    require_inputs(x)
    if not 1 <= count <= x.shape[1:].numel() - len(orthogonal_to):
        found = f"{count} of them and {len(orthogonal_to)} others in {x.shape[1:].numel()} dimensions"
        raise InputError("no more orthogonal directions than dimensions, one at least", found, "ask for fewer")
    basis: list[Tensor] = []
    for v in orthogonal_to:
        basis.append(L2.unit(_remove_components(L2.unit(v), basis)))
    zeros = torch.zeros(len(x), dtype=torch.long, device=x.device)
    streams = randomness.example_streams(randomness.stream(seed, "slice directions"), x, zeros)
    for number in range(count):
        basis.append(L2.unit(_remove_components(L2.unit(streams.at(number).normal(x)), basis)))
    return torch.stack(basis[len(orthogonal_to) :])


def gradient_direction(field: Field, x: Inputs, norm: Norm = LINF) -> Inputs:
    """Return the unit l_2 vector along sign(grad l(x)), or along grad l(x) for the l_2 norm; 0 where the gradient is 0.

    The paper's three directions, all towards the other side, are those of `loss_field(model, y, log_odds)`, of
    `loss_field(model, y, margin_loss)` and, with a minus sign, of `loss_field(model, least_likely(model(x)),
    log_odds)`. As printed, the first, y_t log softmax, decreases along it. log_odds has cross-entropy's direction
    and does not underflow on confident examples.

    Args:
        field: Per-example loss as a function of the input.
        x: Inputs, shape (batch, ...).
        norm: Norm whose steepest direction is taken.

    Returns:
        Unit vectors of x's shape.

    Cost: one input gradient.

    Example:
        >>> gradient_direction(lambda x: x[:, 0] + 5 * x[:, 1], torch.zeros(1, 2))
        tensor([[0.7071, 0.7071]])

    Reference: yu2018interpreting, Eq. (3).
    """
    return L2.unit(norm.steepest(gradient(field, x)))


def surface(
    function: Callable[[Tensor], Tensor],
    plane: Plane,
    a: Tensor,
    b: Tensor,
    *,
    chunk: int = 64,
    progress: Progress[int] = silent,
    heading: str = "slices",
) -> Tensor:
    """Evaluate function(origin + a_i first + b_j second) for every plane, without a graph.

    All points of all planes share batches of `chunk`. 32 to 64 small images are best on a CPU, hundreds on a GPU.
    On a CPU an origin with channels last may be faster. Report directions, units, spacing and loss with the
    numbers.

    Args:
        function: A field or classifier for batches of any size. One with labels must be divisible, as `loss_field`
            and `logit_difference` are. For predicted classes: lambda x: model(x).argmax(1). A module must be in
            eval mode.
        plane: The planes.
        a: Coordinates along `first`, shape (n,) or (batch, n).
        b: Coordinates along `second`, shape (m,) or (batch, m).
        chunk: Batch size.
        progress: Receives the progress over the points.
        heading: Name of the progress bar.

    Returns:
        Values of shape (batch, len(a), len(b), ...).

    Raises:
        InputError: If there is no point, or the function does not return one row per point.

    Cost: one forward pass per point.

    Example:
        >>> plane = span(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
        >>> surface(lambda x: x[:, 0] + 10 * x[:, 1], plane, torch.tensor([1.0, 2.0]), torch.tensor([0.0, 3.0]))
        tensor([[[ 1., 31.],
                 [ 2., 32.]]])

    Reference: bardusco_report, Fig. 3; moosavi2019cure, Fig. 1; yu2018interpreting, Eq. (1), Figs. 3, 4, 6, 7.
    """
    if isinstance(function, nn.Module):
        require_eval(function)
    first, second = plane.grid(a), plane.grid(b)
    count = len(plane) * a.shape[-1] * b.shape[-1]
    if not count:
        sizes = (len(plane), a.shape[-1], b.shape[-1])
        raise InputError("a plane and coordinates along both directions, one at least", sizes, "write torch.zeros(1)")

    def part(numbers: slice) -> Tensor:
        row, i, j = _grid_indices(torch.arange(numbers.start, numbers.stop, device=first.device), a, b)
        values = select_rows(function, row)(plane.at(row, first[row, i], second[row, j]))
        if values.shape[:1] != row.shape:
            expected = f"{len(row)} values, one a point"
            raise InputError(expected, tuple(values.shape), "do not reduce over examples")
        return values

    with torch.no_grad():
        found = torch.cat(in_chunks(part, count, chunk, progress=progress, heading=heading))
    return found.reshape(len(plane), a.shape[-1], b.shape[-1], *found.shape[1:])


def select_rows(function: Callable[[Tensor], Tensor], rows: Tensor) -> Callable[[Tensor], Tensor]:
    """Restrict a function to these examples, which may repeat; a function without labels is returned as it is.

    Args:
        function: A field or classifier.
        rows: Numbers of the examples.

    Returns:
        The restricted function.

    Example:
        >>> from lowcurve.losses import loss_field
        >>> select_rows(loss_field(nn.Identity(), torch.tensor([0, 1])), torch.tensor([1, 1])).y
        tensor([1, 1])
    """
    return function.take(rows) if isinstance(function, IndexableField) else function


def box_excess(
    plane: Plane, a: Tensor, b: Tensor, *, box: tuple[float, float] = (0.0, 1.0), chunk: int = 1024
) -> Tensor:
    """Compute how far the furthest pixel of each grid point lies outside the pixel box; 0 inside.

    The share of a plane inside is (box_excess(...) == 0).double().mean((1, 2)). Along a random direction black or
    white pixels leave the box at once, so for digits that share is near 0 and says less than the excess.

    Args:
        plane: The planes.
        a: Coordinates along `first`, shape (n,) or (batch, n).
        b: Coordinates along `second`, shape (m,) or (batch, m).
        box: Range of the pixels.
        chunk: Batch size.

    Returns:
        Excesses of shape (batch, len(a), len(b)).

    Example:
        >>> plane = span(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
        >>> box_excess(plane, torch.tensor([-0.25, 0.5]), torch.tensor([1.0]))
        tensor([[[0.2500],
                 [0.0000]]])
    """
    low, high = box

    def excess(x: Tensor) -> PerExample:
        distance = torch.maximum(x - high, low - x).flatten(1).amax(1)
        return torch.where(distance < 0, 0, distance)

    return surface(excess, plane, a, b, chunk=chunk)


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


def _grid_indices(numbers: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return plane, index along a and index along b of each numbered point."""
    return numbers // (a.shape[-1] * b.shape[-1]), numbers // b.shape[-1] % a.shape[-1], numbers % b.shape[-1]


def _remove_components(v: Tensor, others: Sequence[Tensor]) -> Tensor:
    """Remove from a unit v its parts along orthonormal others; return 0 where only rounding is left."""
    rest = v
    for _ in range(2):  # The first pass leaves rounding, which matters where the rest is short.
        for u in others:
            rest = rest - per_example(dot(u, rest), rest) * u
    return rest * per_example(L2.length(rest) > 10 * torch.finfo(v.dtype).eps, rest)


def _list_examples(wrong: Tensor) -> str:
    rows = torch.nonzero(wrong).flatten().tolist()
    return "examples " + ", ".join(map(str, rows[:5])) + (f" and {len(rows) - 5} more" if len(rows) > 5 else "")
