"""Spectra of per-example operators v -> H v: batched over examples, so that one product serves all of them.

An operator is a plain function; one that is also a `types.BatchedOperator` gives several products at once, and examples that
are done leave it. A test hands over a dense matrix.
"""

from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor

from lowcurve import randomness
from lowcurve.analysis.chunks import in_chunks
from lowcurve.analysis.krylov import KrylovSpace, apply_many, start_krylov
from lowcurve.analysis.norms import L2, dot, per_example
from lowcurve.errors import InputError
from lowcurve.types import BatchedOperator, Operator, PerExample, Progress, silent

MIXED = 0.3
"""So long is the random direction beside the unit start of Lanczos."""


@dataclass(frozen=True)
class ExtremeEigenvalues:
    """The ends of each example's spectrum as Lanczos sees them, with their unit vectors.

    residual_smallest, residual_largest: ||H u - theta u||, within which an eigenvalue lies (for symmetric H), plus 128 eps
    max ||H q|| over the products taken, for rounding; of the matrix whose products they are, so that what a network rounds
    inside them is not in it. products: how many each example took. converged: whether the ends
    that were asked for have a residual within the tolerance.
    """

    smallest: PerExample
    largest: PerExample
    residual_smallest: PerExample
    residual_largest: PerExample
    vector_smallest: Tensor
    vector_largest: Tensor
    products: Tensor
    converged: Tensor

    @property
    def spectral_norm(self) -> PerExample:
        """||H||_2 = max |lambda|. Not lambda_max, which CURE's Theorem 1 needs and which may be smaller."""
        return torch.maximum(self.smallest.abs(), self.largest.abs())

    @property
    def residual(self) -> PerExample:
        """The residual of the end of largest magnitude."""
        return torch.where(self._downward, self.residual_smallest, self.residual_largest)

    @property
    def vector(self) -> Tensor:
        """The eigenvector of the end of largest magnitude."""
        return torch.where(per_example(self._downward, self.vector_largest), self.vector_smallest, self.vector_largest)

    @property
    def max_products(self) -> int:
        """Of any example: so many batched products were taken."""
        return int(self.products.max()) if len(self.products) else 0

    @property
    def _downward(self) -> Tensor:
        return self.smallest.abs() > self.largest.abs()


def lanczos(
    operator: Operator,
    start: Tensor,
    *,
    steps: int = 12,
    tolerance: float = 1e-3,
    ends: Literal["norm", "both"] = "norm",
) -> ExtremeEigenvalues:
    """lambda_min, lambda_max and ||H||_2 of every example by Lanczos with full re-orthogonalization.

    start: one vector per example; the gradient is the good one, since in trained networks it nearly is the top
    eigenvector. A fixed random direction is added to it, of 0.3 times its length: of 128 images of a softplus ResNet-20
    one had its largest eigenvalue, 22 % above the next, across its gradient, and the gradient alone never saw it; and of a
    ReLU network's Hessian it sees no eigenvalue 0. The mixture costs a fifth of a product more.
    An example is done once the residual of its end of largest magnitude ("norm"), or of each end ("both"), is at most
    tolerance * ||H||_2; its numbers do not depend on its company. One whose start lies in an invariant subspace is done only
    when a random vector has shown nothing else.
    Cost: at most `steps` products, fewer where the operator is `BatchedOperator`: those who are done leave it. Memory: `steps`
    vectors an example.
    Errors: both ends are approached from within, so that ||H||_2 is never too large but for rounding. A small residual says
    that an eigenvalue is near, not that none lies beyond it.

    Example:
        >>> H = torch.diag(torch.tensor([3.0, -4.0, 1.0]))
        >>> ends = lanczos(lambda v: v @ H, torch.ones(1, 3), steps=3)
        >>> ends.smallest.round(decimals=4).item(), ends.largest.round(decimals=4).item()
        (-4.0, 3.0)

    Reference: Golub and Van Loan, Matrix Computations, section 10.1; moosavi2019cure, Remark 3 (the start).
    """
    if steps < 1:
        raise InputError("at least one step", steps, "write steps=10")
    if ends not in ("norm", "both"):
        raise InputError(
            'the ends "norm" or "both"', repr(ends), 'write ends="both" to wait for lambda_min and lambda_max'
        )
    space = start_krylov(operator, _mixed(start), steps)
    numbers, waiting = torch.arange(len(start)), torch.ones(len(start), dtype=torch.bool)
    parts: list[ExtremeEigenvalues] = []
    order: list[Tensor] = []
    while bool(waiting.any()) or not parts:
        space.extend()
        values, vectors, residuals = space.ritz()
        converged = _converged(space, values, residuals, tolerance, ends)
        done = (waiting & (converged | (space.size == space.room))).nonzero()[:, 0]
        order.append(numbers[done])
        parts.append(_extremes(space, values, vectors, residuals, converged, done))
        waiting[done] = False
        if isinstance(operator, BatchedOperator) and 3 * int(waiting.sum()) <= 2 * len(
            waiting
        ):  # so that the copying pays
            left = waiting.nonzero()[:, 0]
            space, numbers, waiting = space.take(left), numbers[left], waiting[left]
    back = torch.cat(order).argsort()
    return ExtremeEigenvalues(
        *(torch.cat([getattr(part, field.name) for part in parts])[back] for field in fields(ExtremeEigenvalues))
    )


@dataclass(frozen=True)
class PowerIterate:
    """What the last product H u of a power iteration tells: norm ||H u||, rayleigh |u^T H u|, and u itself, of length 1.

    Both are at most ||H||_2; `norm` is the larger one, and right also where eigenvalues of both signs are equally large.
    """

    norm: PerExample
    rayleigh: PerExample
    vector: Tensor


def power_iteration(operator: Operator, start: Tensor, *, steps: int = 10) -> PowerIterate:
    """||H||_2 from below by u <- H u / ||H u||, starting from `start`.

    Nothing is added to the norm, so that a confident example's curvature is not made smaller; zero stays zero.
    Cost: one product a step. `lanczos` finds more with the same products and says how far it can be off; this is what
    srinivas2022lcnn reports. Its released code takes 10 steps from a random start, divides by ||H u|| + 1e-6 and gives
    |u^T H u|.

    Example:
        >>> H = torch.diag(torch.tensor([2.0, -2.0, 1.0]))
        >>> power = power_iteration(lambda v: v @ H, torch.ones(1, 3), steps=20)
        >>> round(power.norm.item(), 4), round(power.rayleigh.item(), 4)
        (2.0, 0.0)

    Reference: srinivas2022lcnn, section 3.
    """
    if steps < 1:
        raise InputError("at least one step", steps, "write steps=10")
    image = start
    for _ in range(steps):
        vector = L2.unit(image)
        image = operator(vector)
    return PowerIterate(L2.length(image), dot(vector, image).abs(), vector)


COLUMNS = "Hessian columns"


def dense(
    operator: Operator, like: Tensor, *, chunk: int = 128, limit: int = 4 * 2**30, progress: Progress[int] = silent
) -> Tensor:
    """Every example's matrix, shape (batch, d, d), column by column, or many columns at once from `BatchedOperator`.

    chunk: vectors times examples at once; halved where memory does not suffice. limit: bytes that the result may take.
    Cost: d products; batch * d^2 numbers of memory.

    Example:
        >>> dense(lambda v: 2 * v, torch.zeros(1, 2))
        tensor([[[2., 0.],
                 [0., 2.]]])
    """
    batch, d = len(like), like.shape[1:].numel()
    taken = batch * d * d * like.element_size()
    if taken > limit:
        raise InputError(
            f"matrices of at most {limit / 2**30:.3g} GiB",
            f"{batch} of size {d} x {d}, {taken / 2**30:.3g} GiB",
            "take spectral_density, or lanczos for the extreme values, or fewer examples",
        )
    result = like.new_empty(batch, d, d)

    def fill(part: slice) -> None:
        width = part.stop - part.start
        vectors = like.new_zeros(width, d)
        vectors[:, part] = torch.eye(width).to(like)
        images = apply_many(operator, vectors[:, None].expand(-1, batch, -1).reshape(width, *like.shape))
        result[:, :, part] = images.detach().reshape(width, batch, d).permute(1, 2, 0)

    in_chunks(fill, d, max(chunk // max(batch, 1), 1), progress=progress, heading=COLUMNS)
    return result


def spectrum(matrices: Tensor) -> Tensor:
    """All eigenvalues of (H + H^T) / 2 in rising order, shape (batch, d), computed in double precision.

    Symmetrized, because the secant map at a finite scale is not symmetric and its profile is defined so.
    Cost: 1.4 s on one core for d = 3072; two matrices in double precision of memory, one example at a time.

    Example:
        >>> spectrum(torch.tensor([[[0.0, 2.0], [0.0, 0.0]]]))
        tensor([[-1.,  1.]])
    """
    values = matrices.new_empty(matrices.shape[:2])
    for row, matrix in zip(values, matrices, strict=True):
        twice = matrix.to(torch.float64, copy=True).add_(matrix.mT)
        row.copy_(torch.linalg.eigvalsh(twice) / 2)
    return values


def _mixed(start: Tensor) -> Tensor:
    """The start and a random direction, the same for every example, so that company changes nothing."""
    generator = randomness.stream(0, "Lanczos start")
    other = L2.unit(randomness.normal(start.new_empty(1, *start.shape[1:]), generator=generator))
    return L2.unit(start.detach()) + MIXED * other


def _converged(
    space: KrylovSpace, values: Tensor, residuals: Tensor, tolerance: float, ends: Literal["norm", "both"]
) -> Tensor:
    """Who is done: the ends have converged, and not for want of anything else in the start."""
    norm = values.abs().amax(1)
    close = residuals[:, [0, -1]] <= tolerance * norm[:, None]
    downward = values[:, 0].abs() > values[:, -1].abs()
    asked = close.all(1) if ends == "both" else torch.where(downward, close[:, 0], close[:, 1])
    nothing_new = space.beside.to(norm) <= tolerance * norm
    alone = ~space.invariant.cpu() & (space.size > 1)
    return asked & (torch.where(space.restarted.cpu(), nothing_new, alone) | space.complete)


def _extremes(
    space: KrylovSpace, values: Tensor, vectors: Tensor, residuals: Tensor, converged: Tensor, rows: Tensor
) -> ExtremeEigenvalues:
    like, ends = space.basis, [0, -1]
    smallest, largest = values[rows][:, ends].to(like).unbind(1)
    residual_smallest, residual_largest = residuals[rows][:, ends].to(like).unbind(1)
    vector_smallest, vector_largest = space.combined(vectors[rows][:, :, ends], rows).unbind()
    return ExtremeEigenvalues(
        smallest=smallest,
        largest=largest,
        residual_smallest=residual_smallest,
        residual_largest=residual_largest,
        vector_smallest=vector_smallest,
        vector_largest=vector_largest,
        products=torch.full((len(rows),), space.size, device=like.device),
        converged=converged[rows].to(like.device),
    )
