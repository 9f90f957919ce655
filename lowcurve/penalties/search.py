"""Points in a ball that penalties choose for themselves: by ascent, or by chance."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from lowcurve import randomness
from lowcurve.analysis.ascent import ascent_step
from lowcurve.analysis.norms import L2, Ball
from lowcurve.errors import InputError
from lowcurve.types import Inputs


def farthest(
    slope: Callable[[Inputs], Tensor],
    start: Inputs,
    x: Inputs,
    ball: Ball,
    *,
    steps: int,
    step_size: float | None = None,
) -> Inputs:
    """The end of `steps` of projected steepest ascent from `start` along slope(point), inside the ball around x.

    step_size: in the ball's norm, by default 2.5 radius / steps in l_inf and 5 radius / steps in l_2, as `PGD`'s.
    Cost: that of the slope, `steps` times.

    Example:
        >>> from lowcurve.analysis.norms import LINF
        >>> x = torch.full((1, 2), 0.5)
        >>> farthest(lambda at: torch.tensor([[1.0, -2.0]]), x, x, Ball(LINF, 0.1), steps=3)
        tensor([[0.6000, 0.4000]])
    """
    length = (5 if ball.norm == L2 else 2.5) * ball.radius / steps if step_size is None else step_size
    size = x.new_full((len(x),), length)
    point = start
    for _ in range(steps):
        point = ascent_step(point, slope(point), x, ball, size=size)
    return point


def streams_of(x: Inputs, generator: torch.Generator) -> randomness.Streams:
    """A stream for each input, whatever its place, company and label; equal inputs have equal draws.

    Example:
        >>> x = torch.tensor([[0.1], [0.2], [0.1]])
        >>> draws = streams_of(x, randomness.stream(0)).uniform(x, 0, 1).squeeze(1)
        >>> bool(draws[0] == draws[2]), bool(draws[0] == draws[1])
        (True, False)
    """
    return randomness.example_streams(generator, x, torch.zeros(len(x), dtype=torch.long, device=x.device))


def require_search(steps: int, step_size: float | None = None) -> None:
    """Refuse a search without steps, and steps without length."""
    if steps < 1:
        raise InputError("at least one step towards the farthest point", steps, "write steps=2")
    if step_size is not None and not (math.isfinite(step_size) and step_size > 0):
        raise InputError("a step size above 0 of the search", step_size, "leave it out, or write radius / 4")
