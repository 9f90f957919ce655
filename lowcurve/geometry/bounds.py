"""What gradient and Hessian at a point promise of the field around it.

Everything here is about the quadratic model at x, l(x) + <g, r> + <r, H r> / 2, and a promise about the field itself where
that is quadratic. Lengths are l_2, in pixel units, unless a norm is named.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lowcurve.analysis.calculus import gradient, value_and_gradient
from lowcurve.analysis.hessians import hessian
from lowcurve.analysis.norms import L1, L2, LINF, Norm, dot
from lowcurve.analysis.spectra import lanczos, spectrum
from lowcurve.errors import InputError
from lowcurve.geometry.curvature import hessian_matrices
from lowcurve.types import Field, Inputs, PerExample


@dataclass(frozen=True)
class Bracket:
    """lower <= ||r*|| <= upper, and three simpler bounds outside of them; `printed_lower` is the paper's."""

    lower: PerExample
    upper: PerExample
    simple_lower: PerExample
    printed_lower: PerExample
    simple_upper: PerExample


def distance_bounds(gap: PerExample, slope: PerExample, nu: PerExample, along: PerExample) -> Bracket:
    """2c / (G + sqrt(G^2 + 2 nu c)) <= ||r*|| <= 2c / (a + sqrt(a^2 + 2 nu c)), r* the least r with <g, r> + <r, Hr>/2 >= c.

    gap: c, the threshold less l(x). slope: G = ||g||. nu: lambda_max(H), algebraic. along: a = |<g, u>|, u its eigenvector.
    These are the paper's (G/nu)(sqrt(1 + 2 nu c / G^2) - 1) and the same of a, without the difference that cancels. The
    simple forms are c/G - nu c^2 / (2 G^3), as printed c/G - 2 nu c^2 / G^3 (true and four times as loose), and c/a.

    What is needed. Lower: <r, Hr> <= nu ||r||^2, so any larger nu serves as well. Upper: only nu = <u, Hu>, so a Ritz
    pair serves that is no eigenpair. Neither needs nu >= 0, the paper's premise: for nu < 0 both hold as they stand, and
    are inf where the root is of a negative number (lower: the model rises to c nowhere; upper: not along u). The simple
    forms do need it; for nu < 0 they are c/G, c/G (true, as nu = 0 is a larger nu) and inf.
    Conventions: 0 where c <= 0 (across already); inf where nothing bounds the distance (a = 0 and nu <= 0; G = 0 and
    nu <= 0, where the model never rises). The simple lower forms may be negative, -inf at G = 0.

    Example:
        >>> one = torch.ones(1, dtype=torch.float64)
        >>> bracket = distance_bounds(gap=one, slope=one, nu=one, along=one / 2)  # the setting of Fig. 4
        >>> round(bracket.lower.item(), 4), round(bracket.upper.item(), 4)  # sqrt(3) - 1 and (sqrt(9) - 1) / 2
        (0.7321, 1.0)
        >>> bracket.simple_lower.item(), bracket.printed_lower.item(), bracket.simple_upper.item()
        (0.5, -1.0, 2.0)

    Reference: moosavi2019cure, Theorem 1, Eqs. (2) and (3).
    """
    straight = gap / slope
    shrink = torch.where(nu > 0, nu * straight / slope, 0)
    bounds = (
        _rise(slope, nu, gap),
        _rise(along, nu, gap),
        straight * (1 - shrink / 2),
        straight * (1 - 2 * shrink),
        torch.where(nu >= 0, gap / along, torch.inf),
    )
    return Bracket(*(torch.where(gap > 0, bound, 0) for bound in bounds))


def _rise(slope: PerExample, bend: PerExample, gap: PerExample) -> PerExample:
    """The least t >= 0 with slope t + bend t^2 / 2 >= gap > 0, inf where there is none."""
    size = (2 * bend.abs()).sqrt() * gap.sqrt()  # no squares or products, which underflow for confident examples
    falling = torch.where(size > slope, torch.nan, (slope - size).sqrt() * (slope + size).sqrt())
    root = torch.where(bend < 0, falling, torch.hypot(slope, size))
    return torch.where(torch.isnan(root), torch.inf, 2 * gap / (slope + root))


@dataclass(frozen=True)
class DistanceBounds:
    """Bounds of the l_2 distance at which the quadratic model of the field reaches the threshold: `distance_bounds` at x.

    One more column, "upper bound along the gradient": the same proof with g / ||g|| in place of u. Where nu is a multiple
    eigenvalue, Lanczos gives some vector of it, perhaps one across the gradient, and Eq. (3) says little: so for the margin
    of a ReLU network, H = 0, where the distance is c/G.

    threshold: of the field. log 2 is the binary log-loss's; with more classes a cross-entropy of log 2 means p_y = 1/2,
    which comes before the decision changes: lower bounds stay true of the decision, upper bounds do not. With
    `losses.margin_loss` the threshold is 0, exactly, and the model is a better one: at confident examples that of the
    cross-entropy is flat, and its distances are far beyond those of the network.
    steps, tolerance: of Lanczos, which approaches nu from below: the upper bounds hold whatever the steps, the lower ones
    only with a nu that has converged (`steps` = d is certain).
    Cost: at most `steps` + 1 Hessian-vector products and one gradient.

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
        values, slope = value_and_gradient(field, x)
        product, steepest = hessian(field, x), L2.unit(slope)
        ends = lanczos(product, slope, steps=self.steps, tolerance=self.tolerance, ends="both")
        gap, size, along = self.threshold - values, L2.length(slope), dot(slope, ends.vector_largest).abs()
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
    """mean |J_i| and mean |lambda_i| of a decision function (a field of `losses.margin`), with the statistics of Fig. 8.

    Columns: "Jacobian, mean", "Jacobian, l_1 norm" sum |J_i| and "Jacobian, zeros", the share of |J_i| < jacobian_zero;
    "eigenvalues, mean" of |lambda_i|, "eigenvalues, l_1 norm" sum |lambda_i| and "eigenvalues, zeros", the share of
    |lambda_i| < eigenvalue_zero; "Hessian, l_1 norm" sum |H_ij|. The paper says "l_1 norm of the Hessian" and not
    which: entries, as it is written of the Jacobian, or eigenvalues, as its indicator has it. Both are here.

    The margin of a ReLU network has no Hessian almost everywhere; then all of the last four are 0, 0, 1 and 0, and what
    else is reported of such a network is a finite difference or rounding. In float32 rounding leaves eigenvalues of about
    1e-8 ||H||, which are no zeros at the paper's threshold: count them in float64.

    up_to: the columns of H and its eigenvalues are there for inputs of at most so many numbers. h: None for the exact H,
    or the l_2 length, in pixel units, at which a symmetrized secant takes its place (`analysis.secants`).
    Cost: one gradient; d Hessian-vector products (none for a ReLU network), an eigenvalue problem of size d and d^2 numbers
    of memory an example.

    Example:
        >>> columns = RobustnessIndicator()(lambda x: 3 * x[:, 0] - x[:, 1].square(), torch.zeros(1, 2))
        >>> columns["Jacobian, mean"].item(), columns["Jacobian, zeros"].item(), columns["eigenvalues, mean"].item()
        (1.5, 0.5, 1.0)

    Reference: yu2018interpreting, section 4.1 (the indicator), Fig. 8 and its footnote 3 (zeros).
    """

    jacobian_zero: float = 10e-3  # as it is printed; 10^-3 and 10^-10 may have been meant
    eigenvalue_zero: float = 10e-10
    up_to: int = 1024
    h: float | None = None
    at_once: ClassVar[int] = 4

    def __call__(self, field: Field, x: Inputs) -> dict[str, PerExample]:
        entries = gradient(field, x).flatten(1).abs()
        columns = _statistics("Jacobian", entries, self.jacobian_zero)
        if entries.shape[1] <= self.up_to:
            matrices = hessian_matrices(field, x, self.h)
            columns |= _statistics("eigenvalues", spectrum(matrices).abs(), self.eigenvalue_zero)
            columns["Hessian, l_1 norm"] = L1.length(matrices)
        return columns


def _statistics(name: str, sizes: Tensor, zero: float) -> dict[str, PerExample]:
    zeros = (sizes < zero).to(sizes).mean(1)
    return {f"{name}, mean": sizes.mean(1), f"{name}, l_1 norm": sizes.sum(1), f"{name}, zeros": zeros}


def decision_change_bound(field: Field, x: Inputs, perturbation: Inputs) -> PerExample:
    """|<J, delta> + <delta, H delta> / 2| <= sum |J_i| |delta_i| + sum |lambda_i| y_i^2 / 2, y = E^T delta: the right side.

    E: the eigenvectors of H. It bounds the change of the quadratic model, so that of L itself where L is quadratic between.
    Cost: as `RobustnessIndicator`, with the eigenvectors.

    Example:
        >>> field, delta = lambda x: x[:, 0] + x[:, 0] * x[:, 1], torch.tensor([[1.0, 1.0]])
        >>> decision_change_bound(field, torch.zeros(1, 2), delta).round(decimals=4)  # 1 + 1 |y_1|^2 / 2, |y_1| = sqrt(2)
        tensor([2.])

    Reference: yu2018interpreting, Eqs. (4) to (9).
    """
    matrices = hessian_matrices(field, x).double()
    values, vectors = torch.linalg.eigh((matrices + matrices.transpose(1, 2)) / 2)
    turned = torch.einsum("bji,bj->bi", vectors, perturbation.flatten(1).double())
    bending: Tensor = (values.abs() * turned.square()).sum(1) / 2
    return dot(gradient(field, x).abs(), perturbation.abs()) + bending.to(x)


@dataclass(frozen=True)
class DecisionChange:
    """sup |<J, delta> + <delta, H delta> / 2| <= ||J||_dual radius + ||H||_2 R^2 / 2 over ||delta|| <= radius: the right side.

    R is the largest l_2 length in the ball: radius in l_1 and l_2, sqrt(d) radius in l_inf. Where it is below the margin,
    the quadratic model keeps its decision in the whole ball (Eq. 6). norm: of the ball; its pixel box is left aside.
    Cost: at most `steps` Hessian-vector products and one gradient. Lanczos approaches ||H||_2 from below, so the bound is
    one once it has converged (`steps` = d is certain).

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
        slope = gradient(field, x)
        ends = lanczos(hessian(field, x), slope, steps=self.steps, tolerance=self.tolerance)
        square = self.radius**2 * (x[0].numel() if self.norm == LINF else 1)
        return self.norm.dual.length(slope) * self.radius + ends.spectral_norm * square / 2
