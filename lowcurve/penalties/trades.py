"""TRADES: the largest change of the prediction within a ball, for any label."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from lowcurve.analysis.calculus import Jet, gradient
from lowcurve.analysis.norms import LINF, Ball, pixels
from lowcurve.losses import LossField, require_loss_field
from lowcurve.models.conversion import fold_batchnorm
from lowcurve.models.modes import frozen
from lowcurve.penalties.base import Penalty
from lowcurve.penalties.search import input_streams, projected_ascent, require_ascent
from lowcurve.types import Inputs, Logits, PerExample

START = 1e-3
"""Standard deviation of the random start around x, where the gradient of the divergence is 0."""


@dataclass(frozen=True)
class TRADES(Penalty):
    """KL(p(x) || p(x')), p = softmax(z), at the x' in the ball that makes it largest; per example, in nats.

    x' is found by projected ascent from x + 0.001 n with normal n, with the model in eval mode, and held constant. Both
    predictions are differentiated. Labels are not used. The weight of the paper is 1 / lambda = 6.

    Args:
        ball: Ball around the input, in pixel units.
        steps: Number of steps of the ascent.
        step_size: Length of a step; see `projected_ascent`. The released code uses 0.007 at a radius of 0.031.

    Raises:
        InputError: If an option is out of range or the field does not come from `losses.loss_field`.

    Cost in addition to the shared clean forward pass, in forward passes F: 2 F per step of the ascent, and 4 F.

    Example:
        >>> from lowcurve.losses import loss_field
        >>> model = lambda x: torch.stack([x[:, 0], -x[:, 0]], 1)  # p from (1, 1) / 2 to sigmoid(-+0.2)
        >>> jet = Jet(loss_field(model, torch.tensor([0])), torch.zeros(1, 1))
        >>> trades = TRADES(Ball(LINF, 0.1, box=(-1.0, 1.0)))
        >>> round(trades(jet).item(), 6)  # log(cosh(0.1))
        0.004992

    Reference: Zhang et al. 2019 (TRADES), Algorithm 1; its released code.
    """

    ball: Ball = field(default_factory=lambda: Ball(LINF, pixels(8)))
    steps: int = 10
    step_size: float | None = None
    differentiates_twice = False

    def __post_init__(self) -> None:
        require_ascent(self.steps, self.step_size)

    def evaluate(self, jet: Jet, generator: torch.Generator) -> PerExample:
        """Compute one number of at least 0 per example."""
        field = require_loss_field(jet.field)
        far = self._farthest(field, jet.x.detach(), generator)
        return divergence(jet.logits, field.logits(far))

    def _farthest(self, field: LossField, x: Inputs, generator: torch.Generator) -> Inputs:
        """Search the point of the ball with the largest divergence from the prediction at x."""
        start = self.ball.project(x + START * input_streams(x, generator).normal(x), x)
        with frozen(field.model), fold_batchnorm(field.model, x):
            with torch.no_grad():
                clean = field.logits(x)

            def ascent_direction(point: Inputs) -> Tensor:
                return gradient(lambda moved: divergence(clean, field.logits(moved)), point)

            return projected_ascent(ascent_direction, start, x, self.ball, steps=self.steps, step_size=self.step_size)


def divergence(a: Logits, b: Logits) -> PerExample:
    """Compute KL(softmax(a) || softmax(b)) = sum_k p_k (exp(t_k) - 1 - t_k), t = log q - log p, also for close p and q.

    The usual form, sum_k p_k (log p_k - log q_k), is a small difference of large terms of both signs. Its gradient in b loses
    q_y - p_y if both are nearly 1, and with it the direction of the input gradient. Here every term is at least 0 except for
    its own rounding, and equal logits give exactly 0.

    Args:
        a: Logits of p, shape (batch, classes).
        b: Logits of q, shape (batch, classes).

    Returns:
        One number per example, in nats.

    Example:
        >>> divergence(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 0.2]]))  # log(cosh(0.1))
        tensor([0.0050])
    """
    log_p, log_q = a.log_softmax(1), b.log_softmax(1)
    p, t = log_p.exp(), log_q - log_p
    near = torch.minimum(t, torch.ones_like(t))  # for t above 1 nothing cancels, and exp(t) would overflow
    return torch.where(t < 1, p * (near.expm1() - near), log_q.exp() - p - p * t).sum(1)
