"""One call of a torch function, as a recorder sees it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


class Unrecorded(Exception):
    """Why a call has no step."""


class Mixing(Unrecorded):
    """Why a call makes a field's Hessian meaningless: its examples are not independent, or it acts by chance."""


@dataclass(frozen=True)
class Call:
    """One call of a torch function: inputs are the tensors that depend on the point, in their order."""

    name: str
    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    inputs: tuple[Tensor, ...]
    result: Tensor

    def argument(self, place: int, name: str, default: Any = None) -> Any:
        """An argument given by place or by name."""
        return self.args[place] if len(self.args) > place else self.kwargs.get(name, default)

    @property
    def shape(self) -> torch.Size:
        """Of one example's result."""
        return self.result.shape[1:]


def names(words: str) -> frozenset[str]:
    """Names of calls, written in a row.

    Example:
        >>> sorted(names("relu gelu"))
        ['gelu', 'relu']
    """
    return frozenset(words.split())
