"""The exact distance at which a quadratic rises by a given amount, which Theorem 1 of CURE brackets."""

import torch
from torch import Tensor

from lowcurve.analysis.norms import L2
from lowcurve.types import PerExample

REACH, HALVINGS = 80.0, 100
"""Of the bisection, in logarithms: from exp(-80) to exp(80) times ||g||."""


def quadratic_distance(slope: Tensor, eigenvalues: Tensor, gap: PerExample) -> PerExample:
    """min ||r||_2 with <g, r> + sum_i lambda_i r_i^2 / 2 >= gap > 0; inf where the quadratic never rises so high.

    slope: g in the eigenbasis of H, shape (batch, d); eigenvalues: as many, in any order. At the minimum r_i = g_i / (m -
    lambda_i) with one multiplier m >= max(lambda_max, 0), and the rise falls in m, so m is found by bisection. Where even
    the lowest m does not suffice (g has nothing along the top eigenvector), r goes on along that one.

    Cost: a hundred sums of d numbers an example. Meant for float64.

    Example:
        >>> one = torch.ones(1, dtype=torch.float64)
        >>> quadratic_distance(one[:, None], 2 * one[:, None], gap=2 * one)  # r + r^2 = 2
        tensor([1.], dtype=torch.float64)

    Reference: moosavi2019cure, section 3 (r*, of which Theorem 1 has bounds); Conn et al. 2000, section 7.3 (the multiplier).
    """
    lowest = torch.maximum(eigenvalues.amax(1), gap.new_zeros(()))
    size = L2.length(slope)
    unit = torch.where(size > 0, size, 1)
    apart = lowest[:, None] - eigenvalues

    def along(logarithm: Tensor) -> tuple[Tensor, Tensor]:
        r = slope / (apart + (logarithm.exp() * unit)[:, None])
        return r, (slope * r + eigenvalues * r.square() / 2).sum(1)

    low, high = torch.full_like(gap, -REACH), torch.full_like(gap, REACH)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        enough = along(middle)[1] >= gap
        low, high = torch.where(enough, middle, low), torch.where(enough, high, middle)
    r, rise = along(low)
    missing = torch.where(rise < gap, gap - rise, 0)
    short = low == -REACH  # nothing sufficed
    overshoot = torch.where(lowest > 0, 2 * missing / torch.where(lowest > 0, lowest, 1), torch.inf)
    return (r.square().sum(1) + torch.where(short & (missing > 0), overshoot, 0)).sqrt()
