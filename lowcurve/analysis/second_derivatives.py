"""Conditions of a second derivative in torch: attention that has one, and functions that torch does not know."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import torch
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


class _MathAttention(torch.autograd.Function):
    """The identity, whose backward pass begins `math_attention` until the end of the whole backward pass."""

    @staticmethod
    def forward(ctx: Any, total: Tensor) -> Tensor:  # noqa: ARG004
        return total.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:  # noqa: ARG004
        contexts = ExitStack()
        contexts.enter_context(math_attention())
        engine = torch.autograd.Variable._execution_engine
        engine.queue_callback(contexts.close)
        return g


def repeat_math_attention(total: Tensor) -> Tensor:
    """Return a number whose backward pass repeats checkpointed attention as jets compute it, by `math_attention`.

    Otherwise a checkpoint would find other intermediate results than those of the forward pass.

    Args:
        total: The scalar that is minimized.

    Example:
        >>> w = torch.tensor(2.0, requires_grad=True)
        >>> torch.autograd.grad(repeat_math_attention(3 * w), w)[0].item()
        3.0
    """
    return _MathAttention.apply(total) if total.requires_grad else total  # type: ignore[no-untyped-call]


def graph_nodes(values: Tensor) -> Iterator[Any]:
    """Yield the nodes of the autograd graph of a tensor, each once.

    Args:
        values: Tensor with a graph.

    Example:
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
