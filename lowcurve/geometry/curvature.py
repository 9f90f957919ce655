"""Input-space curvature of a field, one number per example.

A measure is a function (field, x) -> numbers. Measures that need a setting are frozen dataclasses, so that the setting
has a name (`results.describe`). Units: gradients are loss per unit of pixel range, Hessians per its square.
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
    """||grad l(x)||_2.

    Example:
        >>> gradient_norm(lambda x: 3 * x[:, 0] + 4 * x[:, 1], torch.zeros(1, 2))
        tensor([5.])
    """
    return L2.length(gradient(field, x))


@dataclass(frozen=True)
class Curvature:
    """The exact Hessian's ends and what follows from them, from one Lanczos run started at the gradient.

    Columns: "gradient norm" ||g||_2; "Hessian norm" ||H||_2 = max |lambda|; "largest eigenvalue" lambda_max (algebraic,
    CURE's nu); "normalized curvature" C = ||H||_2 / ||g||_2 (0 where H = 0); "alignment" |<g, u>| / ||g|| with u the
    eigenvector of ||H||_2; "residual" ||H u - theta u||, within which an eigenvalue lies. Of the loss, a margin or a logit:
    whatever the field is (`losses.cross_entropy`, `margin`, `true_logit`).

    Cost: at most `steps` Hessian-vector products, which come to about as many gradients, and one gradient.

    Example:
        >>> columns = Curvature()(lambda x: 3 * x[:, 0].square() / 2, torch.tensor([[1.0, 0.0]]))
        >>> columns["Hessian norm"].item(), columns["normalized curvature"].item(), round(columns["alignment"].item(), 4)
        (3.0, 1.0, 1.0)

    Reference: srinivas2022lcnn, section 3 (C); moosavi2019cure, Theorem 1 (nu) and Remark 3 (alignment).
    """

    steps: int = 12
    tolerance: float = 1e-3

    def __call__(self, field: Field, x: Inputs) -> dict[str, PerExample]:
        operator = hessian(field, x)
        slope = operator.gradient
        ends = lanczos(operator, slope, steps=self.steps, tolerance=self.tolerance)
        length, norm = L2.length(slope), ends.spectral_norm
        return {
            "gradient norm": length,
            "Hessian norm": norm,
            "largest eigenvalue": ends.largest,
            "normalized curvature": torch.where(norm > 0, norm / length, 0),
            "alignment": dot(L2.unit(slope), ends.vector).abs(),
            "residual": ends.residual,
        }


@dataclass(frozen=True)
class PowerIteration:
    """||H||_2 from below by `steps` of power iteration from one fixed random direction: how LCNN's numbers were had.

    Beside `Curvature`, whose Lanczos steps find more with as many products, it shows how much the method of the
    estimate alone explains.

    Cost: `steps` Hessian-vector products.

    Example:
        >>> PowerIteration(steps=20)(lambda x: 3 * x[:, 0].square() / 2, torch.tensor([[1.0, 0.0]]))
        tensor([3.])

    Reference: srinivas2022lcnn, section 3; ten steps are those of its released code.
    """

    steps: int = 10

    def __call__(self, field: Field, x: Inputs) -> PerExample:
        start = randomness.normal(x[:1], generator=randomness.stream(0, "power iteration")).expand_as(x)
        return power_iteration(hessian(field, x), start, steps=self.steps).norm


@dataclass(frozen=True)
class CurvatureParts:
    """||J^T A J||_2, what comes of the loss, and ||H - J^T A J||_2, what comes of the network: H is their sum.

    A is the Hessian of the loss in the logits, J the logits' Jacobian (the Gauss-Newton matrix). Columns: "Gauss-Newton
    norm", "network norm". What smooths the network lowers the second alone; of a ReLU network it is 0. The norms do not add
    up: ||H|| lies between their difference and their sum.

    Cost: twice that of `Curvature`. Errors: InputError for a field that is not replayed.

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
        operator = hessian(field, x)
        start = operator.gradient
        parts = {"Gauss-Newton norm": operator.only("Gauss-Newton"), "network norm": operator.only("network")}
        settings = {"steps": self.steps, "tolerance": self.tolerance}
        return {name: lanczos(part, start, **settings).spectral_norm for name, part in parts.items()}  # type: ignore[arg-type]


@dataclass(frozen=True)
class SecantCurvature:
    """||H_h z|| = ||g(x + h z) - g(x)||_2 / h along z = sign(g) / ||sign(g)||_2: curvature at the scale h of an attack.

    h: an l_2 length in pixel units. Two gradients.

    Example:
        >>> SecantCurvature(0.1)(lambda x: 3 * x[:, 0].square() / 2, torch.tensor([[1.0]]))
        tensor([3.0000])

    Reference: moosavi2019cure, Eq. (1) and Fig. 10 (middle).
    """

    h: float

    def __call__(self, field: Field, x: Inputs) -> PerExample:
        operator = secant_hessian(field, x, self.h)
        return L2.length(operator(L2.unit(LINF.steepest(operator.gradient))))


@dataclass(frozen=True)
class FrobeniusNorm:
    """||H||_F: exactly on `deflated` directions, by `draws` random products on what is left, with a 95 % interval.

    Columns: "Frobenius norm", and the same with "standard error", "low", "high". In trained networks ten directions hold
    nearly all of the norm, which is why plain draws (deflated=0, as in the paper) are off by a fifth even with a hundred.
    h: None for the exact H, or the l_2 length, in pixel units, at which a secant takes its place (`analysis.secants`).

    Cost: draws + deflated products.

    Reference: moosavi2019cure, Fig. 10 (left, 100 draws).
    """

    draws: int = 20
    deflated: int = 10
    seed: int = 0
    h: float | None = None

    def __call__(self, field: Field, x: Inputs) -> dict[str, PerExample]:
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
    """All d eigenvalues in rising order, shape (batch, d): of the exact Hessian, or at the scale h, symmetrized.

    The exact Hessian of a ReLU network has rank <= classes - 1, and its eigenvalues cost a gradient for each class
    (`analysis.hessians.gauss_newton_spectrum`). Any other costs d products an example, and one eigenvalue problem of size d.
    Memory: d^2 numbers an example. Errors: InputError where these matrices do not fit (`analysis.spectra.dense`).

    Example:
        >>> CurvatureProfile()(lambda x: 3 * x[:, 0].square() / 2 - x[:, 1].square() / 2, torch.zeros(1, 2))
        tensor([[-1.,  3.]])

    Reference: moosavi2019cure, Fig. 2.
    """

    h: float | None = None
    at_once: ClassVar[int] = 4
    """So many examples have their matrices in memory together, and progress is seen after so many."""

    def __call__(self, field: Field, x: Inputs) -> torch.Tensor:
        size = x[0].numel()
        if self.h is None and isinstance(field, LogitField) and not hessian(field, x).curved:
            few = gauss_newton_spectrum(field, x)
            if few.shape[1] <= size:
                return torch.cat([few, few.new_zeros(len(few), size - few.shape[1])], 1).sort(1).values
        return spectrum(hessian_matrices(field, x, self.h))


def hessian_matrices(field: Field, x: Inputs, h: float | None = None) -> torch.Tensor:
    """H of every example as a matrix, shape (batch, d, d): exact, or the secant at the scale h, which is not symmetric.

    Cost: d products an example; for a ReLU network, whose exact H is J^T A J, a gradient for each class. Memory: d^2 numbers
    an example. Errors: InputError where they do not fit (`analysis.spectra.dense`).

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
    """The distribution of all d eigenvalues without finding them, by stochastic Lanczos quadrature.

    Columns of draws * steps numbers an example: "eigenvalues", where the mass lies, and "masses", which sum to 1. It is for
    inputs too large for a `CurvatureProfile`; single eigenvalues inside the bulk are not resolved.

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
        generator = randomness.stream(self.seed, "spectral density")
        found = spectral_density(hessian(field, x), x, draws=self.draws, steps=self.steps, generator=generator)
        return {"eigenvalues": found.nodes, "masses": found.weights}
