"""The nouns of the house and their shapes.

Everything outside a model speaks pixels in [0, 1]; normalization is the model's own first layer. The letters in the
shapes: `batch` examples, `classes` logits, `...` whatever shape one input has (an image, or a point of the plane).
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
"""x -> l(x): one number per example, and d l_i / d x_j = 0 for i != j."""
Operator = Callable[[Tensor], Tensor]
"""v -> H v: one matrix per example, applied to one vector per example."""
Vectors = Float[Tensor, "vectors batch ..."]
"""Several vectors an example."""
Measure = Callable[[Field, Tensor], Tensor | Mapping[str, Tensor]]
"""A field and a point -> one number per example, or several named ones that share their cost."""

T = TypeVar("T")
Progress = Callable[[Iterable[T], str], Iterable[T]]
"""Wraps an iterable of known length under a heading and shows how far it is."""


@runtime_checkable
class LogitField(Protocol):
    """A field that shows its two halves, x -> z and z -> l; `losses.LossField` is one."""

    def __call__(self, x: Tensor) -> Tensor: ...

    def logits(self, x: Tensor) -> Tensor: ...

    def from_logits(self, logits: Tensor) -> Tensor: ...


@runtime_checkable
class IndexableField(Protocol):
    """A field that can be had for some of its examples alone, or for each of them several times."""

    def __call__(self, x: Tensor) -> Tensor: ...

    def take(self, rows: Tensor) -> "IndexableField": ...


@runtime_checkable
class BatchedOperator(Protocol):
    """An operator that gives several products at once, and that can leave examples aside."""

    def __call__(self, v: Tensor) -> Tensor: ...

    def apply_many(self, vectors: Tensor) -> Tensor:
        """H v for each of several vectors an example, shape (vectors, batch, ...)."""
        ...

    def take(self, rows: Tensor) -> "BatchedOperator":
        """The operator of these examples alone; rows: their numbers."""
        ...


@runtime_checkable
class AttackFunction(Protocol):
    """x -> x' with x' inside a ball around x; returns inputs and nothing else."""

    def __call__(self, model: Classifier, x: Tensor, y: Tensor, *, generator: torch.Generator) -> Tensor: ...


def silent(iterable: Iterable[T], heading: str) -> Iterable[T]:  # noqa: ARG001 (the signature of Progress)
    """The `Progress` that shows nothing.

    Example:
        >>> list(silent([1, 2], "counting"))
        [1, 2]
    """
    return iterable
