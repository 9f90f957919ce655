"""Projection into an l_2 ball and a box at once."""

import torch
from torch import Tensor

from lowcurve.types import Inputs, PerExample

ROUNDS = 20
"""Most rounds. Two to four are usual."""


def share_inside(length: PerExample, radius: float | PerExample) -> PerExample:
    """Return the factor, at most 1, that brings a vector of this length into a ball.

    Args:
        length: Length of each example's vector.
        radius: Radius of the ball, one for all or one for each.

    Example:
        >>> share_inside(torch.tensor([4.0, 1.0, 0.0]), 2.0)
        tensor([0.5000, 1.0000, 1.0000])
    """
    return torch.where(length > radius, radius / torch.where(length > 0, length, 1), 1)


def project_to_ball_and_box(
    center: Inputs, offset: Tensor, share: PerExample, radius: PerExample, box: tuple[float, float]
) -> Inputs:
    """Return the nearest point to center + offset in the l_2 ball and in the box.

    It is the center plus a multiple of the offset, clipped to the box (the conditions of Karush, Kuhn and Tucker). Where no
    pixel is clipped, the multiple is that of the ball alone.

    Args:
        center: Centers inside the box, shape (batch, ...).
        offset: Offsets of the points from them.
        share: Factor of each offset that brings it into the ball alone, at most 1.
        radius: Radius of each example.
        box: Lowest and highest pixel value.

    Returns:
        Points, shape (batch, ...).

    Cost: about ten passes over the points whose projection into the ball leaves the box, and two more for each round.

    Example:
        >>> center, offset = torch.zeros(1, 2), torch.tensor([[3.0, 4.0]])
        >>> share = torch.tensor([0.4])  # (1.2, 1.6), of length 2
        >>> project_to_ball_and_box(center, offset, share, torch.tensor([2.0]), (0.0, 1.5))
        tensor([[1.3229, 1.5000]])
    """
    axes = (-1, *[1] * (offset.ndim - 1))
    point = center + offset * share.view(axes)
    inside = point.clamp(*box)
    # Where the ball does not shrink the offset, clipping it gives the nearest point.
    clipped = (point - inside).abs_().flatten(1).amax(1) > 0
    rows = torch.nonzero(clipped & (share < 1)).flatten()
    if len(rows):
        few, far = center[rows], offset[rows]
        factor = _length_factor(far.flatten(1), few.flatten(1), radius[rows], box)
        inside[rows] = (few + factor.to(far).view(axes) * far).clamp_(*box)
    return inside


def _length_factor(offset: Tensor, center: Tensor, length: PerExample, box: tuple[float, float]) -> PerExample:
    """Return the factor m, at most 1, at which m * offset has this l_2 length once center + m * offset is clipped.

    The square of the length is a concave function of m^2 whose chords never reach too far, so m rises to the solution.
    """
    v = offset.to(torch.promote_types(offset.dtype, torch.float32))
    squares, target = v.square(), length.to(v).square()
    bound = (v > 0).to(v).mul_(box[1] - box[0]).add_(box[0]).sub_(center)
    # The square of m from which a pixel is clipped.
    first = bound.square_() / squares.clamp_min(torch.finfo(v.dtype).tiny)
    u, before, reached = target / squares.sum(1), torch.zeros_like(target), torch.zeros_like(target)
    for _ in range(ROUNDS):
        found = torch.linalg.vecdot(squares, torch.minimum(first, u[:, None]))
        slope = (found - reached) / (u - before)
        short = (target - found > 8 * torch.finfo(v.dtype).eps * target) & (slope > 0) & (u < 1)
        if not bool(short.any()):
            break
        following = torch.where(short, u + (target - found) / slope, u).clamp(max=1)
        u, before, reached = following, torch.where(short, u, before), torch.where(short, found, reached)
    return u.sqrt()
