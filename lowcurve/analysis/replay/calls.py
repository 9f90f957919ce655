"""One recorded call of a torch function, and the reasons why a call cannot be replayed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lowcurve.analysis.replay.steps import Step


class NotReplayable(Exception):
    """The reason why a call has no step."""


class DependentExamples(NotReplayable):
    """The reason why a field has no Hessian per example: its examples are not independent, or it is random."""


@dataclass(frozen=True)
class Layout:
    """The place of the examples in a tensor: row i * inner + j along `axis` belongs to example i.

    Steps see every tensor with this axis first.

    Attributes:
        axis: The batch axis.
        inner: Rows of one example, such as its windows or heads.
    """

    axis: int = 0
    inner: int = 1

    def front(self, t: Tensor) -> Tensor:
        """Return the tensor with the batch axis first.

        Args:
            t: A tensor of this layout.
        """
        return t.movedim(self.axis, 0) if self.axis else t

    def back(self, t: Tensor) -> Tensor:
        """Return a tensor whose batch axis is first in this layout.

        Args:
            t: The tensor.
        """
        return t.movedim(0, self.axis) if self.axis else t


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
        layouts: The layouts of the inputs.
        batch: Number of examples.
    """

    name: str
    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    inputs: tuple[Tensor, ...]
    result: Tensor
    layouts: tuple[Layout, ...]
    batch: int

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

    def require_axes(self) -> None:
        """Check that every tensor that depends on the input has the result's axes, so that its first is the batch axis.

        Raises:
            NotReplayable: If one has not.
        """
        if any(t.ndim != self.result.ndim or len(t) != len(self.result) for t in self.inputs):
            raise NotReplayable(f"{self.name} of tensors with different axes")

    @property
    def layout(self) -> Layout:
        """The layout that all inputs share.

        Raises:
            NotReplayable: If they have several.
        """
        if len(set(self.layouts)) > 1:
            raise NotReplayable(f"{self.name} of tensors whose examples lie along different axes")
        return self.layouts[0]

    @property
    def shape(self) -> torch.Size:
        """Shape of one example's result."""
        return self.result.shape[1:]

    @property
    def rows(self) -> int:
        """Length of the inputs' batch axis."""
        return self.batch * self.layout.inner

    def front_axis(self, axis: Any) -> int:
        """Return the position of an input's axis once the batch axis is first.

        Args:
            axis: The axis in the call.

        Raises:
            NotReplayable: If it is the batch axis, or not an integer.
        """
        at = self.layout.axis
        found = axis % self.inputs[0].ndim if isinstance(axis, int) else at
        if found == at:
            raise NotReplayable(f"{self.name} along the batch axis")
        return found + 1 if found < at else found

    def with_batch_first(self, *, constants: bool) -> "Call":
        """Return the call with the batch axis first in its inputs and its result.

        Args:
            constants: Whether constant tensors broadcast against the inputs, so that their axes move as well.
        """
        layout, axes = self.layout, self.result.ndim
        if not layout.axis:
            return self
        moved = {id(t): layout.front(t) for t in self.inputs}

        def move(value: Any) -> Any:
            if not isinstance(value, Tensor) or id(value) in moved or not constants or value.ndim == 0:
                return moved.get(id(value), value)
            return layout.front(value[(None,) * (axes - value.ndim)])

        return replace(
            self,
            args=tuple(move(value) for value in self.args),
            kwargs={name: move(value) for name, value in self.kwargs.items()},
            inputs=tuple(moved[id(t)] for t in self.inputs),
            result=layout.front(self.result),
            layouts=(Layout(0, layout.inner),) * len(self.layouts),
        )


Recorded = tuple[Step, Layout]
"""A call's step, and the layout of its result."""
Rule = Callable[[Call], Step | Recorded]
"""From a recorded call to its step. Without a layout, the result has that of the inputs, and their batch axis is first."""


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
