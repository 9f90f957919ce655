"""Conditions of a second derivative in torch: attention that has one, and functions that torch does not know."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.nn.attention import SDPBackend, sdpa_kernel


def math_attention() -> AbstractContextManager[None]:
    """Return a context in which attention consists of separate products, which have a second derivative.

    The fused kernels of `scaled_dot_product_attention` have none.

    Cost: 20 microseconds.
    """
    context: AbstractContextManager[None] = sdpa_kernel(SDPBackend.MATH)
    return context


def graph_nodes(values: Tensor) -> Iterator[Any]:
    """Yield the nodes of the autograd graph of a tensor, each once.

    Args:
        values: Tensor with a graph.

    Example:
        >>> import torch
        >>> [type(node).__name__ for node in graph_nodes(torch.ones(2, requires_grad=True).relu())]
        ['ReluBackward0', 'AccumulateGrad']
    """
    waiting, known = [values.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in known:
            known.add(node)
            yield node
            waiting += [following for following, _ in node.next_functions]


def custom_functions(values: Tensor) -> list[str]:
    """Return the names of the autograd functions in a tensor's graph that are neither torch's nor this package's.

    Args:
        values: Tensor with a graph.

    Example:
        >>> import torch
        >>> custom_functions(torch.ones(2, requires_grad=True).relu())
        []
    """
    names = set()
    for node in graph_nodes(values):
        if isinstance(node, BackwardCFunction):
            written = getattr(type(node), "_forward_cls", type(node))
            if not written.__module__.startswith("lowcurve."):
                names.add(written.__name__)
        elif "CppNode" in node.name():
            names.add(node.name())
    return sorted(names)
