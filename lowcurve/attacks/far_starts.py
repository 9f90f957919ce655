"""Starts far from an image for a search of the nearest boundary: points that fool the network."""

import math

import torch

from lowcurve.analysis.norms import L1, LINF, Ball, per_example
from lowcurve.attacks.active_set import carry_out
from lowcurve.attacks.deepfool import project_to_box, shorten
from lowcurve.attacks.scaled_ascent import ScaledAscent
from lowcurve.attacks.state import AttackBatch, is_fooled, select_rows
from lowcurve.types import Inputs, PerExample

NOISE_SCALES = (0.01, 2.0)
"""Smallest and largest standard deviation of the noise, as fractions of the pixel range."""
ASCENT = 1.5
"""Steps of the ascent in l_1, in steps of the search that follows."""


def far_start(batch: AttackBatch, box_ball: Ball, steps: int) -> Inputs:
    """Return a point for each image that fools the network, far away, where one is found.

    It is the image with noise, in l_1 the answer of a `ScaledAscent`. For images that these do not lead to another class, it is
    the first plain image that does: see `plain_image`.

    Args:
        batch: The images, of a model in eval mode.
        box_ball: Norm and pixel box, see `MinimalNorm.box_ball`.
        steps: Number of steps of the search that follows.

    Cost: ten forward passes, in l_1 1.5 `steps` gradients.
    """
    if box_ball.norm == L1:
        outcome = carry_out(ScaledAscent(box_ball, math.ceil(ASCENT * steps)), batch, stop=False)
        point, left = outcome.point, torch.nonzero(~outcome.fooled).flatten()
        if len(left):
            point[left] = _with_noise(select_rows(batch, left), box_ball)
        return point
    return _with_noise(batch, box_ball)


def _with_noise(batch: AttackBatch, box_ball: Ball) -> Inputs:
    """Return the image with noise, or a plain image where noise of the largest scale does not fool the network."""
    point = fooling_noise(batch, box_ball)
    with torch.no_grad():
        left = torch.nonzero(~is_fooled(batch.model, batch.evaluate(point), batch.y)).flatten()
    if len(left):
        point[left] = plain_image(select_rows(batch, left), point[left], box_ball)
    return point


def plain_image(batch: AttackBatch, point: Inputs, box_ball: Ball, bisections: int = 10) -> Inputs:
    """Return black, white, gray or the negative, whichever first fools the network, drawn towards x; else the point.

    Args:
        batch: The images, of a model in eval mode.
        point: Points to return where none fools the network, of x's shape.
        box_ball: The pixel box, see `MinimalNorm.box_ball`.
        bisections: Number of bisections between x and the plain image.

    Cost: four forward passes, and one for each bisection.
    """
    low, high = box_ball.box
    if not math.isfinite(high - low):
        return point
    found = torch.zeros(len(batch), dtype=torch.bool, device=point.device)
    for level, share in ((low, 0.0), (high, 0.0), ((low + high) / 2, 0.0), (low + high, -1.0)):
        plain = share * batch.x + level
        with torch.no_grad():
            fooled = is_fooled(batch.model, batch.evaluate(plain), batch.y) & ~found
        point, found = torch.where(per_example(fooled, point), plain, point), found | fooled
    return shorten(batch, point, found, box_ball, bisections)


def fooling_noise(batch: AttackBatch, box_ball: Ball, bisections: int = 10) -> Inputs:
    """Return x + s u with Gaussian u, clipped to the box, and s the smallest scale found that fools the network.

    The scale lies between 0.01 and 2 times the pixel range, by bisection of its logarithm. Where no scale is found, it is
    the largest. The draws are the batch's streams.

    Args:
        batch: The images, of a model in eval mode.
        box_ball: The pixel box, see `MinimalNorm.box_ball`.
        bisections: Number of bisections.

    Cost: one forward pass for each bisection.
    """
    low, high = box_ball.box
    width = torch.full_like(batch.radius, high - low)
    if not math.isfinite(high - low):
        width = 1 + LINF.length(batch.x)
    noise = per_example(width, batch.x) * batch.streams.at("noise").normal(batch.x)
    robust, crossed = (torch.full_like(batch.radius, math.log(scale)) for scale in NOISE_SCALES)

    def at(logarithm: PerExample) -> Inputs:
        return project_to_box(box_ball, batch.x + per_example(logarithm.exp(), noise) * noise, batch.x)

    for _ in range(bisections):
        middle = (robust + crossed) / 2
        with torch.no_grad():
            across = is_fooled(batch.model, batch.evaluate(at(middle)), batch.y)
        robust, crossed = torch.where(across, robust, middle), torch.where(across, middle, crossed)
    return at(crossed)
