"""LCNN's penalty: the betas and gammas of a network, whatever its inputs."""

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
    """beta * sum_i beta_i + gamma * sum_j log gamma_j over a network's centered softplus and Lipschitz layers: one number for
    all examples, which looks at none of them.

    beta, gamma: the two weights lambda; a term's own weight multiplies both. size: |log gamma_j|, as the released code has it,
    which matters where gammas may fall below 1. Gammas and betas that are not learned are left out. `PUBLISHED` and
    `RELEASED` are the pairs of the code's two versions; the paper does not say which it used.

    Cost: nothing.

    Errors: InputError for a network without what is to be penalized.

    Example:
        >>> from lowcurve.losses import loss_field
        >>> network = nn.Sequential(nn.Flatten(), CenteredSoftplus(beta=4.0))
        >>> jet = Jet(loss_field(network.eval(), torch.tensor([0])), torch.zeros(1, 2))
        >>> round(LCNNPenalty(beta=0.5, gamma=0.0)(jet, generator=torch.Generator()).item(), 4)
        2.0

    Reference: srinivas2022lcnn, Eq. (5).
    """

    beta: float = 1e-3
    gamma: float = 1e-3
    size: bool = False
    data_free = True
    differentiates_twice = False

    def __post_init__(self) -> None:
        if not (min(self.beta, self.gamma) >= 0 and self.beta + self.gamma > 0):
            raise InputError(
                "weights of at least 0, not both 0", (self.beta, self.gamma), "write LCNNPenalty(beta=1e-3, gamma=1e-3)"
            )

    def __call__(self, jet: Jet, *, generator: torch.Generator) -> Tensor:  # noqa: ARG002 (the signature of Penalty)
        """One number for all, of shape ()."""
        model = require_loss_field(jet.field).model
        modules = list(model.modules()) if isinstance(model, nn.Module) else []
        bends = [m for m in modules if isinstance(m, CenteredSoftplus) and m.log_beta.requires_grad]
        bounded = [m for m in modules if isinstance(m, LipschitzLayer) and m.log_gamma.requires_grad]
        total = jet.x.new_zeros(())
        for weight, found, what in ((self.beta, bends, "betas"), (self.gamma, bounded, "gammas")):
            if weight and not found:
                hint = 'write nonlinearity="centered-softplus" and an lcnn network, convert yours, or give it no weight'
                raise InputError(f"a network with {what} to penalize", "none that is learned", hint)
        if bends:
            total = total + self.beta * betas_of(bends).sum()
        if bounded:
            logs = logs_of_gammas(bounded)
            total = total + self.gamma * (logs.abs() if self.size else logs).sum()
        return total


PUBLISHED = LCNNPenalty(1e-3, 1e-3, size=True)
"""The weights of the code's first version, of October 2022."""
RELEASED = LCNNPenalty(1e-2, 1e-2, size=True)
"""Those of its last version, of March 2023."""
