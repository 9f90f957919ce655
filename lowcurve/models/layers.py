"""Layers of the house's own: standardization inside the classifier, and the choice of nonlinearity."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lowcurve.errors import InputError
from lowcurve.types import Inputs


class Standardize(nn.Module):
    """x -> (x - mean) / std, channel by channel: the classifier's first layer, so that all else speaks pixels in [0, 1].

    Example:
        >>> Standardize((0.5,), (0.25,))(torch.ones(1, 1, 1, 1)).item()
        2.0
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if not mean or len(mean) != len(std) or min(std) <= 0:
            raise InputError("as many positive deviations as means", (mean, std), "take both from the training images")
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))

    def forward(self, x: Inputs) -> Tensor:
        shape = (-1, *[1] * (x.ndim - 2))
        return (x - self.mean.view(shape)) / self.std.view(shape)


NONLINEARITIES: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "softplus": lambda: nn.Softplus(beta=10),
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}


def nonlinearity(name: str) -> nn.Module:
    """A new nonlinearity: relu, softplus (beta = 10, the sharpness of LCNN's fixed baseline), gelu or silu.

    One module for each place in a network, never shared, so that a place can be measured or replaced by itself.

    Example:
        >>> nonlinearity("softplus")
        Softplus(beta=10, threshold=20.0)
    """
    if name not in NONLINEARITIES:
        raise InputError(f"a nonlinearity among {', '.join(NONLINEARITIES)}", repr(name), "write relu or softplus")
    return NONLINEARITIES[name]()
