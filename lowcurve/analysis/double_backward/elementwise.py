"""Smooth nonlinearities that are differentiated twice in four or five passes over memory."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lowcurve.analysis.double_backward.parameter_node import JoinParameters, refuse_third_derivative
from lowcurve.analysis.sharpness import sharpness_gradient
from lowcurve.analysis.smooth_nonlinearities import SmoothNonlinearity


def apply_nonlinearity(x: Tensor, sigma: SmoothNonlinearity, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Return function(x) with the derivatives of sigma.

    Args:
        x: Input of the nonlinearity.
        sigma: The derivatives in closed form.
        function: The nonlinearity itself.
    """
    found: Tensor = _Nonlinearity.apply(x, sigma, function)  # type: ignore[no-untyped-call]
    if sigma.sharpness is None or not sigma.sharpness.requires_grad:
        return found
    sharpness_part = _SharpnessPart.apply(sigma.sharpness, (x,))  # type: ignore[no-untyped-call]
    joined: Tensor = JoinParameters.apply(found, sharpness_part)  # type: ignore[no-untyped-call]
    return joined


def hard_sigmoid(x: Tensor) -> Tensor:
    """Return hardsigmoid(x) with torch's slope as a constant, so that its second derivative is zero.

    Args:
        x: Input of the nonlinearity.
    """
    point = x.detach()
    slope = torch.ops.aten.hardsigmoid_backward(torch.ones_like(point), point)
    found: Tensor = F.hardsigmoid(point) + slope * (x - point)
    return found


class _Nonlinearity(torch.autograd.Function):
    """sigma(x) as a function of x alone: the sharpness receives no gradient here."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, sigma: SmoothNonlinearity, function: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.sigma, ctx.derivative = sigma, None
        ctx.save_for_backward(x)
        return function(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        sharpness = ctx.sigma.sharpness
        in_x, derivative = _NonlinearityBackward.apply(g, x, sharpness, ctx.derivative, ctx.sigma)  # type: ignore[no-untyped-call]
        if torch.is_grad_enabled():  # the graph of the gradient stores it in any case
            ctx.derivative = derivative
        return in_x, None, None


class _SharpnessPart(torch.autograd.Function):
    """Zeros of the result's shape, with the derivative of centered softplus in its sharpness.

    x comes in a tuple, which hides it from autograd. Otherwise an input gradient would run this node.
    """

    @staticmethod
    def forward(ctx: Any, sharpness: Tensor, inside: tuple[Tensor]) -> Tensor:
        (x,) = inside
        ctx.x = x
        ctx.save_for_backward(sharpness)
        return sharpness.new_zeros(()).expand(x.shape)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return sharpness_gradient(g, ctx.x, *ctx.saved_tensors), None


class _NonlinearityBackward(torch.autograd.Function):
    """g sigma'(x), whose derivative along v is v sigma'(x) in g and v g sigma''(x) in x; also returns sigma'(x)."""

    @staticmethod
    def forward(
        ctx: Any, g: Tensor, x: Tensor, sharpness: Tensor | None, derivative: Tensor | None, sigma: SmoothNonlinearity
    ) -> tuple[Tensor, Tensor]:
        derivative = sigma.derivative(x) if derivative is None else derivative.detach()
        ctx.sigma = sigma
        ctx.mark_non_differentiable(derivative)
        ctx.save_for_backward(g, x, sharpness, derivative)
        return g * derivative, derivative

    @staticmethod
    def backward(ctx: Any, v: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        refuse_third_derivative("a nonlinearity")
        g, x, sharpness, derivative = ctx.saved_tensors
        in_x = ctx.sigma.second_derivative(x, derivative).mul_(g).mul_(v)
        # sigma'(x) = s(b x), so x times its derivative in x is b times its derivative in b.
        in_sharpness = _dot(in_x, x) / sharpness if ctx.needs_input_grad[2] else None
        return v * derivative, in_x, in_sharpness, None, None


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return torch.dot(a.reshape(-1), b.reshape(-1))
