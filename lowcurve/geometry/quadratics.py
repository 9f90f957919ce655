"""Compute the exact distance at which a quadratic rises by a given amount; Theorem 1 of CURE bounds it."""

import torch
from torch import Tensor

from lowcurve.analysis.norms import L2
from lowcurve.types import PerExample

LOG_RANGE, BISECTIONS = 80.0, 100
"""The multiplier is bisected between exp(-80) and exp(80) times ||g||."""


def quadratic_distance(gradient: Tensor, eigenvalues: Tensor, gap: PerExample) -> PerExample:
    """Compute min ||r||_2 with <g, r> + sum_i lambda_i r_i^2 / 2 >= gap > 0.

    At the minimum r_i = g_i / (m - lambda_i) with one multiplier m >= max(lambda_max, 0). The rise decreases in m, so bisection
    finds m. If even the smallest m is not enough, because g has no component along the top eigenvector, r also moves along
    that eigenvector.

    Args:
        gradient: g in the eigenbasis of H, shape (batch, d), best in float64.
        eigenvalues: The eigenvalues of H in the same order, shape (batch, d).
        gap: Required rise of each example. It is above 0.

    Returns:
        One distance per example; infinite where the quadratic never rises so high.

    Cost: a hundred sums of d numbers per example.

    Example:
        >>> one = torch.ones(1, dtype=torch.float64)
        >>> quadratic_distance(one[:, None], 2 * one[:, None], gap=2 * one)  # r + r^2 = 2
        tensor([1.], dtype=torch.float64)

    Reference: moosavi2019cure, section 3 (r*; Theorem 1 has bounds of it); Conn et al. 2000, section 7.3 (the
    multiplier).
    """
    lowest = torch.maximum(eigenvalues.amax(1), gap.new_zeros(()))
    size = L2.length(gradient)
    unit = torch.where(size > 0, size, 1)
    differences = lowest[:, None] - eigenvalues

    def step_and_rise(logarithm: Tensor) -> tuple[Tensor, Tensor]:
        r = gradient / (differences + (logarithm.exp() * unit)[:, None])
        return r, (gradient * r + eigenvalues * r.square() / 2).sum(1)

    low, high = torch.full_like(gap, -LOG_RANGE), torch.full_like(gap, LOG_RANGE)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        enough = step_and_rise(middle)[1] >= gap
        low, high = torch.where(enough, middle, low), torch.where(enough, high, middle)
    r, rise = step_and_rise(low)
    missing = torch.where(rise < gap, gap - rise, 0)
    none_enough = low == -LOG_RANGE
    square = torch.where(lowest > 0, 2 * missing / torch.where(lowest > 0, lowest, 1), torch.inf)
    distance = (r.square().sum(1) + torch.where(none_enough & (missing > 0), square, 0)).sqrt()
    return torch.where(gap.isnan(), gap, distance)
