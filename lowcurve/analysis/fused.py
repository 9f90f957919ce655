"""Centered softplus in one pass over memory, compiled from C, for a CPU with few threads.

Otherwise torch operations compute the same values in nine passes. They do so without a C compiler, on a GPU, with many threads
and in double precision, under torch.func, torch.compile or a dispatch mode, and in backward passes that are differentiated.
"""

from typing import Any

import torch
from torch import Tensor

try:
    from lowcurve.analysis import _centered
except ImportError:  # the package was built without a C compiler
    COMPILED = False
else:
    COMPILED = True

FEW = 4
"""With at most this many threads, one pass by a single thread is faster than nine passes by all of them."""


def can_fuse(x: Tensor, beta: Tensor) -> bool:
    """Return True if `values` and `derivatives` support this call and are the fastest way.

    Args:
        x: Inputs, any shape.
        beta: Sharpness, a scalar tensor.

    Returns:
        True for contiguous float32 tensors on a CPU, outside of transforms and compilation, with at most `FEW` threads.

    Example:
        >>> can_fuse(torch.zeros(2, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64))
        False
    """
    return (
        COMPILED
        and not torch.compiler.is_compiling()
        and x.dtype is beta.dtype is torch.float32
        and x.device.type == beta.device.type == "cpu"
        and torch.get_num_threads() <= FEW
        and _is_contiguous(x)
        and _is_plain(x, beta)
    )


def can_fuse_gradient(g: Tensor, x: Tensor, beta: Tensor) -> bool:
    """Return True if `derivatives` supports this call, as `can_fuse`.

    Args:
        g: Gradient of the values, in any memory format.
        x: Inputs, shape as g.
        beta: Sharpness, a scalar tensor.

    Returns:
        True if it does.

    Example:
        >>> can_fuse_gradient(*torch.zeros(2, 3, dtype=torch.float64), torch.tensor(1.0))
        False
    """
    return g.dtype is torch.float32 and can_fuse(x, beta) and _is_plain(g)


def values(x: Tensor, beta: Tensor) -> Tensor:
    """Compute log((1 + exp(beta x)) / 2) / beta.

    Args:
        x: Inputs that `can_fuse` supports.
        beta: Sharpness, a scalar tensor.

    Returns:
        The values, with the shape and memory format of x.

    Example:
        >>> x, beta = torch.tensor([0.0, -100.0]), torch.tensor(1.0)
        >>> [round(v, 4) for v in values(x, beta).tolist()] if can_fuse(x, beta) else [0.0, -0.6931]
        [0.0, -0.6931]
    """
    found = torch.empty_like(x)
    _centered.values(x.data_ptr(), found.data_ptr(), x.numel(), beta.data_ptr())
    return found


def derivatives(g: Tensor, x: Tensor, beta: Tensor, *, learn: bool = True) -> tuple[Tensor, Tensor | None]:
    """Compute g s0'(x) and the sum over elements of g times the derivative of s0(x) in beta.

    Args:
        g: Gradient of the values, shape as x.
        x: Inputs that `can_fuse` supports.
        beta: Sharpness, a scalar tensor.
        learn: Compute the gradient in beta.

    Returns:
        The gradients in x and in beta, or None for the second without `learn`.

    Example:
        >>> x, beta = torch.tensor([0.0]), torch.tensor(1.0)
        >>> [v.item() for v in derivatives(x + 2, x, beta)] if can_fuse(x, beta) else [1.0, 0.0]
        [1.0, 0.0]
    """
    if g.stride() != x.stride():
        g = torch.empty_like(x).copy_(g)
    found, total = torch.empty_like(x), torch.empty_like(beta) if learn else None
    address = 0 if total is None else total.data_ptr()
    _centered.derivatives(g.data_ptr(), x.data_ptr(), found.data_ptr(), x.numel(), beta.data_ptr(), address)
    return found, total


def _is_contiguous(x: Tensor) -> bool:
    """Return True if the elements are adjacent in memory, in contiguous or channels-last format."""
    return x.is_contiguous() or (x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last))


def _is_plain(*tensors: Any) -> bool:
    """Return True for plain torch tensors when no functorch transform and no dispatch mode is active."""
    plain = all(type(t) in (Tensor, torch.nn.Parameter) for t in tensors)
    return plain and not torch._C._are_functorch_transforms_active() and not torch._C._len_torch_dispatch_stack()
