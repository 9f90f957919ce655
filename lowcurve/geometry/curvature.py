"""Measure the input-space curvature of a field, one number per example.

A measure is a function (field, x) -> numbers. Measures with settings are frozen dataclasses, so that
`results.describe` can name the settings. Units: gradients are loss per unit of pixel range, Hessians loss per its
square.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from lowcurve import randomness
from lowcurve.analysis.calculus import gradient, jacobian
from lowcurve.analysis.estimates import frobenius_norm, spectral_density
from lowcurve.analysis.hessians import ReplayedHessian, gauss_newton_spectrum, hessian
from lowcurve.analysis.norms import L2, LINF, dot
from lowcurve.analysis.secants import secant_hessian
from lowcurve.analysis.spectra import dense, lanczos, power_iteration, spectrum
from lowcurve.types import Field, Inputs, LogitField, PerExample


def gradient_norm(field: Field, x: Inputs) -> PerExample:
    """Compute ||grad l(x)||_2.

    Args:
        field: Per-example loss as a function of the input.
        x: Inputs, shape (batch, ...).

    Returns:
        One norm per example.

    Cost: one gradient.

    Example:
        >>> gradient_norm(lambda x: 3 * x[:, 0] + 4 * x[:, 1], torch.zeros(1, 2))
        tensor([5.])
    """
    return L2.length(gradient(field, x))


@dataclass(frozen=True)
class Curvature:
    """Measure the exact Hessian's extreme eigenvalue and what follows from it, by one Lanczos run started at the gradient.

    Columns: "gradient norm", ||g||_2; "Hessian norm", ||H||_2 = max |lambda|; "largest eigenvalue", lambda_max,
    algebraic (CURE's nu); "normalized curvature", C = ||H||_2 / ||g||_2, 0 where H = 0; "alignment", |<g, u>| /
    ||g|| with u the eigenvector of ||H||_2; "residual", ||H u - theta u|| of the Hessian norm, and "residual of the
    largest eigenvalue": an eigenvalue lies within it. Both are NaN where H has NaN. The field may be a loss, a margin
    or a logit; see `losses.cross_entropy`, `losses.margin` and `losses.true_logit`.

    Args:
        steps: Maximum number of Lanczos steps. The margin's negative end often dominates, and the other end then needs
            more of them; see its residual.
        tolerance: Largest residual of an eigenvalue, relative to that eigenvalue. Lanczos stops once the Hessian norm
            and the largest eigenvalue both have it.

    Cost: one gradient and at most `steps` Hessian products, each about as expensive as a gradient.

    Example:
        >>> columns = Curvature()(lambda x: 3 * x[:, 0].square() / 2, torch.tensor([[1.0, 0.0]]))
        >>> columns["Hessian norm"].item(), columns["normalized curvature"].item(), round(columns["alignment"].item(), 4)
        (3.0, 1.0, 1.0)

    Reference: srinivas2022lcnn, section 3 (C); moosavi2019cure, Theorem 1 (nu) and Remark 3 (alignment).
    """

    steps: int = 12
    tolerance: float = 1e-3

    def __call__(self, field: Field, x: Inputs) -> dict[str, PerExample]:
        """Measure the columns at x."""
        operator = hessian(field, x)
        grad = operator.gradient
        ends = lanczos(operator, grad, steps=self.steps, tolerance=self.tolerance, ends="largest")
        length, norm = L2.length(grad), ends.spectral_norm
        return {
            "gradient norm": length,
            "Hessian norm": norm,
            "largest eigenvalue": ends.largest,
            "normalized curvature": torch.where(norm == 0, 0, norm / length),
            "alignment": dot(L2.unit(grad), ends.vector).abs(),
            "residual": ends.residual,
            "residual of the largest eigenvalue": ends.residual_largest,
        }


@dataclass(frozen=True)
class PowerIteration:
    """Estimate ||H||_2 from below by power iteration from one fixed random direction, as LCNN's numbers were computed.

    The Lanczos steps of `Curvature` find more with as many products. Comparing the two shows how much the method of
    estimation explains.

    Args:
        steps: Number of iterations.

    Cost: `steps` Hessian products.

    Example:
        >>> PowerIteration(steps=20)(lambda x: 3 * x[:, 0].square() / 2, torch.tensor([[1.0, 0.0]]))
        tensor([3.])

    Reference: srinivas2022lcnn, section 3; ten steps are those of its released code.
    """

    steps: int = 10

    def __call__(self, field: Field, x: Inputs) -> PerExample:
        """Measure the estimate at x."""
        start = randomness.normal(x[:1], generator=randomness.stream(0, "power iteration")).expand_as(x)
        return power_iteration(hessian(field, x), start, steps=self.steps).norm


@dataclass(frozen=True)
class CurvatureParts:
    """Measure the norms of the two parts of the Hessian: the loss's, ||J^T A J||_2, and the network's, ||H - J^T A J||_2.

    A is the Hessian of the loss in the logits and J the Jacobian of the logits; J^T A J is the Gauss-Newton matrix.
    A smoother network lowers only the second part, which is 0 for a ReLU network. The norms do not add up: ||H||
    lies between their difference and their sum.

    Columns: "Gauss-Newton norm", "network norm".

    Args:
        steps: Maximum number of Lanczos steps.
        tolerance: Relative residual at which Lanczos stops.

    Cost: twice that of `Curvature`.

    Example:
        >>> from lowcurve.losses import loss_field
        >>> field = loss_field(torch.nn.Identity(), torch.tensor([0]))
        >>> {k: round(v.item(), 4) for k, v in CurvatureParts()(field, torch.zeros(1, 2)).items()}
        {'Gauss-Newton norm': 0.5, 'network norm': 0.0}

    Reference: Schraudolph 2002 (the Gauss-Newton matrix).
    """

    steps: int = 12
    tolerance: float = 1e-3

    def __call__(self, field: Field, x: Inputs) -> dict[str, PerExample]:
        """Measure the columns at x.

        Raises:
            InputError: If the field is not replayed, see `analysis.hessians`.
        """
        operator = hessian(field, x)
        start = operator.gradient
        parts = {"Gauss-Newton norm": operator.only("Gauss-Newton"), "network norm": operator.only("network")}
        settings = {"steps": self.steps, "tolerance": self.tolerance}
        return {name: lanczos(part, start, **settings).spectral_norm for name, part in parts.items()}  # type: ignore[arg-type]


@dataclass(frozen=True)
class SecantCurvature:
    """Measure the curvature at a finite scale h along the gradient's sign, ||g(x + h z) - g(x)||_2 / h.

    The direction is z = sign(g) / ||sign(g)||_2, that of an l_inf attack.

    Args:
        h: An l_2 length in pixel units.

    Cost: two gradients.

    Example:
        >>> SecantCurvature(0.1)(lambda x: 3 * x[:, 0].square() / 2, torch.tensor([[1.0]]))
        tensor([3.0000])

    Reference: moosavi2019cure, Eq. (1) and Fig. 10 (middle).
    """

    h: float

    def __call__(self, field: Field, x: Inputs) -> PerExample:
        """Measure the curvature at x."""
        operator = secant_hessian(field, x, self.h)
        return L2.length(operator(L2.unit(LINF.steepest(operator.gradient))))


@dataclass(frozen=True)
class FrobeniusNorm:
    """Estimate ||H||_F with a 95 % interval: exactly on some directions, by random products on the rest.

    In trained networks ten directions hold nearly all of the norm. Plain draws, as in the paper, are therefore off
    by a fifth even with a hundred of them.

    Columns: "Frobenius norm", and the same with ", standard error", ", low" and ", high".

    Args:
        draws: Number of random products.
        deflated: Number of directions on which the norm is exact. At 0 it is the paper's estimate.
        seed: Seed of the directions.
        h: Scale of a secant, an l_2 length in pixel units. None means the exact Hessian.

    Cost: draws + deflated products.

    Reference: moosavi2019cure, Fig. 10 (left, 100 draws).
    """

    draws: int = 20
    deflated: int = 10
    seed: int = 0
    h: float | None = None

    def __call__(self, field: Field, x: Inputs) -> dict[str, PerExample]:
        """Measure the columns at x."""
        operator = hessian(field, x) if self.h is None else secant_hessian(field, x, self.h)
        found = frobenius_norm(
            operator,
            x,
            draws=self.draws,
            deflated=self.deflated,
            generator=randomness.stream(self.seed, "Frobenius norm"),
            start=operator.gradient if self.deflated else None,
        )
        parts = {"": found.value, ", standard error": found.standard_error, ", low": found.low, ", high": found.high}
        return {f"Frobenius norm{name}": values for name, values in parts.items()}


@dataclass(frozen=True)
class CurvatureProfile:
    """Measure all d eigenvalues of the Hessian in ascending order, shape (batch, d).

    The exact Hessian of a ReLU network has rank <= classes - 1, and its eigenvalues cost one gradient per class
    (`analysis.hessians.gauss_newton_spectrum`).

    Args:
        h: Scale of a symmetrized secant, an l_2 length in pixel units. None means the exact Hessian.

    Cost: d products per example and an eigenvalue problem of size d; d^2 numbers of memory per example.

    Example:
        >>> CurvatureProfile()(lambda x: 3 * x[:, 0].square() / 2 - x[:, 1].square() / 2, torch.zeros(1, 2))
        tensor([[-1.,  3.]])

    Reference: moosavi2019cure, Fig. 2.
    """

    h: float | None = None
    at_once: ClassVar[int] = 4
    """Examples whose matrices are in memory together; progress is shown after each such group."""

    def __call__(self, field: Field, x: Inputs) -> torch.Tensor:
        """Measure the eigenvalues at x.

        Raises:
            InputError: If the matrices do not fit into memory, see `analysis.spectra.dense`.
        """
        size = x[0].numel()
        if self.h is None and isinstance(field, LogitField) and not hessian(field, x).curved:
            few = gauss_newton_spectrum(field, x)
            if few.shape[1] <= size:
                return torch.cat([few, few.new_zeros(len(few), size - few.shape[1])], 1).sort(1).values
        return spectrum(hessian_matrices(field, x, self.h))


def hessian_matrices(field: Field, x: Inputs, h: float | None = None) -> torch.Tensor:
    """Compute the Hessian of every example as a matrix.

    Args:
        field: Per-example loss as a function of the input.
        x: Inputs, shape (batch, ...).
        h: Scale of a secant, an l_2 length in pixel units. None means the exact Hessian. Secants are not symmetric.

    Returns:
        Matrices of shape (batch, d, d).

    Raises:
        InputError: If the matrices do not fit into memory, see `analysis.spectra.dense`.

    Cost: d products per example; for a ReLU network, whose exact Hessian is J^T A J, one gradient per class. d^2
    numbers of memory per example.

    Example:
        >>> hessian_matrices(lambda x: x[:, 0] * x[:, 1], torch.zeros(1, 2))
        tensor([[[0., 1.],
                 [1., 0.]]])
    """
    if h is not None:
        return dense(secant_hessian(field, x, h), x)
    operator = hessian(field, x)
    if isinstance(field, LogitField) and isinstance(operator, ReplayedHessian) and not operator.curved:
        return operator.gauss_newton_matrices(jacobian(field.logits, x))
    return dense(operator, x)


@dataclass(frozen=True)
class SpectralDensity:
    """Estimate the distribution of all d eigenvalues by stochastic Lanczos quadrature, without computing them.

    Use it for inputs too large for `CurvatureProfile`; it does not resolve single eigenvalues inside the bulk.
    Columns of draws * steps numbers per example: "eigenvalues", the positions of the mass, and "masses", which sum
    to 1.

    Args:
        draws: Number of random starts.
        steps: Lanczos steps per start.
        seed: Seed of the starts.

    Cost: draws * steps products.

    Example:
        >>> field = lambda x: x[:, 0].square() * 3 / 2 + x[:, 1].square() / 2
        >>> columns = SpectralDensity(draws=1, steps=2)(field, torch.zeros(1, 2))
        >>> columns["eigenvalues"].round(decimals=4), columns["masses"].round(decimals=4)
        (tensor([[1., 3.]]), tensor([[0.5000, 0.5000]]))

    Reference: Ubaru et al. 2017; Ghorbani et al. 2019.
    """

    draws: int = 4
    steps: int = 30
    seed: int = 0

    def __call__(self, field: Field, x: Inputs) -> dict[str, torch.Tensor]:
        """Measure the columns at x."""
        generator = randomness.stream(self.seed, "spectral density")
        found = spectral_density(hessian(field, x), x, draws=self.draws, steps=self.steps, generator=generator)
        return {"eigenvalues": found.nodes, "masses": found.weights}
