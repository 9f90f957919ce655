"""Find the tensors in nested values."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor


def tensors(value: Any) -> Iterator[Tensor]:
    """Iterate over the tensors in nested tuples, lists and dictionaries.

    Args:
        value: Any value.

    Yields:
        The tensors, in order.

    Example:
        >>> import torch
        >>> len(list(tensors((torch.zeros(1), {"a": [torch.zeros(2), 3]}))))
        2
    """
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from tensors(tuple(value.values()))
    elif isinstance(value, tuple | list):
        for part in value:
            yield from tensors(part)
