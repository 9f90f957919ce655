"""The slope sigma'(a) of elementwise functions and how it changes, sigma''(a), at the point where they were called."""

from typing import Any

import torch
from torch import Tensor

from lowcurve.analysis.nonlinearities import bent
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
    if call.args and call.args[0] is call.inputs[0]:
        a = call.inputs[0].detach()
        if call.name == "relu":
            return Elementwise((a > 0).to(call.result.dtype), None)
        form = bent(call.name, tuple(_constant(more) for more in call.args[1:]), call.kwargs)
        if form is not None:  # automatic differentiation would take twice the time
            known = form.slope(a)
            kept = known if form.by_slope else a
            return Elementwise(known, lambda: form.second(kept, known))
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
    found: Tensor = second
    return Elementwise(slope.detach(), lambda: found)


def _constant(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value
