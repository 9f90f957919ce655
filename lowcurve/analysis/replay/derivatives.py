"""The derivatives sigma'(a) and sigma''(a) of recorded elementwise calls, at the point of the call."""

from typing import Any

import torch
from torch import Tensor

from lowcurve.analysis.replay.calls import Call, NotReplayable, split_names
from lowcurve.analysis.replay.curved_steps import Elementwise
from lowcurve.analysis.smooth_nonlinearities import find_smooth_nonlinearity

ELEMENTWISE = split_names(
    "relu relu6 leaky_relu elu selu celu gelu silu mish softplus sigmoid logsigmoid log_sigmoid hardtanh "
    "hardswish hardsigmoid tanh tanhshrink softsign softshrink hardshrink threshold prelu clamp clamp_min "
    "clamp_max clip abs absolute exp exp2 expm1 log log2 log10 log1p sqrt rsqrt square pow reciprocal rdiv "
    "rtruediv rpow sin cos tan atan arctan asin acos asinh acosh atanh sinh cosh erf erfc erfinv sinc logit digamma lgamma "
    "floor ceil round trunc frac sign maximum minimum fmax fmin atan2 hypot logaddexp nan_to_num centered_softplus"
)

PIECEWISE_LINEAR = split_names("hardsigmoid")
"""Functions without a second derivative in torch. It is zero."""


def elementwise_step(call: Call) -> Elementwise:
    """Return the step of an elementwise call, by closed form or by automatic differentiation of this one call.

    Args:
        call: The recorded call.

    Raises:
        NotReplayable: If the call broadcasts or combines several tensors that depend on the input.
    """
    if len(call.inputs) != 1 or call.inputs[0].shape != call.result.shape:
        raise NotReplayable(f"{call.name} of several parts of the network")
    if call.args and call.args[0] is call.inputs[0]:
        a = call.inputs[0].detach()
        if call.name == "relu":
            return Elementwise((a > 0).to(call.result.dtype), None)
        sigma = find_smooth_nonlinearity(call.name, tuple(_detach(more) for more in call.args[1:]), call.kwargs)
        if sigma is not None:  # automatic differentiation would take twice the time
            derivative = sigma.derivative(a)
            stored = a if sigma.needs_input else derivative
            return Elementwise(derivative, lambda: sigma.second_derivative(stored, derivative))
    return _differentiate(call)


def _differentiate(call: Call) -> Elementwise:
    """Return the step by automatic differentiation of this one call."""
    with torch.enable_grad():
        leaf = call.inputs[0].detach().requires_grad_()
        args = [leaf.clone() if a is call.inputs[0] else _detach(a) for a in call.args]
        kwargs = {k: leaf.clone() if v is call.inputs[0] else _detach(v) for k, v in call.kwargs.items()}
        value = call.func(*args, **kwargs)
        (first,) = torch.autograd.grad(value.sum(), leaf, create_graph=True)
        second = None
        if first.requires_grad and call.name not in PIECEWISE_LINEAR:
            (second,) = torch.autograd.grad(first.sum(), leaf, materialize_grads=True)
    if second is None or not bool(second.any()):
        return Elementwise(first.detach(), None)
    found: Tensor = second
    return Elementwise(first.detach(), lambda: found)


def _detach(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value
