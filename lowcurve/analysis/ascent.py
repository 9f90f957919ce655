"""The step of every gradient attack: steepest ascent, projected into a ball."""

from torch import Tensor

from lowcurve.analysis.norms import Ball, per_example
from lowcurve.types import Inputs, PerExample


def ascent_step(
    point: Inputs, gradient: Tensor, center: Inputs, ball: Ball, *, size: PerExample, radius: PerExample | None = None
) -> Inputs:
    """Return P(x + size * steepest(g)), where P is the projection into the ball around the center.

    x + size * steepest(g) maximizes a linear field with gradient g within `size` of x. A zero gradient moves nothing.

    Args:
        point: Points x. Points, gradients and centers have shape (batch, ...).
        gradient: Gradients g.
        center: Centers of the balls.
        ball: Norm, radius and pixel box.
        size: Step size of each example in pixel units. It is a length in the ball's norm.
        radius: Radius of each example. None takes the ball's.

    Example:
        >>> import torch
        >>> from lowcurve.analysis.norms import LINF
        >>> center, gradient = torch.full((1, 2), 0.5), torch.tensor([[1.0, -2.0]])
        >>> ascent_step(center, gradient, center, Ball(LINF, 0.1), size=torch.tensor([0.2]))
        tensor([[0.6000, 0.4000]])

    Reference: Madry et al. 2018, section 2.1 (PGD).
    """
    return ball.project(point + per_example(size, point) * ball.norm.steepest(gradient), center, radius)
