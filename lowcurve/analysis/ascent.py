"""Projected steepest ascent of a field inside a ball: the one loop behind every gradient attack."""

import torch

from lowcurve.analysis.calculus import value_and_gradient
from lowcurve.analysis.norms import Ball, per_example
from lowcurve.types import Field, Inputs


def ascend(field: Field, center: Inputs, ball: Ball, *, start: Inputs, steps: int, step_size: float) -> Inputs:
    """The point of largest l among the start and `steps` projected steps  x <- P(x + step_size * steepest(grad l(x))).

    step_size: in the ball's norm and pixel units. Never worse than the start, each example for itself.
    Cost: `steps` forward passes and input gradients, one forward pass more. A zero gradient moves nothing.

    Example:
        >>> from lowcurve.analysis.norms import LINF
        >>> slope = torch.tensor([1.0, -2.0])
        >>> center = torch.full((1, 2), 0.5)
        >>> ascend(lambda x: x @ slope, center, Ball(LINF, 0.1), start=center, steps=2, step_size=0.1)
        tensor([[0.6000, 0.4000]])

    Reference: Madry et al. 2018, Eq. (3) of section 2.1 (PGD).
    """
    point, best = start, start
    highest = torch.full((len(start),), -torch.inf, dtype=start.dtype, device=start.device)
    for step in range(steps + 1):
        if step < steps:
            values, slope = value_and_gradient(field, point)
        else:
            with torch.no_grad():
                values = field(point)
        better = values > highest
        highest = torch.where(better, values, highest)
        best = torch.where(per_example(better, point), point, best)
        if step < steps:
            point = ball.project(point + step_size * ball.norm.steepest(slope), center)
    return best
