"""Products with the secant Hessian of a field: curvature at a scale h."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lowcurve.analysis.calculus import gradient, require_inputs
from lowcurve.analysis.norms import L2, per_example
from lowcurve.errors import InputError
from lowcurve.types import Field, IndexableField, Inputs


@dataclass(frozen=True)
class SecantHessian:
    """The operator that `secant_hessian` returns.

    Attributes:
        field: Per-example loss as a function of the input.
        x: Inputs, shape (batch, ...).
        h: Scale, an l_2 length.
        gradient: The gradients g(x), shape (batch, ...).
        central: True for central differences.
    """

    field: Field
    x: Inputs
    h: float
    gradient: Tensor
    central: bool

    def __call__(self, v: Tensor) -> Tensor:
        """Return the product with one vector per example, shape (batch, ...)."""
        step = self.h * L2.unit(v)
        forward = gradient(self.field, self.x + step)
        change = (forward - gradient(self.field, self.x - step)) / 2 if self.central else forward - self.gradient
        product: Tensor = change * per_example(L2.length(v) / self.h, v)
        return product

    def apply_many(self, vectors: Tensor) -> Tensor:
        """Return the products with several vectors per example, in one batch if the field is an `IndexableField`.

        Args:
            vectors: Shape (vectors, batch, ...).
        """
        count, batch = vectors.shape[:2]
        if count == 1 or not isinstance(self.field, IndexableField):
            return torch.stack([self(v) for v in vectors])
        rows = torch.arange(batch, device=vectors.device).repeat(count)
        return self.take(rows)(vectors.flatten(0, 1)).view(vectors.shape)

    def take(self, rows: Tensor) -> "SecantHessian":
        """Return the operator for some of the examples.

        Args:
            rows: Indices of the examples.

        Raises:
            InputError: If the field is no `IndexableField`.
        """
        if not isinstance(self.field, IndexableField):
            raise InputError("a field that can be restricted to some examples", "another", "write loss_field(model, y)")
        return SecantHessian(self.field.take(rows), self.x[rows], self.h, self.gradient[rows], self.central)


def secant_hessian(field: Field, x: Inputs, h: float, *, central: bool = False) -> SecantHessian:
    """Return the operator v -> ||v|| (g(x + h v/||v||) - g(x)) / h: curvature at the scale h.

    This is a quantity of its own, not an inexact Hessian: it includes the kinks of a ReLU network within h. It is
    homogeneous by definition, because the step has length h for every v. In general it is not symmetric, so its spectrum is
    defined as that of its symmetric part.

    Cost: one input gradient once, and one for each product; two if central.

    Args:
        field: Per-example loss as a function of the input; see `losses.loss_field`.
        x: Inputs, shape (batch, ...).
        h: Scale, an l_2 length.
        central: Use ||v|| (g(x + h v/||v||) - g(x - h v/||v||)) / (2 h).

    Raises:
        InputError: If h is no length within the pixel box, whose diagonal is sqrt(d).

    Example:
        >>> product = secant_hessian(lambda x: x.pow(3).sum(1), torch.zeros(1, 1), h=0.1)
        >>> product(torch.tensor([[2.0]])).round(decimals=4)  # 3 h, where the exact Hessian is 0
        tensor([[0.6000]])

    Reference: moosavi2019cure, Eq. (1).
    """
    require_inputs(x)
    diagonal = math.sqrt(x[0].numel()) if len(x) else math.inf
    if not (math.isfinite(h) and h > 0):
        raise InputError("a scale h > 0 in pixel units (an l_2 length)", h, "write h=0.1, or use hessian for h -> 0")
    if h > diagonal:
        expected = f"a scale h of at most {diagonal:.4g}, the diagonal of the pixel box [0, 1]"
        raise InputError(expected, h, "give h as an l_2 length in pixel units, not in pixel levels: divide it by 255")
    return SecantHessian(field, x, h, gradient(field, x), central)
