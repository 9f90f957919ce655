"""Types that the whole package shares, and their shapes.

Everything outside a model uses pixels in [0, 1]; normalization is the model's own first layer. The letters in the shapes:
`batch` examples, `classes` logits, and `...` the shape of one input, which is an image or a point of the plane.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

Inputs = Float[Tensor, "batch ..."]
Labels = Int[Tensor, " batch"]
Logits = Float[Tensor, "batch classes"]
PerExample = Float[Tensor, " batch"]

Classifier = Callable[[Tensor], Tensor]
"""Pixels in [0, 1] -> logits."""
Loss = Callable[[Tensor, Tensor], Tensor]
"""Logits, labels -> one number per example; never reduced."""
Field = Callable[[Tensor], Tensor]
"""x -> l(x): one number per example, with d l_i / d x_j = 0 for i != j."""
Operator = Callable[[Tensor], Tensor]
"""v -> H v: one matrix per example, applied to one vector per example."""
Vectors = Float[Tensor, "vectors batch ..."]
"""Several vectors per example."""
Measure = Callable[[Field, Tensor], Tensor | Mapping[str, Tensor]]
"""A field and a point -> one number per example, or several named ones that share their cost."""

T = TypeVar("T")
Progress = Callable[[Iterable[T], str], Iterable[T]]
"""Wraps an iterable of known length under a heading and shows its progress."""


@runtime_checkable
class LogitField(Protocol):
    """A field that shows its logits: x -> z and z -> l. `losses.LossField` is one."""

    def __call__(self, x: Tensor) -> Tensor:
        """Return l(x), shape (batch,)."""
        ...

    def logits(self, x: Tensor) -> Tensor:
        """Return the logits z(x), shape (batch, classes)."""
        ...

    def from_logits(self, logits: Tensor) -> Tensor:
        """Return the values l(z), shape (batch,)."""
        ...


@runtime_checkable
class RepeatableField(Protocol):
    """A field whose passes can all draw the same random numbers."""

    def __call__(self, x: Tensor) -> Tensor:
        """Return l(x), shape (batch,)."""
        ...

    def repeating_draws(self) -> "RepeatableField":
        """Return the field whose passes draw the same numbers from its next pass on."""
        ...


@runtime_checkable
class IndexableField(Protocol):
    """A field that can be restricted to some of its examples, each once or repeatedly."""

    def __call__(self, x: Tensor) -> Tensor:
        """Return l(x), shape (batch,)."""
        ...

    def take(self, rows: Tensor) -> "IndexableField":
        """Return the field of the examples with these indices."""
        ...


@runtime_checkable
class NetworkField(Protocol):
    """A field of a network, which the fields of other batches share."""

    @property
    def model(self) -> Classifier:
        """The network."""
        ...

    @property
    def kind(self) -> str:
        """Name of what follows the network."""
        ...

    def __call__(self, x: Tensor) -> Tensor:
        """Return l(x), shape (batch,)."""
        ...

    def with_model(self, model: Classifier) -> "NetworkField":
        """Return the same field of another network."""
        ...


@runtime_checkable
class BatchedOperator(Protocol):
    """An operator that gives several products at once, and that can be restricted to some examples."""

    def __call__(self, v: Tensor) -> Tensor:
        """Return H v, shape (batch, ...)."""
        ...

    def apply_many(self, vectors: Tensor) -> Tensor:
        """Return H v for several vectors per example, shape (vectors, batch, ...)."""
        ...

    def take(self, rows: Tensor) -> "BatchedOperator":
        """Return the operator of the examples with these indices."""
        ...


@runtime_checkable
class AttackFunction(Protocol):
    """A function x -> x' with x' inside a ball around x. It returns the inputs and nothing else."""

    def __call__(self, model: Classifier, x: Tensor, y: Tensor, *, generator: torch.Generator) -> Tensor:
        """Return the attacked inputs, shape (batch, ...)."""
        ...


def silent(iterable: Iterable[T], heading: str) -> Iterable[T]:  # noqa: ARG001 (the signature of Progress)
    """Return the iterable as it is: the `Progress` that shows nothing.

    Args:
        iterable: Items of known length.
        heading: Not used.

    Example:
        >>> list(silent([1, 2], "counting"))
        [1, 2]
    """
    return iterable
