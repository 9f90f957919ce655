"""The Lanczos recurrence, batched over examples; the basis of extreme eigenvalues, densities and deflation."""

from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from lowcurve import randomness
from lowcurve.analysis.eigenvalues import symmetric_eigenvalues
from lowcurve.analysis.norms import L2, LINF
from lowcurve.types import BatchedOperator, Operator, PerExample, Vectors

ROUNDING = 128
"""Allowance for rounding, in units of eps times the longest product. Lanczos itself needs up to 11, measured on 7,000 matrices
of sizes 2 to 300 in both precisions. The products of a network in single precision are off by up to 50."""


@dataclass
class KrylovSpace:
    """The space of v, H v, H^2 v, ...: an orthonormal basis Q, which one product extends by one vector, and Q^T H Q.

    H Q = Q P + r e^T, where P, `projected`, is upper Hessenberg, and r is the part of the last product outside the space.
    Every vector is orthogonalized twice against all before it. If the space is invariant (r = 0 up to rounding), it
    continues with a fixed random vector. That vector is the same for every example, so an example's numbers do not depend
    on its batch.

    Cost: one product per vector. Memory: `capacity` vectors per example.

    Attributes:
        operator: v -> H v, one matrix per example.
        shape: Shape of one example.
        basis: Q, shape (batch, capacity, d); the first `size` vectors are set.
        projected: Q^T H Q, shape (batch, capacity, capacity), in double precision on the CPU, since not every device has it.
        next_vector: r / ||r||, or 0 where r = 0, shape (batch, d).
        residual_norm: ||r||.
        scale: Length of the longest product so far.
        invariant: Whether r = 0.
        restarted: Whether the space was invariant before.
        size: Number of vectors.

    Example:
        >>> space = start_krylov(lambda v: v @ torch.diag(torch.tensor([3.0, 1.0])), torch.ones(1, 2), 2)
        >>> space.extend(2)
        >>> space.projected.round(decimals=4) + 0.0
        tensor([[[2., 1.],
                 [1., 2.]]], dtype=torch.float64)

    Reference: Golub and Van Loan, Matrix Computations, section 10.1.
    """

    operator: Operator
    shape: torch.Size
    basis: Tensor
    projected: Tensor
    next_vector: Tensor
    residual_norm: PerExample
    scale: PerExample
    invariant: Tensor
    restarted: Tensor
    size: int = 0

    @property
    def capacity(self) -> int:
        """The largest number of vectors that the space can hold."""
        return self.basis.shape[1]

    @property
    def is_complete(self) -> bool:
        """True once the basis spans all of R^d."""
        return self.size == self.basis.shape[2]

    @property
    def rounding(self) -> PerExample:
        """The allowance for rounding in every residual."""
        return ROUNDING * torch.finfo(self.basis.dtype).eps * self.scale

    def extend(self, vectors: int = 1) -> None:
        """Add vectors to the basis, at the cost of one product each.

        Args:
            vectors: How many.
        """
        for k in range(self.size, self.size + vectors):
            self.basis[:, k] = self._direction()
            image = self.operator(self.basis[:, k].reshape(len(self.basis), *self.shape)).detach().flatten(1)
            self.size = k + 1
            rest, weights = orthogonalize(image, self.basis[:, : k + 1])
            self.residual_norm = L2.length(rest)
            self.scale = torch.maximum(self.scale, torch.hypot(L2.length(weights), self.residual_norm))
            # A residual of rounding noise means that the subspace is invariant, and another vector is needed.
            self.invariant = ~(self.residual_norm > 10 * torch.finfo(rest.dtype).eps * self.scale)
            self.next_vector = torch.where(self.invariant[:, None], 0, rest / self.residual_norm[:, None])
            below = torch.where(self.invariant, 0, self.residual_norm)[:, None]
            self.projected[:, : k + 2, k] = torch.cat([weights, below], dim=1)[:, : self.capacity].to(self.projected)

    def ritz(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the Ritz pairs of the symmetric part of Q^T H Q.

        Returns:
            Values theta, shape (batch, size), in ascending order; vectors s in columns, shape (batch, size, size); and the
            residuals ||H u - theta u|| for u = Q s, including an allowance for rounding. All are NaN where the operator
            gave NaN.
        """
        projected = self.projected[:, : self.size, : self.size]
        symmetric = (projected + projected.mT) / 2
        values, vectors = symmetric_eigenvalues(symmetric)
        inside = torch.linalg.vector_norm((projected - symmetric) @ vectors, dim=1)
        outside = vectors[:, -1].abs() * self.residual_norm[:, None].to(vectors)
        return values, vectors, torch.hypot(inside, outside) + self.rounding[:, None].to(vectors)

    def combine(self, weights: Tensor, rows: Tensor) -> Tensor:
        """Return Q s for several s of some examples, shape (vectors, rows, ...).

        Args:
            weights: The vectors s in columns, shape (rows, size, vectors).
            rows: Indices of the examples.
        """
        basis = self.basis[rows, : self.size]
        found = torch.einsum("bks,bkd->sbd", weights.to(basis), basis)
        return found.reshape(*found.shape[:2], *self.shape)

    def take(self, rows: Tensor) -> "KrylovSpace":
        """Return the spaces of some examples. The operator must be a `types.BatchedOperator`.

        Args:
            rows: Indices of the examples.
        """
        operator = cast(BatchedOperator, self.operator).take(rows.to(self.basis.device))
        names = ("basis", "projected", "next_vector", "residual_norm", "scale", "invariant", "restarted")
        return replace(self, operator=operator, **{name: getattr(self, name)[rows] for name in names})

    def _direction(self) -> Tensor:
        if not bool(self.invariant.any()):
            return self.next_vector
        self.restarted = self.restarted | (self.invariant if self.size else False)
        generator = randomness.stream(0, "Krylov", self.size)
        other = L2.unit(randomness.normal(self.next_vector.new_empty(1, self.basis.shape[2]), generator=generator))
        other = L2.unit(orthogonalize(other.expand_as(self.next_vector), self.basis[:, : self.size])[0])
        return torch.where(self.invariant[:, None], other, self.next_vector)


def start_krylov(operator: Operator, start: Tensor, size: int) -> KrylovSpace:
    """Return an empty space. Its `extend` adds start / ||start|| first.

    Memory: size * d numbers per example.

    Args:
        operator: v -> H v, one matrix per example.
        start: One vector per example, shape (batch, ...). A zero start is replaced by a random one.
        size: Number of vectors to allocate; at most d are.

    Example:
        >>> start_krylov(lambda v: 2 * v, torch.ones(5, 3, 2), 4).basis.shape
        torch.Size([5, 4, 6])
    """
    first = L2.unit(start.detach().flatten(1))
    batch, d = first.shape
    capacity = min(size, d)
    zero, is_zero = first.new_zeros(batch), ~(LINF.length(first) > 0)
    return KrylovSpace(
        operator,
        start.shape[1:],
        basis=first.new_zeros(batch, capacity, d),
        projected=torch.zeros(batch, capacity, capacity, dtype=torch.float64),
        next_vector=first,
        residual_norm=zero,
        scale=zero,
        invariant=is_zero,
        restarted=torch.zeros_like(is_zero),
    )


def orthogonalize(v: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """Return v - Q Q^T v and Q^T v for every example.

    Projects twice, which is enough (Kahan, Parlett); a single projection leaves the rounding of what it removes.

    Args:
        v: Vectors, shape (..., batch, d).
        basis: Orthonormal bases Q, shape (batch, size, d).

    Example:
        >>> orthogonalize(torch.tensor([[3.0, 4.0]]), torch.tensor([[[1.0, 0.0]]]))
        (tensor([[0., 4.]]), tensor([[3.]]))
    """
    first = torch.einsum("bkd,...bd->...bk", basis, v)
    v = v - torch.einsum("...bk,bkd->...bd", first, basis)
    second = torch.einsum("bkd,...bd->...bk", basis, v)
    return v - torch.einsum("...bk,bkd->...bd", second, basis), first + second


def apply_many(operator: Operator, vectors: Vectors) -> Vectors:
    """Return H v for several vectors per example, at once if the operator is a `types.BatchedOperator`.

    Args:
        operator: v -> H v, one matrix per example.
        vectors: Shape (vectors, batch, ...).

    Example:
        >>> apply_many(lambda v: 2 * v, torch.ones(3, 1, 2)).shape
        torch.Size([3, 1, 2])
    """
    if isinstance(operator, BatchedOperator):
        return operator.apply_many(vectors)
    return torch.stack([operator(v) for v in vectors])
