"""Rules for functions of each example that are not linear: softmax, normalization, reductions and entry by entry."""

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lowcurve.analysis.replay.calls import Call, NotReplayable, Recorded, Rule, is_among
from lowcurve.analysis.replay.curved_steps import Softmax
from lowcurve.analysis.replay.derivatives import elementwise_step
from lowcurve.analysis.replay.differentiated import Differentiated
from lowcurve.analysis.replay.layout_rules import batch_first_function, bind_axes, require_other_axes
from lowcurve.analysis.replay.normalization import Normalize
from lowcurve.analysis.replay.steps import Step


def elementwise(call: Call) -> Step:
    """Return the step of a function entry by entry, of one part of the network or of several.

    Args:
        call: The recorded call.
    """
    x = call.inputs[0]
    if len(call.inputs) == 1 and x.shape == call.result.shape:
        return elementwise_step(call)
    call.require_axes()
    return differentiate(call)


def differentiate(call: Call) -> Step:
    """Return the step of a function of tensors whose batch axis is first, by automatic differentiation.

    Tensors that do not depend on the input but have an entry for each example are restricted with it.

    Args:
        call: The recorded call.
    """
    given, treedef = pytree.tree_flatten((call.args, dict(call.kwargs)))
    moving = [k for k, value in enumerate(given) if is_among(value, call.inputs)]
    fixed = [k for k, value in enumerate(given) if isinstance(value, Tensor) and k not in moving]
    fixed = [k for k in fixed if given[k].ndim == call.result.ndim and len(given[k]) == call.rows]
    func, places = call.func, (*moving, *fixed)
    kept = [
        None if k in places else value.detach() if isinstance(value, Tensor) else value for k, value in enumerate(given)
    ]

    def function(*tensors: Tensor) -> Tensor:
        values = list(kept)
        for k, tensor in zip(places, tensors, strict=True):
            values[k] = tensor
        args, kwargs = pytree.tree_unflatten(values, treedef)
        found: Tensor = func(*args, **kwargs)
        return found

    inputs, constants = (tuple(given[k].detach() for k in several) for several in (moving, fixed))
    return Differentiated(function, inputs, constants)


def along_pairs(call: Call) -> Step:
    """Return the step of a function of one or several tensors along one axis, which is not the batch axis.

    Args:
        call: The recorded call.
    """
    dims = [value for value in (*call.args[1:], call.kwargs.get("dim", 1)) if isinstance(value, int)]
    require_other_axes(call, dims[0])
    if any(t.ndim != call.inputs[0].ndim for t in call.inputs):
        raise NotReplayable(f"{call.name} of tensors with different axes")
    return differentiate(call)


def of_examples(axes: int) -> Rule:
    """Return the rule for a function of the last axes of each example.

    Args:
        axes: Number of these axes.
    """

    def rule(call: Call) -> Step:
        call.require_only_first()
        if call.inputs[0].ndim <= axes:
            raise NotReplayable(f"{call.name} of an input without a batch axis")
        return differentiate(call)

    return rule


def softmax(call: Call) -> Recorded:
    """Return the step of softmax along an axis other than the batch axis.

    Args:
        call: The recorded call.
    """
    call.require_only_first()
    given = call.bind("input dim _stacklevel dtype")
    if isinstance(given.get("_stacklevel"), torch.dtype):
        raise NotReplayable("softmax in another precision")
    axis = call.front_axis(given.get("dim"))
    return Softmax(call.layout.front(call.result).detach(), axis), call.layout


def layer_norm(call: Call) -> Step:
    """Return the step of LayerNorm over the last axis, without weight and bias.

    Args:
        call: The recorded call.
    """
    given = call.bind("input normalized_shape weight bias eps")
    x = _require_last_axis(call, given["normalized_shape"], given.get("weight"), given.get("bias"))
    variance = x.var(-1, unbiased=False, keepdim=True)
    return _normalize(call, variance, given.get("eps", 1e-5), centered=True)


def rms_norm(call: Call) -> Step:
    """Return the step of RMSNorm over the last axis, without weight.

    Args:
        call: The recorded call.
    """
    given = call.bind("input normalized_shape weight eps")
    x = _require_last_axis(call, given["normalized_shape"], given.get("weight"), None)
    eps = given.get("eps")
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    return _normalize(call, x.square().mean(-1, keepdim=True), eps, centered=False)


def _require_last_axis(call: Call, shape: object, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    call.require_only_first()
    x = call.inputs[0].detach()
    if weight is not None or bias is not None or tuple(shape) != (x.shape[-1],) or x.ndim < 2:  # type: ignore[arg-type]
        raise NotReplayable(f"{call.name} of several axes, or with weights")
    return x


def _normalize(call: Call, variance: Tensor, eps: float, *, centered: bool) -> Normalize:
    z, r = call.result.detach().contiguous(), (variance + eps).rsqrt()
    e = 1 - z.square().mean(-1, keepdim=True)
    return Normalize(z / r, r, centered, e)


def along(names: str, *, default: int | None = None) -> Rule:
    """Return the rule for a function along named axes, of which none is the batch axis.

    Args:
        names: Names of the arguments in their order.
        default: The axis if none is given. None stands for all.
    """

    def rule(call: Call) -> Recorded:
        given = bind_axes(call, names, default)
        if any(isinstance(value, Tensor) for name, value in given.items() if name != "input"):
            raise NotReplayable(f"{call.name} of several tensors")
        function, result = batch_first_function(call)
        return Differentiated(function, (call.layout.front(call.inputs[0]).detach(),)), result

    return rule
