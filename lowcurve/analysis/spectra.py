"""Spectra of per-example operators v -> H v: batched over examples, so that one product serves all of them.

Estimators are plain functions over an operator; a test hands them a dense matrix.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lowcurve import randomness
from lowcurve.analysis.norms import L2, dot, per_example
from lowcurve.errors import InputError
from lowcurve.types import Operator, PerExample


@dataclass(frozen=True)
class Extremes:
    """The ends of each example's spectrum as Lanczos sees them.

    `residual` is ||H u - theta u|| of the eigenvalue of largest magnitude: an eigenvalue lies within it (for symmetric H).
    """

    smallest: PerExample
    largest: PerExample
    residual: PerExample
    vector: Tensor
    products: int

    @property
    def spectral_norm(self) -> PerExample:
        """||H||_2 = max |lambda|. Not lambda_max, which CURE's Theorem 1 needs and which may be smaller."""
        return torch.maximum(self.smallest.abs(), self.largest.abs())


def lanczos(operator: Operator, start: Tensor, *, steps: int = 10, tolerance: float = 1e-3) -> Extremes:
    """lambda_min, lambda_max and ||H||_2 of every example by Lanczos with full re-orthogonalization.

    start: one vector per example; the gradient is the good one, since in trained networks it nearly is the top
    eigenvector. tolerance: stops once every example's residual is below tolerance * ||H||_2.
    Cost: one product a step; `steps` + 1 vectors an example of memory. Errors: ||H||_2 is approached from below.

    Example:
        >>> H = torch.diag(torch.tensor([3.0, -4.0, 1.0]))
        >>> ends = lanczos(lambda v: v @ H, torch.ones(1, 3), steps=3)
        >>> ends.smallest.round(decimals=4).item(), ends.largest.round(decimals=4).item()
        (-4.0, 3.0)

    Reference: Golub and Van Loan, Matrix Computations, section 10.1; moosavi2019cure, Remark 3 (the start).
    """
    if steps < 1:
        raise InputError("at least one step", steps, "write steps=10")
    basis = [_unit_or_random(start, [])]
    diagonal: list[PerExample] = []
    beside: list[PerExample] = []
    for step in range(1, min(steps, start[0].numel()) + 1):
        image = operator(basis[-1])
        diagonal.append(dot(basis[-1], image))
        rest = _orthogonalized(image, basis)
        beside.append(L2.length(rest))
        values, vectors = torch.linalg.eigh(_tridiagonal(diagonal, beside[:-1]))
        top = values.abs().argmax(1)
        residual = beside[-1] * vectors[torch.arange(len(top)), -1, top].abs().to(start.dtype)
        size = values.abs().amax(1)
        if step == min(steps, start[0].numel()) or bool((residual <= tolerance * size).all()):
            break
        basis.append(_unit_or_random(_negligible_as_zero(rest, beside[-1], size), basis))
    weights = vectors[torch.arange(len(top)), :, top].to(start.dtype)
    vector = sum((per_example(weights[:, k], start) * q for k, q in enumerate(basis)), torch.zeros_like(start))
    ends = values.to(start.dtype)
    return Extremes(ends[:, 0], ends[:, -1], residual, vector, products=len(diagonal))


@dataclass(frozen=True)
class Estimate:
    """A Monte Carlo value with its standard error."""

    value: PerExample
    standard_error: PerExample


def frobenius_norm(operator: Operator, like: Tensor, *, draws: int, generator: torch.Generator) -> Estimate:
    """||H||_F = sqrt(E ||H z||^2) over z ~ N(0, I), with the standard error carried through the root.

    Cost: one product a draw. The error is large when few eigenvalues hold the spectrum: about sqrt(1 / (2 draws)) of the
    value for a matrix of rank one.

    Reference: moosavi2019cure, Fig. 10 (100 draws).
    """
    if draws < 2:
        raise InputError("at least two draws", draws, "write draws=100")
    squares = []
    for _ in range(draws):
        image = operator(randomness.normal(like, generator=generator))
        squares.append(dot(image, image))
    samples = torch.stack(squares)
    value = samples.mean(0).sqrt()
    error_of_square = samples.std(0) / draws**0.5
    return Estimate(value, error_of_square / torch.where(value > 0, 2 * value, 1))


def dense(operator: Operator, like: Tensor) -> Tensor:
    """Every example's matrix, shape (batch, d, d), column by column.

    Cost: d products; batch * d^2 numbers of memory.

    Example:
        >>> dense(lambda v: 2 * v, torch.zeros(1, 2))
        tensor([[[2., 0.],
                 [0., 2.]]])
    """
    size = like[0].numel()
    identity = torch.eye(size, dtype=like.dtype, device=like.device)
    columns = [operator(identity[k].expand(len(like), -1).reshape(like.shape)).flatten(1) for k in range(size)]
    return torch.stack(columns, dim=2)


def spectrum(matrices: Tensor) -> Tensor:
    """All eigenvalues of (H + H^T) / 2 in rising order, shape (batch, d).

    Symmetrized, because the secant map at a finite scale is not symmetric and its profile is defined so.
    """
    values: Tensor = torch.linalg.eigvalsh((matrices + matrices.transpose(1, 2)).double() / 2)
    return values.to(matrices.dtype)


def _orthogonalized(v: Tensor, basis: list[Tensor]) -> Tensor:
    for _ in range(2):  # twice is enough (Kahan, Parlett)
        for q in basis:
            v = v - per_example(dot(q, v), v) * q
    return v


def _negligible_as_zero(rest: Tensor, length: PerExample, size: PerExample) -> Tensor:
    """Rounding noise is no direction: an invariant subspace ends here and another start is needed."""
    noise = 10 * torch.finfo(rest.dtype).eps * size.to(rest.dtype)
    return rest * per_example(length > noise, rest)


def _unit_or_random(v: Tensor, basis: list[Tensor]) -> Tensor:
    """v / ||v||; where v = 0, a random unit vector orthogonal to the basis, so that no example stops early."""
    length = L2.length(v)
    if bool((length > 0).all()):
        return L2.unit(v)
    generator = randomness.stream(0, "lanczos", len(basis))
    other = L2.unit(_orthogonalized(L2.unit(randomness.normal(v, generator=generator)), basis))
    return torch.where(per_example(length > 0, v), L2.unit(v), other)


def _tridiagonal(diagonal: list[PerExample], beside: list[PerExample]) -> Tensor:
    result = torch.diag_embed(torch.stack(diagonal, dim=1).double())
    if beside:
        off = torch.stack(beside, dim=1).double()
        result = result + torch.diag_embed(off, offset=1) + torch.diag_embed(off, offset=-1)
    return result
