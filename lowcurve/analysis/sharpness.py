"""The derivative of centered softplus s0(x) = log((1 + exp(beta x)) / 2) / beta in its sharpness beta."""

from typing import Any

import torch
from torch import Tensor

from lowcurve.analysis import fused

LARGEST = 100.0
"""|beta x| is clamped to this; the derivative is constant in single and double precision long before."""
SWITCH = 0.7
"""Value of w = tanh(|beta x| / 2) at which the form for small and the form for large |beta x| are equally accurate."""


def sharpness_gradient(g: Tensor, x: Tensor, beta: Tensor) -> Tensor:
    """Compute sum_i g_i ds0(x_i)/dbeta, differentiable in all arguments.

    The textbook form (x sigmoid(beta x) - s0(x)) / beta is a difference of nearly equal numbers for small and for large
    |beta x|. With a = |beta x| and w = tanh(a / 2) the derivative is h / beta^2, where

        2 h = log(1 - w^2) + a w = 2 log(1 + w) - a (1 - w).

    The first form is accurate for small a and the second for large a. Each element has an error of a few units in the last
    place. In single precision, elements with |beta x| below 1e-19 become 0.

    Args:
        g: Gradient at s0(x), shape as x.
        x: Inputs in single or double precision, any shape.
        beta: Sharpness, a positive scalar tensor.

    Returns:
        A scalar.

    Cost: one pass over memory with `fused`, otherwise about fifteen.

    Example:
        >>> x = torch.tensor([1e-3, 1e3], dtype=torch.float64)
        >>> found = [sharpness_gradient(torch.ones_like(v), v, torch.tensor(1.0).double()).item() for v in x]
        >>> [f"{v:.7g}" for v in found]  # x^2 / 8 and log(2)
        ['1.25e-07', '0.6931472']
    """
    if not torch.is_grad_enabled() and fused.can_fuse_gradient(g, x, beta):
        found = fused.derivatives(g, x, beta)[1]
        assert found is not None
        return found
    doubled: Tensor = _DoubledDivergence.apply(x, beta)  # type: ignore[no-untyped-call]
    return (g * doubled).sum() * (0.5 / beta) / beta


class _DoubledDivergence(torch.autograd.Function):
    """2 h(beta x), element by element. h'(u) = u sigmoid'(u).

    h is the Kullback-Leibler divergence of a coin with probability sigmoid(u) from a fair one.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, beta: Tensor) -> Tensor:
        a = (x * beta).abs_().clamp_(max=LARGEST)
        w = torch.tanh(a / 2)
        small = w.square().neg_().log1p_().addcmul_(a, w)
        large = w.log1p().mul_(2).addcmul_(a, w - 1)
        return torch.where(w < SWITCH, small, large)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:  # noqa: ARG004
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor, Tensor | None]:
        x, beta = ctx.saved_tensors
        u = beta * x
        in_u = 2 * v * u * torch.sigmoid(u) * torch.sigmoid(-u)
        return beta * in_u, (in_u * x).sum() if ctx.needs_input_grad[1] else None
