"""Curvature regularization (CURE): the change of the input gradient along its own sign."""

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from lowcurve.analysis.calculus import Jet
from lowcurve.analysis.norms import L2, LINF, dot, pixels
from lowcurve.errors import InputError
from lowcurve.penalties.base import Penalty
from lowcurve.penalties.differentiation import TWICE, WAYS, Differentiation, of_gradients, require_differentiation
from lowcurve.types import Inputs, PerExample


@dataclass(frozen=True)
class CURE(Penalty):
    """||grad l(x + h z) - grad l(x)||_2^2 with z = sign(g) / ||sign(g)||_2 and g = grad l(x), per example.

    On a quadratic field it is h^2 ||H z||^2. z is held constant; both gradients are differentiated.

    h: an l_2 length, in pixel units, or in units of `scale`. squared: as published; the released code has the norm
    itself. direction: along "sign" (published) or along the "gradient" (the paper's footnote 5: almost the same).
    scale: one number a channel, to work in the coordinates x / scale, such as the standard deviations of a normalized
    input; the penalty is then exactly what code finds that takes gradients with respect to normalized inputs.
    differentiation, step: see `of_gradients`. "detached" holds the clean gradient constant, which is not harmless: at
    random initialization its direction has a cosine of 0.4 to 0.7 with the exact one.

    Cost beside the shared clean forward pass, in forward passes F: exact 9 F (the clean gradient, a forward pass and gradient
    at x + h z, all twice differentiated), detached 7 F, first_order 15 F, first_order_detached 9 F, each but the first 1 F less
    in an `Objective`, where the loss's own backward pass brings the clean gradient; with the loss's 3 F that is 4, 3, 5.7 and
    3.7 plain training steps by count of operations.

    Example:
        >>> x = torch.tensor([[0.5, 0.5]])
        >>> field = lambda x: 3 * x[:, 0].square() / 2 + x[:, 1]  # H = diag(3, 0), z = (1, 1) / sqrt(2)
        >>> round(CURE(h=0.1)(Jet(field, x), generator=torch.Generator()).item(), 6)  # (0.1 * 3 / sqrt(2))^2
        0.045

    Reference: moosavi2019cure, section 4 (the regularizer L_r) and Eq. (1).
    """

    h: float
    squared: bool = True
    direction: Literal["sign", "gradient"] = "sign"
    scale: tuple[float, ...] | None = None
    differentiation: Differentiation = "exact"
    step: float | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.h) and self.h > 0):
            raise InputError("a scale h > 0 in pixel units (an l_2 length)", self.h, "write CURE(h=0.5)")
        if self.direction not in ("sign", "gradient"):
            raise InputError('a direction "sign" or "gradient"', repr(self.direction), 'write direction="sign"')
        if self.scale is not None and not all(math.isfinite(s) and s > 0 for s in self.scale):
            raise InputError(
                "a positive scale for each channel", self.scale, "write the standard deviations of the pixels"
            )
        require_differentiation(self.differentiation, self.step, *WAYS)

    @property
    def differentiates_twice(self) -> bool:
        """Whether the parameters' gradient is that of an input gradient."""
        return self.differentiation in TWICE

    @property
    def detaches_gradient(self) -> bool:
        """Whether the clean gradient is held constant."""
        return self.differentiation != "exact"

    def at_scale(self, factor: float) -> "CURE":
        """Return the penalty with h multiplied by a factor."""
        return replace(self, h=self.h * factor)

    def __call__(self, jet: Jet, *, generator: torch.Generator) -> PerExample:  # noqa: ARG002 (the signature of Penalty)
        """One number per example, at least 0."""
        unit = self._unit(jet.x)

        def moved(clean: Tensor) -> Inputs:
            slope = clean * unit
            z = L2.unit(LINF.steepest(slope) if self.direction == "sign" else slope)
            return jet.x.detach() + self.h * z * unit

        def bend(clean: Tensor, there: Tensor) -> PerExample:
            change = (there - clean) * unit
            return dot(change, change) if self.squared else L2.length(change)

        return of_gradients(jet, bend, moved, differentiation=self.differentiation, step=self.step)

    def _unit(self, x: Tensor) -> Tensor:
        """How long a step of 1 in the coordinates of `scale` is in pixels, channel by channel."""
        if self.scale is None:
            return x.new_ones(())
        if len(self.scale) != x.shape[1]:
            raise InputError(f"a scale for each of {x.shape[1]} channels", self.scale, "write one number a channel")
        return x.new_tensor(self.scale).reshape(-1, *[1] * (x.ndim - 2))


def published(h: float = pixels(1.5)) -> CURE:
    """CURE as the paper states it: squared norm, z along sign(g), h = 1.5 "where the pixel values are in [0, 255]".

    Taken at its word an image moves by 1.5 / 255 in l_2, which is 0.03 grey levels a pixel of CIFAR-10 and far below the
    scale of an attack; the authors' code, which counts h in standard deviations, moves it by a hundred times as much.
    So this form is used with an h of your own, stated beside the result; the paper's weight is gamma = 4.

    Reference: moosavi2019cure, section 4.
    """
    return CURE(h=h)


def released(standard_deviation: tuple[float, ...], h: float = 3.0) -> CURE:
    """CURE as its authors' code computes it: the norm itself, not squared, in normalized inputs, h up to 3.

    With the weight lambda = 4 the term is 4 * mean_i ||grad l_i(x_i + z_i) - grad l_i(x_i)||_2, gradients with respect to
    (x - mean) / standard_deviation. For CIFAR-10, h = 3 is 0.6 in l_2 on [0, 1].

    Reference: the code released with moosavi2019cure; h rises over five epochs, 0.1 to 3.
    """
    return CURE(h=h, squared=False, scale=standard_deviation)
