"""The penalty of LCNN on the betas and gammas of a network."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lowcurve.analysis.calculus import Jet
from lowcurve.errors import InputError
from lowcurve.losses import require_loss_field
from lowcurve.models.clipping import LipschitzLayer, logs_of_gammas
from lowcurve.models.layers import CenteredSoftplus, betas_of
from lowcurve.penalties.base import Penalty


@dataclass(frozen=True)
class LCNNPenalty(Penalty):
    """beta * sum_i beta_i + gamma * sum_j log gamma_j over the centered softplus and Lipschitz layers of a network.

    The penalty is one number for the whole batch and does not depend on the examples. Betas and gammas that are not learned
    are left out. `PUBLISHED` and `RELEASED` are the weights of the two versions of the authors' code; the paper does not say
    which one it used.

    Args:
        beta: Weight of the betas, a lambda of the paper. The weight of a term multiplies both weights.
        gamma: Weight of the logarithms of the gammas, the other lambda.
        absolute: Use |log gamma_j|, as in the released code. This matters if gammas may fall below 1.

    Raises:
        InputError: If a weight is below 0 or both are 0, or if the network has no betas or gammas to penalize.

    Cost: negligible.

    Example:
        >>> from lowcurve.losses import loss_field
        >>> network = nn.Sequential(nn.Flatten(), CenteredSoftplus(beta=4.0))
        >>> jet = Jet(loss_field(network.eval(), torch.tensor([0])), torch.zeros(1, 2))
        >>> round(LCNNPenalty(beta=0.5, gamma=0.0)(jet).item(), 4)
        2.0

    Reference: srinivas2022lcnn, Eq. (5).
    """

    beta: float = 1e-3
    gamma: float = 1e-3
    absolute: bool = False
    data_free = True
    differentiates_twice = False

    def __post_init__(self) -> None:
        if not (min(self.beta, self.gamma) >= 0 and self.beta + self.gamma > 0):
            raise InputError(
                "weights of at least 0, not both 0", (self.beta, self.gamma), "write LCNNPenalty(beta=1e-3, gamma=1e-3)"
            )

    def evaluate(self, jet: Jet, generator: torch.Generator) -> Tensor:  # noqa: ARG002 (the signature of Penalty)
        """Compute one number for the whole batch, of shape ()."""
        model = require_loss_field(jet.field).model
        modules = list(model.modules()) if isinstance(model, nn.Module) else []
        smooth = [m for m in modules if isinstance(m, CenteredSoftplus) and m.log_beta.requires_grad]
        bounded = [m for m in modules if isinstance(m, LipschitzLayer) and m.log_gamma.requires_grad]
        total = jet.x.new_zeros(())
        for weight, layers, what in ((self.beta, smooth, "betas"), (self.gamma, bounded, "gammas")):
            if weight and not layers:
                hint = 'write nonlinearity="centered-softplus" and an lcnn network, convert yours, or give it no weight'
                raise InputError(f"a network with {what} to penalize", "none that is learned", hint)
        if smooth:
            total = total + self.beta * betas_of(smooth).sum()
        if bounded:
            logs = logs_of_gammas(bounded)
            total = total + self.gamma * (logs.abs() if self.absolute else logs).sum()
        return total


PUBLISHED = LCNNPenalty(1e-3, 1e-3, absolute=True)
"""Weights of the first version of the authors' code, of October 2022."""
RELEASED = LCNNPenalty(1e-2, 1e-2, absolute=True)
"""Weights of its last version, of March 2023."""
