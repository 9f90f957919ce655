"""The table from recorded calls of torch functions to their steps on tangents.

A rule refuses an operation that could mix examples (along the first axis) or that is random. A call without a rule sends
the whole function to automatic differentiation.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lowcurve.analysis.double_backward import channel_factor
from lowcurve.analysis.replay.calls import Call, DependentExamples, NotReplayable, split_names
from lowcurve.analysis.replay.derivatives import ELEMENTWISE, elementwise_step
from lowcurve.analysis.replay.steps import (
    Identity,
    LinearMap,
    MaskedSum,
    MaxPool,
    Product,
    Scale,
    Slice,
    Step,
    Sum,
    WeightLayer,
)


def find_step(call: Call) -> Step:
    """Return the step of a call.

    Args:
        call: The recorded call.

    Raises:
        NotReplayable: If there is no rule for the call, or its rule refuses it.
    """
    for known, rule in RULES:
        if call.name in known:
            return rule(call)
    raise NotReplayable(f"{call.name} is not among the operations that are understood")


def _linear(call: Call) -> Step:
    """Step of a function that is linear in its first argument and takes any batch size."""
    _require_only_first(call)
    func, rest, kwargs = call.func, call.args[1:], call.kwargs  # a closure over the call would hold the whole pass
    return LinearMap(lambda t: func(t, *rest, **kwargs))


def _weight_layer(call: Call) -> Step:
    _require_only_first(call)
    weight = call.argument(1, "weight").detach()
    if call.name == "linear":
        return WeightLayer(call.func, weight, {})
    if call.inputs[0].ndim != weight.ndim:
        raise NotReplayable(f"{call.name} of an input without a batch axis")
    others, kwargs = call.args[3:], {k: v for k, v in call.kwargs.items() if k not in ("weight", "bias", "input")}
    lengths = weight.shape[2:]
    stride, padding, dilation = (
        _per_axis(call.argument(position, name, default), len(lengths))
        for position, name, default in ((3, "stride", 1), (4, "padding", 0), (5, "dilation", 1))
    )
    if padding in ("valid", "same"):
        around = [d * (k - 1) * (padding == "same") for k, d in zip(lengths, dilation, strict=True)]
        padding = None if any(n % 2 for n in around) else tuple(n // 2 for n in around)
    if "transpose" in call.name or padding is None:
        func = call.func
        return LinearMap(lambda t: func(t, weight, None, *others, **kwargs))
    geometry = {"stride": stride, "padding": padding, "dilation": dilation, "groups": call.argument(6, "groups", 1)}
    return WeightLayer(call.func, weight, geometry)


def _per_axis(value: Any, axes: int) -> Any:
    """Repeat a single number for every axis; keep a name such as "same"."""
    if isinstance(value, str):
        return value
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * axes if len(values) == 1 else values


def _reshape(call: Call) -> Step:
    _require_only_first(call)
    shape = call.shape
    return LinearMap(lambda t: t.reshape(len(t), *shape))


def _expand(call: Call) -> Step:
    _require_only_first(call)
    if call.inputs[0].ndim != call.result.ndim:
        raise NotReplayable("expand adds axes in front of the batch axis")
    shape = call.shape
    return LinearMap(lambda t: t.expand(len(t), *shape))


def _reduce_or_split(call: Call) -> Step:
    default = {"chunk": 0, "split": 0, "tensor_split": 0, "unbind": 0}.get(call.name)
    position = 2 if call.name in ("chunk", "split", "tensor_split") else 1
    _require_other_axes(call, call.argument(position, "dim", call.kwargs.get("axis", call.kwargs.get("dims", default))))
    return _linear(call)


def _permute(call: Call) -> Step:
    """Step of a reordering of axes that keeps the first in its place."""
    if call.name == "permute":
        order = call.argument(1, "dims")
        order = tuple(order) if isinstance(order, list | tuple) else call.args[1:]
        if order[0] % call.result.ndim != 0:
            raise NotReplayable("permute moves the batch axis")
    else:
        _require_other_axes(call, (call.argument(1, "dim0"), call.argument(2, "dim1")))
    return _linear(call)


def _index(call: Call) -> Step:
    index = call.args[1] if isinstance(call.args[1], tuple) else (call.args[1],)
    keeps_batch = isinstance(index[0], slice) and index[0] == slice(None)
    keeps_batch = keeps_batch or (index[0] is Ellipsis and len(index) <= call.inputs[0].ndim)
    if not keeps_batch or any(isinstance(i, Tensor) and i.requires_grad for i in index):
        raise NotReplayable("indexing along the batch axis")
    if all(i is Ellipsis or isinstance(i, slice | int) for i in index):
        x = call.inputs[0]
        if x.shape == call.result.shape:  # every slice is the whole axis
            return Identity()
        images = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
        return Slice(index, x.shape[1:], torch.channels_last if images else torch.contiguous_format)
    return _linear(call)


def _pad(call: Call) -> Step:
    _require_only_first(call)
    widths, kind = call.argument(1, "pad"), call.argument(2, "mode", "constant")
    if len(widths) // 2 >= call.result.ndim:
        raise NotReplayable("pad along the batch axis")
    if not any(widths):
        return Identity()
    return LinearMap(lambda t: F.pad(t, widths, kind, 0.0 if kind == "constant" else None))


def _add(call: Call) -> Step:
    """Step of a + alpha b, a - alpha b or b - a. Constants drop out, but their broadcasting stays."""
    alpha = call.kwargs.get("alpha", 1)
    first = call.args[0]
    signs = {"add": (1, alpha), "sub": (1, -alpha), "rsub": (-alpha, 1)}[call.name]
    if call.name == "rsub" and alpha != 1:
        raise NotReplayable("rsub with alpha")
    _require_axes(call)
    if len(call.inputs) == 2:
        return Sum(signs)
    sign = signs[0] if _is_among(first, call.inputs) else signs[1]
    if sign == 1 and call.inputs[0].shape == call.result.shape:
        return Identity()
    shape = call.shape
    return LinearMap(lambda t: (sign * t).expand(len(t), *shape))


def _multiply(call: Call) -> Step:
    """Step of a b or a / b: a scaling if one of them is a constant, else the product rule."""
    first, second = call.args[0], call.argument(1, "other")
    if call.kwargs.get("rounding_mode") is not None:
        raise NotReplayable("division with rounding")
    _require_axes(call)
    if len(call.inputs) == 2:
        if call.name != "mul":
            raise NotReplayable("a quotient of two parts of the network")
        return Product(first.detach(), second.detach())
    if call.name == "mul":
        return Scale(_align(second if _is_among(first, call.inputs) else first, call))
    if not _is_among(first, call.inputs):
        return elementwise_step(call)
    return Scale(_align(second.reciprocal() if isinstance(second, Tensor) else 1 / second, call))


def _batch_norm(call: Call) -> Step:
    """Step of batch normalization with running statistics: one factor per channel."""
    _require_only_first(call)
    if call.argument(5, "training", False) or call.args[1] is None:
        raise DependentExamples("BatchNorm in training mode, which mixes examples")
    factor = channel_factor(call.argument(2, "running_var"), call.argument(3, "weight"), call.argument(7, "eps", 1e-5))
    return Scale(factor.detach().view(1, -1, *[1] * (call.result.ndim - 2)))


def _max_pool(call: Call) -> Step:
    """Step of a max-pooling, from the positions of its maxima."""
    _require_only_first(call)
    kwargs = {k: v for k, v in call.kwargs.items() if k != "return_indices"}
    axes = int(call.name[-2])
    pool = getattr(F, f"{call.name}_with_indices")
    return MaxPool(pool(call.inputs[0].detach(), *call.args[1:], **kwargs)[1].flatten(-axes), call.shape)


def _where(call: Call) -> Step:
    """Step of where(condition, a, b): each side's tangent times its mask."""
    condition, sides = call.args[0], call.args[1:3]
    _require_axes(call)
    masks = [_align(c, call).to(call.result.dtype) for c in (condition, ~condition)]
    return MaskedSum(tuple(mask for mask, side in zip(masks, sides, strict=True) if _is_among(side, call.inputs)))


def _concatenate(call: Call) -> Step:
    """Step of cat. The tangent of a constant is zero."""
    _require_other_axes(call, call.argument(1, "dim", 0))
    dim = call.argument(1, "dim", 0)
    constants = [None if _is_among(piece, call.inputs) else piece.shape[1:] for piece in call.args[0]]

    def concatenate(*tangents: Tensor) -> Tensor:
        given, like = iter(tangents), tangents[0]
        return torch.cat([next(given) if one is None else like.new_zeros(len(like), *one) for one in constants], dim)

    return LinearMap(concatenate)


def _matrix_product(call: Call) -> Step:
    first, second = call.args[0], call.argument(1, "other")
    if len(call.inputs) == 2 or not _is_among(first, call.inputs) or first.ndim < 2 or second.ndim > 2:
        raise NotReplayable("a matrix product that is not inputs times a constant matrix")
    matrix = second.detach()
    return LinearMap(lambda t: t @ matrix)


def _cast(call: Call) -> Step:
    _require_only_first(call)
    dtype = call.result.dtype
    return LinearMap(lambda t: t.to(dtype))


def _dropout(call: Call) -> Step:
    """Step of dropout in eval mode: the identity."""
    _require_only_first(call)
    if call.argument(2, "training", True) and call.argument(1, "p", 0.5) > 0:
        raise DependentExamples(f"{call.name} in training mode, which is random")
    return Identity()


def _align(factor: Any, call: Call) -> Any:
    """Give a constant all axes of the result. The first has length 1 if the constant is the same for every example."""
    if not isinstance(factor, Tensor):
        return factor
    return factor.detach().reshape(*[1] * (call.result.ndim - factor.ndim), *factor.shape)


def _is_among(value: Any, inputs: tuple[Tensor, ...]) -> bool:
    return any(value is t for t in inputs)


def _require_only_first(call: Call) -> None:
    if len(call.inputs) != 1 or not call.args or call.args[0] is not call.inputs[0]:
        raise NotReplayable(f"{call.name} in which more than the first argument depends on the input")


def _require_axes(call: Call) -> None:
    """Check that every tensor that depends on the input has the result's axes, so that its first is the batch axis."""
    if any(t.ndim != call.result.ndim or len(t) != len(call.result) for t in call.inputs):
        raise NotReplayable(f"{call.name} of tensors with different axes")


def _require_other_axes(call: Call, dims: Any) -> None:
    """Check that the batch axis, the first, is not among dims."""
    axes = dims if isinstance(dims, list | tuple) else (dims,)
    first = call.inputs[0]
    if dims is None or any(not isinstance(a, int) or a % first.ndim == 0 for a in axes):
        raise NotReplayable(f"{call.name} along the batch axis")


RULES: tuple[tuple[frozenset[str], Callable[[Call], Step]], ...] = (
    (split_names("conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d linear"), _weight_layer),
    (split_names("batch_norm"), _batch_norm),
    (ELEMENTWISE, elementwise_step),
    (split_names("add sub rsub"), _add),
    (split_names("mul multiply div divide true_divide"), _multiply),
    (
        split_names("max_pool1d max_pool2d max_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d"),
        _max_pool,
    ),
    (
        split_names(
            "avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d interpolate "
            "upsample pixel_shuffle pixel_unshuffle channel_shuffle neg negative positive clone"
        ),
        _linear,
    ),
    (split_names("view reshape flatten unflatten squeeze unsqueeze view_as reshape_as contiguous"), _reshape),
    (split_names("expand expand_as broadcast_to"), _expand),
    (
        split_names("mean sum flip roll cumsum narrow select index_select chunk split tensor_split unbind"),
        _reduce_or_split,
    ),
    (split_names("permute transpose swapaxes swapdims"), _permute),
    (split_names("getitem"), _index),
    (split_names("pad"), _pad),
    (split_names("cat concat concatenate"), _concatenate),
    (split_names("where"), _where),
    (split_names("matmul mm"), _matrix_product),
    (split_names("to float double type type_as"), _cast),
    (split_names("dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout"), _dropout),
)
