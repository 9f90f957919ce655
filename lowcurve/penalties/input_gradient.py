"""The norm of the input gradient as a penalty, of the loss or of another function of the logits."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lowcurve.analysis.calculus import Jet
from lowcurve.analysis.norms import L2, Norm
from lowcurve.losses import require_loss_field
from lowcurve.penalties.base import Penalty
from lowcurve.penalties.differentiation import Differentiation, of_gradients, require_differentiation
from lowcurve.types import Loss, PerExample


@dataclass(frozen=True)
class InputGradientNorm(Penalty):
    """||grad l(x)||^2 (or its root where not `squared`), per example, in pixel units.

    norm: L2 (the default), L1 or LINF, of the gradient. To first order radius * ||grad l|| is what an attack in the ball of
    the dual norm adds to the loss: L1 belongs to l_inf attacks, LINF to l_1 attacks.
    of: another loss to take the gradient of, with the same model and labels: `losses.margin` for the Jacobian penalty.
    differentiation: exact, first_order or secant, with its step; see `of_gradients`.

    Cost beside the shared clean forward pass, in forward passes F: exact 3 F, first_order 7 F, whatever it is `of`.

    Errors: InputError if `of` is given and the field is not `losses.loss_field`'s.

    Example:
        >>> x = torch.tensor([[0.5, 0.5]])
        >>> InputGradientNorm()(Jet(lambda x: 3 * x[:, 0] + 4 * x[:, 1], x), generator=torch.Generator())
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
        require_differentiation(self.differentiation, self.step, "exact", "first_order", "secant")

    @property
    def differentiates_twice(self) -> bool:
        """Whether the parameters' gradient is that of an input gradient."""
        return self.differentiation == "exact"

    @property
    def detaches_gradient(self) -> bool:
        """Whether the clean gradient is held constant."""
        return self.differentiation != "exact" and self.of is None

    def __call__(self, jet: Jet, *, generator: torch.Generator) -> PerExample:  # noqa: ARG002 (the signature of Penalty)
        """One number per example, at least 0."""

        def length(slope: Tensor) -> PerExample:
            found = self.norm.length(slope)
            return found.square() if self.squared else found

        return of_gradients(self._of(jet), length, differentiation=self.differentiation, step=self.step)

    def _of(self, jet: Jet) -> Jet:
        if self.of is None:
            return jet
        return jet.with_field(replace(require_loss_field(jet.field), loss=self.of))
