"""The one step behind every gradient attack: steepest ascent, projected into a ball."""

from torch import Tensor

from lowcurve.analysis.norms import Ball, per_example
from lowcurve.types import Inputs, PerExample


def ascent_step(
    point: Inputs, slope: Tensor, center: Inputs, ball: Ball, *, size: PerExample, radius: PerExample | None = None
) -> Inputs:
    """P(x + size * steepest(g)) with P the projection into the ball around the center: the highest point of a linear field
    within `size` of the point, brought back into ball and box.

    point, slope, center: (batch, ...); size, radius: one an example, in the ball's norm and pixel units. A zero gradient
    moves nothing. Cost: none but arithmetic.

    Example:
        >>> import torch
        >>> from lowcurve.analysis.norms import LINF
        >>> center, slope = torch.full((1, 2), 0.5), torch.tensor([[1.0, -2.0]])
        >>> ascent_step(center, slope, center, Ball(LINF, 0.1), size=torch.tensor([0.2]))
        tensor([[0.6000, 0.4000]])

    Reference: Madry et al. 2018, section 2.1 (PGD).
    """
    return ball.project(point + per_example(size, point) * ball.norm.steepest(slope), center, radius)
