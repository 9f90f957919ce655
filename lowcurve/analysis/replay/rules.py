"""From a call of a torch function to its step on tangents: the table of what is understood.

A rule refuses whatever could mix examples (an operation along the first axis) or act by chance; what has no rule is left to
automatic differentiation of the whole.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lowcurve.analysis.double_backward import channel_factor
from lowcurve.analysis.replay.calls import Call, Mixing, Unrecorded, names
from lowcurve.analysis.replay.slopes import ELEMENTWISE, elementwise
from lowcurve.analysis.replay.steps import Gathered, Indexed, Linear, Masked, Product, Same, Scaled, Step, Sum, Weighted


def step_of(call: Call) -> Step:
    """The step of a call. Errors: Unrecorded."""
    for known, rule in RULES:
        if call.name in known:
            return rule(call)
    raise Unrecorded(f"{call.name} is not among the operations that are understood")


def _again(call: Call) -> Step:
    """Linear in the first argument and blind to the number of rows."""
    _require_only_first(call)
    func, rest, kwargs = call.func, call.args[1:], call.kwargs  # a closure that held the call would hold the whole pass
    return Linear(lambda t: func(t, *rest, **kwargs))


def _weighted(call: Call) -> Step:
    _require_only_first(call)
    weight = call.argument(1, "weight").detach()
    if call.name == "linear":
        return Weighted(call.func, weight, {})
    if call.inputs[0].ndim != weight.ndim:
        raise Unrecorded(f"{call.name} of an input without a batch axis")
    others, kwargs = call.args[3:], {k: v for k, v in call.kwargs.items() if k not in ("weight", "bias", "input")}
    lengths = weight.shape[2:]
    stride, padding, dilation = (
        _each_axis(call.argument(place, name, default), len(lengths))
        for place, name, default in ((3, "stride", 1), (4, "padding", 0), (5, "dilation", 1))
    )
    if padding in ("valid", "same"):
        around = [d * (k - 1) * (padding == "same") for k, d in zip(lengths, dilation, strict=True)]
        padding = None if any(n % 2 for n in around) else tuple(n // 2 for n in around)
    if "transpose" in call.name or padding is None:
        func = call.func
        return Linear(lambda t: func(t, weight, None, *others, **kwargs))
    geometry = {"stride": stride, "padding": padding, "dilation": dilation, "groups": call.argument(6, "groups", 1)}
    return Weighted(call.func, weight, geometry)


def _each_axis(value: Any, axes: int) -> Any:
    """One number for each axis; a word stays."""
    if isinstance(value, str):
        return value
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * axes if len(values) == 1 else values


def _reshaped(call: Call) -> Step:
    _require_only_first(call)
    shape = call.shape
    return Linear(lambda t: t.reshape(len(t), *shape))


def _expanded(call: Call) -> Step:
    _require_only_first(call)
    if call.inputs[0].ndim != call.result.ndim:
        raise Unrecorded("expand adds axes in front of the axis of examples")
    shape = call.shape
    return Linear(lambda t: t.expand(len(t), *shape))


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
    if all(i is Ellipsis or isinstance(i, slice | int) for i in index):
        x = call.inputs[0]
        if x.shape == call.result.shape:  # slices of nothing but everything
            return Same()
        images = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
        return Indexed(index, x.shape[1:], torch.channels_last if images else torch.contiguous_format)
    return _again(call)


def _padded(call: Call) -> Step:
    _require_only_first(call)
    widths, kind = call.argument(1, "pad"), call.argument(2, "mode", "constant")
    if len(widths) // 2 >= call.result.ndim:
        raise Unrecorded("pad along the axis of examples")
    if not any(widths):
        return Same()
    row_by_row = not any(widths[2:4])
    return Linear(lambda t: F.pad(t, widths, kind, 0.0 if kind == "constant" else None), row_by_row)


def _added(call: Call) -> Step:
    """a + alpha b, a - alpha b, b - a: the constants of it are gone, its broadcasting is not."""
    alpha = call.kwargs.get("alpha", 1)
    first = call.args[0]
    signs = {"add": (1, alpha), "sub": (1, -alpha), "rsub": (-alpha, 1)}[call.name]
    if call.name == "rsub" and alpha != 1:
        raise Unrecorded("rsub with alpha")
    _require_axes(call)
    if len(call.inputs) == 2:
        return Sum(signs)
    sign = signs[0] if _among(first, call.inputs) else signs[1]
    if sign == 1 and call.inputs[0].shape == call.result.shape:
        return Same()
    shape = call.shape
    return Linear(lambda t: (sign * t).expand(len(t), *shape))


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
    factor = channel_factor(call.argument(2, "running_var"), call.argument(3, "weight"), call.argument(7, "eps", 1e-5))
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
    constants = [None if _among(piece, call.inputs) else piece.shape[1:] for piece in call.args[0]]

    def joined(*tangents: Tensor) -> Tensor:
        given, like = iter(tangents), tangents[0]
        return torch.cat([next(given) if one is None else like.new_zeros(len(like), *one) for one in constants], dim)

    return Linear(joined)


def _multiplied_by_matrix(call: Call) -> Step:
    first, second = call.args[0], call.argument(1, "other")
    if len(call.inputs) == 2 or not _among(first, call.inputs) or first.ndim < 2 or second.ndim > 2:
        raise Unrecorded("a matrix product that is not inputs times a constant matrix")
    matrix = second.detach()
    return Linear(lambda t: t @ matrix)


def _in_precision(call: Call) -> Step:
    _require_only_first(call)
    dtype = call.result.dtype
    return Linear(lambda t: t.to(dtype))


def _silent(call: Call) -> Step:
    """Dropout in eval mode is the identity."""
    _require_only_first(call)
    if call.argument(2, "training", True) and call.argument(1, "p", 0.5) > 0:
        raise Mixing(f"{call.name} in training mode acts by chance")
    return Same()


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
