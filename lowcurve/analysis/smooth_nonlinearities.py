"""The derivatives sigma'(a) and sigma''(a) of the usual smooth nonlinearities, in closed form and few passes over memory."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class SmoothNonlinearity:
    """Two derivatives of an elementwise function sigma.

    Attributes:
        derivative: a -> sigma'(a).
        second_derivative: (a, sigma'(a)) -> sigma''(a), in newly allocated memory.
        needs_input: True if `second_derivative` reads a. Otherwise it reads sigma'(a) alone, and a is not stored.
        sharpness: A parameter b of the network with sigma'(a) = s(b a), or None.
    """

    derivative: Callable[[Tensor], Tensor]
    second_derivative: Callable[[Tensor, Tensor], Tensor]
    needs_input: bool = True
    sharpness: Tensor | None = None


def _softplus(beta: float = 1, threshold: float = 20) -> SmoothNonlinearity:
    """Give sigma' = 1 / (1 + exp(-beta a)), or 1 where torch's softplus is linear; sigma'' = beta sigma' (1 - sigma')."""

    def derivative(a: Tensor) -> Tensor:
        found: Tensor = torch.ops.aten.softplus_backward(a.new_ones(()), a, beta, threshold)
        return found

    return SmoothNonlinearity(derivative, lambda _, s: torch.addcmul(s, s, s, value=-1).mul_(beta), needs_input=False)


def _centered_softplus(beta: Tensor) -> SmoothNonlinearity:
    """As `_softplus`, without a threshold; the constant that centers it has no derivative."""
    sharpness = beta.detach()

    def derivative(a: Tensor) -> Tensor:
        return (a * sharpness).sigmoid_()

    def second_derivative(_: Tensor, s: Tensor) -> Tensor:
        return torch.addcmul(s, s, s, value=-1).mul_(sharpness)

    return SmoothNonlinearity(derivative, second_derivative, needs_input=False, sharpness=beta)


def _silu(inplace: bool = False) -> SmoothNonlinearity | None:
    """Give sigma' = s (1 + a (1 - s)) and sigma'' = s (1 - s) (2 + a (1 - 2 s)) with s = 1 / (1 + exp(-a))."""

    def derivative(a: Tensor) -> Tensor:
        found: Tensor = torch.ops.aten.silu_backward(torch.ones_like(a), a)
        return found

    def second_derivative(a: Tensor, _: Tensor) -> Tensor:
        s = a.sigmoid()
        factor = torch.addcmul(a, a, s, value=-2).add_(2)
        return factor.mul_(s).mul_(s.neg_().add_(1))

    return None if inplace else SmoothNonlinearity(derivative, second_derivative)


def _gelu(approximate: str = "none") -> SmoothNonlinearity | None:
    """Give sigma' = Phi(a) + a phi(a) and sigma'' = phi(a) (2 - a^2), with phi the normal density and Phi its integral."""

    def derivative(a: Tensor) -> Tensor:
        found: Tensor = torch.ops.aten.gelu_backward(torch.ones_like(a), a)
        return found

    def second_derivative(a: Tensor, _: Tensor) -> Tensor:
        squares = a.square()
        density = (squares / -2).exp_()
        return squares.neg_().add_(2).mul_(density).mul_(1 / math.sqrt(2 * math.pi))

    return SmoothNonlinearity(derivative, second_derivative) if approximate == "none" else None


SMOOTH_NONLINEARITIES: dict[str, Callable[..., SmoothNonlinearity | None]] = {
    "softplus": _softplus,
    "centered_softplus": _centered_softplus,
    "silu": _silu,
    "gelu": _gelu,
}
"""From the name of a torch function to its derivatives, given its arguments after the input."""


def find_smooth_nonlinearity(
    name: str, arguments: tuple[Any, ...], keywords: Mapping[str, Any]
) -> SmoothNonlinearity | None:
    """Return the derivatives of a call, or None where no closed form is known.

    Args:
        name: Name of the torch function.
        arguments: Its positional arguments after the input.
        keywords: Its keyword arguments.

    Example:
        >>> softplus = find_smooth_nonlinearity("softplus", (2.0,), {})
        >>> derivative = softplus.derivative(torch.zeros(1))
        >>> derivative.item(), softplus.second_derivative(torch.zeros(1), derivative).item()
        (0.5, 0.5)
    """
    make = SMOOTH_NONLINEARITIES.get(name)
    try:
        return make(*arguments, **keywords) if make else None
    except TypeError:  # arguments of another function of the same name
        return None
