"""The normalization layer, centered softplus, and the nonlinearities by name."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function

from lowcurve.analysis import fused
from lowcurve.analysis.sharpness import sharpness_gradient
from lowcurve.errors import InputError, nearest
from lowcurve.types import Inputs


class Normalize(nn.Module):
    """The first layer of a classifier: x -> (x - mean) / std, per channel.

    Normalization is part of the classifier, so everything else in this package works with pixels in [0, 1].

    Args:
        mean: Means of the training pixels, one per channel.
        std: Standard deviations of the training pixels, one per channel.

    Raises:
        InputError: If these are not sequences of one length, there are no means, a standard deviation is not positive, or
            both are of pixels from 0 to 255.

    Example:
        >>> Normalize((0.5,), (0.25,))(torch.ones(1, 1, 1, 1)).item()
        2.0
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if not (hasattr(mean, "__len__") and hasattr(std, "__len__")):
            raise InputError(
                "one mean and one standard deviation for each channel", (mean, std), "write ([0.5], [0.25])"
            )
        if not len(mean) or len(mean) != len(std) or not all(deviation > 0 for deviation in std):
            raise InputError(
                "as many positive standard deviations as means", (mean, std), "take both from the training images"
            )
        if max(mean) > 1 and max(std) > 1:
            hint = "divide mean and std by 255 if they are of pixels from 0 to 255"
            raise InputError("mean and std of pixels in [0, 1]", (mean, std), hint)
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.as_tensor(values, dtype=torch.get_default_dtype()).detach().clone())

    def forward(self, x: Inputs) -> Tensor:
        """Return the normalized inputs, shape (batch, channels, ...)."""
        shape = (-1, *[1] * (x.ndim - 2))
        normalized = (x - self.mean.view(shape)) / self.std.view(shape)
        # Half precision is computed in that of mean and std. The layers behind need their own again.
        return normalized if normalized.dtype == x.dtype else normalized.to(x.dtype)


class CenteredSoftplus(nn.Module):
    """Softplus shifted to pass through 0, with a learned sharpness beta: s0(x) = log((1 + exp(beta x)) / 2) / beta.

    It equals x/2 + log cosh(beta x/2) / beta, and tends to x/2 as beta tends to 0 and to ReLU as beta tends to infinity. It
    satisfies s0(0) = 0, 0 < s0' < 1, 0 <= s0'' <= beta/4 and s0''/s0' <= beta. The value and the first two derivatives are
    exact up to rounding for every beta x. Half precision inputs are computed in single precision.

    Args:
        beta: Sharpness at the start. It is stored as log(beta - floor).
        learn: Train beta. Otherwise log_beta is a buffer.
        floor: Lower bound of beta, at least 0.

    Raises:
        InputError: If beta is not above its floor, or the floor is below 0.

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
        """The sharpness beta, a scalar attached to log_beta; it is the largest value of s0''/s0'."""
        return self.log_beta.exp() + self.floor

    def forward(self, x: Tensor) -> Tensor:
        """Return s0(x), shape and precision as x."""
        return centered_softplus(x, self.beta)

    def extra_repr(self) -> str:
        """Return the sharpness for the module's representation."""
        learned = "" if isinstance(self.log_beta, nn.Parameter) else ", learn=False"
        return f"beta={float(self.beta.detach()):.4g}{learned}"


def betas_of(layers: Sequence[CenteredSoftplus]) -> Tensor:
    """Return the beta of each layer, attached to its log_beta, shape (layers,).

    The number of tensor operations does not grow with the number of layers if all have the same floor.

    Args:
        layers: The centered softplus layers.

    Returns:
        The betas, shape (layers,).

    Example:
        >>> [round(beta, 4) for beta in betas_of([CenteredSoftplus(2.0), CenteredSoftplus(3.0)]).tolist()]
        [2.0, 3.0]
    """
    floors = {layer.floor for layer in layers}
    if len(floors) == 1:
        return torch.stack([layer.log_beta for layer in layers]).exp() + floors.pop()
    return torch.stack([layer.beta for layer in layers])


def centered_softplus(x: Tensor, beta: Tensor) -> Tensor:
    """Compute log((1 + exp(beta x)) / 2) / beta.

    A TorchFunctionMode sees it as one call, like a function of torch.

    Args:
        x: Inputs, any shape.
        beta: Sharpness, a positive scalar tensor.

    Returns:
        The values, shape and precision as x.

    Example:
        >>> centered_softplus(torch.tensor([0.0]), torch.tensor(3.0)).item()
        0.0
    """
    if has_torch_function((x, beta)):
        return handle_torch_function(centered_softplus, (x, beta), x, beta)
    wide = at_least_float32(x)
    beta = beta.to(wide.dtype)
    kind = _FusedCenteredSoftplus if fused.can_fuse(wide, beta) else _CenteredSoftplus
    return kind.apply(wide, beta).to(x.dtype)  # type: ignore[no-untyped-call, no-any-return]


def at_least_float32(x: Tensor) -> Tensor:
    """Convert half precision tensors to float32 and return others unchanged.

    Args:
        x: A tensor of any floating-point precision.

    Returns:
        The tensor in float32 or float64.

    Example:
        >>> [at_least_float32(torch.ones(1, dtype=kind)).dtype for kind in (torch.bfloat16, torch.float64)]
        [torch.float32, torch.float64]
    """
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


LINEAR = 40
"""For beta x above this, the derivative of softplus is 1 up to rounding, and exp(beta x) is still far from overflow."""


class _CenteredSoftplus(torch.autograd.Function):
    """Compute max(x, 0) + log(1 + (exp(-|beta x|) - 1) / 2) / beta, a form of s0(x) without cancellation.

    The derivative in x is sigmoid(beta x); for that in beta see `sharpness_gradient`. One function takes nine passes over x
    forward. The form with tanh(|beta x| / 2) takes six passes but more time.

    There is no rule for forward-mode differentiation, because torch.compile does not support a Function with one.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, beta: Tensor) -> Tensor:
        # In-place operations: on a CPU, allocating a tensor costs as much as a pass over it.
        return x.abs().mul_(-beta).expm1_().mul_(0.5).log1p_().mul_(1 / beta).add_(x.relu())

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:  # noqa: ARG004
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor | None]:
        x, beta = ctx.saved_tensors
        in_x: Tensor = torch.ops.aten.softplus_backward(g, x * beta, 1, LINEAR)  # g sigmoid(beta x) in one pass
        return in_x, sharpness_gradient(g, x, beta) if ctx.needs_input_grad[1] else None


class _FusedCenteredSoftplus(torch.autograd.Function):
    """The same function by `fused`, for tensors that it supports.

    `forward` takes the context itself: a separate setup_context would be looked up again at every call.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, beta: Tensor) -> Tensor:
        ctx.save_for_backward(x, beta)
        return fused.values(x, beta)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor | None]:
        x, beta = ctx.saved_tensors
        if torch.is_grad_enabled() or not fused.can_fuse_gradient(g, x, beta):
            return _CenteredSoftplus.backward(ctx, g)
        return fused.derivatives(g, x, beta, learn=ctx.needs_input_grad[1])


CENTERED_SOFTPLUS = (_CenteredSoftplus, _FusedCenteredSoftplus)
"""The functions of `centered_softplus`, whose backward passes are its derivatives."""


class AbsoluteValue(nn.Module):
    """The nonlinearity x -> |x|, which keeps the length of gradients.

    Example:
        >>> AbsoluteValue()(torch.tensor([-2.0, 3.0]))
        tensor([2., 3.])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the absolute values."""
        return x.abs()


NONLINEARITIES: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "softplus": lambda: nn.Softplus(beta=10),
    "softplus-1000": lambda: nn.Softplus(beta=1000),
    "centered-softplus": CenteredSoftplus,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "abs": AbsoluteValue,
}


def nonlinearity(name: str) -> nn.Module:
    """Build a new nonlinearity by its name.

    The names are relu, softplus (beta = 10, as in LCNN's fixed baseline), softplus-1000 (beta = 1000, as in LCNN's standard
    baseline), centered-softplus (beta = 5, learned), gelu, silu and abs. Use one module for each place in a network, so
    that each place can be measured or replaced independently.

    Args:
        name: One of `NONLINEARITIES`.

    Returns:
        The module.

    Raises:
        InputError: For an unknown name.

    Example:
        >>> nonlinearity("softplus")
        Softplus(beta=10, threshold=20.0)
    """
    if name not in NONLINEARITIES:
        hint = nearest(name, NONLINEARITIES, "write relu or softplus")
        raise InputError(f"a nonlinearity among {', '.join(NONLINEARITIES)}", repr(name), hint)
    return NONLINEARITIES[name]()
