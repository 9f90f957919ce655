"""Rules for layers and arithmetic: convolutions, normalization, pooling, sums, products and masks."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lowcurve.analysis.double_backward import channel_factor
from lowcurve.analysis.replay.calls import Call, DependentExamples, NotReplayable, Rule, is_among
from lowcurve.analysis.replay.curved_steps import ElementwiseProduct
from lowcurve.analysis.replay.derivatives import elementwise_step
from lowcurve.analysis.replay.steps import (
    Identity,
    LinearMap,
    MaskedSum,
    MaxPool,
    Scale,
    Step,
    Sum,
    WeightLayer,
)

CONVOLUTION = "input weight bias stride padding dilation groups"
TRANSPOSED = "input weight bias stride padding output_padding groups dilation"
BATCH_NORM = "input running_mean running_var weight bias training momentum eps"
MAX_POOL = "input kernel_size stride padding dilation ceil_mode return_indices"


def linear(call: Call) -> Step:
    """Return the step of a linear layer, whose output channels are the last axis.

    Args:
        call: The recorded call.
    """
    call.require_only_first()
    weight = call.bind("input weight bias")["weight"].detach()
    if weight.ndim != 2:
        raise NotReplayable("linear with a weight that is no matrix")
    return WeightLayer(call.func, weight, {}, call.result.ndim - 1)


def convolution(call: Call) -> Step:
    """Return the step of a convolution, whose output channels are the second axis.

    Args:
        call: The recorded call.
    """
    given, weight = _batched_weight(call, CONVOLUTION)
    lengths = weight.shape[2:]
    defaults = {"stride": 1, "padding": 0, "dilation": 1}
    stride, padding, dilation = (_per_axis(given.get(name, one), len(lengths)) for name, one in defaults.items())
    groups, func = given.get("groups", 1), call.func
    if padding in ("valid", "same"):
        around = [d * (k - 1) * (padding == "same") for k, d in zip(lengths, dilation, strict=True)]
        if any(n % 2 for n in around):
            return LinearMap(lambda t: func(t, weight, None, stride, padding, dilation, groups))
        padding = tuple(n // 2 for n in around)
    geometry = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    return WeightLayer(func, weight, geometry, 1)


def transposed_convolution(call: Call) -> Step:
    """Return the step of a transposed convolution.

    Args:
        call: The recorded call.
    """
    given, weight = _batched_weight(call, TRANSPOSED)
    settings = {name: value for name, value in given.items() if name not in ("input", "weight", "bias")}
    func = call.func
    return LinearMap(lambda t: func(t, weight, None, **settings))


def _batched_weight(call: Call, names: str) -> tuple[dict[str, Any], Tensor]:
    call.require_only_first()
    given = call.bind(names)
    weight = given["weight"].detach()
    if call.inputs[0].ndim != weight.ndim:
        raise NotReplayable(f"{call.name} of an input without a batch axis")
    return given, weight


def _per_axis(value: Any, axes: int) -> Any:
    """Repeat a single number for every axis; keep a name such as "same"."""
    if isinstance(value, str):
        return value
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * axes if len(values) == 1 else values


def add(call: Call) -> Step:
    """Return the step of a + alpha b, a - alpha b or b - a. Constants drop out, but their broadcasting stays.

    Args:
        call: The recorded call.
    """
    given = call.bind("input other alpha") if "alpha" in call.kwargs else call.bind("input other")
    first, alpha = given["input"], given.get("alpha", 1)
    signs = {"add": (1, alpha), "sub": (1, -alpha), "rsub": (-alpha, 1)}[call.name]
    call.require_axes()
    if len(call.inputs) == 2:
        return Sum(signs if call.inputs[0] is first else (signs[1], signs[0]))
    sign = signs[0] if first is call.inputs[0] else signs[1]
    if sign == 1 and call.inputs[0].shape == call.result.shape:
        return Identity()
    shape = call.shape
    return LinearMap(lambda t: (sign * t).expand(len(t), *shape))


def multiply(call: Call) -> Step:
    """Return the step of a b or a / b: a scaling if one of them is a constant, else the product rule.

    Args:
        call: The recorded call.
    """
    given = call.bind("input other rounding_mode" if "div" in call.name else "input other")
    first, second = given["input"], given["other"]
    if given.get("rounding_mode") is not None:
        raise NotReplayable("division with rounding")
    call.require_axes()
    is_product = "mul" in call.name
    if len(call.inputs) == 2:
        if not is_product:
            raise NotReplayable("a quotient of two parts of the network")
        return ElementwiseProduct(call.inputs[0].detach(), call.inputs[1].detach())
    if is_product:
        return Scale(_align(second if first is call.inputs[0] else first, call))
    if first is not call.inputs[0]:
        return elementwise_step(call)
    factor = _align(second, call)
    return Scale(factor.to(call.result.dtype).reciprocal() if isinstance(factor, Tensor) else 1 / factor)


def batch_norm(call: Call) -> Step:
    """Return the step of batch normalization with running statistics: one factor per channel.

    Args:
        call: The recorded call.
    """
    if call.func is not F.batch_norm:
        raise NotReplayable("torch.batch_norm, whose arguments have another order")
    call.require_only_first()
    given = call.bind(BATCH_NORM)
    variance = given.get("running_var")
    if given.get("training", False) or given.get("running_mean") is None or variance is None:
        raise DependentExamples("BatchNorm in training mode, which mixes examples")
    factor = channel_factor(variance, given.get("weight"), given.get("eps", 1e-5))
    return Scale(factor.detach().view(1, -1, *[1] * (call.result.ndim - 2)))


def max_pool(call: Call) -> Step:
    """Return the step of a max-pooling, from the positions of its maxima.

    Args:
        call: The recorded call.
    """
    name = call.name.removesuffix("_with_indices")
    axes = int(name[-2])
    _require_batched(call, axes)
    given = call.bind("input output_size return_indices" if "adaptive" in call.name else MAX_POOL)
    settings = {name: value for name, value in given.items() if name not in ("input", "return_indices")}
    pool = getattr(F, f"{name}_with_indices")
    return MaxPool(pool(call.inputs[0].detach(), **settings)[1].flatten(-axes), call.shape)


def batched(axes: int, rule: Callable[[Call], Step]) -> Rule:
    """Return the rule for calls on batches of channels only.

    Args:
        axes: Number of axes behind the batch axis and the channels.
        rule: The rule for such a call.
    """

    def checked(call: Call) -> Step:
        _require_batched(call, axes)
        return rule(call)

    return checked


def _require_batched(call: Call, axes: int) -> None:
    call.require_only_first()
    if call.inputs[0].ndim != axes + 2:
        raise NotReplayable(f"{call.name} of an input without a batch axis")


def where(call: Call) -> Step:
    """Return the step of a choice between two tensors: each tangent times its mask.

    Args:
        call: The recorded call.
    """
    given = call.bind("condition input other" if call.func is torch.where else "input condition other")
    condition, sides = given["condition"], (given["input"], given["other"])
    call.require_axes()
    if condition.dtype != torch.bool or len(call.inputs) != sum(is_among(side, call.inputs) for side in sides):
        raise NotReplayable("where with a condition that is no mask")
    if len(call.inputs) == 2:
        _require_order(call, *sides)
    masks = [_align(c, call).to(call.result.dtype) for c in (condition, ~condition)]
    return MaskedSum(tuple(mask for mask, side in zip(masks, sides, strict=True) if is_among(side, call.inputs)))


def dropout(call: Call) -> Step:
    """Return the step of dropout in eval mode: the identity.

    Args:
        call: The recorded call.
    """
    call.require_only_first()
    given = call.bind("input p training inplace")
    if given.get("training", True) and given.get("p", 0.5) > 0:
        raise DependentExamples(f"{call.name} in training mode, which is random")
    return Identity()


def _align(factor: Any, call: Call) -> Any:
    """Give a constant all axes of the result. The first has length 1 if the constant is the same for every example."""
    if not isinstance(factor, Tensor):
        return factor
    return factor.detach().reshape(*[1] * (call.result.ndim - factor.ndim), *factor.shape)


def _require_order(call: Call, first: Any, second: Any) -> None:
    """Check that the two tensors are recorded in this order."""
    if len(call.inputs) != 2 or call.inputs[0] is not first or call.inputs[1] is not second:
        raise NotReplayable(f"{call.name} with its arguments in another order")
