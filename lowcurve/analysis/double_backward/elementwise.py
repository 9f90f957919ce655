"""Smooth nonlinearities that are differentiated twice in four or five passes over memory."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lowcurve.analysis.double_backward.parameter_node import refuse_third_derivative
from lowcurve.analysis.smooth_nonlinearities import SmoothNonlinearity


def apply_nonlinearity(x: Tensor, sigma: SmoothNonlinearity, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Return function(x) with the derivatives of sigma.

    Args:
        x: Input of the nonlinearity.
        sigma: The derivatives in closed form.
        function: The nonlinearity itself.
    """
    found: Tensor = _Nonlinearity.apply(x, sigma.sharpness, sigma, function)  # type: ignore[no-untyped-call]
    return found


class _Nonlinearity(torch.autograd.Function):
    """sigma(x) with its derivatives in x and in the sharpness b, where sigma(x) = (S(b x) - S(0)) / b."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, sharpness: Tensor | None, sigma: SmoothNonlinearity, function: Callable[[Tensor], Tensor]
    ) -> Tensor:
        value = function(x)
        ctx.sigma, ctx.derivative = sigma, None
        ctx.save_for_backward(x, sharpness, None if sharpness is None else value)
        return value

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, sharpness, value = ctx.saved_tensors
        in_x, derivative = _NonlinearityBackward.apply(g, x, sharpness, ctx.derivative, ctx.sigma)  # type: ignore[no-untyped-call]
        if torch.is_grad_enabled():  # the graph of the gradient stores it in any case
            ctx.derivative = derivative
        in_sharpness = (_dot(in_x, x) - _dot(g, value)) / sharpness if ctx.needs_input_grad[1] else None
        return in_x, in_sharpness, None, None


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
