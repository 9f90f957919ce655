"""Centered softplus in one pass over memory, where the package was built with a C compiler and a CPU has few threads.

Elsewhere, on a GPU, under torch.func, torch.compile or a dispatch mode that looks on, in double precision and in twice
differentiated backward passes, the same numbers come from torch's own operations, in nine passes.
"""

from typing import Any

import torch
from torch import Tensor

try:
    from lowcurve.models import _centered
except ImportError:  # no compiler was there
    COMPILED = False
else:
    COMPILED = True

FEW = 4
"""Threads that one pass by a single thread is faster than nine passes by."""


def takes(x: Tensor, beta: Tensor) -> bool:
    """Whether `values` and `slopes` understand this call and are what is fastest.

    Example:
        >>> takes(torch.zeros(2, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64))
        False
    """
    return (
        COMPILED
        and not torch.compiler.is_compiling()
        and x.dtype is beta.dtype is torch.float32
        and x.device.type == beta.device.type == "cpu"
        and torch.get_num_threads() <= FEW
        and _whole(x)
        and _seen_by_nobody(x, beta)
    )


def values(x: Tensor, beta: Tensor) -> Tensor:
    """log((1 + exp(beta x)) / 2) / beta, laid out as x is.

    Example:
        >>> x, beta = torch.tensor([0.0, -100.0]), torch.tensor(1.0)
        >>> [round(v, 4) for v in values(x, beta).tolist()] if takes(x, beta) else [0.0, -0.6931]
        [0.0, -0.6931]
    """
    found = torch.empty_like(x)
    _centered.values(x.data_ptr(), found.data_ptr(), x.numel(), beta.data_ptr())
    return found


def slopes(g: Tensor, x: Tensor, value: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
    """G s0'(x), and the sum of g times the derivative of s0(x) = value in beta.

    Example:
        >>> x, beta = torch.tensor([0.0]), torch.tensor(1.0)
        >>> [v.item() for v in slopes(x + 2, x, x, beta)] if takes(x, beta) else [1.0, 0.0]
        [1.0, 0.0]
    """
    if g.stride() != x.stride():
        g = torch.empty_like(x).copy_(g)
    found, total = torch.empty_like(x), torch.empty_like(beta)
    _centered.slopes(
        g.data_ptr(), x.data_ptr(), value.data_ptr(), found.data_ptr(), x.numel(), beta.data_ptr(), total.data_ptr()
    )
    return found, total


def _whole(x: Tensor) -> bool:
    """Whether its numbers lie side by side, in whatever order of axes."""
    return x.is_contiguous() or (x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last))


def _seen_by_nobody(*tensors: Any) -> bool:
    """Whether they are torch's own tensors, and no transform or mode wants to know what becomes of them."""
    plain = all(type(t) in (Tensor, torch.nn.Parameter) for t in tensors)
    return plain and not torch._C._are_functorch_transforms_active() and not torch._C._len_torch_dispatch_stack()
