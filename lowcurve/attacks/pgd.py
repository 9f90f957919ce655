"""Projected gradient descent and its one-step and from-the-center forms."""

import math
from dataclasses import dataclass
from typing import Literal

import torch

from lowcurve.analysis.ascent import ascent_step
from lowcurve.analysis.norms import L2, Ball, Norm, as_ball
from lowcurve.attacks.active_set import strongest
from lowcurve.attacks.base import BallAttack
from lowcurve.attacks.state import Images, Rows, Walk, climbed
from lowcurve.attacks.targets import Target, aim, require_target
from lowcurve.errors import InputError
from lowcurve.losses import log_odds
from lowcurve.types import Inputs, Logits, Loss, PerExample


@dataclass(frozen=True)
class PGD(BallAttack):
    """x' = the point of highest loss on `restarts` paths of projected steepest ascent inside the ball around x.

    ball: norm, radius and pixel box. loss: by default `log_odds`, which is cross-entropy for an attack (the same order
    and the same steepest directions) without its gradient's underflow on confident examples; or `margin_loss`, the
    Carlini-Wagner objective inside a ball. target: None, away from the true label; "least-likely", towards the class of
    smallest logit; k = 1, 2, ..., towards the k-th likeliest other class: then the loss at the target is lowered.
    step_size: in the ball's norm; by default 2.5 radius / steps in l_inf (Madry's) and 5 radius / steps in l_2, where from
    a start on the far side of the sphere 2.5 would reach 98 % of a linear model's optimum and 5 reaches 99.9 %.
    start: "uniform" in the ball, or "center", from x itself. answer: the "highest" point of the path, never below its start,
    or the "last" one, which is not looked at: for training, a forward pass less. The true label is used, parameters
    receive no gradient, the model is in eval mode meanwhile.

    Called: radius, one an example, takes the place of the ball's (the step size goes with it); start, of x's shape, that of
    the first path's start. Cost: restarts * steps input gradients.

    Example:
        >>> model = torch.nn.Linear(2, 2, bias=False)
        >>> _ = model.weight.data.copy_(torch.tensor([[1.0, -2.0], [0.0, 0.0]]))
        >>> attack = PGD("linf", 0.1)
        >>> attack(model, torch.tensor([[0.5, 0.5]]), torch.tensor([0]))
        tensor([[0.4000, 0.6000]])

    Reference: Madry et al. 2018; moosavi2019cure, Table 2 (PGD-20).
    """

    takes_radius = takes_start = True
    steps: int = 20
    step_size: float | None = None
    start: Literal["uniform", "center"] = "uniform"
    restarts: int = 1
    loss: Loss = log_odds
    target: Target = None
    answer: Literal["highest", "last"] = "highest"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.answer not in ("highest", "last") or (self.answer == "last" and self.restarts > 1):
            received = f"{self.answer!r} of {self.restarts}"
            raise InputError('the "highest" point, or the "last" of one path', received, 'write answer="highest"')
        if self.steps < 1 or self.restarts < 1:
            raise InputError(
                "at least one step and one start", (self.steps, self.restarts), "write PGD(ball, steps=20)"
            )
        if self.step_size is not None and not (math.isfinite(self.step_size) and self.step_size >= 0):
            raise InputError("a finite step size of at least 0", self.step_size, "leave it out, or write radius / 4")
        if self.start not in ("uniform", "center"):
            raise InputError('a start "uniform" or "center"', repr(self.start), 'write start="uniform"')
        if self.restarts > 1 and self.start == "center":
            raise InputError("random starts", "restarts from the same point", 'write start="uniform" or restarts=1')
        require_target(self.target)

    @property
    def walks(self) -> tuple[Walk, ...]:
        """One walk a start."""
        return (self,) * self.restarts

    perturb = strongest

    def begin(self, images: Images) -> Rows:
        """The start: as given, random, or x."""
        if images.start is not None:
            return {"point": self.ball.project(images.start, images.x, images.radius)}
        if self.start == "center":
            return {"point": images.x}
        return {"point": self.ball.sample(images.x, images.streams.at("start"), images.radius)}

    def step(self, images: Images, rows: Rows) -> tuple[Logits, Rows]:
        """One step of steepest ascent."""
        _, slope, logits = climbed(self, images, rows["point"])
        size = images.radius * self._share() if self.ball.radius else torch.zeros_like(images.radius)
        point = ascent_step(rows["point"], slope, images.x, self.ball, size=size, radius=images.radius)
        return logits, {"point": point}

    def value(self, images: Images, point: Inputs, logits: Logits) -> PerExample:  # noqa: ARG002 (the signature of Walk)
        """The loss, or that of the target lowered."""
        return aim(self.loss, self.target, images, logits)

    def _share(self) -> float:
        """The step as a share of the radius."""
        if self.step_size is not None:
            return self.step_size / self.ball.radius
        return (5.0 if self.ball.norm == L2 else 2.5) / self.steps


def FGSM(
    norm: Norm | str | Ball,
    radius: float | None = None,
    *,
    target: Target = None,
    box: tuple[float, float] = (0.0, 1.0),
) -> PGD:
    """x' = P(x + radius * steepest(grad l(x))), one full step from x; x itself where that does not raise the loss.

    Example:
        >>> FGSM("linf", 0.1).step_size
        0.1

    Reference: Goodfellow et al. 2015, section 4.
    """
    ball = as_ball(norm, radius, box)
    return PGD(ball, steps=1, step_size=ball.radius, start="center", target=target)


def BIM(
    norm: Norm | str | Ball,
    radius: float | None = None,
    *,
    steps: int = 10,
    target: Target = None,
    box: tuple[float, float] = (0.0, 1.0),
) -> PGD:
    """The basic iterative method: steps of radius / steps from x itself, which reach the ball's edge and no more.

    Example:
        >>> BIM("linf", 0.1).step_size
        0.01

    Reference: Kurakin et al. 2017, section 2.2; yu2018interpreting, Table 1.
    """
    ball = as_ball(norm, radius, box)
    return PGD(ball, steps=steps, step_size=ball.radius / steps, start="center", target=target)
