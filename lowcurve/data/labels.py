"""Turn labels, as users have them, into class numbers. Nothing is rounded: what is not exactly a class number is refused."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from lowcurve.errors import InputError

Labels: TypeAlias = Tensor | np.ndarray | Sequence[int]
LARGEST = 1_000_000
"""More classes than this are a mistake, such as identity numbers as labels."""


def as_labels(labels: Any) -> Tensor:
    """Return labels as class numbers, shape (N,) and type int64.

    Args:
        labels: Class numbers of any integer type, true and false, floating-point numbers that are whole, or one-hot rows.
            The shape (N, 1) counts as (N,).

    Raises:
        InputError: If the labels are not exactly class numbers.

    Example:
        >>> as_labels([[0.0], [2.0]]), as_labels(np.eye(3, dtype=np.uint8)[[2, 0]]), as_labels([True, False])
        (tensor([0, 2]), tensor([2, 0]), tensor([1, 0]))
    """
    if isinstance(labels, list | tuple) and labels and isinstance(labels[0], Tensor):
        labels = torch.stack([label.reshape(label.shape if label.numel() != 1 else ()) for label in labels])
    try:
        y = labels if isinstance(labels, Tensor) else torch.from_numpy(own_array(np.asarray(labels)))
    except (TypeError, ValueError) as error:
        raise InputError("whole numbers as labels", type(labels).__name__, "number the classes from 0") from error
    y = y[None] if y.ndim == 0 else y
    if y.ndim > 1 and y.numel() == len(y):
        y = y.reshape(len(y))
    if y.ndim == 2 and len(y):
        marked = (y == 1).long()
        if bool(((y == 0) | (y == 1)).all()) and bool((marked.sum(1) == 1).all()):
            return marked.argmax(1)
    if y.ndim != 1:
        raise InputError("one label for each image", f"labels of shape {tuple(y.shape)}", "write labels.argmax(1)")
    if len(y) and (y.is_floating_point() or y.is_complex()):
        broken = y.is_complex() | ~(y.real.frac() == 0) | (y.real.abs() > LARGEST)
        if bool(broken.any()):
            received = f"{y.dtype} with the value {y[broken][0].item():g}"
            raise InputError("whole numbers as labels", received, "number the classes from 0")
    return y.to(torch.int64)


def require_classes(y: Tensor, name: str = "labels") -> None:
    """Refuse class numbers that are negative or too large to count the classes by them.

    Args:
        y: Class numbers.
        name: What they are, in the error.

    Raises:
        InputError: If a number is below 0 or above `LARGEST`.
    """
    if not len(y):
        return
    low, high = int(y.min()), int(y.max())
    if low < 0:
        raise InputError(f"{name} of at least 0", low, "leave out examples without a label")
    if high > LARGEST:
        raise InputError(f"{name} of at most {LARGEST:,}", f"{high:,}", "number the classes from 0")


def own_array(array: np.ndarray) -> np.ndarray:
    """Copy an array that torch cannot share: one that is read-only, strided or of another byte order."""
    return np.require(array, array.dtype.newbyteorder("="), ["C", "W"])
