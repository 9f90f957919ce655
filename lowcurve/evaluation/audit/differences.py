"""Gradients against differences of the loss: part of test 4. Cost: 64 forward passes and a gradient per image."""

import numpy as np
import torch
from torch import Tensor

from lowcurve.analysis.calculus import gradient
from lowcurve.analysis.norms import per_example
from lowcurve.evaluation.audit.state import AuditState
from lowcurve.losses import log_odds, loss_field
from lowcurve.types import PerExample

DIRECTIONS = 8
"""Random directions for each image."""
STEPS = (1 / 128, 1 / 32, 1 / 8, 1 / 2)
"""Lengths of the differences, in radii."""
SMOOTH = 0.1
"""Relative change of the differences from one step to the next up to which they have a limit, the derivative."""
ROUNDING = 8
"""Rounding of a difference, in units of the logits' precision at the largest of them."""
CLEAR = 10
"""Least size of a difference, in units of its rounding."""


def disagreement(state: AuditState, rows: np.ndarray) -> np.ndarray:
    """Return how much the loss's gradient and its differences disagree, the sine of their angle, for each image.

    Near each image, the derivatives along random directions u are <g, u> by the gradient g, and
    (l(x + h u) - l(x - h u)) / 2h by central differences with several steps h. The angle is that of these two vectors, with
    one entry for each direction, at the step where it is least. The length of the gradient does not change it, and no attack
    here needs that length. Small steps meet few kinks of a piecewise linear network.

    Args:
        state: The state of the audit.
        rows: Indices of the images.

    Returns:
        A number in [0, 1] for each image, 1 for 90 degrees or more. It is NaN where no two neighboring steps give the same
        differences, because the network is not smooth there, and where the differences are not above rounding.
    """
    there = torch.from_numpy(rows)
    x, y, streams = state.x[there], state.y[there], state.streams("audit", "differences", rows=rows)
    ball, (low, high) = state.ball, state.ball.box
    radius = per_example(ball.radii(x), x)
    units = [ball.norm.unit(streams.at("direction", place).normal(x)) for place in range(DIRECTIONS)]
    # Where a network clips its pixels, it has a kink at the faces of the box.
    room = STEPS[-1] * radius * torch.stack(units).abs().amax(0)
    room = torch.where(room > (high - low) / 2, (high - low) / 2, room)
    near = ball.sample(x, streams.at("point"), ball.radii(x) / 2)
    near = torch.minimum(torch.maximum(near, low + room), high - room)
    slopes = state.in_batches(lambda a, b: gradient(loss_field(state.model, b, log_odds), a), near, y).double()
    logits = state.logits_at(near, y)
    by_gradient = torch.stack([(slopes * u).flatten(1).sum(1) for u in units], 1)
    noise = ROUNDING * torch.finfo(logits.dtype).eps * logits.abs().amax(1).double() * DIRECTIONS**0.5
    found = [_differences(state, near, y, units, step * radius) for step in STEPS]
    lengths = [step * ball.radii(x).double() for step in STEPS]
    clear = [d.norm(dim=1) > CLEAR * noise / h for d, h in zip(found, lengths, strict=True)]
    smooth = [
        clear[k] & clear[k + 1] & ((found[k + 1] - found[k]).norm(dim=1) <= SMOOTH * found[k].norm(dim=1))
        for k in range(len(STEPS) - 1)
    ]
    sines = torch.stack([torch.where(c, _sine(by_gradient, d), torch.inf) for c, d in zip(clear, found, strict=True)])
    judged = torch.stack(smooth).any(0) & torch.isfinite(by_gradient).all(1)
    return np.asarray(torch.where(judged, sines.amin(0), torch.nan).numpy())


def _differences(state: AuditState, near: Tensor, y: Tensor, units: list[Tensor], step: Tensor) -> Tensor:
    """Return the central differences of the loss along all directions, shape (batch, directions)."""
    points = torch.cat([near + sign * step * u for sign in (1, -1) for u in units])
    labels = y.repeat(2 * len(units))
    values = log_odds(state.logits_at(points, labels).double(), labels).reshape(2, len(units), len(near))
    return ((values[0] - values[1]) / (2 * step.flatten(1)[:, 0].double())).T


def _sine(one: Tensor, other: Tensor) -> PerExample:
    """Return the sine of the angle of two vectors per image, 1 for 90 degrees or more, and where one is 0."""
    lengths = one.norm(dim=1) * other.norm(dim=1)
    cosine = torch.relu(torch.where(lengths > 0, (one * other).sum(1) / lengths, 0))
    return torch.relu(1 - cosine.square()).sqrt()
