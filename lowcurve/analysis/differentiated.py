"""Products with the Hessian of any field: double backward through a kept graph."""

from dataclasses import dataclass
from functools import cached_property
from typing import NoReturn

import torch
from torch import Tensor

from lowcurve.analysis.calculus import Jet, pullback
from lowcurve.analysis.double_backward import TwiceDifferentiable
from lowcurve.errors import InputError
from lowcurve.types import Divisible, Field, Inputs, PerExample


@dataclass(frozen=True)
class Differentiated:
    """v -> H v by differentiating <grad l(x), v> with the graph of the gradient kept.

    0.9 of a gradient each on a ResNet-20, and 2 where layers are left to torch.
    """

    field: Field
    x: Inputs
    way: str
    curved = True

    @cached_property
    def _repeated(self) -> dict[int, "Differentiated | _Within"]:
        """The operator with each example several times: one, since it holds a graph."""
        return {}

    @cached_property
    def _jet(self) -> Jet:
        def field(x: Inputs) -> PerExample:
            with TwiceDifferentiable(weights=False):
                return self.field(x)

        jet = Jet(field, self.x)
        require_one_number_each(jet.values, self.x)
        return jet

    @property
    def gradient(self) -> Tensor:
        """grad l(x)."""
        return self._jet.gradient.detach()

    def __call__(self, v: Tensor) -> Tensor:
        return pullback(self._jet.gradient, self._jet.x, v, retain_graph=True)

    def many(self, vectors: Tensor) -> Tensor:
        """H v for several vectors an example, shape (vectors, batch, ...): one batch if the field can be divided."""
        count, batch = vectors.shape[:2]
        if count == 1 or not isinstance(self.field, Divisible):
            return torch.stack([self(v) for v in vectors])
        if count not in self._repeated:
            self._repeated.clear()
            self._repeated[count] = self.take(torch.arange(batch, device=vectors.device).repeat(count))
        return self._repeated[count](vectors.flatten(0, 1)).view(vectors.shape)

    def only(self, part: str) -> NoReturn:
        """No parts are known of what was not recorded."""
        raise InputError(
            "a field whose operations can be replayed, to split its Hessian", self.way, f"leave out {part}"
        )

    def take(self, rows: Tensor) -> "Differentiated | _Within":
        """The operator of these examples alone; where the field cannot be divided, at the cost of all."""
        if isinstance(self.field, Divisible):
            return Differentiated(self.field.take(rows), self.x[rows], self.way)
        return _Within(self, rows)


@dataclass(frozen=True)
class _Within:
    """Some examples of an operator that only knows all of them."""

    whole: Differentiated
    rows: Tensor

    def __call__(self, v: Tensor) -> Tensor:
        everywhere = v.new_zeros(len(self.whole.x), *v.shape[1:])
        return self.whole(everywhere.index_copy(0, self.rows, v))[self.rows]

    def many(self, vectors: Tensor) -> Tensor:
        return torch.stack([self(v) for v in vectors])

    def take(self, rows: Tensor) -> "_Within":
        return _Within(self.whole, self.rows[rows])


def require_one_number_each(values: Tensor, x: Tensor) -> None:
    """InputError for a field that reduces its losses."""
    if values.shape != (len(x),):
        raise InputError(
            f"one number an example from the field, shape ({len(x)},)",
            tuple(values.shape),
            "do not reduce the loss, and give the inputs an axis of examples",
        )
