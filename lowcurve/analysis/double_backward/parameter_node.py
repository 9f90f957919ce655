"""Give parameter gradients an autograd node of their own. Third derivatives raise an error."""

from typing import Any

import torch
from torch import Tensor

from lowcurve.errors import InputError


class JoinParameters(torch.autograd.Function):
    """Return the first argument and pass its gradient to both.

    A custom autograd function cannot tell whether an input or a parameter gradient is wanted. So the value as a function
    of the input is one node, and zero as a function of the parameters is another. An input gradient never runs the second.
    """

    @staticmethod
    def forward(ctx: Any, value: Tensor, parameter_part: Tensor) -> Tensor:  # noqa: ARG004
        """Return the value in place."""
        ctx.mark_dirty(value)  # or it would be a view, which cannot be overwritten
        return value

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG004
        """Return the gradient for both arguments."""
        return g, g


def refuse_third_derivative(operation: str) -> None:
    """Check that no graph of the second derivative is recorded.

    Args:
        operation: Name of the operation for the message.

    Raises:
        InputError: If a graph is recorded.
    """
    if torch.is_grad_enabled():
        hint = "write the derivatives without TwiceDifferentiable"
        raise InputError(f"at most two derivatives of {operation}", "a third", hint)
