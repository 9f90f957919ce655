"""The Lanczos recurrence, batched over examples: what extreme eigenvalues, densities and deflation are made of."""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from lowcurve import randomness
from lowcurve.analysis.norms import L2, LINF
from lowcurve.types import BatchedOperator, Operator, PerExample, Vectors

ROUNDING = 128
"""What is allowed for rounding, in units of eps times the longest product. Lanczos itself needs up to 11 (7,000 matrices of
sizes 2 to 300, both precisions), the products of a network in single precision are off by up to 50."""


@dataclass
class KrylovSpace:
    """The space of v, H v, H^2 v, ...: an orthonormal basis Q that one product extends by one vector, with Q^T H Q.

    H Q = Q P + r e^T, where P, `projected`, has one diagonal below its main one and r is what the last product had outside
    the space. Every vector is orthogonalized twice against all before it. Where the space is invariant, r = 0 but
    for rounding, it goes on with a fixed random vector, the same for every example, so that company changes nothing.

    basis: (batch, room, d), of which `size` are there; projected: (batch, room, room), on the CPU in double precision, which
    not every device has; ahead: r / ||r||, and 0 where r is; beside: ||r||; scale: the longest product; invariant: whether r
    is 0; restarted: whether it was before.
    Cost: a product a vector.

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
    ahead: Tensor
    beside: PerExample
    scale: PerExample
    invariant: Tensor
    restarted: Tensor
    size: int = 0

    @property
    def room(self) -> int:
        """How many vectors the space can have."""
        return self.basis.shape[1]

    @property
    def complete(self) -> bool:
        """Whether the space is the whole space."""
        return self.size == self.basis.shape[2]

    def extend(self, vectors: int = 1) -> None:
        """So many vectors, and products, more."""
        for k in range(self.size, self.size + vectors):
            self.basis[:, k] = self._direction()
            image = self.operator(self.basis[:, k].reshape(len(self.basis), *self.shape)).detach().flatten(1)
            self.size = k + 1
            rest, weights = orthogonalize(image, self.basis[:, : k + 1])
            self.beside = L2.length(rest)
            self.scale = torch.maximum(self.scale, torch.hypot(L2.length(weights), self.beside))
            # Rounding noise is no direction: an invariant subspace ends here and another start is needed.
            self.invariant = ~(self.beside > 10 * torch.finfo(rest.dtype).eps * self.scale)
            self.ahead = torch.where(self.invariant[:, None], 0, rest / self.beside[:, None])
            below = torch.where(self.invariant, 0, self.beside)[:, None]
            self.projected[:, : k + 2, k] = torch.cat([weights, below], dim=1)[:, : self.room].to(self.projected)

    def ritz(self) -> tuple[Tensor, Tensor, Tensor]:
        """Eigenvalues theta (batch, size) of the symmetric part of Q^T H Q in rising order, their vectors s (batch, size,
        size) in columns, and ||H u - theta u|| for u = Q s, rounding allowed for; NaN where the operator gave NaN.
        """
        projected = self.projected[:, : self.size, : self.size]
        symmetric = (projected + projected.mT) / 2
        finite = symmetric.isfinite().flatten(1).all(1)[:, None]
        values, vectors = torch.linalg.eigh(torch.where(finite[:, None], symmetric, 0))
        values = torch.where(finite, values, torch.nan)
        inside = torch.linalg.vector_norm((projected - symmetric) @ vectors, dim=1)
        outside = vectors[:, -1].abs() * self.beside[:, None].to(vectors)
        rounding = ROUNDING * torch.finfo(self.basis.dtype).eps * self.scale[:, None].to(vectors)
        return values, vectors, torch.hypot(inside, outside) + rounding

    def combined(self, weights: Tensor, rows: Tensor) -> Tensor:
        """Q s for these examples and several s each, weights of shape (rows, size, several): (several, rows, ...)."""
        basis = self.basis[rows, : self.size]
        found = torch.einsum("bks,bkd->sbd", weights.to(basis), basis)
        return found.reshape(*found.shape[:2], *self.shape)

    def take(self, rows: Tensor) -> "Krylov":
        """The spaces of these examples alone, where the operator can leave the others aside."""
        operator = cast(BatchedOperator, self.operator).take(rows.to(self.basis.device))
        basis, projected, ahead, beside = self.basis[rows], self.projected[rows], self.ahead[rows], self.beside[rows]
        scale, invariant, restarted = self.scale[rows], self.invariant[rows], self.restarted[rows]
        return KrylovSpace(
            operator, self.shape, basis, projected, ahead, beside, scale, invariant, restarted, self.size
        )

    def _direction(self) -> Tensor:
        if not bool(self.invariant.any()):
            return self.ahead
        self.restarted = self.restarted | (self.invariant if self.size else False)
        generator = randomness.stream(0, "Krylov", self.size)
        other = L2.unit(randomness.normal(self.ahead.new_empty(1, self.ahead.shape[1]), generator=generator))
        other = L2.unit(orthogonalize(other.expand_as(self.ahead), self.basis[:, : self.size])[0])
        return torch.where(self.invariant[:, None], other, self.ahead)


def start_krylov(operator: Operator, start: Tensor, size: int) -> KrylovSpace:
    """The empty space to which `extend` adds `start` / ||start|| first, with room for `size` vectors, at most d.

    A zero start is a random one. Memory: size * d numbers an example.

    Example:
        >>> start_krylov(lambda v: 2 * v, torch.ones(5, 3, 2), 4).basis.shape
        torch.Size([5, 4, 6])
    """
    ahead = L2.unit(start.detach().flatten(1))
    batch, d = ahead.shape
    room = min(size, d)
    basis, projected = ahead.new_zeros(batch, room, d), torch.zeros(batch, room, room, dtype=torch.float64)
    nothing, none = ahead.new_zeros(batch), ~(LINF.length(ahead) > 0)
    return KrylovSpace(
        operator, start.shape[1:], basis, projected, ahead, nothing, nothing, none, torch.zeros_like(none)
    )


def orthogonalize(v: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """v - Q Q^T v and Q^T v for every example, v of shape (..., batch, d) and Q, `basis`, of shape (batch, size, d).

    Twice, which is enough (Kahan, Parlett): once leaves the rounding of what was taken away.

    Example:
        >>> orthogonalize(torch.tensor([[3.0, 4.0]]), torch.tensor([[[1.0, 0.0]]]))
        (tensor([[0., 4.]]), tensor([[3.]]))
    """
    first = torch.einsum("bkd,...bd->...bk", basis, v)
    v = v - torch.einsum("...bk,bkd->...bd", first, basis)
    second = torch.einsum("bkd,...bd->...bk", basis, v)
    return v - torch.einsum("...bk,bkd->...bd", second, basis), first + second


def apply_many(operator: Operator, vectors: Vectors) -> Vectors:
    """H v for several vectors an example, shape (vectors, batch, ...): at once where the operator is `BatchedOperator`.

    Example:
        >>> apply_many(lambda v: 2 * v, torch.ones(3, 1, 2)).shape
        torch.Size([3, 1, 2])
    """
    if isinstance(operator, BatchedOperator):
        return operator.apply_many(vectors)
    return torch.stack([operator(v) for v in vectors])
