"""Batch normalization with running statistics: a factor and a shift per channel, differentiated twice in few passes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

ARGUMENTS = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")


def channel_factor(variance: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """Return weight / sqrt(variance + eps), the factor of each channel in batch normalization.

    Args:
        variance: Variance of each channel.
        weight: Learned factor of each channel, or None for 1.
        eps: Constant added to the variance.
    """
    factor = (variance + eps).rsqrt()
    return factor if weight is None else factor * weight


@dataclass(frozen=True)
class Normalization:
    """One call of batch normalization.

    With `uses_batch` it normalizes by the statistics of the batch, which also update the running ones if there are any.
    """

    mean: Tensor | None
    variance: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    uses_batch: bool
    momentum: float
    eps: float

    @classmethod
    def from_call(cls, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> "Normalization | None":
        """Read a call's arguments; None for one number per channel, which torch refuses.

        Args:
            args: Positional arguments of `torch.batch_norm`.
            kwargs: Its keyword arguments.
        """
        given = dict(zip(ARGUMENTS, args, strict=False)) | dict(kwargs)
        x, mean, variance, weight, bias = (given.get(name) for name in ARGUMENTS[:5])
        uses_batch = bool(given.get("training")) or mean is None or variance is None
        if x is None or (uses_batch and x.numel() <= x.shape[1]):
            return None
        return cls(mean, variance, weight, bias, uses_batch, given.get("momentum", 0.1), given.get("eps", 1e-5))

    def detach_parameters(self) -> "Normalization":
        """Return the same normalization with parameters that receive no gradients."""
        weight, bias = (None if one is None else one.detach() for one in (self.weight, self.bias))
        return replace(self, weight=weight, bias=bias)

    @property
    def factor(self) -> Tensor:
        """Factor of each channel, attached to the weight."""
        assert self.variance is not None
        return channel_factor(self.variance, self.weight, self.eps)

    @property
    def shift(self) -> Tensor:
        """Number that is added to each channel after the factor."""
        assert self.mean is not None
        moved = -self.mean * self.factor
        return moved if self.bias is None else moved + self.bias

    @torch.no_grad()
    def value(self, x: Tensor) -> Tensor:
        """Return the result without derivatives.

        Args:
            x: Input, shape (batch, channels, ...).
        """
        return F.batch_norm(x, self.mean, self.variance, self.weight, self.bias, False, 0.0, self.eps)

    def apply(self, x: Tensor, value: Tensor) -> Tensor:
        """Return the result with its derivatives.

        Args:
            x: Input, shape (batch, channels, ...).
            value: The result's value, which `value` computes.
        """
        found: Tensor = _ScaleAndShift.apply(x, self.factor, self.shift, value)  # type: ignore[no-untyped-call]
        return found


class _ScaleAndShift(torch.autograd.Function):
    """factor x + shift, both per channel."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: Tensor, shift: Tensor, value: Tensor) -> Tensor:  # noqa: ARG004
        ctx.save_for_backward(x, factor)
        return value.detach()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, factor = ctx.saved_tensors
        in_factor = sum_by_channel(g * x) if ctx.needs_input_grad[1] else None
        in_shift = sum_by_channel(g) if ctx.needs_input_grad[2] else None
        return g * per_channel(factor, g), in_factor, in_shift, None


def per_channel(values: Tensor, like: Tensor) -> Tensor:
    """Shape one number per channel so that it multiplies `like`, in the precision of that.

    Args:
        values: One number per channel.
        like: A tensor of shape (batch, channels, ...).
    """
    return values.to(like.dtype).view(1, -1, *[1] * (like.ndim - 2))


def sum_by_channel(x: Tensor) -> Tensor:
    """Return the sum over each channel, in float32 at least.

    Args:
        x: A tensor of shape (batch, channels, ...).
    """
    return x.sum([0, *range(2, x.ndim)], dtype=torch.promote_types(x.dtype, torch.float32))
