"""Transposes of a recorded network's linear operations, exactly and with the absolute values of their weights."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._pytree import tree_map_only

from lowcurve.models.jacobians.bounds import refusal
from lowcurve.models.jacobians.graph import Node
from lowcurve.models.jacobians.rules import ONE_SIGN, REARRANGEMENTS, RULES
from lowcurve.models.jacobians.weighted import BATCHNORM, PRODUCTS, batchnorm_scale

SUMS = ("add", "sub", "rsub", "cat", "stack", "where", "masked_fill")
"""Operations of several values without weights."""
FACTORS = {"mul": ("self", "other"), "div": ("self", "other"), **PRODUCTS}
"""Products with a constant, and the names of both factors."""
RESHAPES = ("view", "_unsafe_view", "_reshape_alias", "unsqueeze", "squeeze", "clone", "alias")
LINEAR = {*SUMS, *FACTORS, *REARRANGEMENTS, *ONE_SIGN, *BATCHNORM, "convolution"}
LARGEST_MATRIX = 2**19
"""Largest number of entries of the matrix of a convolution."""
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
    if name != "convolution" and name not in PRODUCTS:
        RULES[name].apply(
            node
        )  # refuses arguments for which the operation is not linear, and BatchNorm in training mode


def parents_of(node: Node) -> tuple[Node, ...]:
    """Return the values that an operation depends on, each once.

    Args:
        node: The value that it computes.
    """
    return tuple(dict.fromkeys(parent for _, parent in node.parents))


def multiplications(node: Node) -> int:
    """Return the number of multiplications of a convolution or a matrix product, and 0 for other operations.

    Args:
        node: The value that it computes.
    """
    if node.call.name == "convolution":
        weight = node.call.arguments["weight"]
        # Each element of the output of a convolution, or of the input of a transposed one, meets the weights of one channel.
        place = node.parents[0][1] if node.call.arguments["transposed"] else node
        return int(place.shape.numel() * weight[0].numel())
    if node.call.name in PRODUCTS:
        left, right = (node.call.arguments[key] for key in PRODUCTS[node.call.name])
        return int(node.shape.numel() * (left.shape[-1] if len(left.shape) else right.shape[0]))
    return 0


def elements(node: Node, places: Tensor) -> list[tuple[Node, Tensor]]:
    """Return the rows that are 1 at one element of a value, or for a convolution of images already their transposes.

    The rows of a convolution are its kernel at one place each. To write them there is much faster than to multiply by it.

    Args:
        node: The value.
        places: Numbers of some of its elements.

    Returns:
        A value, and its coefficients for each element, shape (elements, ...).
    """
    given = node.call.arguments
    if node.call.name != "convolution" or len(node.shape) != 4 or given["transposed"] or given["groups"] != 1:
        rows = torch.zeros(len(places), node.shape.numel(), device=node.device)
        rows[torch.arange(len(places)), places] = 1
        return [(node, rows.view(len(places), *node.shape))]
    ((_, parent),), weight = node.parents, given["weight"].detach().float().flatten(2)
    height, breadth = parent.shape[2:]
    numbers = torch.arange(1.0, height * breadth + 1, device=node.device, dtype=torch.double).view(
        1, 1, height, breadth
    )
    words = (given["dilation"], given["padding"], given["stride"])
    met = F.unfold(numbers, given["weight"].shape[2:], *(tuple(word) for word in words))[0].long()
    pixels = met.shape[1]
    channels, where = places // pixels, met[:, places % pixels].T[:, None].expand(-1, weight.shape[1], -1)
    rows = torch.zeros(len(places), weight.shape[1], height * breadth + 1, device=node.device)
    rows.scatter_(2, where, weight[channels])  # place 0 is the padding
    return [(parent, rows[..., 1:].reshape(len(places), *parent.shape))]


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
    if len(node.parents) == 1 and (short := _shortcut(node, parents[0], dtype, absolute)) is not None:
        return short
    zeros = [torch.zeros(parent.shape, dtype=dtype, device=parent.device) for parent in parents]

    def function(*values: Tensor) -> Tensor:
        # Constants take the precision of the rows.
        return _evaluate(used, dict(zip(parents, values, strict=True)), dtype)

    if node.call.name == "convolution":
        return _convolution(used, parents[0], dtype)

    def back(rows: Tensor) -> tuple[Tensor, ...]:
        pull: Any = torch.func.vjp(function, *zeros)[1]
        found: tuple[Tensor, ...] = for_each(pull, rows)
        # Where one matrix entry belongs to each element, the absolute value of the result is the result of the absolute matrix.
        return tuple(value.abs() for value in found) if absolute else found

    return back


def _shortcut(node: Node, parent: Node, dtype: torch.dtype, absolute: bool) -> Transpose | None:
    """Return the transpose of a reshaping, or of a sum or a quotient with a constant that does not broadcast the value."""
    name, given = node.call.name, node.call.arguments
    if name in RESHAPES:
        return lambda rows: (rows.reshape(len(rows), *parent.shape),)
    if parent.shape != node.shape or node.parents[0][0] != "self":
        return None
    if name in ("add", "sub"):
        return lambda rows: (rows,)
    if name == "div" and not isinstance(given.get("other"), Node):
        divisor = torch.as_tensor(given["other"], dtype=torch.double, device=node.device).detach()
        divisor = (divisor.abs() if absolute else divisor).to(dtype)
        return lambda rows: (rows / divisor,)
    return None


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


def _convolution(node: Node, parent: Node, dtype: torch.dtype) -> Transpose:
    """Return the transpose of a convolution: a product with its matrix if that is small, which is three times as fast."""
    if node.shape[0] != 1 or node.shape.numel() * parent.shape.numel() > LARGEST_MATRIX:
        return partial(_convolution_transpose, node, parent, dtype)
    size = node.shape.numel()
    identity = torch.eye(size, dtype=dtype, device=node.device).view(size, *node.shape)
    matrix = _convolution_transpose(node, parent, dtype, identity)[0].flatten(1)
    return lambda rows: ((rows.flatten(1) @ matrix).view(len(rows), *parent.shape),)


def _convolution_transpose(node: Node, parent: Node, dtype: torch.dtype, rows: Tensor) -> tuple[Tensor, ...]:
    """Transpose a convolution for many rows in one call, which is faster than under vmap."""
    given, flat = node.call.arguments, rows.reshape(-1, *node.shape[1:])
    weight = given["weight"].detach().to(dtype)
    like = flat.new_empty(()).expand(len(flat), *parent.shape[1:])
    words = (given["stride"], given["padding"], given["dilation"], given["transposed"], given["output_padding"])
    found, _, _ = torch.ops.aten.convolution_backward(
        flat, like, weight, None, *words, given["groups"], [True, False, False]
    )
    return (found.view(len(rows), *parent.shape),)


def transpose_windows(node: Node, dtype: torch.dtype, shape: torch.Size) -> Callable[[Tensor], Tensor]:
    """Return the transpose of a convolution or an average for windows of its result, without padding.

    Args:
        node: The result.
        dtype: Precision of the coefficients.
        shape: Shape of a window, (channels, height, width).

    Returns:
        A function of coefficients, shape (rows, *shape), that returns those of the input.
    """
    given, ((_, parent),) = node.call.arguments, node.parents
    if node.call.name == "convolution":
        weight = given["weight"].detach().to(dtype)
        words = {"groups": given["groups"], "dilation": tuple(given["dilation"])}
    else:
        kernel = torch.ones(tuple(given["kernel_size"]) * (2 // len(given["kernel_size"])), dtype=dtype)
        weight = (kernel / kernel.numel()).expand(shape[0], 1, *kernel.shape).to(parent.device)
        words = {"groups": shape[0]}
    stride = tuple(given["stride"] or given["kernel_size"])

    def back(rows: Tensor) -> Tensor:
        return F.conv_transpose2d(rows, weight, None, stride, **words)

    example = back(weight.new_zeros(1, *shape))
    if shape.numel() * example.numel() > LARGEST_MATRIX:
        return back
    identity = torch.eye(shape.numel(), dtype=dtype, device=weight.device).view(-1, *shape)
    matrix = back(identity).flatten(1)
    return lambda rows: (rows.flatten(1) @ matrix).view(len(rows), *example.shape[1:])


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
