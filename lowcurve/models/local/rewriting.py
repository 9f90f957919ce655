"""Recorded operations of several values, written as operations that have local bounds."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from lowcurve.models.jacobians.graph import Call, InputGraph, Node

OF_TWO = ("maximum", "minimum")
"""Operations of two values that are rewritten."""
LEAST = "amin"


def rewrite(graph: InputGraph) -> InputGraph:
    """Return a network with the same values, without maxima and minima of two values and minima over axes.

    max(a, b) = b + relu(a - b), min(a, b) = a - relu(a - b), and the minimum over axes is -max(-a).

    Args:
        graph: The recorded network.

    Returns:
        The network. Operations before the first that is rewritten stay the same.
    """
    nodes: list[Node] = []
    new: dict[Node, Node] = {}
    for node in graph.nodes:
        arguments = tree_map_only(Node, lambda parent: new.get(parent, parent), dict(node.call.arguments))
        changed = any(parent in new for _, parent in node.parents)
        same = replace(node, call=replace(node.call, arguments=arguments)) if changed else node
        rewritten = list(_parts(same))
        nodes += rewritten
        if rewritten[-1] is not node:
            new[node] = rewritten[-1]
    return InputGraph(tuple(nodes))


def _parts(node: Node) -> Iterator[Node]:
    """Yield the operations that compute a value; the last one is the value."""
    name, given = node.call.name, node.call.arguments
    if name in OF_TWO and len(node.parents) == 2:
        a, b = given["self"], given["other"]
        difference = _derived(node, node.shape, "sub", torch.sub, {"self": a, "other": b, "alpha": 1})
        above = _derived(node, node.shape, "relu", torch.relu, {"self": difference})
        yield from (difference, above)
        if name == "maximum":
            yield _derived(node, node.shape, "add", torch.add, {"self": b, "other": above, "alpha": 1})
        else:
            yield _derived(node, node.shape, "sub", torch.sub, {"self": a, "other": above, "alpha": 1})
    elif name == LEAST:
        start: Node = given["self"]
        negative = _derived(node, start.shape, "mul", torch.mul, {"self": start, "other": -1.0})
        most = _derived(node, node.shape, "amax", torch.amax, {**given, "self": negative})
        yield from (negative, most)
        yield _derived(node, node.shape, "mul", torch.mul, {"self": most, "other": -1.0})
    else:
        yield node


def _derived(
    node: Node, shape: torch.Size, name: str, function: Callable[..., Tensor], arguments: Mapping[str, Any]
) -> Node:
    """Return a value that one of torch's functions computes in place of a recorded operation."""
    names = {"self": "input"}

    def run(given: Mapping[str, Any]) -> Tensor:
        return function(**{names.get(key, key): value for key, value in given.items()})

    return Node(Call(name, run, arguments, node.call.layer), shape, node.dtype, node.device)
