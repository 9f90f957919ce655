"""Exact solutions in l_1 balls and boxes: the nearest point, and the steps along a gradient."""

import torch
from torch import Tensor
from torch.nn import functional as F

from lowcurve.types import Inputs, PerExample

ROUNDS = 100
"""Most rounds of the search for a threshold. Five to ten are usual."""


def shrink(size: Tensor, room: Tensor, total: PerExample) -> Tensor:
    """Return the nearest v to `size` with 0 <= v <= room and sum v <= total.

    It is v = min(relu(size - t), room) with the smallest threshold t >= 0 that meets the total (the conditions of Karush, Kuhn
    and Tucker). The sum is piecewise linear in t, so Newton's method, kept between bounds, ends at t exactly.

    Args:
        size: Entries of at least 0, shape (batch, entries).
        room: Upper bound of each entry, at least 0, perhaps infinite.
        total: Largest sum of each row, at least 0.

    Cost: six passes a round over the rows whose sum is too large.

    Example:
        >>> size, room = torch.tensor([[3.0, 1.0, 0.5]]), torch.tensor([[1.0, 9.0, 9.0]])
        >>> shrink(size, room, torch.tensor([1.5]))
        tensor([[1.0000, 0.5000, 0.0000]])
    """
    inside = torch.minimum(size, room)
    rows = torch.nonzero(inside.sum(1) > total).flatten()
    if len(rows):
        few, upper = size[rows], room[rows]
        t = _threshold(few, upper, total[rows])[:, None]
        inside[rows] = torch.minimum((few - t).clamp_min_(0), upper)
    return inside


def _threshold(size: Tensor, room: Tensor, total: PerExample) -> PerExample:
    """Return the threshold t > 0 at which the sum of min(relu(size - t), room) is the total."""
    low, high = torch.zeros_like(total), size.amax(1)
    full, t, slack = size - room, low, 4 * torch.finfo(size.dtype).eps * total
    for _ in range(ROUNDS):
        above = (size - t[:, None]).clamp_min_(0)
        inner = ((above > 0) & (full < t[:, None])).sum(1).to(t)  # entries that shrink with rising t
        excess = torch.minimum(above, room).sum(1) - total
        low, high = torch.where(excess > 0, t, low), torch.where(excess > 0, high, t)
        following = t + excess / inner.clamp_min(1)
        following = torch.where((following > low) & (following < high) & (inner > 0), following, (low + high) / 2)
        moves = (excess.abs() > slack) & (following != t)
        if not bool(moves.any()):
            break
        t = torch.where(moves, following, t)
    return t


def project(center: Inputs, offset: Tensor, radius: float | PerExample, box: tuple[float, float]) -> Inputs:
    """Return the nearest point (in l_2) to center + offset in the l_1 ball around the center and in the box.

    Args:
        center: Centers inside the box, shape (batch, ...).
        offset: Offsets of the points from them.
        radius: Radius, one for all examples or one for each.
        box: Lowest and highest pixel value.

    Cost: a few passes over the points, and `shrink`'s where the ball is left.

    Example:
        >>> center, offset = torch.zeros(1, 3), torch.tensor([[3.0, 1.0, -0.5]])
        >>> project(center, offset, torch.tensor([1.5]), (-0.5, 1.0))
        tensor([[1.0000, 0.5000, 0.0000]])

    Reference: Croce and Hein 2021 ("Mind the box"), Proposition 2.1.
    """
    precise = torch.promote_types(offset.dtype, torch.float32)
    size, room = (part.flatten(1).to(precise) for part in (offset.abs(), room_along(center, offset, box)))
    limit = torch.as_tensor(radius, dtype=precise, device=offset.device).expand(len(offset))
    change = shrink(size, room, limit).to(offset).view_as(offset)
    return (center + offset.sign() * change).clamp(*box)


def room_along(point: Inputs, direction: Tensor, box: tuple[float, float]) -> Tensor:
    """Return how far each pixel can move inside the box in a direction's sign."""
    return torch.where(direction > 0, box[1] - point, point - box[0]).clamp_min(0)


def steepest(gradient: Tensor, room: Tensor, size: PerExample) -> Tensor:
    """Return v that maximizes <gradient, v> with sum |v| <= size and |v| <= room.

    The pixels of largest slope move as far as they can, until the size is used up.

    Args:
        gradient: Shape (batch, ...).
        room: How far each pixel can move in the gradient's sign; see `room_along`.
        size: l_1 length of each example's step.

    Cost: one sort.

    Example:
        >>> g = torch.tensor([[1.0, -3.0, 2.0]])
        >>> steepest(g, torch.tensor([[1.0, 0.5, 1.0]]), torch.tensor([0.75]))
        tensor([[ 0.0000, -0.5000,  0.2500]])

    Reference: Croce and Hein 2021, Proposition 2.2.
    """
    return _fill(gradient, room, size, by_slope=False)[0]


def step_in_box(point: Inputs, gradient: Tensor, size: PerExample, box: tuple[float, float]) -> Tensor:
    """Return the steepest step in the box for a projection to follow, which then is steepest in the ball too.

    `project` shortens all pixels by the same length. So pixels that the step moves to the edge of the box go beyond it,
    farther for each pixel of smaller slope that moves. Those of smallest slope then give way first.

    Args:
        point: Points in the box, shape (batch, ...).
        gradient: Gradients there.
        size: l_1 length of each example's step.
        box: Lowest and highest pixel value.

    Cost: one sort.
    """
    room = room_along(point, gradient, box)
    step, order = _fill(gradient, room, size, by_slope=False)
    ranks = torch.arange(order.shape[1], device=order.device).expand_as(order)
    moves = step.flatten(1).gather(1, order) != 0
    last = torch.where(moves, ranks, 0).amax(1, keepdim=True)
    behind = torch.zeros_like(order).scatter(1, order, (last + 1 - ranks).clamp_min(0)).view_as(step)
    at_edge = (step.abs() >= room) & torch.isfinite(room)
    return torch.where(at_edge, step + gradient.sign() * behind * (box[1] - box[0]), step)


def shortest_crossing(gradient: Tensor, room: Tensor, gap: PerExample) -> Tensor:
    """Return v of smallest l_1 length with <gradient, v> >= gap and |v| <= room, or all the room where the gap is larger.

    Args:
        gradient: Shape (batch, ...).
        room: How far each pixel can move in the gradient's sign; see `room_along`.
        gap: What the linear function must gain, at least 0.

    Cost: one sort.

    Example:
        >>> g = torch.tensor([[1.0, -3.0, 2.0]])
        >>> shortest_crossing(g, torch.tensor([[1.0, 0.5, 1.0]]), torch.tensor([2.0]))
        tensor([[ 0.0000, -0.5000,  0.2500]])

    Reference: Croce and Hein 2020 (FAB), the l_1 projection.
    """
    return _fill(gradient, room, gap, by_slope=True)[0]


def _fill(gradient: Tensor, room: Tensor, budget: PerExample, *, by_slope: bool) -> tuple[Tensor, Tensor]:
    """Move pixels in the order of their slopes until the sum of moves, or of moves times slopes, is the budget.

    Returns:
        The moves, and the order of the pixels, (batch, pixels).
    """
    slope, order = gradient.abs().flatten(1).sort(dim=1, descending=True, stable=True)
    own = torch.where(slope > 0, room.flatten(1).gather(1, order), 0)
    price = slope if by_slope else torch.ones_like(slope)
    worth = torch.where(slope > 0, own * price, 0).double().cumsum(1)
    spent = F.pad(worth[:, :-1], (1, 0))  # by the pixels before
    left = (budget[:, None] - spent).clamp_min(0).to(own)
    moved = torch.minimum(own, left / torch.where(price > 0, price, 1))
    return gradient.sign() * torch.zeros_like(moved).scatter(1, order, moved).view_as(gradient), order
