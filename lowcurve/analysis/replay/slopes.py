"""The slope sigma'(a) of elementwise functions and how it changes, sigma''(a), at the point where they were called."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lowcurve.analysis.replay.calls import Call, Unrecorded, names
from lowcurve.analysis.replay.steps import Elementwise

ELEMENTWISE = names(
    "relu relu6 leaky_relu elu selu celu gelu silu mish softplus sigmoid logsigmoid log_sigmoid hardtanh "
    "hardswish hardsigmoid tanh tanhshrink softsign softshrink hardshrink threshold prelu clamp clamp_min "
    "clamp_max clip abs absolute exp exp2 expm1 log log2 log10 log1p sqrt rsqrt square pow reciprocal rdiv "
    "rtruediv sin cos tan atan arctan asinh sinh cosh erf erfc maximum minimum centered_softplus"
)


def elementwise(call: Call) -> Elementwise:
    """sigma' and sigma'' at the recorded point, by automatic differentiation of this one call."""
    if len(call.inputs) != 1 or call.inputs[0].shape != call.result.shape:
        raise Unrecorded(f"{call.name} of several parts of the network")
    if call.name in CLOSED_FORMS and call.args[0] is call.inputs[0]:
        return Elementwise(*CLOSED_FORMS[call.name](call))
    with torch.enable_grad():
        leaf = call.inputs[0].detach().requires_grad_()
        args = [leaf.clone() if a is call.inputs[0] else _constant(a) for a in call.args]
        kwargs = {k: leaf.clone() if v is call.inputs[0] else _constant(v) for k, v in call.kwargs.items()}
        value = call.func(*args, **kwargs)
        (slope,) = torch.autograd.grad(value.sum(), leaf, create_graph=True)
        second = None
        if slope.requires_grad:
            (second,) = torch.autograd.grad(slope.sum(), leaf, materialize_grads=True)
    if second is None or not bool(second.any()):
        return Elementwise(slope.detach(), None)
    known: Tensor = second
    return Elementwise(slope.detach(), lambda: known)


def _relu(call: Call) -> tuple[Tensor, None]:
    return (call.inputs[0].detach() > 0).to(call.result.dtype), None


def _softplus(call: Call) -> tuple[Tensor, Callable[[], Tensor]]:
    """sigma = 1 / (1 + exp(-beta a)) and beta sigma (1 - sigma); beyond the threshold torch's softplus is linear."""
    beta, threshold = call.argument(1, "beta", 1), call.argument(2, "threshold", 20)
    scaled = call.inputs[0].detach() * beta
    slope = torch.sigmoid(scaled).masked_fill_(scaled > threshold, 1)
    return slope, lambda: torch.addcmul(slope, slope, slope, value=-1).mul_(beta)


def _centered_softplus(call: Call) -> tuple[Tensor, Callable[[], Tensor]]:
    """The same without a threshold, beta being the network's own; a constant that centers it has no slope."""
    beta = _constant(call.argument(1, "beta"))
    slope = torch.sigmoid(call.inputs[0].detach() * beta)
    return slope, lambda: torch.addcmul(slope, slope, slope, value=-1).mul_(beta)


CLOSED_FORMS = {"relu": _relu, "softplus": _softplus, "centered_softplus": _centered_softplus}
"""Where automatic differentiation would take twice the time, for the nonlinearities of nearly every network."""


def _constant(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value
