"""Layers of the house's own: normalization inside the classifier, centered softplus, and the choice of nonlinearity."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function

from lowcurve.errors import InputError
from lowcurve.models import fused
from lowcurve.types import Inputs


class Normalize(nn.Module):
    """x -> (x - mean) / std, channel by channel: the classifier's first layer, so that all else speaks pixels in [0, 1].

    Example:
        >>> Normalize((0.5,), (0.25,))(torch.ones(1, 1, 1, 1)).item()
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


class CenteredSoftplus(nn.Module):
    """s0(x) = log((1 + exp(beta x)) / 2) / beta = x/2 + log cosh(beta x/2) / beta, with beta learned: x/2 at beta = 0, ReLU at
    infinity.

    s0(0) = 0, 0 < s0' < 1, 0 <= s0'' <= beta/4 and s0''/s0' <= beta. beta = floor + exp(log_beta); where it is not to `learn`,
    log_beta is a buffer. Value and both derivatives are right to rounding for every beta x, of either sign and size; half
    precision is computed in single.

    Errors: InputError for a beta that is not above its floor, or a floor below 0.

    Example:
        >>> act = CenteredSoftplus(beta=2.0)
        >>> [round(v, 4) for v in act(torch.tensor([-100.0, 0.0, 100.0])).tolist()]  # -log(2)/2, 0, 100 - log(2)/2
        [-0.3466, 0.0, 99.6534]

    Reference: srinivas2022lcnn, Eq. (4).
    """

    log_beta: Tensor

    def __init__(self, beta: float = 5.0, *, learn: bool = True, floor: float = 1e-3) -> None:
        super().__init__()
        if not 0 <= floor < beta < math.inf:
            raise InputError("a beta above its floor, which is at least 0", (beta, floor), "write beta=5.0, floor=1e-3")
        self.floor = floor
        log_beta = torch.tensor(math.log(beta - floor))
        if learn:
            self.log_beta = nn.Parameter(log_beta)
        else:
            self.register_buffer("log_beta", log_beta)

    @property
    def beta(self) -> Tensor:
        """The sharpness, a number attached to log_beta: the largest s0''/s0'."""
        return self.log_beta.exp() + self.floor

    def forward(self, x: Tensor) -> Tensor:
        return centered_softplus(x, self.beta)

    def extra_repr(self) -> str:
        learned = "" if isinstance(self.log_beta, nn.Parameter) else ", learn=False"
        return f"beta={float(self.beta.detach()):.4g}{learned}"


def betas_of(layers: Sequence[CenteredSoftplus]) -> Tensor:
    """The beta of each layer, attached to its log_beta: (layers,). In few operations, whatever their number.

    Example:
        >>> [round(beta, 4) for beta in betas_of([CenteredSoftplus(2.0), CenteredSoftplus(3.0)]).tolist()]
        [2.0, 3.0]
    """
    floors = {layer.floor for layer in layers}
    if len(floors) == 1:
        return torch.stack([layer.log_beta for layer in layers]).exp() + floors.pop()
    return torch.stack([layer.beta for layer in layers])


def centered_softplus(x: Tensor, beta: Tensor) -> Tensor:
    """log((1 + exp(beta x)) / 2) / beta. To whoever records calls of torch functions it is one of them.

    Example:
        >>> centered_softplus(torch.tensor([0.0]), torch.tensor(3.0)).item()
        0.0
    """
    if has_torch_function((x, beta)):
        return handle_torch_function(centered_softplus, (x, beta), x, beta)
    wide = widened(x)
    beta = beta.to(wide.dtype)
    kind = _InOnePass if fused.takes(wide, beta) else _Centered
    return kind.apply(wide, beta).to(x.dtype)  # type: ignore[no-untyped-call, no-any-return]


def widened(x: Tensor) -> Tensor:
    """Half precision as single; whatever else as it is.

    Example:
        >>> widened(torch.ones(1, dtype=torch.bfloat16)).dtype, widened(torch.ones(1, dtype=torch.float64)).dtype
        (torch.float32, torch.float64)
    """
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


LINEAR = 40
"""From here on the slope of softplus is 1 to rounding in every precision, and its exponential still far from overflow."""


class _Centered(torch.autograd.Function):
    """max(x, 0) + log(1 + (exp(-|beta x|) - 1) / 2) / beta, in which nothing cancels; its slope is sigmoid(beta x), and that in
    beta (x sigmoid(beta x) - s0) / beta. As one function it takes nine passes over x, and four back. (With the hyperbolic
    tangent of |beta x| / 2 it takes six, and more time.)

    Without a rule for forward mode, since torch compiles no Function that has one.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, beta: Tensor) -> Tensor:
        # In place where it can be: on a CPU a new tensor costs as much as a pass over it.
        return x.abs().mul_(-beta).expm1_().mul_(0.5).log1p_().mul_(1 / beta).add_(x.relu())

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs, output)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor | None]:
        x, beta, value = ctx.saved_tensors
        in_x: Tensor = torch.ops.aten.softplus_backward(g, x * beta, 1, LINEAR)  # g sigmoid(beta x) in one pass
        if not ctx.needs_input_grad[1]:
            return in_x, None
        first, second = (torch.dot(a.reshape(-1), b.reshape(-1)) for a, b in ((in_x, x), (g, value)))
        return in_x, (first - second) / beta


class _InOnePass(torch.autograd.Function):
    """The same by `fused`, for what it takes. Without a context apart, which torch looks up anew at every call."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, beta: Tensor) -> Tensor:
        value = fused.values(x, beta)
        ctx.save_for_backward(x, beta, value)
        return value

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor | None]:
        x, beta, value = ctx.saved_tensors
        if torch.is_grad_enabled() or not fused.takes(g, beta):
            return _Centered.backward(ctx, g)
        return fused.slopes(g, x, value, beta)


NONLINEARITIES: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "softplus": lambda: nn.Softplus(beta=10),
    "softplus-1000": lambda: nn.Softplus(beta=1000),
    "centered-softplus": CenteredSoftplus,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}


def nonlinearity(name: str) -> nn.Module:
    """A new nonlinearity: relu, softplus (beta = 10, the sharpness of LCNN's fixed baseline), softplus-1000 (that of its
    standard one), centered-softplus (beta = 5 and learned), gelu or silu.

    One module for each place in a network, never shared, so that a place can be measured or replaced by itself.

    Example:
        >>> nonlinearity("softplus")
        Softplus(beta=10, threshold=20.0)
    """
    if name not in NONLINEARITIES:
        raise InputError(f"a nonlinearity among {', '.join(NONLINEARITIES)}", repr(name), "write relu or softplus")
    return NONLINEARITIES[name]()
