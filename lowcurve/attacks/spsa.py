"""Simultaneous perturbation: projected ascent along gradients that are estimated from logits alone."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lowcurve.analysis.norms import per_example
from lowcurve.attacks.active_set import IterativeAttack
from lowcurve.attacks.base import BallAttack
from lowcurve.attacks.state import AttackBatch, AttackRun, State, select_rows
from lowcurve.attacks.targets import Target, attack_objective, require_target
from lowcurve.errors import InputError
from lowcurve.losses import margin_loss
from lowcurve.types import Inputs, Logits, Loss, PerExample

DECAY, DECAY_OF_SQUARES = 0.9, 0.999
"""Adam's two rates."""


@dataclass(frozen=True)
class SPSAState(State):
    """The state of an `SPSA` run.

    Attributes:
        mean: Running mean of the gradient estimates.
        mean_square: Running mean of their squares.
    """

    mean: Tensor
    mean_square: Tensor


@dataclass(frozen=True)
class SPSA(BallAttack, IterativeAttack):
    """Projected ascent by Adam along a gradient that is estimated from forward passes.

    At the point p the estimate is

        g = mean over v of v (l(p + delta v) - l(p - delta v)) / (2 delta),   v_i = -1 or 1, each as likely.

    No derivative is taken. Where this attack fools an image that withstands PGD, gradients are masked, for example by
    rounding or saturation. The variance of the estimate falls as 1 / draws. The points p + delta v may leave ball and box
    by delta a pixel, because clipping them would bias the estimate at black and white pixels. A radius for each image and
    a start may be given in the call.

    Args:
        norm: "linf", "l2", "l1", a norm, or a `Ball` with its own radius and box.
        radius: Radius in pixel units, the literature's epsilon. Leave it out with a `Ball`.
        steps: Number of ascent steps.
        draws: Random directions v for each step.
        delta: Change of each pixel in the finite differences. The unit is that of pixels.
        learning_rate: Approximate change of each pixel in a step, in pixel units. Choose steps * learning_rate larger
            than an l_inf radius.
        loss: Loss to maximize.
        target: As in `PGD`.
        batch_size: Largest number of inputs in a forward pass. The answer does not depend on it.
        box: Lowest and highest pixel value. Leave it out with a `Ball`.

    Raises:
        InputError: If a setting is out of range.

    Cost: steps * (2 draws + 1) forward passes, no gradient.

    Example:
        >>> model = torch.nn.Linear(2, 2, bias=False)
        >>> _ = model.weight.data.copy_(torch.tensor([[1.0, -2.0], [0.0, 0.0]]))
        >>> attack = SPSA("linf", 0.1)
        >>> attack(model, torch.tensor([[0.5, 0.5]]), torch.tensor([0]))
        tensor([[0.4000, 0.6000]])

    Reference: Uesato et al. 2018, Algorithm 1; moosavi2019cure, Figure 7.
    """

    steps: int = 20
    draws: int = 64
    delta: float = 0.01
    learning_rate: float = 0.01
    loss: Loss = margin_loss
    target: Target = None
    batch_size: int = 1024

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1 or self.draws < 1 or self.batch_size < 1:
            found = (self.steps, self.draws, self.batch_size)
            raise InputError("at least one step, one draw and one input per pass", found, "write steps=20, draws=64")
        for name, length in (("delta", self.delta), ("learning_rate", self.learning_rate)):
            if not (math.isfinite(length) and length > 0):
                raise InputError(f"a finite {name} above 0 in pixel units", length, f"write {name}=0.01")
        require_target(self.target)

    @property
    def runs(self) -> tuple[AttackRun, ...]:
        """One run."""
        return (self,)

    def begin(self, batch: AttackBatch) -> SPSAState:
        """Return the given start, or x itself."""
        point = batch.x if batch.start is None else self.ball.project(batch.start, batch.x, batch.radius)
        return SPSAState(point, batch.zeros(), torch.zeros_like(point), torch.zeros_like(point))

    def step(self, batch: AttackBatch, state: SPSAState) -> tuple[Logits, SPSAState]:
        """Make one step of Adam along the estimate."""
        point = state.point
        with torch.no_grad():
            logits = batch.evaluate(point)
        gradient = self.estimate_gradient(batch, state)
        mean = DECAY * state.mean + (1 - DECAY) * gradient
        mean_square = DECAY_OF_SQUARES * state.mean_square + (1 - DECAY_OF_SQUARES) * gradient.square()
        count = per_example(state.step + 1, point).to(point)
        length = (mean_square / (1 - DECAY_OF_SQUARES**count)).sqrt()
        move = mean / (1 - DECAY**count) / torch.where(length > 0, length, 1) * (length > 0)
        point = self.ball.project(point + self.learning_rate * move, batch.x, batch.radius)
        return logits, replace(state, point=point, mean=mean, mean_square=mean_square)

    def value(self, batch: AttackBatch, point: Inputs, logits: Logits) -> PerExample:  # noqa: ARG002 (AttackRun's signature)
        """Return the loss, or minus the loss at the target."""
        return attack_objective(self.loss, self.target, batch, logits)

    def estimate_gradient(self, batch: AttackBatch, state: State) -> Tensor:
        """Return the estimate of the gradient at the state's point, from 2 draws forward passes."""
        most = max(1, self.batch_size // 2)
        parts = torch.split(torch.arange(len(batch), device=batch.x.device), most)
        return torch.cat([self._estimate(select_rows(batch, p), state.point[p], state.step[p]) for p in parts])

    def _estimate(self, batch: AttackBatch, point: Inputs, step: Tensor) -> Tensor:
        """Return the estimate for so few images that a pair of points for each fits into one forward pass."""
        per_pass, images = max(1, self.batch_size // (2 * len(batch))), torch.arange(len(batch), device=point.device)
        streams, total = batch.streams.at("directions").at_each(step), torch.zeros_like(point)
        for first in range(0, self.draws, per_pass):
            draws = torch.arange(first, min(first + per_pass, self.draws), device=point.device)
            rows = images.repeat(len(draws))
            signs = streams.take(rows).at_each(draws.repeat_interleave(len(batch))).signs(point[rows])
            signs = signs.view(len(draws), *point.shape)
            points = torch.cat((point + self.delta * signs, point - self.delta * signs)).flatten(0, 1)
            repeated = select_rows(batch, rows.repeat(2))
            with torch.no_grad():
                values = self.value(repeated, points, batch.evaluate(points))
            forward, backward = values.view(2, len(draws), len(batch))
            # A pair with an undefined value says nothing about the slope.
            differences = torch.where(torch.isfinite(forward - backward), forward - backward, 0)
            # The draws are added one by one, so that the sum does not depend on the number of draws in a pass.
            for sign, difference in zip(signs, differences, strict=True):
                total += per_example(difference, point) * sign
        return total / (2 * self.delta * self.draws)
