"""The decision boundary {F = 0} of a decision function F: a point on it, its curvature there, how far away it is.

n = grad F / ||grad F|| is its unit normal, to the side where F grows, and P = I - n n^T the projection onto its tangent
space. The normal curvature along a unit tangent v is kappa = <v, H v> / ||grad F||: in the plane of v and n the boundary
is s = -kappa t^2 / 2, t along v and s along n. So kappa > 0 where it bends towards F < 0, 1/R on the sphere ||x||^2 - R^2.
Scaling F by k > 0 changes nothing; k < 0 turns n and the sign. Conventions: where grad F = 0 there is no normal and P = I;
a curvature is then 0 where its numerator is, and otherwise infinite.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lowcurve import randomness
from lowcurve.analysis.calculus import gradient
from lowcurve.analysis.hessians import hessian
from lowcurve.analysis.norms import L2, dot, per_example
from lowcurve.analysis.secants import secant_hessian
from lowcurve.analysis.spectra import dense, lanczos, spectrum
from lowcurve.errors import InputError
from lowcurve.losses import require_eval
from lowcurve.types import Classifier, Field, Inputs, Labels, Logits, Operator, PerExample


@dataclass(frozen=True)
class LogitDifference:
    """F(x) = z_i(x) - z_j(x), positive on the side of class i; it shows its two halves, as `losses.LossField` does."""

    model: Classifier
    i: Labels
    j: Labels

    def __call__(self, x: Inputs) -> PerExample:
        return self.from_logits(self.logits(x))

    def logits(self, x: Inputs) -> Logits:
        """The first half, x -> z."""
        return self.model(x)

    def from_logits(self, logits: Logits) -> PerExample:
        """The second half, z -> z_i - z_j."""
        if len(logits) != len(self.i):
            raise InputError(f"{len(logits)} pairs of classes, one an example", len(self.i), "take(rows) the pairs too")
        return (logits.gather(1, self.i[:, None]) - logits.gather(1, self.j[:, None])).squeeze(1)

    def take(self, rows: Tensor) -> "LogitDifference":
        """The decision functions of some of the examples."""
        return LogitDifference(self.model, self.i[rows], self.j[rows])


def logit_difference(model: Classifier, i: Labels, j: Labels) -> LogitDifference:
    """The decision function between two classes of each example, F = z_i - z_j.

    Unlike the margin it has no kinks where the second class changes. The model must be in eval mode.

    Example:
        >>> logit_difference(nn.Identity(), torch.tensor([0]), torch.tensor([2]))(torch.tensor([[5.0, 1.0, 2.0]]))
        tensor([3.])

    Reference: Fawzi et al. 2018, curvature of the decision boundary.
    """
    if i.shape != j.shape or bool((i == j).any()):
        raise InputError("two different classes for each example", "the same or none", "give i and j of one length")
    if isinstance(model, nn.Module):
        require_eval(model)
    return LogitDifference(model, i, j)


@dataclass(frozen=True)
class BoundaryPoint:
    """Points where F = 0. crossed: whether F changed its sign on the way; where not, the point is the end of the way."""

    point: Inputs
    crossed: Tensor


def find_boundary_point(
    decision: Field, x: Inputs, across: Inputs, *, steps: int = 60, tolerance: float = 0
) -> BoundaryPoint:
    """z on the segment from x to `across` with F(z) = 0, by bisection: a crossing, the only one or one of several.

    across: a point on the other side, such as an attack's. Whoever has none keeps `across` and is not `crossed`.
    tolerance: of the interval, as a share of the way; 0 goes on to rounding (about 24 halvings in float32, 53 in float64,
    more near x); of its ends the one of smaller |F| is given. Cost: at most `steps` + 2 forward passes.

    Example:
        >>> found = find_boundary_point(lambda x: 1 - x.square().sum(1), torch.zeros(1, 2), torch.tensor([[4.0, 0.0]]))
        >>> found.point, found.crossed
        (tensor([[1., 0.]]), tensor([True]))
    """
    if steps < 1 or not 0 <= tolerance < 1:
        raise InputError("a step and a tolerance from 0 to 1", (steps, tolerance), "write steps=60, tolerance=0")
    way = across - x

    def at(share: PerExample) -> PerExample:
        with torch.no_grad():
            return decision(x + per_example(share, way) * way)

    here, there = torch.zeros(len(x)).to(x), torch.ones(len(x)).to(x)
    value_here, value_there = at(here), at(there)
    side = value_here.sign()
    crossed = side * value_there.sign() <= 0
    for _ in range(steps):
        middle = (here + there) / 2
        if bool(((middle == here) | (middle == there) | (there - here <= tolerance)).all()):
            break
        value = at(middle)
        before = value.sign() == side
        here, value_here = torch.where(before, middle, here), torch.where(before, value, value_here)
        there, value_there = torch.where(before, there, middle), torch.where(before, value_there, value)
    share = torch.where(value_here.abs() < value_there.abs(), here, there)
    point = x + per_example(share, way) * way
    return BoundaryPoint(torch.where(per_example(crossed, x), point, across), crossed)


@dataclass(frozen=True)
class TangentSpace:
    """The tangent space of a level set: its unit normals n, ||grad F|| and the Hessian of F, as an operator."""

    normal: Tensor
    gradient_norm: PerExample
    operator: Operator

    def project(self, v: Tensor) -> Tensor:
        """P v, less what is rounding: a vector along n has no direction in the tangent space."""
        for _ in range(2):  # once leaves rounding of v along n, which counts where P v is short
            tangent = v - per_example(dot(self.normal, v), v) * self.normal
            noise = 10 * torch.finfo(v.dtype).eps * L2.length(v)
            v = tangent * per_example(L2.length(tangent) > noise, v)
        return v

    def curvature(self, direction: Tensor) -> PerExample:
        """kappa along P direction, 0 where that is 0."""
        tangent = L2.unit(self.project(direction))
        return self.relative(dot(tangent, self.operator(tangent)))

    def relative(self, values: Tensor) -> Tensor:
        """values / ||grad F||, one or several an example, and 0 where they are 0."""
        gradient_norm = per_example(self.gradient_norm, values)
        return torch.where(values != 0, values / gradient_norm, 0)


def tangent_space(field: Field, x: Inputs, h: float | None = None) -> TangentSpace:
    """The tangent space at x, with the exact Hessian or with central differences at the scale h.

    For a ReLU network F = z_i - z_j has no Hessian almost everywhere and every curvature is 0; its boundary bends in
    kinks, which only a scale h (an l_2 length in pixel units) can see.
    """
    if x[:1].numel() < 2 and len(x):
        raise InputError("inputs of two numbers or more", tuple(x.shape), "a point on a line has no tangent space")
    slope = gradient(field, x)
    operator = hessian(field, x) if h is None else secant_hessian(field, x, h, central=True)
    return TangentSpace(L2.unit(slope), L2.length(slope), operator)


def normal_curvature(field: Field, x: Inputs, direction: Inputs, *, h: float | None = None) -> PerExample:
    """kappa = <v, H v> / ||grad F|| along v = P direction / ||P direction||; 0 where the direction is along the normal.

    x: a point of the boundary (or of any level set). h: see `tangent_space`. Cost: one gradient, one product.

    Example:
        >>> cylinder, x = lambda x: x[:, 0].square() + x[:, 1].square() - 4, torch.tensor([[2.0, 0.0, 7.0]])
        >>> around, upwards = torch.tensor([[5.0, 1.0, 0.0]]), torch.tensor([[0.0, 0.0, 1.0]])
        >>> normal_curvature(cylinder, x, around), normal_curvature(cylinder, x, upwards)
        (tensor([0.5000]), tensor([0.]))

    Reference: Fawzi et al. 2018, curvature of the decision boundary.
    """
    return tangent_space(field, x, h).curvature(direction)


@dataclass(frozen=True)
class PrincipalCurvatures:
    """All d - 1 principal curvatures in rising order, shape (batch, d - 1): eigenvalues of P H P / ||grad F|| without n's 0.

    Their mean is the mean curvature, trace / (d - 1). h: see `tangent_space`; at a scale the matrix is symmetrized.
    Cost: one gradient and d products, one eigenvalue problem of size d - 1; d^2 numbers of memory an example.

    Example:
        >>> PrincipalCurvatures()(lambda x: x.square().sum(1) - 4, torch.tensor([[0.0, 2.0, 0.0]]))  # a sphere, R = 2
        tensor([[0.5000, 0.5000]])

    Reference: Fawzi et al. 2018, curvature of the decision boundary.
    """

    h: float | None = None

    def __call__(self, field: Field, x: Inputs) -> Tensor:
        here = tangent_space(field, x, self.h)
        basis = torch.linalg.qr(here.normal.flatten(1).double()[:, :, None], mode="complete").Q[:, :, 1:]
        within = dense(lambda v: here.operator(here.project(v)), x)
        inside = basis.transpose(1, 2) @ within.double() @ basis
        return here.relative(spectrum(inside).to(x))


@dataclass(frozen=True)
class NormalCurvatures:
    """The ends of the principal curvatures by Lanczos, and the mean curvature from random tangent directions.

    Columns: "largest principal curvature", "smallest principal curvature" (algebraic, from within); "mean curvature",
    trace / (d - 1), as the mean of kappa over `draws` uniform tangent directions, which it is in expectation, and its
    standard error. h: see `tangent_space`. Cost: one gradient, at most `steps` + 1 + `draws` products.

    Example:
        >>> columns = NormalCurvatures()(lambda x: x.square().sum(1) - 4, torch.tensor([[0.0, 2.0, 0.0]]))
        >>> columns["largest principal curvature"], columns["mean curvature"]
        (tensor([0.5000]), tensor([0.5000]))

    Reference: Fawzi et al. 2018, curvature of the decision boundary.
    """

    steps: int = 12
    tolerance: float = 1e-3
    draws: int = 10
    seed: int = 0
    h: float | None = None

    def __post_init__(self) -> None:
        if self.draws < 2:
            raise InputError("at least two draws", self.draws, "write draws=10")

    def __call__(self, field: Field, x: Inputs) -> dict[str, PerExample]:
        here = tangent_space(field, x, self.h)
        labels = torch.zeros(len(x), dtype=torch.long, device=x.device)
        streams = randomness.example_streams(randomness.stream(self.seed, "tangent directions"), x, labels)
        directions = [L2.unit(here.project(streams.at(draw).normal(x))) for draw in range(self.draws)]
        bends = torch.stack([dot(v, here.operator(v)) for v in directions])

        def within(v: Tensor) -> Tensor:
            # Along n a value from inside the tangent spectrum in place of 0, which might be an end of it.
            upright = bends[0] * dot(here.normal, v)
            return here.project(here.operator(here.project(v))) + per_example(upright, v) * here.normal

        start = here.project(here.operator(here.normal))
        ends = lanczos(within, start, steps=self.steps, tolerance=self.tolerance, ends="both")
        return {
            "largest principal curvature": here.relative(ends.largest),
            "smallest principal curvature": here.relative(ends.smallest),
            "mean curvature": here.relative(bends.mean(0)),
            "mean curvature, standard error": here.relative(bends.std(0) / math.sqrt(self.draws)),
        }


def boundary_distances(
    decision: Field, x: Inputs, boundary: BoundaryPoint, *, h: float | None = None
) -> dict[str, PerExample]:
    """How far the boundary is from x: ||x - z||, |<x - z, n>|, and the distance to the circle that osculates it at z.

    Columns: "distance along the way" ||x - z||, an upper bound; "distance to the tangent plane" |s|, s = <x - z, n>;
    "normal curvature" kappa at z along t = P (x - z); "distance to the osculating circle", of curvature kappa in the plane
    of n and t: |kappa ||x - z||^2 + 2 s| / (1 + sqrt(kappa^2 ||t||^2 + (1 + kappa s)^2)), exact for spheres and hyperplanes
    wherever the segment crosses them. All are l_2 lengths, inf (and kappa 0) where nothing was crossed. If x - z is along
    n, no plane is singled out: kappa is 0 and the three lengths agree. h: see `tangent_space`. Cost: one gradient, one product.

    Example:
        >>> x, z = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 1.0]])
        >>> found = boundary_distances(lambda x: x.square().sum(1) - 1, x, BoundaryPoint(z, torch.tensor([True])))
        >>> found["distance along the way"], found["distance to the osculating circle"]  # of (3, 0) and the unit circle
        (tensor([3.1623]), tensor([2.]))
    """
    way = x - boundary.point
    here = tangent_space(decision, boundary.point, h)
    length, upright, bend = L2.length(way), dot(way, here.normal), here.curvature(way)
    aside = L2.length(here.project(way))
    around = (bend * length.square() + 2 * upright).abs() / (1 + torch.hypot(bend * aside, 1 + bend * upright))
    lengths = {
        "distance along the way": length,
        "distance to the tangent plane": upright.abs(),
        "distance to the osculating circle": around,
    }
    columns = {name: torch.where(boundary.crossed, column, torch.inf) for name, column in lengths.items()}
    return columns | {"normal curvature": torch.where(boundary.crossed, bend, 0)}


def mean_hessian(decision: Field, x: Inputs, across: Inputs, *, share: float = 0.8, h: float | None = None) -> Operator:
    """v -> the mean over the sample of H_i v at x_i + share (across_i - x_i), central differences at the scale h.

    Not the normal curvature, though published under the name of principal curvatures: one matrix for the whole sample,
    of F = z_original - z_fooling at points inside the region and not on its boundary, without projection onto a tangent
    space and without division by ||grad F||, so that it is scaled as F is.

    v: one vector for the whole sample, shape (1, ...). Its extreme eigenvalues: `lanczos(mean_hessian(...), start)` with a
    start of shape (1, ...); all: `spectrum(dense(mean_hessian(...), x[:1]))`. across: an attack's answer, DeepFool's with
    an overshoot of 5 % in that lineage. h: an l_2 length, by default sqrt(d) 10 / 512, five grey levels in every pixel.
    Cost: two gradients of the whole sample for each product.

    Example:
        >>> product = mean_hessian(lambda x: x.pow(2).sum(1) * x[:, 0], torch.ones(2, 1), -torch.ones(2, 1), share=0.5)
        >>> product(torch.ones(1, 1)).abs() < 1e-6  # of x^3, at 0
        tensor([[True]])

    Reference: Jetley et al. 2018, as their code has it.
    """
    scale = math.sqrt(x[0].numel()) * 10 / 512 if h is None else h
    operator = secant_hessian(decision, x + share * (across - x), scale, central=True)

    def product(v: Tensor) -> Tensor:
        return operator(v.expand_as(x)).mean(0, keepdim=True)

    return product
