"""Evaluate functions on planes through input space, and choose directions that span them."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lowcurve import randomness
from lowcurve.analysis.calculus import gradient, require_inputs
from lowcurve.analysis.chunks import in_chunks
from lowcurve.analysis.norms import L2, LINF, Norm
from lowcurve.errors import InputError
from lowcurve.geometry.planes import Plane, grid_indices, remove_components
from lowcurve.losses import require_eval
from lowcurve.network_calls import call
from lowcurve.types import Field, IndexableField, Inputs, PerExample, Progress, Vectors, silent


def random_directions(x: Inputs, count: int = 2, *, seed: int = 0, orthogonal_to: Sequence[Inputs] = ()) -> Vectors:
    """Draw orthonormal vectors per example, uniform among those orthogonal to the given ones.

    Each example has its own random stream, identified by its pixels, so the vectors are the same for every network
    and every batch. For a random plane: span(x, *random_directions(x)).

    Args:
        x: Inputs, shape (batch, ...).
        count: Number of vectors per example.
        seed: Seed of the vectors.
        orthogonal_to: The new vectors are orthogonal to these, each of x's shape.

    Returns:
        Vectors of shape (count, batch, ...).

    Raises:
        InputError: If there are fewer dimensions than vectors.

    Example:
        >>> from lowcurve.analysis.norms import dot
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
        basis.append(L2.unit(remove_components(L2.unit(v), basis)))
    zeros = torch.zeros(len(x), dtype=torch.long, device=x.device)
    streams = randomness.example_streams(randomness.stream(seed, "slice directions"), x, zeros)
    for number in range(count):
        basis.append(L2.unit(remove_components(L2.unit(streams.at(number).normal(x)), basis)))
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
        a: Coordinates along `first`. They have shape (n,) or (batch, n).
        b: Coordinates along `second`, shape (m,) or (batch, m).
        chunk: Batch size.
        progress: Display of the progress.
        heading: Text of the progress display.

    Returns:
        Values of shape (batch, len(a), len(b), ...).

    Raises:
        InputError: If there is no point, or the function does not return one row per point.

    Cost: one forward pass per point.

    Example:
        >>> from lowcurve.geometry import span
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
        row, i, j = grid_indices(torch.arange(numbers.start, numbers.stop, device=first.device), a, b)
        points = plane.at(row, first[row, i], second[row, j])
        chosen = select_rows(function, row)
        values = call(chosen, points) if isinstance(chosen, nn.Module) else chosen(points)
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
        a: Coordinates along `first`. They have shape (n,) or (batch, n).
        b: Coordinates along `second`, shape (m,) or (batch, m).
        box: Range of the pixels.
        chunk: Batch size.

    Returns:
        Excesses of shape (batch, len(a), len(b)).

    Example:
        >>> from lowcurve.geometry import span
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
