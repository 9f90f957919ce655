"""The table from recorded calls of torch functions to their steps on tangents.

A rule knows every argument that it accepts and refuses any other. It also refuses an operation that could mix examples or
that is random. A call with neither a rule nor a composition sends the whole function to automatic differentiation.
"""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from lowcurve.analysis.replay import layer_rules as layers
from lowcurve.analysis.replay import layout_rules as layout
from lowcurve.analysis.replay import nonlinear_rules as nonlinear
from lowcurve.analysis.replay import product_rules as products
from lowcurve.analysis.replay.calls import Call, NotReplayable, Recorded, Rule
from lowcurve.analysis.replay.derivatives import ELEMENTWISE
from lowcurve.analysis.replay.steps import Identity, LinearMap, Step
from lowcurve.network_calls import is_memory_error


def find_step(call: Call) -> Recorded:
    """Return the step of a call, and the layout of its result.

    Args:
        call: The recorded call.

    Raises:
        NotReplayable: If there is no rule for the call, or its rule refuses it.
    """
    rule = RULES.get(call.name)
    if rule is None or not is_public(call.func):
        raise NotReplayable(f"{call.name} is not among the operations that are understood")
    _require_plain(call)
    try:
        found = rule(call)
        if isinstance(found, tuple):
            step, layout = found
        else:
            step, layout = found, call.layout
            if layout.axis:
                raise NotReplayable(f"{call.name} with the batch axis behind another one")
    except NotReplayable:
        raise
    except Exception as error:  # a form of the call that its rule does not expect
        if is_memory_error(error):
            raise
        raise NotReplayable(f"{call.name} in a form that is not understood") from error
    if layout.axis >= call.result.ndim or call.result.shape[layout.axis] != call.batch * layout.inner:
        raise NotReplayable(f"{call.name} gives up the batch axis")
    return step, layout


def is_public(func: Callable[..., Any]) -> bool:
    """Return whether a function is torch's own; a registered operator may have the name of another one.

    Args:
        func: The function.
    """
    return type(func).__name__ not in ("OpOverload", "OpOverloadPacket")


def _require_plain(call: Call) -> None:
    """Check that all tensors are dense and of one precision, unless the call changes the precision."""
    for t in (*call.inputs, call.result):
        if type(t) is not Tensor or str(t.layout) != "torch.strided" or t.is_nested:
            raise NotReplayable(f"{call.name} of a tensor of another kind")
        if t.device != call.result.device or (t.dtype != call.result.dtype and RULES[call.name] is not _cast):
            raise NotReplayable(f"{call.name} between precisions or devices")


def _linear(names: str) -> Callable[[Call], Step]:
    """Rule for a function that is linear in its first argument and takes any batch size.

    Args:
        names: The arguments that are understood.
    """

    def rule(call: Call) -> Step:
        call.require_only_first()
        call.bind(names)
        func, rest, kwargs = call.func, call.args[1:], call.kwargs  # a closure over the call would hold the whole pass
        return LinearMap(lambda t: func(t, *rest, **kwargs))

    return rule


def _identity(call: Call) -> Recorded:
    call.require_only_first()
    call.bind("input memory_format")
    return Identity(), call.layout


def _cast(call: Call) -> Recorded:
    call.require_only_first()
    dtype = call.result.dtype
    return LinearMap(lambda t: t.to(dtype)), call.layout


def _broadcasting(rule: Rule) -> Rule:
    """Rule for a function of entries: any batch axis comes first, in constants too."""

    def moved(call: Call) -> Recorded:
        found = rule(call.with_batch_first(constants=True))
        assert isinstance(found, Step)
        return found, call.layout

    return moved


def _last_axes(rule: Rule) -> Rule:
    """Rule for a function along the last axis: any other may be the batch axis and comes first."""

    def moved(call: Call) -> Recorded:
        if call.layout.axis == call.inputs[0].ndim - 1 and call.inputs[0].ndim > 1:
            raise NotReplayable(f"{call.name} along the batch axis")
        found = rule(call.with_batch_first(constants=False))
        assert isinstance(found, Step)
        return found, call.layout

    return moved


def _unfold(call: Call) -> Step | Recorded:
    """Rule for windows of an image, and for those along one axis, which have the same name."""
    if call.func is F.unfold:
        return layers.batched(2, _linear("input kernel_size dilation padding stride"))(call)
    return layout.along("input dim size step")(call)


POOL = "input kernel_size stride padding ceil_mode count_include_pad"
RESIZE = "input size scale_factor mode align_corners recompute_scale_factor antialias"

RULES: Mapping[str, Rule] = {
    **dict.fromkeys(ELEMENTWISE, _broadcasting(nonlinear.elementwise)),
    "linear": _last_axes(layers.linear),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), layers.convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), layers.transposed_convolution),
    "batch_norm": layers.batch_norm,
    **dict.fromkeys(("add", "sub", "rsub"), _broadcasting(layers.add)),
    **dict.fromkeys(("mul", "multiply", "div", "divide", "true_divide"), _broadcasting(layers.multiply)),
    **dict.fromkeys(("max_pool1d", "max_pool2d", "max_pool3d"), layers.max_pool),
    **dict.fromkeys(("max_pool1d_with_indices", "max_pool2d_with_indices", "max_pool3d_with_indices"), layers.max_pool),
    **dict.fromkeys(("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d"), layers.max_pool),
    "where": _broadcasting(layers.where),
    **dict.fromkeys(("matmul", "mm", "bmm"), products.matrix_product),
    "einsum": products.einsum,
    "softmax": nonlinear.softmax,
    "layer_norm": _last_axes(nonlinear.layer_norm),
    "rms_norm": _last_axes(nonlinear.rms_norm),
    "log_softmax": nonlinear.along("input dim _stacklevel dtype"),
    "norm": nonlinear.along("input p dim keepdim dtype"),
    "linalg_vector_norm": nonlinear.along("input ord dim keepdim dtype"),
    **dict.fromkeys(("std", "var"), nonlinear.along("input dim unbiased keepdim correction")),
    **dict.fromkeys(
        ("logsumexp", "prod", "amax", "amin", "max", "min", "median"), nonlinear.along("input dim keepdim")
    ),
    **dict.fromkeys(("logcumsumexp", "cumprod"), nonlinear.along("input dim")),
    "topk": nonlinear.along("input k dim largest sorted", default=-1),
    "sort": nonlinear.along("input dim descending stable", default=-1),
    **dict.fromkeys(("gather", "take_along_dim", "scatter_add", "cosine_similarity"), nonlinear.along_pairs),
    **dict.fromkeys(("linalg_det", "det", "linalg_inv", "inverse"), nonlinear.of_examples(2)),
    **dict.fromkeys(("lp_pool1d", "local_response_norm"), nonlinear.of_examples(2)),
    "lp_pool2d": nonlinear.of_examples(3),
    **dict.fromkeys(("dropout", "dropout1d", "dropout2d", "dropout3d"), _broadcasting(layers.dropout)),
    **dict.fromkeys(("alpha_dropout", "feature_alpha_dropout"), _broadcasting(layers.dropout)),
    "avg_pool1d": layers.batched(1, _linear(POOL)),
    "avg_pool2d": layers.batched(2, _linear(f"{POOL} divisor_override")),
    "avg_pool3d": layers.batched(3, _linear(f"{POOL} divisor_override")),
    **{f"adaptive_avg_pool{n}d": layers.batched(n, _linear("input output_size")) for n in (1, 2, 3)},
    "interpolate": _linear(RESIZE),
    "upsample": _linear(RESIZE),
    "pixel_shuffle": layers.batched(2, _linear("input upscale_factor")),
    "pixel_unshuffle": layers.batched(2, _linear("input downscale_factor")),
    "channel_shuffle": _linear("input groups"),
    **dict.fromkeys(("neg", "negative", "positive"), _broadcasting(_linear("input"))),
    "clone": _identity,
    **dict.fromkeys(("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "contiguous"), layout.reshape),
    **dict.fromkeys(("expand", "broadcast_to"), layout.expand),
    **dict.fromkeys(("mean", "sum"), layout.along("input dim keepdim axis dtype")),
    "cumsum": layout.along("input dim dtype"),
    "narrow": layout.part("input dim start length"),
    "select": layout.part("input dim index"),
    "index_select": layout.along("input dim index"),
    "unbind": layout.part("input dim"),
    "chunk": layout.part("input chunks dim"),
    "split": layout.part("input split_size dim split_size_or_sections tensor"),
    "tensor_split": layout.part("input indices_or_sections dim indices sections"),
    "unfold": _unfold,
    "roll": layout.along("input shifts dims"),
    "diff": layout.along("input n dim", default=-1),
    "rot90": layout.along("input k dims"),
    **dict.fromkeys(("repeat", "tile"), layout.repeat),
    "repeat_interleave": layout.along("input repeats dim output_size"),
    "flip": layout.flip,
    **dict.fromkeys(
        ("permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "mT", "T", "t"), layout.permute
    ),
    "getitem": layout.index,
    "pad": layout.pad,
    **dict.fromkeys(("cat", "concat", "concatenate"), layout.concatenate),
    "stack": layout.stack,
    **dict.fromkeys(("to", "float", "double", "type", "type_as"), _cast),
}
"""The rule for each function. Every rule reads the positional order of the function that has this name in torch."""
