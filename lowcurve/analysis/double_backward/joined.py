"""Parameters on a node of their own beside what hangs on the input, and the refusal of what is not promised."""

from typing import Any

import torch
from torch import Tensor

from lowcurve.errors import InputError


class Joined(torch.autograd.Function):
    """The first, on which the second hangs, too.

    A function of Python's is not told which of its derivatives are asked for. So the value as a function of the input is one
    node, and 0 as a function of the parameters another, which a gradient in the input passes by.
    """

    @staticmethod
    def forward(ctx: Any, found: Tensor, own: Tensor) -> Tensor:  # noqa: ARG004
        ctx.mark_dirty(found)  # or it would be a view, which cannot be written over
        return found

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG004
        return g, g


def refuse_third(what: str) -> None:
    """Refuse to be differentiated where a graph of the second derivative is asked for."""
    if torch.is_grad_enabled():
        hint = "write the derivatives without TwiceDifferentiable"
        raise InputError(f"at most two derivatives of {what}", "a third", hint)
