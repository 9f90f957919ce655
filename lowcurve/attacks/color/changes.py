"""A field along a parameter of the image: theta -> l(T(x, theta)), its slope, its curvature, and what they say in between.

T may have kinks, and so may l. A shift of the hues is linear in the angle between the multiples of 60 degrees of each
pixel, a ReLU network is linear between its kinks, and a second derivative, being local, sees nothing of what happens at
either. The change of the slope from one grid point to the next sees all of it; that is why both are here.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lowcurve.analysis.calculus import Jet, pullback
from lowcurve.errors import InputError
from lowcurve.types import Field, Inputs, PerExample

Change = Callable[[Tensor, Tensor], Tensor]
"""Inputs and one parameter an example -> the changed inputs."""


@dataclass(frozen=True)
class ParameterDerivatives:
    """l, dl / d theta and d^2 l / d theta^2, one of each an example."""

    value: PerExample
    slope: PerExample
    curvature: PerExample


def derivatives_along(field: Field, change: Change, x: Inputs, parameter: PerExample) -> ParameterDerivatives:
    """l, l' and l'' of theta -> l(T(x, theta)) at one theta for each example.

    The second derivative is exact, r'^T H r' + <grad l, r''> with r = T(x, .), and local: jumps of the slope at kinks
    of T or l are not in it. Cost: one forward pass, one gradient, one backward pass through that.

    Example:
        >>> cubic = derivatives_along(lambda x: x.pow(3).sum(1), lambda x, t: x + t[:, None], torch.ones(1, 2), torch.ones(1))
        >>> cubic
        ParameterDerivatives(value=tensor([16.]), slope=tensor([24.]), curvature=tensor([24.]))
    """
    if parameter.shape != (len(x),):
        expected = f"one parameter an example, of shape ({len(x)},)"
        raise InputError(expected, tuple(parameter.shape), "take the parameters one at a time")
    jet = Jet(lambda theta: field(change(x, theta)), parameter.to(x))
    curvature = pullback(jet.gradient, jet.x, torch.ones_like(jet.x))
    return ParameterDerivatives(jet.values.detach(), jet.gradient.detach(), curvature.detach())


def floor_between(values: Tensor, slopes: Tensor, width: float, bend: Tensor) -> Tensor:
    """The lowest that l can be between neighboring grid points if |l''| <= bend there, jumps of the slope included.

    From either end l stays above value + slope t - bend t^2 / 2; what is given is the minimum over the cell of the
    higher of the two. values, slopes: (..., n), `width` apart; bend: what broadcasts with (..., n - 1). Returns (..., n
    - 1). It is a bound where `bend` is one, and an estimate where that was estimated.

    Example:
        >>> floor_between(torch.tensor([1.0, 1.0]), torch.tensor([-2.0, 2.0]), 1.0, torch.tensor(4.0))
        tensor([-0.5000])
    """
    here, there = values[..., :-1], values[..., 1:]
    down, up = slopes[..., :-1], slopes[..., 1:]
    half = bend / 2

    def higher(t: Tensor) -> Tensor:
        left = here + down * t - half * t.square()
        right = there - up * (width - t) - half * (width - t).square()
        return torch.maximum(left, right)

    # Their difference is linear in t, so they meet once at most; elsewhere each is concave and lowest at an end.
    rate = up - down + bend * width
    meeting = (here - there + up * width + half * width**2) / torch.where(rate == 0, 1, rate)
    within = (rate != 0) & (meeting > 0) & (meeting < width)
    ends = torch.minimum(here, there)
    return torch.where(within, torch.minimum(ends, higher(torch.where(within, meeting, 0))), ends)
