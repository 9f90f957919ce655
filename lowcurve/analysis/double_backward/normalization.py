"""Batch normalization with running statistics: a factor and a shift of each channel, differentiated twice in few passes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

NAMES = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")


def channel_factor(variance: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """By what batch normalization with these statistics multiplies each channel."""
    factor = (variance + eps).rsqrt()
    return factor if weight is None else factor * weight


@dataclass(frozen=True)
class Normalization:
    """One call of batch normalization; live: by the statistics of the batch, which move the running ones if there are any."""

    mean: Tensor | None
    variance: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    live: bool
    momentum: float
    eps: float

    @classmethod
    def of(cls, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> "Normalization | None":
        """None where a channel has one number alone, which torch refuses."""
        given = dict(zip(NAMES, args, strict=False)) | dict(kwargs)
        x, mean, variance, weight, bias = (given.get(name) for name in NAMES[:5])
        live = bool(given.get("training")) or mean is None or variance is None
        if x is None or (live and x.numel() <= x.shape[1]):
            return None
        return cls(mean, variance, weight, bias, live, given.get("momentum", 0.1), given.get("eps", 1e-5))

    def held(self) -> "Normalization":
        """The same with parameters that receive no derivatives."""
        weight, bias = (None if own is None else own.detach() for own in (self.weight, self.bias))
        return replace(self, weight=weight, bias=bias)

    @property
    def factor(self) -> Tensor:
        """Of each channel, attached to the weight."""
        assert self.variance is not None
        return channel_factor(self.variance, self.weight, self.eps)

    @property
    def shift(self) -> Tensor:
        """What is added to each channel afterwards."""
        assert self.mean is not None
        moved = -self.mean * self.factor
        return moved if self.bias is None else moved + self.bias

    @torch.no_grad()
    def value(self, x: Tensor) -> Tensor:
        """The result, without derivatives."""
        return F.batch_norm(x, self.mean, self.variance, self.weight, self.bias, False, 0.0, self.eps)

    def attached(self, x: Tensor, value: Tensor) -> Tensor:
        """The result, which is known, with its derivatives."""
        found: Tensor = _Normalized.apply(x, self.factor, self.shift, value)  # type: ignore[no-untyped-call]
        return found


class _Normalized(torch.autograd.Function):
    """factor x + shift, both by channel."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: Tensor, shift: Tensor, value: Tensor) -> Tensor:  # noqa: ARG004
        ctx.save_for_backward(x, factor)
        return value.detach()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, factor = ctx.saved_tensors
        in_factor = by_channel(g * x) if ctx.needs_input_grad[1] else None
        in_shift = by_channel(g) if ctx.needs_input_grad[2] else None
        return g * along_channels(factor, g), in_factor, in_shift, None


def along_channels(factor: Tensor, x: Tensor) -> Tensor:
    """One number a channel, shaped so that it multiplies x."""
    return factor.view(1, -1, *[1] * (x.ndim - 2))


def by_channel(x: Tensor) -> Tensor:
    """The sum over each channel."""
    return x.sum([0, *range(2, x.ndim)])
