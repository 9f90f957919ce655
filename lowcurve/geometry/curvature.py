"""Input-space curvature of a field, one number per example.

A measure is a function (field, x) -> numbers. Measures that need a setting are frozen dataclasses, so that the setting
has a name (`results.describe`). Units: gradients are loss per unit of pixel range, Hessians per its square.
"""

from dataclasses import dataclass

import torch

from lowcurve import randomness
from lowcurve.analysis.calculus import gradient
from lowcurve.analysis.hessians import hessian
from lowcurve.analysis.norms import L2, LINF, dot
from lowcurve.analysis.secants import secant_hessian
from lowcurve.analysis.estimates import frobenius_norm
from lowcurve.analysis.spectra import dense, lanczos, spectrum
from lowcurve.types import Field, Inputs, PerExample


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
    eigenvector of ||H||_2; "residual" ||H u - theta u||, within which an eigenvalue lies.

    Cost: at most `steps` Hessian-vector products and one gradient.

    Example:
        >>> columns = Curvature()(lambda x: 3 * x[:, 0].square() / 2, torch.tensor([[1.0, 0.0]]))
        >>> columns["Hessian norm"].item(), columns["normalized curvature"].item(), columns["alignment"].item()
        (3.0, 1.0, 1.0)

    Reference: srinivas2022lcnn, section 3 (C); moosavi2019cure, Theorem 1 (nu) and Remark 3 (alignment).
    """

    steps: int = 12
    tolerance: float = 1e-3

    def __call__(self, field: Field, x: Inputs) -> dict[str, PerExample]:
        slope = gradient(field, x)
        ends = lanczos(hessian(field, x), slope, steps=self.steps, tolerance=self.tolerance)
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
        z = L2.unit(LINF.steepest(gradient(field, x)))
        return L2.length(secant_hessian(field, x, self.h)(z))


@dataclass(frozen=True)
class FrobeniusNorm:
    """||H||_F by `draws` random products of the exact Hessian, with its standard error in a column of its own.

    Reference: moosavi2019cure, Fig. 10 (left).
    """

    draws: int = 100
    seed: int = 0

    def __call__(self, field: Field, x: Inputs) -> dict[str, PerExample]:
        generator = randomness.stream(self.seed, "Frobenius norm")
        estimate = frobenius_norm(hessian(field, x), x, draws=self.draws, generator=generator)
        return {"Frobenius norm": estimate.value, "Frobenius norm, standard error": estimate.standard_error}


@dataclass(frozen=True)
class Profile:
    """All d eigenvalues in rising order, shape (batch, d): of the exact Hessian, or at the scale h, symmetrized.

    Cost: d products an example, and one eigenvalue problem of size d; d^2 numbers of memory an example.

    Example:
        >>> Profile()(lambda x: 3 * x[:, 0].square() / 2 - x[:, 1].square() / 2, torch.zeros(1, 2))
        tensor([[-1.,  3.]])

    Reference: moosavi2019cure, Fig. 2.
    """

    h: float | None = None

    def __call__(self, field: Field, x: Inputs) -> torch.Tensor:
        operator = hessian(field, x) if self.h is None else secant_hessian(field, x, self.h)
        return spectrum(dense(operator, x))
