"""Rules for operations that move, select or sum entries, and their effect on the place of the batch axis."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lowcurve.analysis.replay.calls import Call, Layout, NotReplayable, Recorded, Rule, is_among
from lowcurve.analysis.replay.steps import Identity, LinearMap, Permute, Reshape, Slice, Step


def reshape(call: Call) -> Recorded:
    """Return the step of a call that keeps all entries in their order.

    Args:
        call: The recorded call.
    """
    call.require_only_first()
    layout, before, after = call.layout, call.inputs[0].shape, call.result.shape
    axis = _batch_axis_after_reshape(call)
    result = Layout(axis, after[axis] // call.batch)
    if before == after and layout == result:
        return Identity(), result
    rest = (layout.axis, before, layout.inner), (axis, after, result.inner)
    return Reshape(*rest), result


def _batch_axis_after_reshape(call: Call) -> int:
    """Return the axis of the result that holds the examples: the axes before it have as many entries as before."""
    at, before, after = call.layout.axis, call.inputs[0].shape, call.result.shape
    if call.name == "unsqueeze":  # a new axis in front of a single example looks like a batch axis
        dim: int = call.bind("input dim")["dim"] % len(after)
        return at + (dim <= at)
    for axis, length in enumerate(after):
        if math.prod(after[:axis]) == math.prod(before[:at]) and length % call.batch == 0:
            return axis
    raise NotReplayable(f"{call.name} gives up the batch axis")


def expand(call: Call) -> Recorded:
    """Return the step of a call that repeats entries along axes of length 1.

    Args:
        call: The recorded call.
    """
    call.require_only_first()
    if call.inputs[0].ndim != call.result.ndim:
        raise NotReplayable("expand adds axes in front of the batch axis")
    shape = call.layout.front(call.result).shape[1:]
    return LinearMap(lambda t: t.expand(len(t), *shape)), call.layout


def repeat(call: Call) -> Recorded:
    """Return the step of a repetition along other axes than the batch axis.

    Args:
        call: The recorded call.
    """
    call.require_only_first()
    sizes = call.args[1:] if len(call.args) > 2 or isinstance(call.args[1], int) else call.args[1]
    if call.kwargs or len(sizes) != call.inputs[0].ndim or sizes[call.layout.axis] != 1:
        raise NotReplayable(f"{call.name} along the batch axis")
    return linear(call)


def along(names: str, *, default: int | None = None) -> Rule:
    """Return the rule for a linear function along named axes, of which none is the batch axis.

    Args:
        names: Names of the arguments in their order, with the axes as `dim`, `dims` or `axis`.
        default: The axis if none is given. None stands for all.
    """

    def rule(call: Call) -> Recorded:
        bind_axes(call, names, default)
        return linear(call)

    return rule


def bind_axes(call: Call, names: str, default: int | None) -> dict[str, Any]:
    """Return the arguments of a function of one tensor along named axes, with the axes as `dim`.

    Args:
        call: The recorded call.
        names: Names of the arguments in their order, with the axes as `dim`, `dims` or `axis`.
        default: The axis if none is given. None stands for all.

    Raises:
        NotReplayable: If the batch axis is among the axes.
    """
    call.require_only_first()
    given = call.bind(names)
    given.setdefault("dim", given.get("dims", given.get("axis", default)))
    require_other_axes(call, given["dim"])
    return given


def part(names: str) -> Rule:
    """Return the rule for a function that selects a slice along one named axis, which is not the batch axis.

    Args:
        names: Names of the arguments in their order, with the axis as `dim`. By default it is the first.
    """

    def rule(call: Call) -> Recorded:
        given = bind_axes(call, names, 0)
        x, result = call.inputs[0], call.result
        axis = given["dim"] % x.ndim
        if result.untyped_storage().data_ptr() != x.untyped_storage().data_ptr() or x.stride(axis) == 0:
            return linear(call)
        start = (result.storage_offset() - x.storage_offset()) // x.stride(axis)
        removed = result.ndim < x.ndim
        index = [slice(None)] * x.ndim
        index[axis] = start if removed else slice(start, start + result.shape[axis])
        return _slice(call, tuple(index)), result_layout(call)

    return rule


def flip(call: Call) -> Recorded:
    """Return the step of a reversal of axes, given as one tuple or as several arguments.

    Args:
        call: The recorded call.
    """
    call.require_only_first()
    require_other_axes(call, _axes(call))
    return linear(call)


def permute(call: Call) -> Recorded:
    """Return the step of any reordering of axes, by a function that returns a view.

    Args:
        call: The recorded call.
    """
    call.require_only_first()
    axes = call.inputs[0].ndim
    probe = torch.empty_strided((1,) * axes, tuple(range(1, axes + 1)))
    order = [stride - 1 for stride in call.func(probe, *call.args[1:], **call.kwargs).stride()]
    at = order.index(call.layout.axis)
    before = [
        call.layout.axis,
        *(i for i in range(axes) if i != call.layout.axis),
    ]  # its axes with the batch axis first
    after = [order[at], *(i for k, i in enumerate(order) if k != at)]
    dims = tuple(before.index(i) for i in after)
    step: Step = Identity() if dims == tuple(range(axes)) else Permute(dims)
    return step, Layout(at, call.layout.inner)


def index(call: Call) -> Step | Recorded:
    """Return the step of x[index], where the index keeps the whole batch axis.

    Args:
        call: The recorded call.
    """
    call.require_only_first()
    positions = call.args[1] if isinstance(call.args[1], tuple) else (call.args[1],)
    x, at = call.inputs[0], call.layout.axis
    simple = all(i is Ellipsis or i is None or isinstance(i, slice) or type(i) is int for i in positions)
    if simple and None not in positions:
        full = _without_ellipsis(positions, x.ndim)
        if full[at] != slice(None) and full[at] != slice(0, x.shape[at]):
            raise NotReplayable("indexing along the batch axis")
        if x.shape == call.result.shape:  # every slice is the whole axis
            return Identity(), call.layout
        result = Layout(at - sum(type(i) is int for i in full[:at]), call.layout.inner)
        return _slice(call, full), result
    keeps_batch = isinstance(positions[0], slice) and positions[0] == slice(None)
    keeps_batch = keeps_batch or (positions[0] is Ellipsis and len(positions) <= x.ndim)
    if at or not keeps_batch:
        raise NotReplayable("indexing along the batch axis")
    if any(isinstance(i, Tensor) and i.requires_grad for i in positions):
        raise NotReplayable("indexing by positions that depend on the input")
    result = result_layout(call, probe=True)  # torch moves the axes of several lists to the front
    func = call.func
    return LinearMap(lambda t: result.front(func(t, positions))), result


def _without_ellipsis(positions: tuple[Any, ...], axes: int) -> tuple[Any, ...]:
    """Return one position for each axis."""
    at = next((k for k, one in enumerate(positions) if one is Ellipsis), len(positions))
    rest = positions[at + 1 :]
    return (*positions[:at], *[slice(None)] * (axes - at - len(rest)), *rest)


def _slice(call: Call, positions: tuple[Any, ...]) -> Slice:
    """Return the step of a selection by a position or slice for each axis."""
    layout, x = call.layout, call.layout.front(call.inputs[0])
    others = tuple(i for k, i in enumerate(positions) if k != layout.axis)
    strides = x.stride()
    order = tuple(sorted(range(x.ndim), key=lambda k: (-strides[k], k)))
    return Slice((slice(None), *others), x.shape[1:], order)


def pad(call: Call) -> Step | Recorded:
    """Return the step of padding, of which a constant border drops out.

    Args:
        call: The recorded call.
    """
    call.require_only_first()
    given = call.bind("input pad mode value")
    widths, kind = given["pad"], given.get("mode", "constant")
    if not any(widths):
        return Identity(), call.layout
    if len(widths) // 2 >= call.result.ndim - call.layout.axis:
        raise NotReplayable("pad along the batch axis")
    layout = call.layout
    value = 0.0 if kind == "constant" else None
    return LinearMap(lambda t: layout.front(F.pad(layout.back(t), widths, kind, value))), layout


def concatenate(call: Call) -> Recorded:
    """Return the step of cat. The tangent of a constant is zero.

    Args:
        call: The recorded call.
    """
    given = call.bind("tensors dim")
    return _join(call, torch.cat, given["tensors"], call.front_axis(given.get("dim", 0)), call.layout)


def stack(call: Call) -> Recorded:
    """Return the step of stack. The tangent of a constant is zero.

    Args:
        call: The recorded call.
    """
    given = call.bind("tensors dim")
    at, dim = call.layout.axis, given.get("dim", 0) % call.result.ndim
    # With the batch axis first, the new axis is one of the others.
    front = dim + 1 if dim <= at else dim
    return _join(call, torch.stack, given["tensors"], front, Layout(at + (dim <= at), call.layout.inner))


def _join(call: Call, join: Any, pieces: Any, dim: int, result: Layout) -> Recorded:
    constants = [None if is_among(piece, call.inputs) else call.layout.front(piece).shape[1:] for piece in pieces]
    if sum(one is None for one in constants) != len(call.inputs):
        raise NotReplayable(f"{call.name} of tensors in another order")

    def joined(*tangents: Tensor) -> Tensor:
        given, like = iter(tangents), tangents[0]
        return join([next(given) if one is None else like.new_zeros(len(like), *one) for one in constants], dim)  # type: ignore[no-any-return]

    return LinearMap(joined), result


def linear(call: Call) -> Recorded:
    """Return the step of a function that is linear in its first argument and takes any batch size.

    Args:
        call: The recorded call.
    """
    call.require_only_first()
    function, result = batch_first_function(call)
    return LinearMap(function), result


def batch_first_function(call: Call) -> tuple[Callable[[Tensor], Tensor], Layout]:
    """Return the function of a call's first argument with the batch axis first in both, and the layout of its result.

    Args:
        call: A recorded call that takes any batch size.
    """
    result = result_layout(call)
    # The function must not hold the call, which holds the whole pass.
    func, rest, kwargs, layout = call.func, call.args[1:], call.kwargs, call.layout
    return lambda t: result.front(func(layout.back(t), *rest, **kwargs)), result


def result_layout(call: Call, *, probe: bool = False) -> Layout:
    """Return the layout of the result of a function of one tensor that takes any batch size, found by a larger batch.

    Args:
        call: The recorded call.
        probe: Try a larger batch even if the batch axis is first.
    """
    layout = call.layout
    if layout.axis == 0 and not probe:
        return layout
    x = call.inputs[0].detach()
    with torch.no_grad():
        twice = call.func(torch.cat([x, x], layout.axis), *call.args[1:], **call.kwargs).shape
    differs = [k for k, (one, two) in enumerate(zip(call.result.shape, twice, strict=True)) if one != two]
    if len(differs) != 1 or call.result.shape[differs[0]] != call.rows:
        raise NotReplayable(f"{call.name} gives up the batch axis")
    return Layout(differs[0], layout.inner)


def _axes(call: Call) -> tuple[Any, ...]:
    """Return the axes of a call that takes them as one tuple or as several arguments."""
    if "dims" in call.kwargs:
        return tuple(call.bind("input dims")["dims"])
    if call.kwargs:
        raise NotReplayable(f"{call.name} with unknown arguments")
    axes = call.args[1:]
    return tuple(axes[0]) if len(axes) == 1 and isinstance(axes[0], list | tuple) else axes


def require_other_axes(call: Call, dims: Any) -> None:
    """Check that the batch axis is not among these.

    Args:
        call: The recorded call.
        dims: An axis or several.

    Raises:
        NotReplayable: If it is, or if they are not integers.
    """
    for axis in dims if isinstance(dims, list | tuple) else (dims,):
        call.front_axis(axis)
