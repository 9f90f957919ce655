"""Measure the curvature of level sets {F = c} of a field F, such as the decision boundary {F = 0}.

n = grad F / ||grad F|| is the unit normal, pointing to F > 0, and P = I - n n^T projects onto the tangent space.
The normal curvature along a unit tangent v is kappa = <v, H v> / ||grad F||. In the plane of v and n the boundary
is the curve s = -kappa t^2 / 2, with t along v and s along n. So kappa > 0 where the boundary bends towards F < 0,
and kappa = 1/R for F = ||x||^2 - R^2. Scaling F by k > 0 changes nothing; k < 0 flips n and the sign of kappa.
Conventions: where grad F = 0 there is no normal and P = I; a curvature is then 0 where its numerator is 0, and
infinite otherwise.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lowcurve import randomness
from lowcurve.analysis.calculus import gradient
from lowcurve.analysis.hessians import hessian
from lowcurve.analysis.norms import L2, dot, per_example
from lowcurve.analysis.secants import secant_hessian
from lowcurve.analysis.spectra import dense, lanczos, spectrum
from lowcurve.errors import InputError
from lowcurve.types import Field, Inputs, Operator, PerExample


@dataclass(frozen=True)
class TangentSpace:
    """The tangent space of a level set of F at a point of each example.

    Attributes:
        normal: Unit normals n.
        gradient_norm: ||grad F||.
        operator: v -> H v, the Hessian of F.
    """

    normal: Tensor
    gradient_norm: PerExample
    operator: Operator

    def project(self, v: Tensor) -> Tensor:
        """Project v onto the tangent space; where only rounding is left, return 0."""
        # A second pass removes the rounding that remains along n, which matters where P v is short.
        for _ in range(2):
            tangent = v - per_example(dot(self.normal, v), v) * self.normal
            noise = 10 * torch.finfo(v.dtype).eps * L2.length(v)
            v = tangent * per_example(L2.length(tangent) > noise, v)
        return v

    def curvature(self, direction: Tensor) -> PerExample:
        """Compute the normal curvature along the projected direction, 0 where the projection is 0."""
        tangent = L2.unit(self.project(direction))
        return self.divide_by_gradient_norm(dot(tangent, self.operator(tangent)))

    def divide_by_gradient_norm(self, values: Tensor) -> Tensor:
        """Divide by ||grad F|| one or several numbers per example; 0 stays 0."""
        gradient_norm = per_example(self.gradient_norm, values)
        return torch.where(values != 0, values / gradient_norm, 0)


def tangent_space(field: Field, x: Inputs, h: float | None = None) -> TangentSpace:
    """Compute the tangent space of the level set of a field at x.

    For a ReLU network F = z_i - z_j has a zero Hessian almost everywhere, so every exact curvature is 0. Its
    boundary bends in kinks, which only a finite scale h can measure.

    Args:
        field: The decision function F.
        x: Points, shape (batch, ...).
        h: None for the exact Hessian, or the scale of central differences, an l_2 length in pixel units.

    Returns:
        Normals, gradient norms and the Hessian operator.

    Raises:
        InputError: If an input is a single number, which has no tangent space.
    """
    if x[:1].numel() < 2 and len(x):
        raise InputError("inputs of two numbers or more", tuple(x.shape), "a point on a line has no tangent space")
    grad = gradient(field, x)
    operator = hessian(field, x) if h is None else secant_hessian(field, x, h, central=True)
    return TangentSpace(L2.unit(grad), L2.length(grad), operator)


def normal_curvature(field: Field, x: Inputs, direction: Inputs, *, h: float | None = None) -> PerExample:
    """Compute the normal curvature kappa = <v, H v> / ||grad F|| along v = P direction / ||P direction||.

    Args:
        field: The decision function F.
        x: Points of a level set such as the boundary, shape (batch, ...).
        direction: A direction for each example, of x's shape.
        h: Scale; see `tangent_space`. None means the exact Hessian.

    Returns:
        One curvature per example, 1 / length; 0 where the direction is along the normal.

    Cost: one gradient and one Hessian product.

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
    """Measure all d - 1 principal curvatures, in ascending order.

    They are the eigenvalues of P H P / ||grad F|| without the zero that belongs to n. Their mean is the mean
    curvature. Called with a field and points, it returns shape (batch, d - 1).

    Args:
        h: None for the exact Hessian, or a scale at which the matrix is symmetrized; see `tangent_space`.

    Cost: one gradient, d Hessian products and an eigenvalue problem of size d - 1; d^2 numbers of memory per
    example.

    Example:
        >>> PrincipalCurvatures()(lambda x: x.square().sum(1) - 4, torch.tensor([[0.0, 2.0, 0.0]]))  # a sphere, R = 2
        tensor([[0.5000, 0.5000]])

    Reference: Fawzi et al. 2018, curvature of the decision boundary.
    """

    h: float | None = None

    def __call__(self, field: Field, x: Inputs) -> Tensor:
        """Measure the principal curvatures at x."""
        tangents = tangent_space(field, x, self.h)
        basis = torch.linalg.qr(tangents.normal.flatten(1).double()[:, :, None], mode="complete").Q[:, :, 1:]
        hessian_matrix = dense(lambda v: tangents.operator(tangents.project(v)), x)
        projected = basis.transpose(1, 2) @ hessian_matrix.double() @ basis
        return tangents.divide_by_gradient_norm(spectrum(projected).to(x))


@dataclass(frozen=True)
class NormalCurvatures:
    """Measure the extreme principal curvatures by Lanczos and the mean curvature from random tangent directions.

    Columns: "largest principal curvature" and "smallest principal curvature", algebraic and approached from inside
    the spectrum; "mean curvature", trace / (d - 1); "mean curvature, standard error". The mean curvature is the
    mean of kappa over uniform tangent directions, an unbiased estimate.

    Args:
        steps: Maximum number of Lanczos steps.
        tolerance: Relative residual at which Lanczos stops.
        draws: Number of random tangent directions.
        seed: Seed of the directions.
        h: Scale; see `tangent_space`. None means the exact Hessian.

    Cost: one gradient and at most `steps` + 1 + `draws` Hessian products.

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
        """Measure the columns at x."""
        tangents = tangent_space(field, x, self.h)
        labels = torch.zeros(len(x), dtype=torch.long, device=x.device)
        streams = randomness.example_streams(randomness.stream(self.seed, "tangent directions"), x, labels)
        directions = [L2.unit(tangents.project(streams.at(draw).normal(x))) for draw in range(self.draws)]
        curvatures = torch.stack([dot(v, tangents.operator(v)) for v in directions])

        def tangential(v: Tensor) -> Tensor:
            # The eigenvalue 0 along n could be an extreme one, so a value inside the tangent spectrum replaces it.
            normal_part = curvatures[0] * dot(tangents.normal, v)
            return (
                tangents.project(tangents.operator(tangents.project(v))) + per_example(normal_part, v) * tangents.normal
            )

        start = tangents.project(tangents.operator(tangents.normal))
        ends = lanczos(tangential, start, steps=self.steps, tolerance=self.tolerance, ends="both")
        return {
            "largest principal curvature": tangents.divide_by_gradient_norm(ends.largest),
            "smallest principal curvature": tangents.divide_by_gradient_norm(ends.smallest),
            "mean curvature": tangents.divide_by_gradient_norm(curvatures.mean(0)),
            "mean curvature, standard error": tangents.divide_by_gradient_norm(
                curvatures.std(0) / math.sqrt(self.draws)
            ),
        }


def mean_hessian(decision: Field, x: Inputs, end: Inputs, *, share: float = 0.8, h: float | None = None) -> Operator:
    """Return the mean over the sample of the Hessians at x_i + share (end_i - x_i), as an operator.

    Uses central differences at the scale h. This was published under the name of principal curvatures, but it is not
    the normal curvature. It is one matrix for the whole sample, of F = z_original - z_fooling, at points inside the
    region and not on its boundary. It is not projected onto a tangent space and not divided by ||grad F||, so it scales
    with F.

    Args:
        decision: The decision function F.
        x: Points, shape (batch, ...).
        end: Adversarial points of x's shape. The published code takes DeepFool's with an overshoot of 5 %.
        share: Position on the segment from x to `end`.
        h: An l_2 length in pixel units. By default it is sqrt(d) 10 / 512, five grey levels in every pixel.

    Returns:
        v -> H v for one vector v of shape (1, ...). Use `lanczos(mean_hessian(...), start)` for the extreme
        eigenvalues and `spectrum(dense(mean_hessian(...), x[:1]))` for all.

    Cost: two gradients of the whole sample per product.

    Example:
        >>> product = mean_hessian(lambda x: x.pow(2).sum(1) * x[:, 0], torch.ones(2, 1), -torch.ones(2, 1), share=0.5)
        >>> product(torch.ones(1, 1)).abs() < 1e-6  # of x^3, at 0
        tensor([[True]])

    Reference: Jetley et al. 2018, as their code has it.
    """
    scale = math.sqrt(x[0].numel()) * 10 / 512 if h is None else h
    operator = secant_hessian(decision, x + share * (end - x), scale, central=True)

    def product(v: Tensor) -> Tensor:
        return operator(v.expand_as(x)).mean(0, keepdim=True)

    return product
