"""Batch normalization with the statistics of the batch. Its second derivative takes half as many passes as torch's."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from lowcurve.analysis.double_backward.parameter_node import JoinParameters, refuse_third_derivative
from lowcurve.analysis.double_backward.running_statistics import Normalization, per_channel, sum_by_channel


class _Untracked(NamedTuple):
    """A weight in a wrapper, so that autograd does not ask for its gradient."""

    tensor: Tensor | None


class _Point(NamedTuple):
    """The input of a normalization, with the mean and 1 / sigma of each channel."""

    x: Tensor
    mean: Tensor
    inverse_sigma: Tensor
    eps: float


def normalize_by_batch(norm: Normalization, x: Tensor) -> Tensor:
    """Return weight (x - mu) / sigma + bias, with mu and sigma^2 - eps the mean and variance of x in each channel.

    Updates the running statistics.

    Args:
        norm: The call of batch normalization.
        x: Its input, shape (batch, channels, ...).
    """
    with torch.no_grad():
        value, mean, inverse_sigma = torch.ops.aten.native_batch_norm(
            x, norm.weight, norm.bias, norm.mean, norm.variance, True, norm.momentum, norm.eps
        )
    point = _Point(x, mean, inverse_sigma, norm.eps)
    detached = point._replace(x=x.detach())
    found: Tensor = _InputPart.apply(x, _Untracked(norm.weight), detached, value)  # type: ignore[no-untyped-call]
    if any(one is not None and one.requires_grad for one in (norm.weight, norm.bias)):
        parameter_part = _ParameterPart.apply(norm.weight, norm.bias, point)  # type: ignore[no-untyped-call]
        found = JoinParameters.apply(found, parameter_part)  # type: ignore[no-untyped-call]
    return found


def _backward(g: Tensor, weight: Tensor | None, point: _Point, wanted: tuple[bool, bool, bool]) -> tuple[Any, Any, Any]:
    found: tuple[Any, Any, Any] = torch.ops.aten.native_batch_norm_backward(
        g, point.x, weight, None, None, point.mean, point.inverse_sigma, True, point.eps, wanted
    )
    return found


class _InputPart(torch.autograd.Function):
    """The normalization as a function of its input alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: _Untracked, point: _Point, value: Tensor) -> Tensor:
        ctx.weight, ctx.point = weight, point
        ctx.save_for_backward(x)
        return value.detach()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        return _InputGradient.apply(g, x, ctx.weight.tensor, ctx.point), None, None, None  # type: ignore[no-untyped-call]


class _InputGradient(torch.autograd.Function):
    """weight / sigma (g - mean(g) - z mean(g z)) with z = (x - mu) / sigma and means over the batch.

    Let d = mean(v z) and c = mean(g z). The derivative along v is the same expression of v in g, and in x it is
    -weight / sigma^2 (z (mean(v g) - mean(v) mean(g) - c d) + d (g - mean(g) - z c) + c (v - mean(v) - z d)).
    """

    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, weight: Tensor | None, point: _Point) -> Tensor:
        found: Tensor
        found, sum_gz, sum_g = _backward(g, weight, point, (True, True, True))
        ctx.point = point
        ctx.save_for_backward(g, x, weight, point.mean, point.inverse_sigma, sum_gz, sum_g)
        return found

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor | None, ...]:
        refuse_third_derivative("a normalization by the batch")
        g, x, weight, mean, inverse_sigma, *g_sums = ctx.saved_tensors
        in_g, *v_sums = _backward(v, weight, ctx.point, (True, True, True))
        count = x.numel() // len(mean)
        (c, mean_g), (d, mean_v) = ([total / count for total in sums] for sums in (g_sums, v_sums))
        covariance = sum_by_channel(v * g) / count - mean_v * mean_g - c * d
        factor = (inverse_sigma if weight is None else inverse_sigma * weight) * inverse_sigma
        centered = x - per_channel(mean, x)
        in_x = centered.mul_(per_channel(factor * inverse_sigma * (2 * c * d - covariance), x))
        in_x.addcmul_(g, per_channel(-factor * d, x)).addcmul_(v, per_channel(-factor * c, x))
        in_x.add_(per_channel(factor * (d * mean_g + c * mean_v), x))
        in_weight = count * inverse_sigma * covariance if ctx.needs_input_grad[2] else None
        return in_g, in_x, in_weight, None


class _ParameterPart(torch.autograd.Function):
    """Zeros of the result's shape, with the normalization's derivatives in weight and bias."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor | None, bias: Tensor | None, point: _Point) -> Tensor:  # noqa: ARG004
        ctx.point = point
        ctx.save_for_backward(weight)
        return point.x.new_zeros(()).expand(point.x.shape)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        _, in_weight, in_bias = _backward(g, weight, ctx.point, (False, *ctx.needs_input_grad[:2]))
        return in_weight, in_bias, None
