"""Batch normalization with the statistics of the batch, whose second derivative takes half the passes of torch's."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from lowcurve.analysis.double_backward.joined import Joined, refuse_third
from lowcurve.analysis.double_backward.normalization import Normalization, along_channels, by_channel


class _Held(NamedTuple):
    """A weight that is looked at without being owed a derivative of the value."""

    tensor: Tensor | None


class _At(NamedTuple):
    """Where a normalization was called: the input, and mean and 1 / sigma of each of its channels."""

    x: Tensor
    mean: Tensor
    scale: Tensor
    eps: float


def live(norm: Normalization, x: Tensor) -> Tensor:
    """gamma (x - mu) / sigma + bias, mu and sigma^2 - eps being mean and variance of x; moves the running statistics."""
    with torch.no_grad():
        value, mean, scale = torch.ops.aten.native_batch_norm(
            x, norm.weight, norm.bias, norm.mean, norm.variance, True, norm.momentum, norm.eps
        )
    at = _At(x, mean, scale, norm.eps)
    found: Tensor = _Live.apply(x, _Held(norm.weight), at._replace(x=x.detach()), value)  # type: ignore[no-untyped-call]
    if any(own is not None and own.requires_grad for own in (norm.weight, norm.bias)):
        own = _LiveWeights.apply(norm.weight, norm.bias, at)  # type: ignore[no-untyped-call]
        found = Joined.apply(found, own)  # type: ignore[no-untyped-call]
    return found


def _backward(g: Tensor, weight: Tensor | None, at: _At, wanted: tuple[bool, bool, bool]) -> tuple[Any, Any, Any]:
    found: tuple[Any, Any, Any] = torch.ops.aten.native_batch_norm_backward(
        g, at.x, weight, None, None, at.mean, at.scale, True, at.eps, wanted
    )
    return found


class _Live(torch.autograd.Function):
    """The normalization as a function of its input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: _Held, at: _At, value: Tensor) -> Tensor:
        ctx.weight, ctx.at = weight, at
        ctx.save_for_backward(x)
        return value.detach()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        return _LiveSlope.apply(g, x, ctx.weight.tensor, ctx.at), None, None, None  # type: ignore[no-untyped-call]


class _LiveSlope(torch.autograd.Function):
    """gamma / sigma (g - mean(g) - z mean(g z)), z = (x - mu) / sigma, means over the batch.

    Along v it is, with d = mean(v z), c = mean(g z), the same of v in g, and in x
    -gamma / sigma^2 (z (mean(v g) - mean(v) mean(g) - c d) + d (g - mean(g) - z c) + c (v - mean(v) - z d)).
    """

    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, weight: Tensor | None, at: _At) -> Tensor:
        found: Tensor
        found, along, total = _backward(g, weight, at, (True, True, True))
        ctx.at = at
        ctx.save_for_backward(g, x, weight, at.mean, at.scale, along, total)
        return found

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor | None, ...]:
        refuse_third("a normalization by the batch")
        g, x, weight, mean, scale, *sums = ctx.saved_tensors
        in_g, *others = _backward(v, weight, ctx.at, (True, True, True))  # which it is of v as well
        count = x.numel() // len(mean)
        (c, mean_g), (d, mean_v) = ([total / count for total in totals] for totals in (sums, others))
        spread = by_channel(v * g) / count - mean_v * mean_g - c * d
        bend = (scale if weight is None else scale * weight) * scale
        centered = x - along_channels(mean, x)
        parts = (g, -bend * d), (v, -bend * c), (centered, bend * scale * (2 * c * d - spread))
        in_x = _combined(bend * (d * mean_g + c * mean_v), *parts)
        in_weight = count * scale * spread if ctx.needs_input_grad[2] else None
        return in_g, in_x, in_weight, None


class _LiveWeights(torch.autograd.Function):
    """0, as large as the normalization, with the derivatives of that in weight and bias; on a node of its own, as those of a
    convolution are."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor | None, bias: Tensor | None, at: "_At") -> Tensor:  # noqa: ARG004
        ctx.at = at
        ctx.save_for_backward(weight)
        return at.x.new_zeros(()).expand(at.x.shape)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        _, in_weight, in_bias = _backward(g, weight, ctx.at, (False, *ctx.needs_input_grad[:2]))
        return in_weight, in_bias, None


def _combined(constant: Tensor, *parts: tuple[Tensor, Tensor]) -> Tensor:
    """constant + sum of factors times tensors, constant and factors by channel."""
    (first, factor), *rest = parts
    found = torch.addcmul(along_channels(constant, first), first, along_channels(factor, first))
    for part, factor in rest:
        found.addcmul_(part, along_channels(factor, part))
    return found
