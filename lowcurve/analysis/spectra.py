"""Spectra of per-example operators v -> H v, batched over examples so that one product serves all of them.

An operator is a plain function, such as the product with a dense matrix. A `types.BatchedOperator` also gives several
products at once, and restricts itself to the examples that are not done.
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

Ends = Literal["norm", "largest", "both"]
RANDOM_PART = 0.3
"""Length of the random direction that `lanczos` adds to the unit start."""


@dataclass(frozen=True)
class ExtremeEigenvalues:
    """The two ends of each example's spectrum as Lanczos finds them.

    Attributes:
        smallest: Smallest Ritz values, shape (batch,).
        largest: Largest Ritz values, shape (batch,).
        residual_smallest: ||H u - theta u||, within which an eigenvalue lies (for symmetric H), plus 128 eps max ||H
            q|| over the products, for rounding. Rounding inside a network's products is not included.
        residual_largest: The same for the largest.
        vector_smallest: Unit vectors u, shape (batch, ...).
        vector_largest: The same for the largest.
        products: Products of each example.
        converged: Whether each of the requested ends has a residual within the tolerance.
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
        """||H||_2 = max |lambda|. It may be larger than lambda_max, which CURE's Theorem 1 needs."""
        return torch.maximum(self.smallest.abs(), self.largest.abs())

    @property
    def residual(self) -> PerExample:
        """The residual of the end of largest magnitude."""
        return torch.where(self._smallest_dominates, self.residual_smallest, self.residual_largest)

    @property
    def vector(self) -> Tensor:
        """The eigenvector of the end of largest magnitude."""
        dominates = per_example(self._smallest_dominates, self.vector_largest)
        return torch.where(dominates, self.vector_smallest, self.vector_largest)

    @property
    def max_products(self) -> int:
        """The largest number of products of any example, which is the number of batched products."""
        return int(self.products.max()) if len(self.products) else 0

    @property
    def _smallest_dominates(self) -> Tensor:
        return self.smallest.abs() > self.largest.abs()


def lanczos(
    operator: Operator,
    start: Tensor,
    *,
    steps: int = 12,
    tolerance: float = 1e-3,
    ends: Ends = "norm",
) -> ExtremeEigenvalues:
    """Compute lambda_min, lambda_max and ||H||_2 of every example by Lanczos with full re-orthogonalization.

    An example is done once its ends have converged: the end of largest magnitude ("norm"), that and lambda_max ("largest"), or
    each ("both"). An end has converged when its residual is at most tolerance * |theta|, with theta its own value. Below
    tolerance * ||H||_2 or near rounding it counts as 0. So lambda_max is also right where the negative end is far larger.
    The numbers do not depend on the batch. An example whose start lies in an invariant subspace is done only when a random
    vector has found nothing else.

    A fixed random direction of 0.3 times the length of the start is added to it, for a fifth of a product more. Of 128
    images of a softplus ResNet-20, one had its largest eigenvalue, 22 % above the next, orthogonal to its gradient, so the
    gradient alone never found it. For a ReLU network the gradient alone finds no eigenvalue 0.

    Both ends are approached from within, so ||H||_2 is never too large except for rounding. A small residual shows that an
    eigenvalue is near, but not that none lies beyond it.

    Cost: at most `steps` products. From a `types.BatchedOperator`, examples that are done take none. Memory: `steps`
    vectors per example.

    Args:
        operator: v -> H v, one matrix per example.
        start: One vector per example, shape (batch, ...). The gradient is a good one: in trained networks it nearly is the
            top eigenvector.
        steps: Maximum number of products per example.
        tolerance: Largest residual of an end, relative to its own value.
        ends: Which ends have to converge. The other one has the residual that it happens to have.

    Raises:
        InputError: If `steps` is less than 1 or `ends` is unknown.

    Example:
        >>> H = torch.diag(torch.tensor([3.0, -4.0, 1.0]))
        >>> found = lanczos(lambda v: v @ H, torch.ones(1, 3), steps=3)
        >>> found.smallest.round(decimals=4).item(), found.largest.round(decimals=4).item()
        (-4.0, 3.0)

    Reference: Golub and Van Loan, Matrix Computations, section 10.1; moosavi2019cure, Remark 3 (the start).
    """
    if steps < 1:
        raise InputError("at least one step", steps, "write steps=10")
    if ends not in ("norm", "largest", "both"):
        raise InputError(
            'the ends "norm", "largest" or "both"',
            repr(ends),
            'write ends="both" to wait for lambda_min and lambda_max',
        )
    space = start_krylov(operator, _add_random_part(start), steps)
    numbers, waiting = torch.arange(len(start)), torch.ones(len(start), dtype=torch.bool)
    parts: list[ExtremeEigenvalues] = []
    order: list[Tensor] = []
    while bool(waiting.any()) or not parts:
        space.extend()
        values, vectors, residuals = space.ritz()
        converged = _find_converged(space, values, residuals, tolerance, ends)
        done = (waiting & (converged | (space.size == space.capacity))).nonzero()[:, 0]
        order.append(numbers[done])
        parts.append(_extremes(space, values, vectors, residuals, converged, done))
        waiting[done] = False
        # Restrict the operator once a third of the examples is done, so that the saving exceeds the cost of copying.
        if isinstance(operator, BatchedOperator) and 3 * int(waiting.sum()) <= 2 * len(waiting):
            left = waiting.nonzero()[:, 0]
            space, numbers, waiting = space.take(left), numbers[left], waiting[left]
    back = torch.cat(order).argsort()
    columns = (torch.cat([getattr(part, field.name) for part in parts]) for field in fields(ExtremeEigenvalues))
    return ExtremeEigenvalues(*(column[back] for column in columns))


@dataclass(frozen=True)
class PowerIterate:
    """The last product H u of a power iteration. Both numbers are at most ||H||_2.

    Attributes:
        norm: ||H u||, the larger one, which is right also where eigenvalues of both signs are equally large.
        rayleigh: |u^T H u|.
        vector: u, of length 1, shape (batch, ...).
    """

    norm: PerExample
    rayleigh: PerExample
    vector: Tensor


def power_iteration(operator: Operator, start: Tensor, *, steps: int = 10) -> PowerIterate:
    """Estimate ||H||_2 from below by u <- H u / ||H u||.

    Nothing is added to the norm, so a confident example's curvature is not underestimated, and zero stays zero. `lanczos`
    finds more with the same products and gives a residual; this is what srinivas2022lcnn reports. Its released code takes
    10 steps from a random start, divides by ||H u|| + 1e-6 and returns |u^T H u|.

    Cost: one product per step.

    Args:
        operator: v -> H v, one matrix per example.
        start: One vector per example, shape (batch, ...).
        steps: Number of products.

    Raises:
        InputError: If `steps` is less than 1.

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


def dense(
    operator: Operator, like: Tensor, *, chunk: int = 128, limit: int = 4 * 2**30, progress: Progress[int] = silent
) -> Tensor:
    """Return every example's matrix: column by column, or many columns at once from a `types.BatchedOperator`.

    Cost: d products. Memory: batch * d^2 numbers.

    Args:
        operator: v -> H v, one matrix per example.
        like: A tensor of the shape, precision and device of the inputs, (batch, ...).
        chunk: Vectors times examples at once. Halved where memory does not suffice.
        limit: Largest size of the result in bytes.
        progress: Progress display; advances once per column.

    Returns:
        The matrices, shape (batch, d, d).

    Raises:
        InputError: If the result is larger than `limit`.

    Example:
        >>> dense(lambda v: 2 * v, torch.zeros(1, 2))
        tensor([[[2., 0.],
                 [0., 2.]]])
    """
    batch, d = len(like), like.shape[1:].numel()
    needed = batch * d * d * like.element_size()
    if needed > limit:
        raise InputError(
            f"matrices of at most {limit / 2**30:.3g} GiB",
            f"{batch} of size {d} x {d}, {needed / 2**30:.3g} GiB",
            "take spectral_density, or lanczos for the extreme values, or fewer examples",
        )
    result = like.new_empty(batch, d, d)

    def fill(part: slice) -> None:
        width = part.stop - part.start
        vectors = like.new_zeros(width, d)
        vectors[:, part] = torch.eye(width).to(like)
        images = apply_many(operator, vectors[:, None].expand(-1, batch, -1).reshape(width, *like.shape))
        result[:, :, part] = images.detach().reshape(width, batch, d).permute(1, 2, 0)

    in_chunks(fill, d, max(chunk // max(batch, 1), 1), progress=progress, heading="Hessian columns")
    return result


def spectrum(matrices: Tensor) -> Tensor:
    """Return all eigenvalues of (H + H^T) / 2 in ascending order, computed in double precision.

    H is symmetrized because a secant Hessian is not symmetric, and its profile is defined this way.

    Cost: 1.4 s on one core for d = 3072. Memory: two matrices in double precision, one example at a time.

    Args:
        matrices: Shape (batch, d, d).

    Returns:
        Eigenvalues, shape (batch, d). All are NaN for a matrix with NaN or infinity.

    Example:
        >>> spectrum(torch.tensor([[[0.0, 2.0], [0.0, 0.0]]]))
        tensor([[-1.,  1.]])
    """
    values = matrices.new_empty(matrices.shape[:2])
    for row, matrix in zip(values, matrices, strict=True):
        twice = matrix.to(torch.float64, copy=True).add_(matrix.mT)
        row.copy_(torch.linalg.eigvalsh(twice) / 2 if bool(twice.isfinite().all()) else torch.full_like(row, torch.nan))
    return values


def _add_random_part(start: Tensor) -> Tensor:
    """Add a random direction to the unit start. It is the same for every example, so the batch does not matter."""
    generator = randomness.stream(0, "Lanczos start")
    other = L2.unit(randomness.normal(start.new_empty(1, *start.shape[1:]), generator=generator))
    return L2.unit(start.detach()) + RANDOM_PART * other


def _find_converged(space: KrylovSpace, values: Tensor, residuals: Tensor, tolerance: float, ends: Ends) -> Tensor:
    """Return which examples are done: the ends have converged, and not only because the start missed a direction."""
    norm, both = values.abs().amax(1), [0, -1]
    sizes = values[:, both].abs()
    limits = tolerance * torch.maximum(sizes, tolerance * norm[:, None])
    # The residual has an allowance for rounding, which that of a far smaller end never is below.
    limits = torch.where(sizes < norm[:, None], torch.maximum(limits, 2 * space.rounding.to(values)[:, None]), limits)
    close = residuals[:, both] <= limits
    smallest_dominates = values[:, 0].abs() > values[:, -1].abs()
    small = {
        "norm": torch.where(smallest_dominates, close[:, 0], close[:, 1]),
        "largest": torch.where(smallest_dominates, close.all(1), close[:, 1]),
        "both": close.all(1),
    }[ends]
    nothing_new = space.residual_norm.to(norm) <= tolerance * norm
    never_invariant = ~space.invariant.cpu() & (space.size > 1)
    return small & (torch.where(space.restarted.cpu(), nothing_new, never_invariant) | space.is_complete)


def _extremes(
    space: KrylovSpace, values: Tensor, vectors: Tensor, residuals: Tensor, converged: Tensor, rows: Tensor
) -> ExtremeEigenvalues:
    like, ends = space.basis, [0, -1]
    smallest, largest = values[rows][:, ends].to(like).unbind(1)
    residual_smallest, residual_largest = residuals[rows][:, ends].to(like).unbind(1)
    vector_smallest, vector_largest = space.combine(vectors[rows][:, :, ends], rows).unbind()
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
