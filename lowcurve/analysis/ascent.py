"""The step of every gradient attack: steepest ascent, projected into a ball."""

import torch
from torch import Tensor

from lowcurve.analysis import l1
from lowcurve.analysis.norms import L1, L2, LINF, Ball, per_example
from lowcurve.types import Inputs, PerExample


def ascent_step(
    point: Inputs,
    gradient: Tensor,
    center: Inputs,
    ball: Ball,
    *,
    size: PerExample,
    radius: PerExample | None = None,
    whole: bool = False,
) -> Inputs:
    """Return P(x + size * steepest(g)), where P is the projection into the ball around the center and into the box.

    x + size * steepest(g) maximizes a linear field with gradient g within `size` of x. A zero gradient moves nothing.

    In l_1 the steepest step would move one pixel out of the box. So the step maximizes the linear field in the box too: the
    pixels of largest slope move to the edge, until the size is used up.

    In l_2 a gradient whose large entries all lead out of the box moves little: the pixels that can move get a small part of
    the step. With `whole` the pixels that can move share the whole size. Repeated steps then reach the optimum of a
    linear field in ball and box.

    Args:
        point: Points x. Points, gradients and centers have shape (batch, ...).
        gradient: Gradients g.
        center: Centers of the balls.
        ball: Norm, radius and pixel box.
        size: Step size of each example in pixel units. It is a length in the ball's norm.
        radius: Radius of each example. None takes the ball's.
        whole: Count the size over the pixels that the box does not hold back. In l_inf this changes nothing.

    Example:
        >>> from lowcurve.analysis.norms import LINF
        >>> center, gradient = torch.full((1, 2), 0.5), torch.tensor([[1.0, -2.0]])
        >>> ascent_step(center, gradient, center, Ball(LINF, 0.1), size=torch.tensor([0.2]))
        tensor([[0.6000, 0.4000]])

    Reference: Madry et al. 2018, section 2.1 (PGD).
    """
    if ball.norm == L1:
        return ball.project(point + l1.step_in_box(point, gradient, size, ball.box), center, radius)
    step = _steepest_in_box(point, gradient, ball) if whole and ball.norm == L2 else ball.norm.steepest(gradient)
    return ball.project(point + per_example(size, point) * step, center, radius)


def _steepest_in_box(point: Inputs, gradient: Tensor, ball: Ball) -> Tensor:
    """Return the gradient, scaled so that its part that the box does not hold back has length 1; 0 where it is 0.

    Pixels at the edge keep a part that leads out of the box, at most 1, and the projection into the box removes it. Without it,
    the projection into the ball would move them away from the edge.
    """
    low, high = ball.box
    moves = ((gradient > 0) & (point < high)) | ((gradient < 0) & (point > low))
    largest = LINF.length(gradient * moves)
    scaled = gradient / per_example(torch.where(largest == 0, torch.inf, largest), gradient)
    length = (scaled * moves).flatten(1).square().sum(1).sqrt()
    return LINF.project(scaled / per_example(torch.where(length == 0, 1, length), scaled), 1.0)
