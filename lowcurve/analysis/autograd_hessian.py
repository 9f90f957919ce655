"""Products with the Hessian of any field by double backward through a stored graph."""

from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import NoReturn

import torch
from torch import Tensor

from lowcurve.analysis.calculus import Jet, pullback, require_per_example_values
from lowcurve.analysis.double_backward import TwiceDifferentiable
from lowcurve.analysis.second_derivatives import math_attention
from lowcurve.errors import InputError
from lowcurve.network_calls import gradients_enabled, without_inference
from lowcurve.types import Field, IndexableField, Inputs, PerExample


@dataclass(frozen=True)
class AutogradHessian:
    """v -> H v as the derivative of <grad l(x), v>, with the graph of the gradient stored.

    Cost: 0.9 of a gradient for each product on a ResNet-20, and 2 where layers are left to torch.

    Attributes:
        field: Per-example loss as a function of the input.
        x: Inputs, shape (batch, ...).
        backend: How the products are computed, and why not by replay.
        own_layers: Use this package's layers, which take half the time of torch's.
        curved: True. Nothing is known about the field.
    """

    field: Field
    x: Inputs
    backend: str
    own_layers: bool = True
    curved = True

    @cached_property
    def _repeated(self) -> dict[int, "AutogradHessian | _Subset"]:
        """The operator with each example repeated, for the last number of vectors only, because it holds a graph."""
        return {}

    @cached_property
    def _jet(self) -> Jet:
        def field(x: Inputs) -> PerExample:
            with TwiceDifferentiable(weights=False) if self.own_layers else nullcontext():
                return self.field(x)

        jet = Jet(field, self.x)
        require_per_example_values(jet.values, self.x)
        return jet

    @property
    def values(self) -> PerExample:
        """The values l(x), with their graph."""
        return self._jet.values

    @property
    def gradient(self) -> Tensor:
        """The gradients grad l(x), shape (batch, ...)."""
        return self._jet.gradient.detach()

    @gradients_enabled()
    def __call__(self, v: Tensor) -> Tensor:
        """Return H v for one vector per example, shape (batch, ...)."""
        first = self._jet.gradient
        with math_attention():
            return pullback(first, self._jet.x, without_inference(v), retain_graph=True)

    def apply_many(self, vectors: Tensor) -> Tensor:
        """Return H v for several vectors per example, in one batch if the field is an `IndexableField`.

        Args:
            vectors: Shape (vectors, batch, ...).
        """
        count, batch = vectors.shape[:2]
        if count == 1 or not isinstance(self.field, IndexableField):
            return torch.stack([self(v) for v in vectors])
        if count not in self._repeated:
            self._repeated.clear()
            self._repeated[count] = self.take(torch.arange(batch, device=vectors.device).repeat(count))
        return self._repeated[count](vectors.flatten(0, 1)).view(vectors.shape)

    def only(self, part: str) -> NoReturn:  # noqa: ARG002 (the signature of the replayed operator)
        """Refuse to split the Hessian, because only a replayed one can be split.

        Args:
            part: Name of the part. Not used.

        Raises:
            InputError: Always.
        """
        hint = "measure the whole Hessian, as Curvature does"
        raise InputError("a field whose operations can be replayed, to split its Hessian", f"one {self.backend}", hint)

    def take(self, rows: Tensor) -> "AutogradHessian | _Subset":
        """Return the operator for some of the examples. Without an `IndexableField`, its products cost as much as for all.

        Args:
            rows: Indices of the examples.
        """
        if isinstance(self.field, IndexableField):
            return AutogradHessian(self.field.take(rows), self.x[rows], self.backend, self.own_layers)
        return _Subset(self, rows)


@dataclass(frozen=True)
class _Subset:
    """Some examples of an operator that is only known for the whole batch."""

    whole: AutogradHessian
    rows: Tensor

    def __call__(self, v: Tensor) -> Tensor:
        padded = v.new_zeros(len(self.whole.x), *v.shape[1:])
        return self.whole(padded.index_copy(0, self.rows, v))[self.rows]

    def apply_many(self, vectors: Tensor) -> Tensor:
        return torch.stack([self(v) for v in vectors])

    def take(self, rows: Tensor) -> "_Subset":
        return _Subset(self.whole, self.rows[rows])
