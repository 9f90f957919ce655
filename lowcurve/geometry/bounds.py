"""Bound the change of a field around a point from its gradient and Hessian.

All bounds are about the quadratic model l(x) + <g, r> + <r, H r> / 2, and hold for the field itself where it is
quadratic. Lengths are l_2 in pixel units, unless a norm is named.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lowcurve.analysis.calculus import gradient, value_and_gradient
from lowcurve.analysis.eigenvalues import symmetric_eigenvalues
from lowcurve.analysis.hessians import hessian
from lowcurve.analysis.norms import L1, L2, LINF, Norm, dot
from lowcurve.analysis.spectra import lanczos, spectrum
from lowcurve.errors import InputError
from lowcurve.geometry.curvature import hessian_matrices
from lowcurve.types import Field, Inputs, PerExample


@dataclass(frozen=True)
class Bracket:
    """Lower and upper bounds of ||r*||; see `distance_bounds`.

    Attributes:
        lower: Lower bound.
        upper: Upper bound.
        simple_lower: A looser lower bound.
        printed_lower: The looser lower bound as the paper prints it.
        simple_upper: A looser upper bound.
    """

    lower: PerExample
    upper: PerExample
    simple_lower: PerExample
    printed_lower: PerExample
    simple_upper: PerExample


def distance_bounds(
    gap: PerExample, gradient_norm: PerExample, nu: PerExample, gradient_component: PerExample
) -> Bracket:
    """Bound the smallest ||r*|| at which <g, r> + <r, H r> / 2 >= c.

    2c / (G + sqrt(G^2 + 2 nu c)) <= ||r*|| <= 2c / (a + sqrt(a^2 + 2 nu c)). These are the paper's (G/nu)(sqrt(1 +
    2 nu c / G^2) - 1), and the same with a for G, rewritten without cancellation. The simple forms are c/G - nu c^2
    / (2 G^3) and c/a. The printed form is c/G - 2 nu c^2 / G^3, which is true and four times as loose.

    The lower bound needs only <r, H r> <= nu ||r||^2, so any larger nu is valid. The upper bound needs only nu =
    <u, H u>, so a Ritz pair is enough. Neither needs nu >= 0, which the paper assumes. For nu < 0 both hold, and
    are infinite where the root is of a negative number: the model then never reaches c, or not along u. The simple
    forms need nu >= 0; for nu < 0 they are c/G, c/G (valid, because 0 is a larger nu) and infinite.

    Args:
        gap: c, the threshold minus l(x).
        gradient_norm: G = ||g||.
        nu: lambda_max(H), algebraic.
        gradient_component: a = |<g, u>|, with u the eigenvector of nu.

    Returns:
        The bounds, 0 where c <= 0, and NaN where a number is NaN. They are infinite where nothing bounds the distance (a
        = 0 or G = 0, and nu <= 0). The simple lower forms may be negative, and -inf at G = 0.

    Example:
        >>> one = torch.ones(1, dtype=torch.float64)
        >>> bracket = distance_bounds(gap=one, gradient_norm=one, nu=one, gradient_component=one / 2)  # the setting of Fig. 4
        >>> round(bracket.lower.item(), 4), round(bracket.upper.item(), 4)  # sqrt(3) - 1 and (sqrt(9) - 1) / 2
        (0.7321, 1.0)
        >>> bracket.simple_lower.item(), bracket.printed_lower.item(), bracket.simple_upper.item()
        (0.5, -1.0, 2.0)

    Reference: moosavi2019cure, Theorem 1, Eqs. (2) and (3).
    """
    straight = gap / gradient_norm
    shrink = torch.where(nu <= 0, 0, nu * straight / gradient_norm)
    bounds = (
        _rise(gradient_norm, nu, gap),
        _rise(gradient_component, nu, gap),
        straight * (1 - shrink / 2),
        straight * (1 - 2 * shrink),
        torch.where(nu < 0, torch.inf, torch.where(nu.isnan(), nu, gap / gradient_component)),
    )
    return Bracket(*(torch.where(gap <= 0, 0, bound) for bound in bounds))


def _rise(derivative: PerExample, second_derivative: PerExample, gap: PerExample) -> PerExample:
    """Return the least t >= 0 with derivative t + second_derivative t^2 / 2 >= gap > 0, inf where there is none."""
    # Products and squares of these numbers would underflow for confident examples.
    size = (2 * second_derivative.abs()).sqrt() * gap.sqrt()
    falls, falling = second_derivative < 0, (derivative - size).sqrt() * (derivative + size).sqrt()
    rise = 2 * gap / (derivative + torch.where(falls, falling, torch.hypot(derivative, size)))
    return torch.where(falls & (size > derivative), torch.inf, rise)


@dataclass(frozen=True)
class DistanceBounds:
    """Bound the l_2 distance at which the quadratic model of the field at x reaches a threshold, by `distance_bounds`.

    A further column, "distance, upper bound along the gradient", uses g / ||g|| instead of u. Where nu is a
    multiple eigenvalue, Lanczos may return an eigenvector orthogonal to the gradient, and then Eq. (3) says little.
    That is so for the margin of a ReLU network, where H = 0 and the distance is c/G.

    Args:
        threshold: Value of the field. log 2 belongs to the binary log-loss. With more classes a cross-entropy of log 2
            means p_y = 1/2, which comes before the decision changes, so only the lower bounds hold for the decision.
            For `losses.margin_loss` the threshold is exactly 0 and the quadratic model is better: at confident examples
            the cross-entropy is flat. Its distances are far too large.
        steps: Maximum number of Lanczos steps. Lanczos approaches nu from below. So the upper bounds hold at any number
            of steps, the lower bounds only once nu has converged (`steps` = d is certain).
        tolerance: Relative residual at which Lanczos stops.

    Cost: one gradient and at most `steps` + 1 Hessian products.

    Example:
        >>> columns = DistanceBounds(threshold=2.0)(lambda x: x[:, 0].square() / 2, torch.tensor([[1.0, 0.0]]))
        >>> lower, upper = columns["distance, lower bound"], columns["distance, upper bound"]
        >>> lower.round(decimals=4), upper.round(decimals=4)  # g = u: (1 + r)^2 / 2 = 2
        (tensor([1.]), tensor([1.]))

    Reference: moosavi2019cure, Theorem 1 and Fig. 4.
    """

    threshold: float = math.log(2)
    steps: int = 12
    tolerance: float = 1e-3

    def __call__(self, field: Field, x: Inputs) -> dict[str, PerExample]:
        """Measure the bounds at x."""
        values, grad = value_and_gradient(field, x)
        product, steepest = hessian(field, x), L2.unit(grad)
        ends = lanczos(product, grad, steps=self.steps, tolerance=self.tolerance, ends="both")
        gap, size, along = self.threshold - values, L2.length(grad), dot(grad, ends.vector_largest).abs()
        bounds = distance_bounds(gap, size, ends.largest, along)
        straight = distance_bounds(gap, size, dot(steepest, product(steepest)), size)
        return {
            "distance, lower bound": bounds.lower,
            "distance, upper bound": bounds.upper,
            "distance, upper bound along the gradient": straight.upper,
            "distance, simple lower bound": bounds.simple_lower,
            "distance, printed lower bound": bounds.printed_lower,
            "distance, simple upper bound": bounds.simple_upper,
        }


@dataclass(frozen=True)
class RobustnessIndicator:
    """Measure mean |J_i| and mean |lambda_i| of a decision function, such as `losses.margin`.

    Columns: "Jacobian, mean"; "Jacobian, l_1 norm", sum |J_i|; "Jacobian, zeros", the share of |J_i| <
    jacobian_zero. The same of |lambda_i| with the name "eigenvalues". "Hessian, l_1 norm", sum |H_ij|. The paper
    does not say whether its l_1 norm of the Hessian is over entries or over eigenvalues; both are here.

    The margin of a ReLU network has a zero Hessian almost everywhere, so its last four columns are 0, 0, 1 and 0.
    Other numbers reported of such networks are finite differences or rounding. In float32 rounding leaves
    eigenvalues of about 1e-8 ||H||, which exceed the paper's threshold: count zeros in float64.

    Args:
        jacobian_zero: Entries of the Jacobian below this count as 0.
        eigenvalue_zero: Eigenvalues below this count as 0.
        up_to: Largest input size with computed Hessian columns.
        h: None means the exact Hessian. A number is the scale of a symmetrized secant, an l_2 length in pixel units.

    Cost: one gradient, d Hessian products (none for a ReLU network), an eigenvalue problem of size d and d^2
    numbers of memory per example.

    Example:
        >>> columns = RobustnessIndicator()(lambda x: 3 * x[:, 0] - x[:, 1].square(), torch.zeros(1, 2))
        >>> columns["Jacobian, mean"].item(), columns["Jacobian, zeros"].item(), columns["eigenvalues, mean"].item()
        (1.5, 0.5, 1.0)

    Reference: yu2018interpreting, section 4.1 (the indicator), Fig. 8 and its footnote 3 (zeros).
    """

    jacobian_zero: float = 10e-3  # as printed in the paper, which may mean 10^-3 and 10^-10
    eigenvalue_zero: float = 10e-10
    up_to: int = 1024
    h: float | None = None
    at_once: ClassVar[int] = 4

    def __call__(self, field: Field, x: Inputs) -> dict[str, PerExample]:
        """Measure the columns at x."""
        entries = gradient(field, x).flatten(1).abs()
        columns = _statistics("Jacobian", entries, self.jacobian_zero)
        if entries.shape[1] <= self.up_to:
            matrices = hessian_matrices(field, x, self.h)
            columns |= _statistics("eigenvalues", spectrum(matrices).abs(), self.eigenvalue_zero)
            columns["Hessian, l_1 norm"] = L1.length(matrices)
        return columns


def _statistics(name: str, sizes: Tensor, zero: float) -> dict[str, PerExample]:
    zeros = torch.where(sizes.isnan(), sizes, (sizes < zero).to(sizes)).mean(1)
    return {f"{name}, mean": sizes.mean(1), f"{name}, l_1 norm": sizes.sum(1), f"{name}, zeros": zeros}


def decision_change_bound(field: Field, x: Inputs, perturbation: Inputs) -> PerExample:
    """Bound |<J, delta> + <delta, H delta> / 2| by sum |J_i| |delta_i| + sum |lambda_i| y_i^2 / 2, with y = E^T delta.

    E holds the eigenvectors of H. The bound is for the change of the quadratic model.

    Args:
        field: The decision function L.
        x: Points, shape (batch, ...).
        perturbation: delta, of x's shape.

    Returns:
        One bound per example.

    Cost: as for `RobustnessIndicator`, with the eigenvectors.

    Example:
        >>> field, delta = lambda x: x[:, 0] + x[:, 0] * x[:, 1], torch.tensor([[1.0, 1.0]])
        >>> decision_change_bound(field, torch.zeros(1, 2), delta).round(decimals=4)  # 1 + 1 |y_1|^2 / 2, |y_1| = sqrt(2)
        tensor([2.])

    Reference: yu2018interpreting, Eqs. (4) to (9).
    """
    matrices = hessian_matrices(field, x).double()
    values, vectors = symmetric_eigenvalues((matrices + matrices.transpose(1, 2)) / 2)
    turned = torch.einsum("bji,bj->bi", vectors, perturbation.flatten(1).double())
    bending: Tensor = (values.abs() * turned.square()).sum(1) / 2
    return dot(gradient(field, x).abs(), perturbation.abs()) + bending.to(x)


@dataclass(frozen=True)
class DecisionChange:
    """Bound |<J, delta> + <delta, H delta> / 2| over a ball by ||J||_dual radius + ||H||_2 R^2 / 2.

    R is the largest l_2 length in the ball: radius in l_1 and l_2, sqrt(d) radius in l_inf. Where the bound is
    below the margin, the quadratic model keeps its decision in the whole ball (Eq. 6). The pixel box is ignored.

    Args:
        radius: Radius of the ball in pixel units.
        norm: Norm of the ball.
        steps: Maximum number of Lanczos steps. Lanczos approaches ||H||_2 from below, so the bound holds only once
            it has converged (`steps` = d is certain).
        tolerance: Relative residual at which Lanczos stops.

    Cost: one gradient and at most `steps` Hessian products.

    Example:
        >>> field = lambda x: 3 * x[:, 0] - 4 * x[:, 1] + x.square().sum(1)
        >>> x = torch.zeros(1, 2)
        >>> DecisionChange(0.1, LINF)(field, x), DecisionChange(0.1, L2)(field, x)  # 0.7 + 2 * 0.02 / 2; 0.5 + 2 * 0.01 / 2
        (tensor([0.7200]), tensor([0.5100]))

    Reference: yu2018interpreting, Eqs. (6) and (7).
    """

    radius: float
    norm: Norm = LINF
    steps: int = 12
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        if not (math.isfinite(self.radius) and self.radius >= 0):
            raise InputError("a finite radius of at least 0", self.radius, "write pixels(8) for 8/255")

    def __call__(self, field: Field, x: Inputs) -> PerExample:
        """Measure the bound at x."""
        grad = gradient(field, x)
        ends = lanczos(hessian(field, x), grad, steps=self.steps, tolerance=self.tolerance)
        square = self.radius**2 * (x[0].numel() if self.norm == LINF else 1)
        return self.norm.dual.length(grad) * self.radius + ends.spectral_norm * square / 2
