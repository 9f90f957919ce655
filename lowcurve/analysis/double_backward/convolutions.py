"""Convolutions whose weights receive what the derivative of an input gradient has for them as they do everything else."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lowcurve.analysis.double_backward.joined import Joined

NAMES = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")


class Geometry(NamedTuple):
    """How a convolution goes over its input, each by axis."""

    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int


@dataclass(frozen=True)
class Convolution:
    """One call of a convolution, with arguments that are understood."""

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    geometry: Geometry
    func: Callable[..., Tensor]

    @classmethod
    def of(cls, func: Callable[..., Tensor], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> "Convolution | None":
        """None for padding by a word or an input without an axis of examples, which are torch's."""
        given = dict(zip(NAMES, args, strict=False)) | dict(kwargs)
        x, weight, bias = (given.get(name) for name in NAMES[:3])
        if x is None or weight is None or isinstance(given.get("padding"), str) or x.ndim != weight.ndim:
            return None
        usual = {"stride": 1, "padding": 0, "dilation": 1}
        stride, padding, dilation = (_by_axis(given.get(name, usual[name]), weight.ndim - 2) for name in usual)
        return cls(x, weight, bias, Geometry(stride, padding, dilation, given.get("groups", 1)), func)

    def held(self) -> "Convolution":
        """The same with weights that receive no derivatives."""
        return replace(self, weight=self.weight.detach(), bias=None if self.bias is None else self.bias.detach())

    def scaled(self, factor: Tensor, shift: Tensor) -> "Convolution":
        """The convolution whose result is this one's times a factor plus a shift, both by channel."""
        weight = self.weight * factor.view(-1, *[1] * (self.weight.ndim - 1))
        return replace(self, weight=weight, bias=shift if self.bias is None else shift + self.bias * factor)

    def attached(self, value: Tensor | None = None) -> Tensor:
        """The result, with derivatives in the input, in the weight and in the bias. value: what it is, where that is known."""
        found: Tensor = _Convolved.apply(self.x, self, value)  # type: ignore[no-untyped-call]
        if not (self.weight.requires_grad or (self.bias is not None and self.bias.requires_grad)):
            return found
        own = _Weighing.apply(self.weight, self.bias, self, found.shape)  # type: ignore[no-untyped-call]
        joined: Tensor = Joined.apply(found, own)  # type: ignore[no-untyped-call]
        return joined


def _by_axis(length: Any, axes: int) -> list[int]:
    return [length] * axes if isinstance(length, int) else list(length) * (axes if len(length) == 1 else 1)


class _Convolved(torch.autograd.Function):
    """The convolution as a function of its input; the weights are looked at without being owed a derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, call: Convolution, value: Tensor | None) -> Tensor:
        ctx.weight, ctx.geometry = call.weight, call.geometry
        ctx.save_for_backward(x)
        return call.func(x, call.weight, call.bias, *call.geometry) if value is None else value.detach()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        return _ConvolvedSlope.apply(g, ctx.weight, x.detach(), ctx.geometry), None, None  # type: ignore[no-untyped-call]


class _ConvolvedSlope(torch.autograd.Function):
    """(g, weight) -> what g is at the input; linear in both, so that its derivative is a convolution with the weights and a
    weight gradient. (Torch's own takes the second as a convolution with kernels as large as images, in twice the time.)
    """

    @staticmethod
    def forward(ctx: Any, g: Tensor, weight: Tensor, x: Tensor, geometry: Geometry) -> Tensor:
        ctx.geometry = geometry
        ctx.save_for_backward(g, weight)
        return input_gradient(g, x, weight, geometry)

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor | None, ...]:
        g, weight = ctx.saved_tensors
        convolution = (torch.conv1d, torch.conv2d, torch.conv3d)[weight.ndim - 3]
        in_g = convolution(v, weight, None, *ctx.geometry)
        in_weight = None
        if ctx.needs_input_grad[1]:
            in_weight = _backward(g, v, weight, ctx.geometry, (False, True, False))[1]
        return in_g, in_weight, None, None


class _Weighing(torch.autograd.Function):
    """0, as large as the convolution, with the derivatives of that in weight and bias."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor | None, call: Convolution, shape: torch.Size) -> Tensor:  # noqa: ARG004
        ctx.x, ctx.geometry = call.x, call.geometry
        ctx.save_for_backward(weight)
        return weight.new_zeros(()).expand(shape)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        _, in_weight, in_bias = _backward(g, ctx.x, weight, ctx.geometry, (False, *ctx.needs_input_grad[:2]))
        return in_weight, in_bias, None, None


def input_gradient(g: Tensor, x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """What g at a convolution's result is at its input: the transpose of it, applied to g. x: of the input's size, unread.

    Example:
        >>> weight, line = torch.tensor([[[1.0, 2.0]]]), Geometry([1], [0], [1], 1)
        >>> input_gradient(torch.tensor([[[1.0, 10.0]]]), torch.zeros(1, 1, 3), weight, line).tolist()
        [[[1.0, 12.0, 20.0]]]
    """
    found: Tensor = _backward(g, x, weight, geometry, (True, False, False))[0]
    return found


def _backward(
    g: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, wanted: tuple[bool, bool, bool]
) -> tuple[Any, Any, Any]:
    stride, padding, dilation, groups = geometry
    found: tuple[Any, Any, Any] = torch.ops.aten.convolution_backward(
        g, x, weight, [len(weight)], stride, padding, dilation, False, [0] * len(stride), groups, wanted
    )
    return found
