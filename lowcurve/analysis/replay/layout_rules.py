"""Rules for operations that move, select or sum entries, with the batch axis in its place."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lowcurve.analysis.replay.calls import Call, NotReplayable, Rule, is_among
from lowcurve.analysis.replay.steps import Identity, LinearMap, Slice, Step


def reshape(call: Call) -> Step:
    """Return the step of a call that keeps all entries in their order.

    Args:
        call: The recorded call.
    """
    call.require_only_first()
    shape = call.shape
    return LinearMap(lambda t: t.reshape(len(t), *shape))


def expand(call: Call) -> Step:
    """Return the step of a call that repeats entries along axes of length 1.

    Args:
        call: The recorded call.
    """
    call.require_only_first()
    if call.inputs[0].ndim != call.result.ndim:
        raise NotReplayable("expand adds axes in front of the batch axis")
    shape = call.shape
    return LinearMap(lambda t: t.expand(len(t), *shape))


def along(names: str, *, default: int | None = None, optional: str = "") -> Rule:
    """Return the rule for a linear function along named axes, of which none is the batch axis.

    Args:
        names: Names of the arguments in their order, with the axes as `dim` or `dims`.
        default: The axis if none is given. None stands for all.
        optional: Names of arguments that are given by keyword only.
    """

    def rule(call: Call) -> Step:
        call.require_only_first()
        given = call.bind(f"{names} {optional}" if set(call.kwargs) & set(optional.split()) else names)
        given.setdefault("dim", given.get("dims", given.get("axis", default)))
        _require_other_axes(call, given["dim"])
        return _linear(call)

    return rule


def flip(call: Call) -> Step:
    """Return the step of a reversal of axes, given as one tuple or as several arguments.

    Args:
        call: The recorded call.
    """
    call.require_only_first()
    _require_other_axes(call, _axes(call))
    return _linear(call)


def permute(call: Call) -> Step:
    """Return the step of a reordering of axes that keeps the first in its place.

    Args:
        call: The recorded call.
    """
    call.require_only_first()
    if _axes(call)[0] % call.result.ndim != 0:
        raise NotReplayable("permute moves the batch axis")
    return _linear(call)


def transpose(call: Call) -> Step:
    """Return the step of an exchange of two axes other than the first.

    Args:
        call: The recorded call.
    """
    call.require_only_first()
    given = call.bind("input axis0 axis1" if "axis0" in call.kwargs else "input dim0 dim1")
    _require_other_axes(call, tuple(axis for name, axis in given.items() if name != "input"))
    return _linear(call)


def index(call: Call) -> Step:
    """Return the step of x[index], where the index keeps the whole batch axis.

    Args:
        call: The recorded call.
    """
    call.require_only_first()
    positions = call.args[1] if isinstance(call.args[1], tuple) else (call.args[1],)
    x = call.inputs[0]
    keeps_batch = isinstance(positions[0], slice) and positions[0] == slice(None)
    keeps_batch = keeps_batch or (positions[0] is Ellipsis and len(positions) <= x.ndim)
    if not keeps_batch:
        raise NotReplayable("indexing along the batch axis")
    if all(i is Ellipsis or isinstance(i, slice | int) for i in positions):
        if x.shape == call.result.shape:  # every slice is the whole axis
            return Identity()
        images = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
        return Slice(positions, x.shape[1:], torch.channels_last if images else torch.contiguous_format)
    lists = [i for i in positions if not (i is None or i is Ellipsis or isinstance(i, slice | int))]
    # Torch moves the axes of several lists to the front, where they would be taken for the batch axis.
    if len(lists) > 1 or (lists and any(isinstance(i, int) for i in positions)):
        raise NotReplayable("indexing by several lists")
    if lists and not (isinstance(lists[0], list) or _is_axis_index(lists[0])):
        raise NotReplayable("indexing by a mask of several axes")
    return _linear(call)


def _is_axis_index(value: Any) -> bool:
    """Return whether a tensor of positions, or a mask of one axis, indexes a single axis."""
    return isinstance(value, Tensor) and (
        value.ndim == 1 if value.dtype == torch.bool else not value.is_floating_point()
    )


def pad(call: Call) -> Step:
    """Return the step of padding, of which a constant border drops out.

    Args:
        call: The recorded call.
    """
    call.require_only_first()
    given = call.bind("input pad mode value")
    widths, kind = given["pad"], given.get("mode", "constant")
    if len(widths) // 2 >= call.result.ndim:
        raise NotReplayable("pad along the batch axis")
    if not any(widths):
        return Identity()
    return LinearMap(lambda t: F.pad(t, widths, kind, 0.0 if kind == "constant" else None))


def concatenate(call: Call) -> Step:
    """Return the step of cat. The tangent of a constant is zero.

    Args:
        call: The recorded call.
    """
    given = call.bind("tensors dim")
    pieces, dim = given["tensors"], given.get("dim", 0)
    _require_other_axes(call, dim)
    constants = [None if is_among(piece, call.inputs) else piece.shape[1:] for piece in pieces]
    if sum(one is None for one in constants) != len(call.inputs):
        raise NotReplayable("cat of tensors in another order")

    def joined(*tangents: Tensor) -> Tensor:
        given, like = iter(tangents), tangents[0]
        return torch.cat([next(given) if one is None else like.new_zeros(len(like), *one) for one in constants], dim)

    return LinearMap(joined)


def _linear(call: Call) -> LinearMap:
    """Return the step of a function that is linear in its first argument and takes any batch size."""
    func, rest, kwargs = call.func, call.args[1:], call.kwargs  # a closure over the call would hold the whole pass
    return LinearMap(lambda t: func(t, *rest, **kwargs))


def _axes(call: Call) -> tuple[Any, ...]:
    """Return the axes of a call that takes them as one tuple or as several arguments."""
    if "dims" in call.kwargs:
        return tuple(call.bind("input dims")["dims"])
    if call.kwargs:
        raise NotReplayable(f"{call.name} with unknown arguments")
    axes = call.args[1:]
    return tuple(axes[0]) if len(axes) == 1 and isinstance(axes[0], list | tuple) else axes


def _require_other_axes(call: Call, dims: Any) -> None:
    """Check that the batch axis, the first, is not among dims."""
    axes = dims if isinstance(dims, list | tuple) else (dims,)
    first = call.inputs[0]
    if any(not isinstance(axis, int) or axis % first.ndim == 0 for axis in axes):
        raise NotReplayable(f"{call.name} along the batch axis")
