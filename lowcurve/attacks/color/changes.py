"""Derivatives of a field in a parameter of the image, theta -> l(T(x, theta)), and lower bounds between grid points.

T and l may have kinks. A hue shift is linear between the multiples of 60 degrees of each pixel, and a ReLU network is
linear between its kinks, where second derivatives are zero. Only the difference of first derivatives shows the kinks.
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
    """Value and derivatives of theta -> l(T(x, theta)), one of each for every image.

    Attributes:
        value: l.
        derivative: dl / d theta.
        second_derivative: d^2 l / d theta^2.
    """

    value: PerExample
    derivative: PerExample
    second_derivative: PerExample


def derivatives_along(field: Field, change: Change, x: Inputs, parameter: PerExample) -> ParameterDerivatives:
    """Compute value, first and second derivative of theta -> l(T(x, theta)) at one theta for each image.

    The second derivative is exact and local: r'^T H r' + <grad l, r''> with r = T(x, .). It contains no jumps of the first
    derivative at kinks of T or l.

    Args:
        field: Per-example loss as a function of the input.
        change: T, a function of inputs and one parameter for each.
        x: Inputs, (batch, ...), pixel units.
        parameter: theta, (batch,).

    Returns:
        Value and derivatives, in the parameter's units.

    Raises:
        InputError: If there is not one parameter for each input.

    Cost: one forward pass, one gradient, one backward pass through that.

    Example:
        >>> cubic = derivatives_along(lambda x: x.pow(3).sum(1), lambda x, t: x + t[:, None], torch.ones(1, 2), torch.ones(1))
        >>> cubic
        ParameterDerivatives(value=tensor([16.]), derivative=tensor([24.]), second_derivative=tensor([24.]))
    """
    if parameter.shape != (len(x),):
        expected = f"one parameter an example, of shape ({len(x)},)"
        raise InputError(expected, tuple(parameter.shape), "take the parameters one at a time")
    jet = Jet(lambda theta: field(change(x, theta)), parameter.to(x))
    second = pullback(jet.gradient, jet.x, torch.ones_like(jet.x))
    return ParameterDerivatives(jet.values.detach(), jet.gradient.detach(), second.detach())


def floor_between(values: Tensor, derivatives: Tensor, width: float, bend: Tensor) -> Tensor:
    """Return a lower bound of l between neighboring grid points if |l''| <= bend there, jumps of l' included.

    From either end l is at least value + derivative * t - bend t^2 / 2. The bound is the minimum over the interval of the
    larger of the two. It is an estimate where `bend` is one.

    Args:
        values: l at the grid points, (..., n).
        derivatives: l' at the grid points, (..., n).
        width: Distance of neighboring grid points.
        bend: Bound of |l''|. It broadcasts with (..., n - 1).

    Returns:
        A lower bound for each interval, (..., n - 1).

    Example:
        >>> floor_between(torch.tensor([1.0, 1.0]), torch.tensor([-2.0, 2.0]), 1.0, torch.tensor(4.0))
        tensor([-0.5000])
    """
    here, there = values[..., :-1], values[..., 1:]
    down, up = derivatives[..., :-1], derivatives[..., 1:]
    half = bend / 2

    def higher(t: Tensor) -> Tensor:
        left = here + down * t - half * t.square()
        right = there - up * (width - t) - half * (width - t).square()
        return torch.maximum(left, right)

    # The two bounds differ by a linear function of t, so they meet at most once. Each is concave and lowest at an end.
    rate = up - down + bend * width
    meeting = (here - there + up * width + half * width**2) / torch.where(rate == 0, 1, rate)
    within = (rate != 0) & (meeting > 0) & (meeting < width)
    ends = torch.minimum(here, there)
    return torch.where(within, torch.minimum(ends, higher(torch.where(within, meeting, 0))), ends)
