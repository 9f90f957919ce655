"""Convolutions whose input gradient has a cheap derivative in the weights: an ordinary weight gradient."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lowcurve.analysis.double_backward.parameter_node import JoinParameters

ARGUMENTS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")


class ConvolutionGeometry(NamedTuple):
    """Stride, padding and dilation of a convolution, one number per axis, and its number of groups."""

    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int


@dataclass(frozen=True)
class Convolution:
    """One call of a convolution."""

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    geometry: ConvolutionGeometry
    func: Callable[..., Tensor]

    @classmethod
    def from_call(
        cls, func: Callable[..., Tensor], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> "Convolution | None":
        """Read a call's arguments; None for padding by name or an unbatched input, which are left to torch.

        Args:
            func: The convolution, such as `torch.conv2d`.
            args: Its positional arguments.
            kwargs: Its keyword arguments.
        """
        given = dict(zip(ARGUMENTS, args, strict=False)) | dict(kwargs)
        x, weight, bias = (given.get(name) for name in ARGUMENTS[:3])
        if x is None or weight is None or isinstance(given.get("padding"), str) or x.ndim != weight.ndim:
            return None
        defaults = {"stride": 1, "padding": 0, "dilation": 1}
        stride, padding, dilation = (_by_axis(given.get(name, defaults[name]), weight.ndim - 2) for name in defaults)
        return cls(x, weight, bias, ConvolutionGeometry(stride, padding, dilation, given.get("groups", 1)), func)

    def detach_parameters(self) -> "Convolution":
        """Return the same convolution with parameters that receive no gradients."""
        return replace(self, weight=self.weight.detach(), bias=None if self.bias is None else self.bias.detach())

    def scale_channels(self, factor: Tensor, shift: Tensor) -> "Convolution":
        """Return the convolution whose result is this one's times a factor plus a shift.

        Args:
            factor: One factor per output channel.
            shift: One shift per output channel.
        """
        weight = self.weight * factor.view(-1, *[1] * (self.weight.ndim - 1))
        return replace(self, weight=weight, bias=shift if self.bias is None else shift + self.bias * factor)

    def apply(self, value: Tensor | None = None) -> Tensor:
        """Return the result, with derivatives in the input, the weight and the bias.

        Args:
            value: The result's value if it is known already.
        """
        call = self._in_autocast()
        found: Tensor = _InputPart.apply(call.x, call, value)  # type: ignore[no-untyped-call]
        if not (call.weight.requires_grad or (call.bias is not None and call.bias.requires_grad)):
            return found
        parameter_part = _ParameterPart.apply(call.weight, call.bias, call, found.shape)  # type: ignore[no-untyped-call]
        joined: Tensor = JoinParameters.apply(found, parameter_part)  # type: ignore[no-untyped-call]
        return joined

    def _in_autocast(self) -> "Convolution":
        """Return the convolution as autocast, if there is one, makes it of anything but double precision."""
        dtype = autocast_of(self.x)
        if dtype is None or self.x.dtype == torch.float64:
            return self
        bias = None if self.bias is None else self.bias.to(dtype)
        return replace(self, x=self.x.to(dtype), weight=self.weight.to(dtype), bias=bias)


def autocast_of(x: Tensor) -> torch.dtype | None:
    """Return the precision of autocast on the device of x, or None outside autocast.

    Args:
        x: A tensor.

    Example:
        >>> with torch.autocast("cpu", dtype=torch.bfloat16):
        ...     autocast_of(torch.ones(1))
        torch.bfloat16
    """
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


def _by_axis(length: Any, axes: int) -> list[int]:
    return [length] * axes if isinstance(length, int) else list(length) * (axes if len(length) == 1 else 1)


class _InputPart(torch.autograd.Function):
    """The convolution as a function of its input alone: the weights receive no gradient here."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, call: Convolution, value: Tensor | None) -> Tensor:
        ctx.weight, ctx.geometry = call.weight, call.geometry
        ctx.save_for_backward(x)
        return call.func(x, call.weight, call.bias, *call.geometry) if value is None else value.detach()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        return _InputGradient.apply(g, ctx.weight, x.detach(), ctx.geometry), None, None  # type: ignore[no-untyped-call]


class _InputGradient(torch.autograd.Function):
    """(g, weight) -> the gradient at the input. It is linear in both.

    So its derivatives are a convolution with the weights and a weight gradient. Torch computes the second as a convolution
    with kernels as large as images, which takes twice the time.
    """

    @staticmethod
    def forward(ctx: Any, g: Tensor, weight: Tensor, x: Tensor, geometry: ConvolutionGeometry) -> Tensor:
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


class _ParameterPart(torch.autograd.Function):
    """Zeros of the result's shape, with the convolution's derivatives in weight and bias."""

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


def input_gradient(g: Tensor, x: Tensor, weight: Tensor, geometry: ConvolutionGeometry) -> Tensor:
    """Return the gradient at a convolution's input: its transpose applied to g.

    Args:
        g: Gradient at the convolution's result.
        x: A tensor of the input's shape. Its values are not read.
        weight: Weight of the convolution.
        geometry: Stride, padding, dilation and groups of the convolution.

    Example:
        >>> weight, geometry = torch.tensor([[[1.0, 2.0]]]), ConvolutionGeometry([1], [0], [1], 1)
        >>> input_gradient(torch.tensor([[[1.0, 10.0]]]), torch.zeros(1, 1, 3), weight, geometry).tolist()
        [[[1.0, 12.0, 20.0]]]
    """
    found: Tensor = _backward(g, x, weight, geometry, (True, False, False))[0]
    return found


def _backward(
    g: Tensor, x: Tensor, weight: Tensor, geometry: ConvolutionGeometry, wanted: tuple[bool, bool, bool]
) -> tuple[Any, Any, Any]:
    stride, padding, dilation, groups = geometry
    found: tuple[Any, Any, Any] = torch.ops.aten.convolution_backward(
        g, x, weight, [len(weight)], stride, padding, dilation, False, [0] * len(stride), groups, wanted
    )
    return found
