"""Points in a ball that penalties choose themselves, by ascent or at random."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from lowcurve import randomness
from lowcurve.analysis.ascent import ascent_step
from lowcurve.analysis.norms import LINF, Ball
from lowcurve.errors import InputError
from lowcurve.types import Inputs


def projected_ascent(
    gradient: Callable[[Inputs], Tensor],
    start: Inputs,
    x: Inputs,
    ball: Ball,
    *,
    steps: int,
    step_size: float | None = None,
) -> Inputs:
    """Run projected steepest ascent inside the ball around x and return its end.

    Args:
        gradient: Function from a point to its direction of ascent.
        start: First point.
        x: Center of the ball.
        ball: The ball, in pixel units.
        steps: Number of steps.
        step_size: Length of a step in the ball's norm. Default, as in `PGD`: 2.5 radius / steps in l_inf and 5 radius /
            steps in l_2.

    Returns:
        The last point, with the shape of x.

    Cost: `steps` times that of the gradient.

    Example:
        >>> from lowcurve.analysis.norms import LINF
        >>> x = torch.full((1, 2), 0.5)
        >>> projected_ascent(lambda point: torch.tensor([[1.0, -2.0]]), x, x, Ball(LINF, 0.1), steps=3)
        tensor([[0.6000, 0.4000]])
    """
    length = (2.5 if ball.norm == LINF else 5) * ball.radius / steps if step_size is None else step_size
    size = x.new_full((len(x),), length)
    point = start
    for _ in range(steps):
        point = ascent_step(point, gradient(point), x, ball, size=size, whole=step_size is None)
    return point


def input_streams(x: Inputs, generator: torch.Generator) -> randomness.Streams:
    """Return one random stream per input, which depends on the input and not on its place in the batch or its label.

    Equal inputs have equal draws.

    Args:
        x: Inputs, shape (batch, ...).
        generator: Generator that draws one number for all streams.

    Example:
        >>> x = torch.tensor([[0.1], [0.2], [0.1]])
        >>> draws = input_streams(x, randomness.stream(0)).uniform(x, 0, 1).squeeze(1)
        >>> bool(draws[0] == draws[2]), bool(draws[0] == draws[1])
        (True, False)
    """
    return randomness.example_streams(generator, x, torch.zeros(len(x), dtype=torch.long, device=x.device))


def require_ascent(steps: int, step_size: float | None = None) -> None:
    """Raise an error unless there is at least one step and its size is above 0.

    Args:
        steps: Number of steps.
        step_size: Length of a step, if given.

    Raises:
        InputError: If one of them is out of range.
    """
    if steps < 1:
        raise InputError("at least one step towards the farthest point", steps, "write steps=2")
    if step_size is not None and not (math.isfinite(step_size) and step_size > 0):
        raise InputError("a step size above 0 of the search", step_size, "leave it out, or write radius / 4")
