"""Projected gradient descent, and its one-step and from-the-center forms."""

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch

from lowcurve.analysis.ascent import ascent_step
from lowcurve.analysis.norms import LINF, Ball, Norm, as_ball
from lowcurve.attacks.active_set import IterativeAttack
from lowcurve.attacks.base import BallAttack
from lowcurve.attacks.state import AttackBatch, AttackRun, State, evaluate_with_gradient
from lowcurve.attacks.targets import Target, attack_objective, require_target
from lowcurve.errors import InputError
from lowcurve.losses import log_odds
from lowcurve.types import Inputs, Logits, Loss, PerExample


@dataclass(frozen=True)
class PGD(BallAttack, IterativeAttack):
    """Projected gradient descent: projected steepest ascent of the loss inside the ball around x.

    The true label is used, parameters receive no gradient, and the model is in eval mode during the attack. A radius for
    each image may be given in the call; the step size scales with it. A start in the call is that of the first run.

    Args:
        norm: "linf", "l2", "l1", a norm, or a `Ball` with its own radius and box.
        radius: Radius in pixel units, the literature's epsilon. Leave it out with a `Ball`.
        steps: Number of gradient steps in each run.
        step_size: Length of a step in the ball's norm. By default 2.5 radius / steps in l_inf (Madry's) and 5 radius /
            steps in l_1 and l_2, counted over the pixels that the box does not hold back. That reaches 99.8 % of a linear
            model's optimum in an l_2 ball and box. With 2.5 it is 98 %. A length that you give is that of the whole step.
            In l_1 a step moves the pixels of largest slope to the edge of the box.
        start: "uniform" in the ball. With "center" a run starts from x itself.
        restarts: Number of runs from random starts.
        loss: Loss to maximize. The default `log_odds` orders images as cross-entropy does and has its steepest
            directions, but its gradient does not underflow on confident examples. `margin_loss` is the Carlini-Wagner
            objective.
        target: None leads away from the true label; "least-likely" leads towards the class of smallest logit; k = 1, 2,
            ... leads towards the k-th likeliest other class. With a target the loss at the target is minimized.
        answer: "highest" returns the best point of the run, never below its start. "last" returns the last point
            without evaluating it. This saves a forward pass in training.
        box: Lowest and highest pixel value. Leave it out with a `Ball`.

    Raises:
        InputError: If a setting is out of range.

    Cost: restarts * steps input gradients.

    Example:
        >>> model = torch.nn.Linear(2, 2, bias=False)
        >>> _ = model.weight.data.copy_(torch.tensor([[1.0, -2.0], [0.0, 0.0]]))
        >>> attack = PGD("linf", 0.1)
        >>> attack(model, torch.tensor([[0.5, 0.5]]), torch.tensor([0]))
        tensor([[0.4000, 0.6000]])

    Reference: Madry et al. 2018; moosavi2019cure, Table 2 (PGD-20).
    """

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
            raise InputError("at least one step and one start", (self.steps, self.restarts), "write steps=20")
        if self.step_size is not None and not (math.isfinite(self.step_size) and self.step_size >= 0):
            raise InputError("a finite step size of at least 0", self.step_size, "leave it out, or write radius / 4")
        if self.start not in ("uniform", "center"):
            raise InputError('a start "uniform" or "center"', repr(self.start), 'write start="uniform"')
        if self.restarts > 1 and self.start == "center":
            raise InputError("random starts", "restarts from the same point", 'write start="uniform" or restarts=1')
        require_target(self.target)

    @property
    def runs(self) -> tuple[AttackRun, ...]:
        """One run for each restart."""
        return (self,) * self.restarts

    def begin(self, batch: AttackBatch) -> State:
        """Return the start: as given, random, or x."""
        if batch.start is not None:
            return State(self.ball.project(batch.start, batch.x, batch.radius), batch.zeros())
        if self.start == "center":
            return State(batch.x, batch.zeros())
        return State(self.ball.sample(batch.x, batch.streams.at("start"), batch.radius), batch.zeros())

    def step(self, batch: AttackBatch, state: State) -> tuple[Logits, State]:
        """Make one step of steepest ascent."""
        _, gradient, logits = evaluate_with_gradient(self, batch, state.point)
        point = ascent_step(
            state.point,
            gradient,
            batch.x,
            self.ball,
            size=self._step_sizes(batch.radius),
            radius=batch.radius,
            whole=self.step_size is None,
        )
        return logits, replace(state, point=point)

    def value(self, batch: AttackBatch, point: Inputs, logits: Logits) -> PerExample:  # noqa: ARG002 (AttackRun's signature)
        """Return the loss, or minus the loss at the target."""
        return attack_objective(self.loss, self.target, batch, logits)

    def _step_sizes(self, radius: PerExample) -> PerExample:
        """Return the size of each image's step, which scales with its radius."""
        if self.step_size is None:
            return radius * ((2.5 if self.norm == LINF else 5.0) / self.steps)
        if isinstance(self.step_size, RadiusShare):
            return radius * self.step_size.share
        if self.ball.radius:
            return radius * (self.step_size / self.ball.radius)
        return torch.full_like(radius, self.step_size)  # a ball of radius 0 has no scale


class RadiusShare(float):
    """A step size that is a share of the radius.

    It has a scale also where a ball of radius 0 gets its radii in the call.

    Args:
        size: The step size at the ball's own radius.
        share: The step size divided by the radius.

    Example:
        >>> size = RadiusShare(0.0, share=0.1)
        >>> float(size), size.share
        (0.0, 0.1)
    """

    share: float

    def __new__(cls, size: float, share: float = 1.0) -> "RadiusShare":
        """Make the number with its share."""
        made = super().__new__(cls, size)
        made.share = share
        return made


def FGSM(
    norm: Norm | str | Ball,
    radius: float | None = None,
    *,
    target: Target = None,
    box: tuple[float, float] = (0.0, 1.0),
) -> PGD:
    """Return the fast gradient sign method: one step of length `radius` from x; x itself where the loss does not rise.

    x' = P(x + radius * steepest(grad l(x))), with P the projection into ball and box.

    Args:
        norm: As in `PGD`.
        radius: As in `PGD`.
        target: As in `PGD`.
        box: As in `PGD`.

    Returns:
        A `PGD` with one step.

    Cost: one input gradient and one forward pass.

    Example:
        >>> FGSM("linf", 0.1).step_size
        0.1

    Reference: Goodfellow et al. 2015, section 4.
    """
    ball = as_ball(norm, radius, box)
    return PGD(ball, steps=1, step_size=RadiusShare(ball.radius), start="center", target=target)


def BIM(
    norm: Norm | str | Ball,
    radius: float | None = None,
    *,
    steps: int = 10,
    target: Target = None,
    box: tuple[float, float] = (0.0, 1.0),
) -> PGD:
    """Return the basic iterative method: steps of radius / steps from x, which reach the ball's surface at most.

    Args:
        norm: As in `PGD`.
        radius: As in `PGD`.
        steps: Number of gradient steps.
        target: As in `PGD`.
        box: As in `PGD`.

    Returns:
        A `PGD` from the center.

    Cost: `steps` input gradients.

    Example:
        >>> BIM("linf", 0.1).step_size
        0.01

    Reference: Kurakin et al. 2017, section 2.2; yu2018interpreting, Table 1.
    """
    ball = as_ball(norm, radius, box)
    return PGD(
        ball, steps=steps, step_size=RadiusShare(ball.radius / steps, share=1 / steps), start="center", target=target
    )
