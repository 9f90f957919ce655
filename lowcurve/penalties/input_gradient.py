"""The norm of the input gradient as a penalty: of the loss or of another function of the logits."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lowcurve.analysis.calculus import Jet
from lowcurve.analysis.norms import L2, Norm, as_norm
from lowcurve.losses import require_loss_field
from lowcurve.penalties.base import Penalty
from lowcurve.penalties.differentiation import Differentiation, apply_to_gradients, require_differentiation
from lowcurve.types import Loss, PerExample


@dataclass(frozen=True)
class InputGradientNorm(Penalty):
    """||grad l(x)||^2 (or its root where not `squared`), per example, in pixel units.

    To first order, an attack in the ball of the dual norm adds radius * ||grad l|| to the loss. So L1 belongs to l_inf
    attacks and LINF to l_1 attacks.

    Args:
        norm: Norm of the gradient, or its name: "l2", "l1" or "linf".
        squared: Square the norm.
        of: Another loss whose gradient is taken, with the same model and labels. `losses.margin` gives the Jacobian penalty.
        differentiation: "exact", "first_order" or "secant"; see `apply_to_gradients`.
        step: Step of the central differences; see `apply_to_gradients`.

    Raises:
        InputError: If an option is out of range, or if `of` is given and the field does not come from `losses.loss_field`.

    Cost in addition to the shared clean forward pass, in forward passes F: exact 3 F, first_order 7 F, for every `of`.

    Example:
        >>> x = torch.tensor([[0.5, 0.5]])
        >>> InputGradientNorm()(Jet(lambda x: 3 * x[:, 0] + 4 * x[:, 1], x))
        tensor([25.])

    Reference: Ross and Doshi-Velez 2018, Eq. (4); srinivas2022lcnn, section 4 (GradReg); yu2018interpreting, Eq. (11),
    with of=margin and squared=False.
    """

    norm: Norm = L2
    squared: bool = True
    of: Loss | None = None
    differentiation: Differentiation = "exact"
    step: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "norm", as_norm(self.norm))
        require_differentiation(self.differentiation, self.step, "exact", "first_order", "secant")

    @property
    def differentiates_twice(self) -> bool:
        """True for the exact way."""
        return self.differentiation == "exact"

    @property
    def detaches_gradient(self) -> bool:
        """True unless the way is exact or the gradient is that of another loss."""
        return self.differentiation != "exact" and self.of is None

    @property
    def rounds_like_the_loss(self) -> bool:
        """True for the exact way."""
        return self.differentiation == "exact"

    def evaluate(self, jet: Jet, generator: torch.Generator) -> PerExample:  # noqa: ARG002 (the signature of Penalty)
        """Compute one number of at least 0 per example."""

        def length(gradient: Tensor) -> PerExample:
            norm = self.norm.length(gradient)
            return norm.square() if self.squared else norm

        return apply_to_gradients(self._jet(jet), length, differentiation=self.differentiation, step=self.step)

    def _jet(self, jet: Jet) -> Jet:
        if self.of is None:
            return jet
        return jet.with_field(replace(require_loss_field(jet.field), loss=self.of))
