"""Transposes of a recorded network's linear operations, exactly and with the absolute values of their weights."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from lowcurve.models.jacobians.bounds import refusal
from lowcurve.models.jacobians.graph import Node
from lowcurve.models.jacobians.rules import ONE_SIGN, REARRANGEMENTS, RULES
from lowcurve.models.jacobians.weighted import BATCHNORM, PRODUCTS, batchnorm_scale

SUMS = ("add", "sub", "rsub", "cat", "stack", "where", "masked_fill")
"""Operations of several values without weights."""
FACTORS = {"mul": ("self", "other"), "div": ("self", "other"), **PRODUCTS}
"""Products with a constant, and the names of both factors."""
LINEAR = {*SUMS, *FACTORS, *REARRANGEMENTS, *ONE_SIGN, *BATCHNORM, "convolution"}
Transpose = Callable[[Tensor], tuple[Tensor, ...]]


def require_linear(node: Node) -> None:
    """Raise an error for an operation that is not linear in what depends on the input.

    Args:
        node: The value that it computes.

    Raises:
        NotAvailable: With the operation and its layer.
    """
    name, moving = node.call.name, [name for name, _ in node.parents]
    outside = set(moving) - set(RULES[name].moving)
    if outside:
        raise refusal(node, f" whose {min(outside)!r} depends on the input")
    if any(value.dtype not in (torch.float32, torch.float64) for value in (node, *(p for _, p in node.parents))):
        raise refusal(node, " in half precision, or of integers")
    if name in FACTORS and len(moving) > 1:
        raise refusal(node, ", a product of two values that depend on the input")
    if name in BATCHNORM:
        RULES[name].apply(node)  # refuses BatchNorm in training mode


def parents_of(node: Node) -> tuple[Node, ...]:
    """Return the values that an operation depends on, each once.

    Args:
        node: The value that it computes.
    """
    return tuple(dict.fromkeys(parent for _, parent in node.parents))


def transpose(node: Node, dtype: torch.dtype, absolute: bool = False) -> Transpose:
    """Return the transpose of a linear operation, for many rows at once.

    Args:
        node: The value that it computes.
        dtype: Precision of the rows.
        absolute: Take the absolute value of each entry of its matrix.

    Returns:
        A function of rows, shape (rows, ...), that returns one tensor for each of `parents_of(node)`.
    """
    parents = parents_of(node)
    used = _absolute(node) if absolute else node
    if node.call.name in BATCHNORM:
        scale = batchnorm_scale(node).to(dtype)
        scale = (scale.abs() if absolute else scale).view(-1, *[1] * (len(node.shape) - 2))
        return lambda rows: (rows * scale,)
    zeros = [torch.zeros(parent.shape, dtype=dtype, device=parent.device) for parent in parents]

    def function(*values: Tensor) -> Tensor:
        # Constants take the precision of the rows.
        return _evaluate(used, dict(zip(parents, values, strict=True)), dtype)

    if node.call.name == "convolution":
        return partial(_convolution_transpose, used, dtype)

    def back(rows: Tensor) -> tuple[Tensor, ...]:
        pull: Any = torch.func.vjp(function, *zeros)[1]
        found: tuple[Tensor, ...] = for_each(pull, rows)
        # Where one matrix entry belongs to each element, the absolute value of the result is the result of the absolute matrix.
        return tuple(value.abs() for value in found) if absolute else found

    return back


def for_each(function: Callable[..., Any], *values: Tensor) -> Any:
    """Apply a function to each entry of the first axis, at once where torch can.

    Args:
        function: The function.
        *values: Its arguments.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
        return torch.func.vmap(function)(*(value.contiguous() for value in values))  # `view` needs contiguous values


def _evaluate(node: Node, values: Mapping[Node, Tensor], dtype: torch.dtype) -> Tensor:
    """Compute a value with constants in the given precision."""
    arguments = tree_map_only(Tensor, lambda x: x.to(dtype) if x.is_floating_point() else x, dict(node.call.arguments))
    found = node.call.run(tree_map_only(Node, values.__getitem__, arguments))
    value: Tensor = found if node.output is None else found[node.output]
    return value


def _convolution_transpose(node: Node, dtype: torch.dtype, rows: Tensor) -> tuple[Tensor, ...]:
    """Transpose a convolution for many rows in one call, which is faster than under vmap."""
    ((_, parent),), given = node.parents, node.call.arguments
    flat = rows.reshape(-1, *node.shape[1:])
    weight = given["weight"].detach().to(dtype)
    like = flat.new_empty(()).expand(len(flat), *parent.shape[1:])
    words = (given["stride"], given["padding"], given["dilation"], given["transposed"], given["output_padding"])
    found, _, _ = torch.ops.aten.convolution_backward(
        flat, like, weight, None, *words, given["groups"], [True, False, False]
    )
    return (found.view(len(rows), *parent.shape),)


def _absolute(node: Node) -> Node:
    """Return an operation with the absolute values of its weights."""
    name, arguments = node.call.name, dict(node.call.arguments)
    weights = ("weight",) if name == "convolution" else FACTORS.get(name, ())
    for key in weights:
        value: Any = arguments.get(key)
        if isinstance(value, Tensor):
            arguments[key] = value.abs()
        elif isinstance(value, int | float):
            arguments[key] = abs(value)
    return replace(node, call=replace(node.call, arguments=arguments))
