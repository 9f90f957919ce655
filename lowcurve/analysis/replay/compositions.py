"""Functions of torch that are recorded as a composition of simpler ones.

A composition computes what the function does by other functions of torch, which the recorder sees. It serves calls for which
there is no rule, or whose rule refuses their form.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lowcurve.analysis.replay.calls import DependentExamples, NotReplayable


def _layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,  # noqa: ARG001
) -> Tensor:
    return _normalize_last_axis(F.layer_norm, input, normalized_shape, weight, bias, eps)


def _rms_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    return _normalize_last_axis(F.rms_norm, input, normalized_shape, weight, None, eps)


def _normalize_last_axis(
    norm: Callable[..., Tensor],
    input: Tensor,
    shape: Sequence[int],
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float | None,
) -> Tensor:
    """Normalize over one axis without weight and bias, the form for which there is a rule."""
    if len(shape) == 1 and weight is None and bias is None:
        raise NotReplayable("a normalization that its rule refuses")  # this composition would call itself
    flat = input if len(shape) == 1 else input.flatten(-len(shape))
    return _scale(norm(flat, flat.shape[-1:], eps=eps).reshape(input.shape), weight, bias)


def _group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,  # noqa: ARG001
) -> Tensor:
    flat = input.reshape(len(input), num_groups, -1)
    found = F.layer_norm(flat, flat.shape[2:], eps=eps).reshape(input.shape)
    weight, bias = (None if one is None else one.view(-1, *[1] * (input.ndim - 2)) for one in (weight, bias))
    return _scale(found, weight, bias)


def _instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not use_input_stats:
        return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    if running_mean is not None:
        raise NotReplayable("instance_norm that updates running statistics")
    return _group_norm(input, input.shape[1], weight, bias, eps)


def _scale(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    if dropout_p > 0:
        raise DependentExamples("attention with dropout, which is random")
    if is_causal and attn_mask is not None:
        raise NotReplayable("attention with two masks, which torch refuses")
    if enable_gqa:
        key, value = (one.repeat_interleave(query.shape[-3] // one.shape[-3], -3) for one in (key, value))
    if is_causal:
        attn_mask = query.new_ones(query.shape[-2], key.shape[-2], dtype=torch.bool).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = _float_mask(~attn_mask, query)
    unseen = None if attn_mask is None else attn_mask.isneginf().all(-1, keepdim=True)
    if attn_mask is None or unseen is None or not bool(unseen.any()):
        return _attend(query, key, value, attn_mask, scale)[0]
    found = _attend(query, key, value, attn_mask.masked_fill(unseen, 0.0), scale)[0]
    return found * (~unseen).to(found.dtype)  # a row that sees nothing has weights of zero


def _attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None = None
) -> tuple[Tensor, Tensor]:
    """Return the result of attention and its weights."""
    scores = (query * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)) @ key.mT
    weights = torch.softmax(scores if mask is None else scores + mask, -1)
    return weights @ value, weights


def _multi_head_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,  # noqa: ARG001
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,  # noqa: ARG001 (the mask is given as well)
) -> tuple[Tensor, Tensor | None]:
    if training and dropout_p > 0:
        raise DependentExamples("attention with dropout, which is random")
    if query.ndim != 3 or add_zero_attn or any(one is not None for one in (bias_k, bias_v, static_k, static_v)):
        raise NotReplayable("multi_head_attention_forward with additional keys or without a batch")
    length, batch, width = query.shape
    biases = (None,) * 3 if in_proj_bias is None else in_proj_bias.chunk(3)
    if use_separate_proj_weight or in_proj_weight is None:
        weights: Any = (q_proj_weight, k_proj_weight, v_proj_weight)
    else:
        weights = in_proj_weight.chunk(3)
    if query is key is value and in_proj_weight is not None and not use_separate_proj_weight:
        projected: Any = F.linear(query, in_proj_weight, in_proj_bias).chunk(3, -1)
    else:
        projected = [F.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True)]
    q, k, v = (x.reshape(len(x), batch, num_heads, -1).permute(1, 2, 0, 3) for x in projected)
    masks = [_float_mask(attn_mask, q), _float_mask(key_padding_mask, q)]
    if masks[0] is not None and masks[0].ndim == 3:
        masks[0] = masks[0].view(batch, num_heads, length, -1)
    if masks[1] is not None:
        masks[1] = masks[1][:, None, None]
    given = [mask for mask in masks if mask is not None]
    mask = given[0] if len(given) == 1 else given[0] + given[1] if given else None
    found, attention = _attend(q, k, v, mask) if need_weights else (_attention(q, k, v, mask), None)
    found = F.linear(found.permute(2, 0, 1, 3).reshape(length, batch, width), out_proj_weight, out_proj_bias)
    return found, attention.mean(1) if attention is not None and average_attn_weights else attention


def _float_mask(mask: Tensor | None, like: Tensor) -> Tensor | None:
    """Return a mask that is added to the scores, of one that is True for what is not seen."""
    if mask is None or mask.dtype != torch.bool:
        return mask
    return like.new_zeros(mask.shape).masked_fill(mask, -math.inf)


def _divide(input: Any, other: Tensor, *, rounding_mode: str | None = None) -> Tensor:
    if rounding_mode is not None:
        raise NotReplayable("division with rounding")
    found: Tensor = input * other.reciprocal()
    return found


def _addcmul(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: float = 1) -> Tensor:
    return input + value * (tensor1 * tensor2)


def _addcdiv(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: float = 1) -> Tensor:
    return input + value * (tensor1 / tensor2)


def _lerp(input: Tensor, end: Tensor, weight: Tensor | float) -> Tensor:
    return input + weight * (end - input)


def _addmm(input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    product = mat1 @ mat2
    return (input if beta == 1 else beta * input) + (product if alpha == 1 else alpha * product)


def _glu(input: Tensor, dim: int = -1) -> Tensor:
    value, gate = input.chunk(2, dim)
    return value * torch.sigmoid(gate)


def _softmin(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Tensor:
    if dim is None or dtype is not None:
        raise NotReplayable("softmin without an axis")
    return torch.softmax(-input, dim)


def _masked_fill(input: Tensor, mask: Tensor, value: Any) -> Tensor:
    filling = value if isinstance(value, Tensor) else input.new_tensor(value)
    return torch.where(mask, filling, input)


def _bilinear(input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    found = torch.einsum("...oj,...j->...o", torch.einsum("...i,oij->...oj", input1, weight), input2)
    return found if bias is None else found + bias


def _einsum(equation: str, *operands: Any) -> Tensor:
    tensors = operands[0] if len(operands) == 1 and isinstance(operands[0], list | tuple) else operands
    words, arrow, result = equation.replace(" ", "").partition("->")
    first, second, *rest = words.split(",")
    if not rest or not arrow or "..." in equation:
        raise NotReplayable("einsum in a form that is not understood")
    kept = "".join(sorted(({*first} | {*second}) & ({*result} | {*"".join(rest)})))
    partial = torch.einsum(f"{first},{second}->{kept}", tensors[0], tensors[1])
    return torch.einsum(f"{','.join([kept, *rest])}->{result}", partial, *tensors[2:])


def _normalize(input: Tensor, p: float = 2.0, dim: Any = 1, eps: float = 1e-12, out: Any = None) -> Tensor:
    if out is not None:
        raise NotReplayable("normalize into a given tensor")
    length: Tensor = input.norm(p, dim, keepdim=True)
    return input / torch.maximum(length, length.new_tensor(eps))


def _softmax(input: Tensor, dim: int, _stacklevel: int = 3, dtype: Any = None) -> Tensor:
    if dtype is None:
        raise NotReplayable("softmax in a form that is not understood")
    return torch.softmax(input.to(dtype), dim)


def _batch_norm(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,  # noqa: ARG001
) -> Tensor:
    return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)


def _hstack(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(tensors), 1)


COMPOSITIONS: dict[str, Callable[..., Any]] = {
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "group_norm": _group_norm,
    "instance_norm": _instance_norm,
    "scaled_dot_product_attention": _attention,
    "multi_head_attention_forward": _multi_head_attention,
    **dict.fromkeys(("div", "divide", "true_divide"), _divide),
    "addcmul": _addcmul,
    "addcdiv": _addcdiv,
    "lerp": _lerp,
    **dict.fromkeys(("addmm", "baddbmm"), _addmm),
    "glu": _glu,
    "softmin": _softmin,
    "masked_fill": _masked_fill,
    "bilinear": _bilinear,
    "einsum": _einsum,
    "normalize": _normalize,
    "softmax": _softmax,
    "batch_norm": _batch_norm,
    "hstack": _hstack,
    "expand_as": lambda t, other: t.expand(other.shape),
    **dict.fromkeys(("view_as", "reshape_as"), lambda t, other: t.reshape(other.shape)),
}
"""For each function, the same by others. It takes the arguments of the function of this name in torch."""
