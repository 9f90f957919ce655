"""Projected gradient descent and its one-step and from-the-center forms."""

import math
from dataclasses import dataclass

import torch

from lowcurve.analysis.ascent import ascend
from lowcurve.analysis.norms import L2, Ball, per_example
from lowcurve.errors import InputError
from lowcurve.losses import log_odds, loss_field
from lowcurve.types import Classifier, Inputs, Labels, Loss


@dataclass(frozen=True)
class PGD:
    """x' = the point of highest loss on `restarts` paths of projected steepest ascent inside the ball around x.

    ball: norm, radius and pixel box. loss: by default `log_odds`, which is cross-entropy for an attack (the same order
    and the same steepest directions) without its gradient's underflow on confident examples; or `margin_loss`, the
    Carlini-Wagner objective inside a ball. step_size: in the ball's norm; by default 2.5 radius / steps in l_inf (Madry's)
    and 5 radius / steps in l_2, where from a start on the far side of the sphere 2.5 would reach 98 % of a linear model's
    optimum and 5 reaches 99.9 %. random_start: from a uniform point of the ball rather than from x. The true label is
    used, the model must be in eval mode, parameters receive no gradient, and no path returns less than its start.

    Cost: restarts * steps input gradients.

    Example:
        >>> from lowcurve.analysis.norms import LINF
        >>> from lowcurve.randomness import stream
        >>> model = torch.nn.Linear(2, 2, bias=False)
        >>> _ = model.weight.data.copy_(torch.tensor([[1.0, -2.0], [0.0, 0.0]]))
        >>> attack = PGD(Ball(LINF, 0.1))
        >>> attack(model, torch.tensor([[0.5, 0.5]]), torch.tensor([0]), generator=stream(0))
        tensor([[0.4000, 0.6000]])

    Reference: Madry et al. 2018; moosavi2019cure, Table 2 (PGD-20).
    """

    ball: Ball
    steps: int = 20
    step_size: float | None = None
    random_start: bool = True
    restarts: int = 1
    loss: Loss = log_odds

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1:
            raise InputError(
                "at least one step and one start", (self.steps, self.restarts), "write PGD(ball, steps=20)"
            )
        if self.step_size is not None and not (math.isfinite(self.step_size) and self.step_size >= 0):
            raise InputError("a finite step size of at least 0", self.step_size, "leave it out, or write radius / 4")
        if self.restarts > 1 and not self.random_start:
            raise InputError("random starts", "restarts from the same point", "write random_start=True or restarts=1")

    def __call__(self, model: Classifier, x: Inputs, y: Labels, *, generator: torch.Generator) -> Inputs:
        """The adversarial inputs x', of x's shape."""
        self.ball.require_inside_box(x)
        field = loss_field(model, y, self.loss)
        size = self._step_size()
        best, highest = x, torch.full((len(x),), -torch.inf, dtype=x.dtype, device=x.device)
        for _ in range(self.restarts):
            start = self.ball.sample(x, generator=generator) if self.random_start else x
            point = ascend(field, x, self.ball, start=start, steps=self.steps, step_size=size)
            with torch.no_grad():
                values = field(point)
            best = torch.where(per_example(values > highest, x), point, best)
            highest = torch.maximum(values, highest)
        return best.detach()

    def _step_size(self) -> float:
        if self.step_size is not None:
            return self.step_size
        return (5.0 if self.ball.norm == L2 else 2.5) * self.ball.radius / self.steps


def FGSM(ball: Ball) -> PGD:
    """x' = P(x + radius * steepest(grad l(x))), one full step from x; x itself where that does not raise the loss.

    Example:
        >>> from lowcurve.analysis.norms import LINF
        >>> FGSM(Ball(LINF, 0.1)).step_size
        0.1

    Reference: Goodfellow et al. 2015, section 4.
    """
    return PGD(ball, steps=1, step_size=ball.radius, random_start=False)
