"""One recorded call of a torch function, and the reasons why a call cannot be replayed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


class NotReplayable(Exception):
    """The reason why a call has no step."""


class DependentExamples(NotReplayable):
    """The reason why a field has no Hessian per example: its examples are not independent, or it is random."""


@dataclass(frozen=True)
class Call:
    """One call of a torch function.

    Attributes:
        name: Name of the function.
        func: The function itself.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        inputs: The arguments that depend on the point, in order.
        result: The result.
    """

    name: str
    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    inputs: tuple[Tensor, ...]
    result: Tensor

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """Return an argument that is given by position or by name.

        Args:
            position: Its position.
            name: Its name.
            default: Its value if it is not given.
        """
        return self.args[position] if len(self.args) > position else self.kwargs.get(name, default)

    @property
    def shape(self) -> torch.Size:
        """Shape of one example's result."""
        return self.result.shape[1:]


def split_names(text: str) -> frozenset[str]:
    """Return the function names in a text, which are separated by spaces.

    Args:
        text: Names such as "relu gelu".

    Example:
        >>> sorted(split_names("relu gelu"))
        ['gelu', 'relu']
    """
    return frozenset(text.split())
