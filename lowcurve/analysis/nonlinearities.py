"""The slope sigma'(a) of the usual smooth nonlinearities and how it changes, sigma''(a), in closed form and in few passes."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Bent:
    """a -> sigma'(a), and (a, sigma'(a)) -> sigma''(a), in memory of its own.

    by_slope: whether the second is told by sigma' alone, so that a may be forgotten. sharpness: a parameter b of the network's
    that both hang on, sigma'(a) = s(b a).
    """

    slope: Callable[[Tensor], Tensor]
    second: Callable[[Tensor, Tensor], Tensor]
    by_slope: bool = False
    sharpness: Tensor | None = None


def _softplus(beta: float = 1, threshold: float = 20) -> Bent:
    """1 / (1 + exp(-beta a)), and 1 where torch's softplus is linear; beta sigma' (1 - sigma')."""

    def slope(a: Tensor) -> Tensor:
        found: Tensor = torch.ops.aten.softplus_backward(a.new_ones(()), a, beta, threshold)
        return found

    return Bent(slope, lambda _, s: torch.addcmul(s, s, s, value=-1).mul_(beta), by_slope=True)


def _centered_softplus(beta: Tensor) -> Bent:
    """The same without a threshold; a constant that centers it has no slope."""
    sharpness = beta.detach()

    def slope(a: Tensor) -> Tensor:
        return (a * sharpness).sigmoid_()

    return Bent(slope, lambda _, s: torch.addcmul(s, s, s, value=-1).mul_(sharpness), by_slope=True, sharpness=beta)


def _silu(inplace: bool = False) -> Bent | None:
    """s (1 + a (1 - s)) and s (1 - s) (2 + a (1 - 2 s)) with s = 1 / (1 + exp(-a))."""

    def slope(a: Tensor) -> Tensor:
        found: Tensor = torch.ops.aten.silu_backward(torch.ones_like(a), a)
        return found

    def second(a: Tensor, _: Tensor) -> Tensor:
        s = a.sigmoid()
        bend = torch.addcmul(a, a, s, value=-2).add_(2)
        return bend.mul_(s).mul_(s.neg_().add_(1))

    return None if inplace else Bent(slope, second)


def _gelu(approximate: str = "none") -> Bent | None:
    """Phi(a) + a phi(a) and phi(a) (2 - a^2), phi and Phi being the normal density and its integral."""

    def slope(a: Tensor) -> Tensor:
        found: Tensor = torch.ops.aten.gelu_backward(torch.ones_like(a), a)
        return found

    def second(a: Tensor, _: Tensor) -> Tensor:
        squares = a.square()
        density = (squares / -2).exp_()
        return squares.neg_().add_(2).mul_(density).mul_(1 / math.sqrt(2 * math.pi))

    return Bent(slope, second) if approximate == "none" else None


BENT: dict[str, Callable[..., Bent | None]] = {
    "softplus": _softplus,
    "centered_softplus": _centered_softplus,
    "silu": _silu,
    "gelu": _gelu,
}
"""By the name of torch's function, from its arguments after the input; None for a setting that is left to torch."""


def bent(name: str, arguments: tuple[Any, ...], keywords: Any) -> Bent | None:
    """The derivatives of a call with these arguments after the input, or None where there is no closed form.

    Example:
        >>> form = bent("softplus", (2.0,), {})
        >>> slope = form.slope(torch.zeros(1))
        >>> slope.item(), form.second(torch.zeros(1), slope).item()
        (0.5, 0.5)
    """
    return BENT[name](*arguments, **keywords) if name in BENT else None
