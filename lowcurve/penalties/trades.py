"""TRADES: how far the prediction changes within a ball, whatever the label is."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from lowcurve.analysis.calculus import Jet, gradient
from lowcurve.analysis.norms import LINF, Ball, pixels
from lowcurve.losses import LossField, require_loss_field
from lowcurve.models.conversion import fold_batchnorm
from lowcurve.models.modes import frozen
from lowcurve.penalties.base import Penalty
from lowcurve.penalties.search import farthest, require_search, streams_of
from lowcurve.types import Inputs, Logits, PerExample

START = 1e-3
"""Standard deviation of the first step away from x, where the divergence has no slope."""


@dataclass(frozen=True)
class TRADES(Penalty):
    """KL(p(x) || p(x')), p = softmax(z), at the x' in the ball that makes it largest; per example, in nats.

    x' is found by `steps` of projected ascent from x + 0.001 n, n normal, with the model in eval mode, and held constant;
    then both predictions are differentiated. Labels play no part. The weight that belongs to it is 1 / lambda = 6.
    ball: pixel units. step_size: see `search.farthest`; 0.007 at a radius of 0.031 in the released code.

    Cost beside the shared clean forward pass, in forward passes F: 2 F a step of the ascent, and 4 F.

    Errors: InputError if the field is not `losses.loss_field`'s.

    Example:
        >>> from lowcurve.losses import loss_field
        >>> from lowcurve.randomness import stream
        >>> model = lambda x: torch.stack([x[:, 0], -x[:, 0]], 1)  # p from (1, 1) / 2 to sigmoid(-+0.2)
        >>> jet = Jet(loss_field(model, torch.tensor([0])), torch.zeros(1, 1))
        >>> trades = TRADES(Ball(LINF, 0.1, box=(-1.0, 1.0)))
        >>> round(trades(jet, generator=stream(0)).item(), 6)  # log(cosh(0.1))
        0.004992

    Reference: Zhang et al. 2019 (TRADES), Algorithm 1; its released code.
    """

    ball: Ball = field(default_factory=lambda: Ball(LINF, pixels(8)))
    steps: int = 10
    step_size: float | None = None
    differentiates_twice = False

    def __post_init__(self) -> None:
        require_search(self.steps, self.step_size)

    def __call__(self, jet: Jet, *, generator: torch.Generator) -> PerExample:
        """One number per example, at least 0."""
        field = require_loss_field(jet.field)
        far = self._farthest(field, jet.x.detach(), generator)
        return divergence(jet.logits, field.logits(far))

    def _farthest(self, field: LossField, x: Inputs, generator: torch.Generator) -> Inputs:
        """Where in the ball the prediction is farthest from that at x, as far as the ascent finds it."""
        start = self.ball.project(x + START * streams_of(x, generator).normal(x), x)
        with frozen(field.model), fold_batchnorm(field.model, x):
            with torch.no_grad():
                clean = field.logits(x)

            def slope(point: Inputs) -> Tensor:
                return gradient(lambda at: divergence(clean, field.logits(at)), point)

            return farthest(slope, start, x, self.ball, steps=self.steps, step_size=self.step_size)


def divergence(a: Logits, b: Logits) -> PerExample:
    """KL(softmax(a) || softmax(b)) = sum_k p_k (exp(t_k) - 1 - t_k), t = log q - log p: right also where p and q are close.

    The usual form, sum_k p_k (log p_k - log q_k), is a small difference of large terms, of either sign; its slope in b loses
    q_y - p_y where both are nearly 1, and with it the direction of the input gradient. Here every term is at least 0 but
    for its own rounding, and equal logits give exactly 0.

    Example:
        >>> divergence(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 0.2]]))  # log(cosh(0.1))
        tensor([0.0050])
    """
    log_p, log_q = a.log_softmax(1), b.log_softmax(1)
    p, t = log_p.exp(), log_q - log_p
    near = torch.minimum(t, torch.ones_like(t))  # beyond 1 nothing cancels, and exp(t) would overflow
    return torch.where(t < 1, p * (near.expm1() - near), log_q.exp() - p - p * t).sum(1)
