"""Several vectors per example, stacked along the batch axis: row k * batch + i is vector k of example i."""

from collections.abc import Callable

import torch
from torch import Tensor


def multiply(stacked: Tensor, factor: Tensor | float, *, inplace: bool = False) -> Tensor:
    """Return stacked * factor, where each example's factor multiplies all of its vectors.

    Args:
        stacked: Several vectors per example, shape (vectors * batch, ...).
        factor: A number, or a tensor that broadcasts to one vector per example.
        inplace: Overwrite `stacked`. Otherwise the result has the memory format of the factor.
    """
    if isinstance(factor, Tensor) and _vectors_per_factor(stacked, factor) > 1:
        vectors = unstack(stacked, len(factor))
        return vectors.mul_(factor).flatten(0, 1) if inplace else (factor * vectors).flatten(0, 1)
    return stacked.mul_(factor) if inplace else factor * stacked


def unstack(stacked: Tensor, batch: int) -> Tensor:
    """Return a view of shape (vectors, batch, ...).

    Args:
        stacked: Several vectors per example, shape (vectors * batch, ...).
        batch: Number of examples.
    """
    return stacked.view(-1, batch, *stacked.shape[1:])


def each_vector(function: Callable[..., Tensor], batch: int, *stacked: Tensor) -> Tensor:
    """Apply a function of one vector per example to each vector in turn.

    Args:
        function: Takes and returns tensors of shape (batch, ...).
        batch: Number of examples.
        stacked: Several vectors per example, shape (vectors * batch, ...) each.
    """
    if len(stacked[0]) == batch:
        return function(*stacked)
    return torch.cat([function(*vectors) for vectors in zip(*(unstack(t, batch) for t in stacked), strict=True)])


def take_examples(values: Tensor, rows: Tensor) -> Tensor:
    """Return the values of some examples; values that all examples share are returned whole.

    Args:
        values: A scalar, or a tensor with a first axis of length 1 or batch.
        rows: Indices of the examples.
    """
    return values if values.ndim == 0 or len(values) == 1 else values[rows]


def _vectors_per_factor(stacked: Tensor, factor: Tensor) -> int:
    """Return the number of vectors per example, or 1 where plain broadcasting is right."""
    batch = len(factor) if factor.ndim == stacked.ndim else 1
    return 1 if batch == 1 else len(stacked) // batch
