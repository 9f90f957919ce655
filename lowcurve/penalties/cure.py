"""Curvature regularization (CURE): the change of the input gradient along its own sign."""

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from lowcurve.analysis.calculus import Jet, gradient
from lowcurve.analysis.norms import L2, LINF, dot, pixels
from lowcurve.errors import InputError
from lowcurve.losses import LossField
from lowcurve.models.modes import set_training
from lowcurve.penalties.base import Penalty
from lowcurve.penalties.differentiation import (
    DIFFERENTIATIONS,
    DOUBLE_BACKWARD,
    Differentiation,
    apply_to_gradients,
    require_differentiation,
)
from lowcurve.types import Field, Inputs, PerExample

EvalMode = Literal["none", "direction", "all"]


@dataclass(frozen=True)
class CURE(Penalty):
    """||grad l(x + h z) - grad l(x)||_2^2 with z = sign(g) / ||sign(g)||_2 and g = grad l(x), per example.

    On a quadratic field this is h^2 ||H z||^2. z is held constant; both gradients are differentiated.

    Args:
        h: Scale, an l_2 length in pixel units, or in units of `scale`.
        squared: Square the norm, as in the paper. The released code uses the norm itself.
        direction: "sign" (published) or "gradient" (almost the same, footnote 5).
        scale: One number per channel. The penalty then works in the coordinates x / scale. With the standard deviations
            of a normalized input it is the penalty on gradients in that input.
        differentiation: Way to differentiate in the parameters. See `apply_to_gradients`. With "detached" the direction
            changes considerably: at random initialization its cosine with the exact one is 0.4 to 0.7.
        step: Step of the central differences; see `apply_to_gradients`.
        eval_mode: Passes that run in eval mode also when the model is in training mode: "none", the "direction" z, or
            "all". It changes the value of networks with BatchNorm or dropout. The authors' two programs have "all"
            (branch master) and "direction" (branch quick_fix).

    Raises:
        InputError: If an option is out of range, or if passes in eval mode are combined with differences of losses.

    Cost in addition to the shared clean forward pass, in forward passes F: exact 9 F, detached 7 F, first_order 15 F and
    first_order_detached 9 F. In an `Objective` all but exact cost 1 F less, because the loss's own backward pass computes
    the clean gradient. With the 3 F of the loss that is 4, 3, 5.7 and 3.7 plain training steps by count of operations.

    Passes in eval mode add 3 F, because the loss cannot share them.

    Example:
        >>> x = torch.tensor([[0.5, 0.5]])
        >>> field = lambda x: 3 * x[:, 0].square() / 2 + x[:, 1]  # H = diag(3, 0), z = (1, 1) / sqrt(2)
        >>> round(CURE(h=0.1)(Jet(field, x)).item(), 6)  # (0.1 * 3 / sqrt(2))^2
        0.045

    Reference: moosavi2019cure, section 4 (the regularizer L_r) and Eq. (1).
    """

    h: float
    squared: bool = True
    direction: Literal["sign", "gradient"] = "sign"
    scale: tuple[float, ...] | None = None
    differentiation: Differentiation = "exact"
    step: float | None = None
    eval_mode: EvalMode = "none"

    def __post_init__(self) -> None:
        if not (isinstance(self.h, int | float) and math.isfinite(self.h) and self.h > 0):
            raise InputError("a scale h > 0 in pixel units (an l_2 length)", repr(self.h), "write CURE(h=0.5)")
        if self.direction not in ("sign", "gradient"):
            raise InputError('a direction "sign" or "gradient"', repr(self.direction), 'write direction="sign"')
        if self.scale is not None and not all(math.isfinite(s) and s > 0 for s in self.scale):
            raise InputError(
                "a positive scale for each channel", self.scale, "write the standard deviations of the pixels"
            )
        if self.eval_mode not in ("none", "direction", "all"):
            raise InputError(
                'an eval_mode "none", "direction" or "all"', repr(self.eval_mode), 'write eval_mode="none"'
            )
        require_differentiation(self.differentiation, self.step, *DIFFERENTIATIONS)
        if self.eval_mode != "none" and self.differentiation not in DOUBLE_BACKWARD:
            hint = 'write eval_mode="none", and statistics="frozen" in the objective'
            raise InputError('the differentiation "exact" or "detached" with eval_mode', self.differentiation, hint)

    @property
    def differentiates_twice(self) -> bool:
        """True for the ways that differentiate an input gradient."""
        return self.differentiation in DOUBLE_BACKWARD

    @property
    def detaches_gradient(self) -> bool:
        """True unless the way is exact."""
        return self.differentiation != "exact"

    def at_scale(self, factor: float) -> "CURE":
        """Return the penalty with h multiplied by a factor."""
        return replace(self, h=self.h * factor)

    def evaluate(self, jet: Jet, generator: torch.Generator) -> PerExample:  # noqa: ARG002 (the signature of Penalty)
        """Compute one number of at least 0 per example."""
        if self.eval_mode == "all":
            with _eval_mode(jet.field):
                return self._evaluate(Jet(jet.field, jet.x.detach()), None)
        direction = None
        if self.eval_mode == "direction":
            with _eval_mode(jet.field):
                direction = gradient(jet.field, jet.x.detach())
        return self._evaluate(jet, direction)

    def _evaluate(self, jet: Jet, direction: Tensor | None) -> PerExample:
        """Compute the penalty, with z along another gradient than that of the jet if one is given."""
        unit = self._unit(jet.x)

        def shifted_input(clean: Tensor) -> Inputs:
            scaled = (clean if direction is None else direction) * unit
            z = L2.unit(LINF.steepest(scaled) if self.direction == "sign" else scaled)
            return jet.x.detach() + self.h * z * unit

        def gradient_change(clean: Tensor, shifted: Tensor) -> PerExample:
            change = (shifted - clean) * unit
            return dot(change, change) if self.squared else L2.length(change)

        return apply_to_gradients(
            jet, gradient_change, shifted_input, differentiation=self.differentiation, step=self.step
        )

    def _unit(self, x: Tensor) -> Tensor:
        """Return the length in pixels of a unit step in the coordinates of `scale`, for each channel."""
        if self.scale is None:
            return x.new_ones(())
        if len(self.scale) != x.shape[1]:
            raise InputError(f"a scale for each of {x.shape[1]} channels", self.scale, "write one number a channel")
        return x.new_tensor(self.scale).reshape(-1, *[1] * (x.ndim - 2))


def published(h: float = pixels(1.5)) -> CURE:
    """Return CURE as the paper states it: squared norm, z along sign(g), h = 1.5 for pixel values in [0, 255].

    With this h an image moves by 1.5 / 255 in l_2, which is 0.03 grey levels a pixel of CIFAR-10 and far below the scale of
    an attack. The authors' code counts h in standard deviations and moves an image a hundred times as far. So use this form
    with an h of your own, stated with the result. The paper's weight is gamma = 4.

    Args:
        h: Scale, an l_2 length in pixel units.

    Reference: moosavi2019cure, section 4.
    """
    return CURE(h=h)


def released(standard_deviation: tuple[float, ...], h: float = 3.0, eval_mode: EvalMode = "none") -> CURE:
    """Return CURE as its authors' code computes it: the norm itself, in normalized inputs, h up to 3.

    With the weight lambda = 4 the term is 4 * mean_i ||grad l_i(x_i + z_i) - grad l_i(x_i)||_2, with gradients with respect
    to (x - mean) / standard_deviation. For CIFAR-10, h = 3 is 0.6 in l_2 on [0, 1].

    The authors' repository has two programs that differ in the mode of BatchNorm. Both take the loss in training mode.
    Branch master (June 2019) computes z and both gradients in eval mode: eval_mode="all". Branch quick_fix (April 2021),
    whose log is the only one of a successful run, computes z in eval mode and both gradients in training mode:
    eval_mode="direction". Its running statistics move three times a step and here twice, since loss and penalty share a
    pass. By default all passes have the mode of the objective, which neither program does. On an untrained network with
    BatchNorm the values then differ by 15 to 29 %.

    Args:
        standard_deviation: Standard deviation of the pixels of each channel.
        h: Scale, an l_2 length in normalized inputs.
        eval_mode: Passes in eval mode; see `CURE`.

    Reference: the code released with moosavi2019cure; h rises over five epochs, 0.1 to 3.
    """
    return CURE(h=h, squared=False, scale=standard_deviation, eval_mode=eval_mode)


def _eval_mode(field: Field) -> AbstractContextManager[None]:
    """Put the network of a field in eval mode. Other fields have none."""
    model = field.model if isinstance(field, LossField) else None
    return set_training(model, training=False) if isinstance(model, nn.Module) else nullcontext()
