"""Ascent with steps of about equal size in all pixels: a start for l_1, where the steepest step moves few pixels."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lowcurve.analysis.calculus import value_gradient_and_aux
from lowcurve.analysis.norms import LINF, Ball, per_example
from lowcurve.attacks.state import AttackBatch, State, is_fooled, usable_gradient
from lowcurve.losses import margin_loss
from lowcurve.types import Inputs, Logits, PerExample

DECAY, DECAY_OF_SQUARES = 0.9, 0.999
"""Adam's two rates."""
FIRST_MOVE, LAST_MOVE = 0.1, 1e-3
"""Change of a pixel in the first and the last step, as fractions of the pixel range."""
FIRST_SHRINK, LAST_SHRINK = 0.1, 1e-3
"""Fraction by which the ball shrinks after a success, in the first and the last step."""
NOISE = 0.01
"""Standard deviation of the noise at the start, as a fraction of the pixel range."""


@dataclass(frozen=True)
class ScaledState(State):
    """The state of a `ScaledAscent`.

    Attributes:
        radius: Radius of the ball, infinite until the network is fooled.
        nearest: Distance of the nearest point that fooled the network.
        mean: Running mean of the gradients.
        mean_square: Running mean of their squares.
    """

    radius: PerExample
    nearest: PerExample
    mean: Tensor
    mean_square: Tensor


@dataclass(frozen=True)
class ScaledAscent:
    """A run of ascent of the margin loss by Adam's steps, in a ball that shrinks once the network is fooled.

    Each pixel moves by about the same length, however small its derivative. So the run crosses ranges of pixel values in which
    a network does not react, and then the shrinking l_1 ball leaves only the pixels that matter.

    Args:
        box_ball: Norm and pixel box, see `MinimalNorm.box_ball`.
        steps: Number of steps.

    Reference: Matyasko and Chau 2021 (PDPGD), for Adam's steps; the shrinking ball is that of Pintor et al. 2021.
    """

    box_ball: Ball
    steps: int

    def begin(self, batch: AttackBatch) -> ScaledState:
        """Return the image with a little noise."""
        low, high = self.box_ball.box
        width = high - low if math.isfinite(high - low) else 1.0
        unknown = torch.full_like(batch.radius, torch.inf)
        noise = NOISE * width * batch.streams.at("scaled ascent").normal(batch.x)
        point, zeros = self.box_ball.project(batch.x + noise, batch.x, unknown), torch.zeros_like(batch.x)
        return ScaledState(point, batch.zeros(), unknown, unknown, zeros, zeros)

    def step(self, batch: AttackBatch, state: ScaledState) -> tuple[Logits, ScaledState]:
        """Make one step of Adam, into the ball of the new radius and into the box."""
        point = state.point

        def evaluate(inputs: Tensor) -> tuple[PerExample, Logits]:
            logits = batch.evaluate(inputs)
            return margin_loss(logits, batch.y), logits

        _, gradient, logits = value_gradient_and_aux(evaluate, point)
        # The squares of a confident network's gradient would underflow.
        gradient = LINF.unit(usable_gradient(batch.model, gradient))
        mean = DECAY * state.mean + (1 - DECAY) * gradient
        square = DECAY_OF_SQUARES * state.mean_square + (1 - DECAY_OF_SQUARES) * gradient.square()
        count = (state.step + 1).to(point)
        first, second = (per_example(1 - rate**count, point) for rate in (DECAY, DECAY_OF_SQUARES))
        length = (square / second).sqrt()
        share = state.step.to(point) / self.steps
        low, high = self.box_ball.box
        move = FIRST_MOVE * (LAST_MOVE / FIRST_MOVE) ** share * (high - low if math.isfinite(high - low) else 1.0)
        direction = mean / first / torch.where(length > 0, length, 1)
        # Where the gradient is 0, the step is random.
        flat = per_example(LINF.length(gradient) == 0, point)
        direction = torch.where(flat, batch.streams.at("scaled ascent").at_each(state.step).normal(point), direction)
        radius, nearest = self._radius(batch, state, logits, share)
        point = self.box_ball.project(point + per_example(move, point) * direction, batch.x, radius)
        return logits, ScaledState(point, state.step, radius, nearest, mean, square)

    def value(self, batch: AttackBatch, point: Inputs, logits: Logits) -> PerExample:
        """Return 1 / distance where the network is fooled, and the margin loss, at most 0, where it is not."""
        return nearness(self.box_ball, batch, point, logits)

    def _radius(
        self, batch: AttackBatch, state: ScaledState, logits: Logits, share: PerExample
    ) -> tuple[PerExample, PerExample]:
        """Return the ball's next radius, and the distance of the nearest point that fooled the network."""
        fooled, length = is_fooled(batch.model, logits, batch.y), self.box_ball.norm.length(state.point - batch.x)
        change = LAST_SHRINK + (FIRST_SHRINK - LAST_SHRINK) * (1 + torch.cos(math.pi * share)) / 2
        nearest = torch.where(fooled, torch.minimum(length, state.nearest), state.nearest)
        smaller = torch.minimum(state.radius, length) * (1 - change)
        larger = torch.minimum(state.radius * (1 + change), nearest * (1 - LAST_SHRINK))
        return torch.where(fooled, smaller, larger), nearest


def nearness(box_ball: Ball, batch: AttackBatch, point: Inputs, logits: Logits) -> PerExample:
    """Return 1 / distance where the network is fooled, and the margin loss, at most 0, where it is not.

    Args:
        box_ball: Norm and pixel box, see `MinimalNorm.box_ball`.
        batch: The images.
        point: Points, of x's shape.
        logits: Logits there.
    """
    length, loss = box_ball.norm.length(point - batch.x), margin_loss(logits, batch.y)
    return torch.where(is_fooled(batch.model, logits, batch.y), 1 / length, loss.clamp_max(0))
