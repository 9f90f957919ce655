"""One recorded call of a torch function, and the reasons why a call cannot be replayed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lowcurve.analysis.replay.steps import Step


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

    def bind(self, names: str) -> dict[str, Any]:
        """Return the given arguments by their names.

        Args:
            names: All arguments that the rule understands, in the order of the function's parameters.

        Raises:
            NotReplayable: If an argument is not among the names, as in the deprecated `torch.add(x, 2, y)`.
        """
        order = names.split()
        if len(self.args) > len(order):
            raise NotReplayable(f"{self.name} with {len(self.args)} arguments by position")
        found = dict(zip(order, self.args, strict=False))
        for name, value in self.kwargs.items():
            if name not in order or name in found:
                raise NotReplayable(f"{self.name} with the argument {name}")
            found[name] = value
        return found

    def require_only_first(self) -> None:
        """Check that the first argument, given by position, is the only one that depends on the input.

        Raises:
            NotReplayable: If it is not.
        """
        if len(self.inputs) != 1 or not self.args or self.args[0] is not self.inputs[0]:
            raise NotReplayable(f"{self.name} in which more than the first argument depends on the input")

    @property
    def shape(self) -> torch.Size:
        """Shape of one example's result."""
        return self.result.shape[1:]


Rule = Callable[[Call], Step]
"""From a recorded call to its step."""


def is_among(value: Any, inputs: tuple[Tensor, ...]) -> bool:
    """Return whether a value is one of these tensors.

    Args:
        value: Any argument of a call.
        inputs: The tensors.
    """
    return any(value is t for t in inputs)


def split_names(text: str) -> frozenset[str]:
    """Return the function names in a text, which are separated by spaces.

    Args:
        text: Names such as "relu gelu".

    Example:
        >>> sorted(split_names("relu gelu"))
        ['gelu', 'relu']
    """
    return frozenset(text.split())
