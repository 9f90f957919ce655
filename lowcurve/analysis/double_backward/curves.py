"""Smooth nonlinearities, differentiated twice in four passes or five."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lowcurve.analysis.double_backward.joined import refuse_third
from lowcurve.analysis.nonlinearities import Bent


def curved(x: Tensor, form: Bent, function: Callable[[Tensor], Tensor]) -> Tensor:
    """sigma(x) = function(x), with the derivatives that its form gives."""
    found: Tensor = _Curved.apply(x, form.sharpness, form, function)  # type: ignore[no-untyped-call]
    return found


class _Curved(torch.autograd.Function):
    """sigma(x) of a form, with its derivatives in x and in the sharpness b of sigma(x) = (S(b x) - S(0)) / b."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, sharpness: Tensor | None, form: Bent, function: Callable[[Tensor], Tensor]
    ) -> Tensor:
        value = function(x)
        ctx.form, ctx.slope = form, None
        ctx.save_for_backward(x, sharpness, None if sharpness is None else value)
        return value

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, sharpness, value = ctx.saved_tensors
        in_x, slope = _CurvedSlope.apply(g, x, sharpness, ctx.slope, ctx.form)  # type: ignore[no-untyped-call]
        if torch.is_grad_enabled():  # the graph of the gradient keeps it in any case
            ctx.slope = slope
        in_sharpness = (_dot(in_x, x) - _dot(g, value)) / sharpness if ctx.needs_input_grad[1] else None
        return in_x, in_sharpness, None, None


class _CurvedSlope(torch.autograd.Function):
    """g sigma'(x) and sigma'(x), of which the first has the derivatives v sigma'(x) in g and v g sigma''(x) in x along v."""

    @staticmethod
    def forward(
        ctx: Any, g: Tensor, x: Tensor, sharpness: Tensor | None, slope: Tensor | None, form: Bent
    ) -> tuple[Tensor, Tensor]:
        slope = form.slope(x) if slope is None else slope.detach()
        ctx.form = form
        ctx.mark_non_differentiable(slope)
        ctx.save_for_backward(g, x, sharpness, slope)
        return g * slope, slope

    @staticmethod
    def backward(ctx: Any, v: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        refuse_third("a nonlinearity")
        g, x, sharpness, slope = ctx.saved_tensors
        in_x = ctx.form.second(x, slope).mul_(g).mul_(v)
        # sigma' = s(b x): what moves b moves x alike.
        in_sharpness = _dot(in_x, x) / sharpness if ctx.needs_input_grad[2] else None
        return v * slope, in_x, in_sharpness, None, None


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return torch.dot(a.reshape(-1), b.reshape(-1))
