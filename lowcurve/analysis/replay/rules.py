"""From a call of a torch function to its step on tangents: the table of what is understood.

A rule refuses whatever could mix examples (an operation along the first axis) or act by chance; what has no rule is left to
automatic differentiation of the whole.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lowcurve.analysis.replay.calls import Call, Mixing, Unrecorded, names
from lowcurve.analysis.replay.slopes import ELEMENTWISE, elementwise
from lowcurve.analysis.replay.tangents import Gathered, Linear, Masked, Product, Scaled, Step, Weighted


def step_of(call: Call) -> Step:
    """The step of a call. Errors: Unrecorded."""
    for known, rule in RULES:
        if call.name in known:
            return rule(call)
    raise Unrecorded(f"{call.name} is not among the operations that are understood")


def _again(call: Call) -> Step:
    """Linear in the first argument and blind to the number of rows."""
    _require_only_first(call)
    rest, kwargs = call.args[1:], call.kwargs
    return Linear(lambda t: call.func(t, *rest, **kwargs))


def _weighted(call: Call) -> Step:
    _require_only_first(call)
    weight, others = call.argument(1, "weight"), call.args[3:]
    if call.name != "linear" and call.inputs[0].ndim != weight.ndim:
        raise Unrecorded(f"{call.name} of an input without a batch axis")
    kwargs = {k: v for k, v in call.kwargs.items() if k not in ("weight", "bias", "input")}
    return Weighted(call.func, weight.detach(), others, kwargs)


def _reshaped(call: Call) -> Step:
    _require_only_first(call)
    return Linear(lambda t: t.reshape(len(t), *call.shape))


def _expanded(call: Call) -> Step:
    _require_only_first(call)
    if call.inputs[0].ndim != call.result.ndim:
        raise Unrecorded("expand adds axes in front of the axis of examples")
    return Linear(lambda t: t.expand(len(t), *call.shape))


def _along_axes(call: Call) -> Step:
    default = {"chunk": 0, "split": 0, "tensor_split": 0, "unbind": 0}.get(call.name)
    place = 2 if call.name in ("chunk", "split", "tensor_split") else 1
    _require_other_axes(call, call.argument(place, "dim", call.kwargs.get("axis", call.kwargs.get("dims", default))))
    return _again(call)


def _exchanged(call: Call) -> Step:
    """Axes in another order, the first at its place."""
    if call.name == "permute":
        order = call.argument(1, "dims")
        order = tuple(order) if isinstance(order, list | tuple) else call.args[1:]
        if order[0] % call.result.ndim != 0:
            raise Unrecorded("permute moves the axis of examples")
    else:
        _require_other_axes(call, (call.argument(1, "dim0"), call.argument(2, "dim1")))
    return _again(call)


def _indexed(call: Call) -> Step:
    index = call.args[1] if isinstance(call.args[1], tuple) else (call.args[1],)
    keeps = isinstance(index[0], slice) and index[0] == slice(None)
    keeps = keeps or (index[0] is Ellipsis and len(index) <= call.inputs[0].ndim)
    if not keeps or any(isinstance(i, Tensor) and i.requires_grad for i in index):
        raise Unrecorded("indexing along the axis of examples")
    return _again(call)


def _padded(call: Call) -> Step:
    _require_only_first(call)
    widths, kind = call.argument(1, "pad"), call.argument(2, "mode", "constant")
    if len(widths) // 2 >= call.result.ndim:
        raise Unrecorded("pad along the axis of examples")
    return Linear(lambda t: F.pad(t, widths, kind, 0.0 if kind == "constant" else None))


def _added(call: Call) -> Step:
    """a + alpha b, a - alpha b, b - a: the constants of it are gone, its broadcasting is not."""
    alpha = call.kwargs.get("alpha", 1)
    first, second = call.args[0], call.argument(1, "other")
    signs = {"add": (1, alpha), "sub": (1, -alpha), "rsub": (-alpha, 1)}[call.name]
    if call.name == "rsub" and alpha != 1:
        raise Unrecorded("rsub with alpha")
    signs = tuple(s for s, a in zip(signs, (first, second), strict=True) if _among(a, call.inputs))
    _require_axes(call)

    def added(*tangents: Tensor) -> Tensor:
        terms = [t if sign == 1 else sign * t for sign, t in zip(signs, tangents, strict=True)]
        total = terms[0] if len(terms) == 1 else terms[0] + terms[1]
        return total if total.shape[1:] == call.shape else total.expand(len(total), *call.shape)

    return Linear(added)


def _multiplied(call: Call) -> Step:
    """a b or a / b: linear if one of them is a constant, else the product rule."""
    first, second = call.args[0], call.argument(1, "other")
    if call.kwargs.get("rounding_mode") is not None:
        raise Unrecorded("division with rounding")
    _require_axes(call)
    if len(call.inputs) == 2:
        if call.name != "mul":
            raise Unrecorded("a quotient of two parts of the network")
        return Product(first.detach(), second.detach())
    if call.name == "mul":
        return Scaled(_aligned(second if _among(first, call.inputs) else first, call))
    if not _among(first, call.inputs):
        return elementwise(call)
    return Scaled(_aligned(second.reciprocal() if isinstance(second, Tensor) else 1 / second, call))


def _normalized(call: Call) -> Step:
    """Batch normalization with running statistics is a factor for each channel."""
    _require_only_first(call)
    if call.argument(5, "training", False) or call.args[1] is None:
        raise Mixing("BatchNorm in training mode mixes examples")
    variance, weight = call.argument(2, "running_var"), call.argument(3, "weight")
    factor = (variance + call.argument(7, "eps", 1e-5)).rsqrt()
    factor = factor if weight is None else factor * weight
    return Scaled(factor.detach().view(1, -1, *[1] * (call.result.ndim - 2)))


def _pooled(call: Call) -> Step:
    """The largest of each window, by its stored place."""
    _require_only_first(call)
    kwargs = {k: v for k, v in call.kwargs.items() if k != "return_indices"}
    axes = int(call.name[-2])
    pool = getattr(F, f"{call.name}_with_indices")
    return Gathered(pool(call.inputs[0].detach(), *call.args[1:], **kwargs)[1].flatten(-axes), call.shape)


def _chosen(call: Call) -> Step:
    """where(condition, a, b): each side's tangent under its mask."""
    condition, sides = call.args[0], call.args[1:3]
    _require_axes(call)
    masks = [_aligned(c, call).to(call.result.dtype) for c in (condition, ~condition)]
    return Masked(tuple(mask for mask, side in zip(masks, sides, strict=True) if _among(side, call.inputs)))


def _joined(call: Call) -> Step:
    """cat: the tangent of a constant is zero."""
    _require_other_axes(call, call.argument(1, "dim", 0))
    dim = call.argument(1, "dim", 0)
    pieces = list(call.args[0])

    def joined(*tangents: Tensor) -> Tensor:
        given = iter(tangents)
        like = tangents[0]
        return torch.cat(
            [next(given) if _among(p, call.inputs) else like.new_zeros(len(like), *p.shape[1:]) for p in pieces], dim
        )

    return Linear(joined)


def _multiplied_by_matrix(call: Call) -> Step:
    first, second = call.args[0], call.argument(1, "other")
    if len(call.inputs) == 2 or not _among(first, call.inputs) or first.ndim < 2 or second.ndim > 2:
        raise Unrecorded("a matrix product that is not inputs times a constant matrix")
    matrix = second.detach()
    return Linear(lambda t: t @ matrix)


def _in_precision(call: Call) -> Step:
    _require_only_first(call)
    return Linear(lambda t: t.to(call.result.dtype))


def _silent(call: Call) -> Step:
    """Dropout in eval mode is the identity."""
    _require_only_first(call)
    if call.argument(2, "training", True) and call.argument(1, "p", 0.5) > 0:
        raise Mixing(f"{call.name} in training mode acts by chance")
    return Linear(lambda t: t)


def _aligned(factor: Any, call: Call) -> Any:
    """A constant with all axes of the result, the first of length 1 where it is the same for every example."""
    if not isinstance(factor, Tensor):
        return factor
    return factor.detach().reshape(*[1] * (call.result.ndim - factor.ndim), *factor.shape)


def _among(value: Any, inputs: tuple[Tensor, ...]) -> bool:
    return any(value is t for t in inputs)


def _require_only_first(call: Call) -> None:
    if len(call.inputs) != 1 or not call.args or call.args[0] is not call.inputs[0]:
        raise Unrecorded(f"{call.name} in which more than the first argument depends on the input")


def _require_axes(call: Call) -> None:
    """Every tensor that depends on the input has the result's axes, so that its first is the axis of examples."""
    if any(t.ndim != call.result.ndim or len(t) != len(call.result) for t in call.inputs):
        raise Unrecorded(f"{call.name} of tensors with different axes")


def _require_other_axes(call: Call, dims: Any) -> None:
    """The first axis, that of examples, is not among dims."""
    axes = dims if isinstance(dims, list | tuple) else (dims,)
    first = call.inputs[0]
    if dims is None or any(not isinstance(a, int) or a % first.ndim == 0 for a in axes):
        raise Unrecorded(f"{call.name} along the axis of examples")


RULES: tuple[tuple[frozenset[str], Callable[[Call], Step]], ...] = (
    (names("conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d linear"), _weighted),
    (names("batch_norm"), _normalized),
    (ELEMENTWISE, elementwise),
    (names("add sub rsub"), _added),
    (names("mul multiply div divide true_divide"), _multiplied),
    (names("max_pool1d max_pool2d max_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d"), _pooled),
    (
        names(
            "avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d interpolate "
            "upsample pixel_shuffle pixel_unshuffle channel_shuffle neg negative positive clone"
        ),
        _again,
    ),
    (names("view reshape flatten unflatten squeeze unsqueeze view_as reshape_as contiguous"), _reshaped),
    (names("expand expand_as broadcast_to"), _expanded),
    (names("mean sum flip roll cumsum narrow select index_select chunk split tensor_split unbind"), _along_axes),
    (names("permute transpose swapaxes swapdims"), _exchanged),
    (names("getitem"), _indexed),
    (names("pad"), _padded),
    (names("cat concat concatenate"), _joined),
    (names("where"), _chosen),
    (names("matmul mm"), _multiplied_by_matrix),
    (names("to float double type type_as"), _in_precision),
    (names("dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout"), _silent),
)
