"""Brute force: the worst of many random points in the ball."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lowcurve.analysis.norms import Ball, per_example
from lowcurve.attacks.active_set import IterativeAttack
from lowcurve.attacks.base import BallAttack
from lowcurve.attacks.state import AttackBatch, AttackRun, State, select_rows
from lowcurve.errors import InputError
from lowcurve.losses import margin_loss
from lowcurve.randomness import Streams
from lowcurve.types import Inputs, Logits, PerExample

Distribution = Literal["uniform", "corners", "gaussian"]


@dataclass(frozen=True)
class NoiseState(State):
    """The state of a `Noise` run.

    Attributes:
        logits: Logits at the point, which are known already.
    """

    logits: Logits


@dataclass(frozen=True)
class Noise(BallAttack, IterativeAttack):
    """Random search: the point of lowest margin among `draws` random points of the ball.

    The attack uses no gradient. Where it fools an image that withstands gradient attacks, the gradients are masked. A
    radius for each image and a start may be given in the call; the start takes the place of the first draw.

    Args:
        norm: "linf", "l2", "l1", a norm, or a `Ball` with its own radius and box.
        radius: Radius in pixel units, the literature's epsilon. Leave it out with a `Ball`.
        draws: Number of random points.
        distribution: "uniform" in the ball; "corners", x + radius u / ||u|| with entries of u from {-1, 1}, the corners of
            an l_inf ball; "gaussian", the same with normal u, the sphere of an l_2 ball. Points are clipped to the box.
        draws_per_pass: Number of points of one image in a forward pass. The lowest margin does not depend on it.
        box: Lowest and highest pixel value. Leave it out with a `Ball`.

    Raises:
        InputError: If a setting is out of range.

    Cost: draws + 1 forward passes, no gradient.

    Example:
        >>> model = torch.nn.Linear(2, 2, bias=False)
        >>> _ = model.weight.data.copy_(torch.tensor([[1.0, -2.0], [0.0, 0.0]]))
        >>> attack = Noise("linf", 0.1, draws=100, distribution="corners")
        >>> attack(model, torch.tensor([[0.5, 0.5]]), torch.tensor([0]))
        tensor([[0.4000, 0.6000]])

    Reference: Carlini et al. 2019, brute-force (random) search.
    """

    draws: int = 1000
    distribution: Distribution = "uniform"
    draws_per_pass: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.draws < 1 or self.draws_per_pass < 1:
            found = (self.draws, self.draws_per_pass)
            raise InputError("at least one draw, and one draw per pass", found, "write draws=1000")
        if self.distribution not in DISTRIBUTIONS:
            expected = 'a distribution "uniform", "corners" or "gaussian"'
            raise InputError(expected, repr(self.distribution), 'write distribution="uniform"')

    @property
    def runs(self) -> tuple[AttackRun, ...]:
        """One run."""
        return (self,)

    @property
    def steps(self) -> int:
        """Number of groups of draws after the first one."""
        return -(-self.draws // self.draws_per_pass) - 1

    def begin(self, batch: AttackBatch) -> NoiseState:
        """Return the worst point of the first group of draws."""
        return self._worst(batch, batch.zeros(), batch.zeros())

    def step(self, batch: AttackBatch, state: NoiseState) -> tuple[Logits, NoiseState]:
        """Return the known logits of the current point, and the worst point of the next group of draws."""
        return state.logits, self._worst(batch, state.step + 1, state.step)

    def value(self, batch: AttackBatch, point: Inputs, logits: Logits) -> PerExample:  # noqa: ARG002 (AttackRun's signature)
        """Return minus the margin."""
        return margin_loss(logits, batch.y)

    def _worst(self, batch: AttackBatch, group: Tensor, step: Tensor) -> NoiseState:
        """Return the draw of lowest margin in each image's group, with its logits."""
        count = min(self.draws_per_pass, self.draws)
        images = torch.arange(len(batch), device=group.device)
        repeated = select_rows(batch, images.repeat(count))
        numbers = torch.stack([group * self.draws_per_pass + k for k in range(count)])
        points = self._draw(repeated, numbers.flatten())
        with torch.no_grad():
            logits = batch.evaluate(points)
        values = self.value(repeated, points, logits).view(numbers.shape)
        # NaN comes after a draw that fools the network and before all others, so that neither is lost.
        values = torch.where(torch.isfinite(logits).all(1).view(numbers.shape), values, 0)
        worst = values.masked_fill(numbers >= self.draws, -torch.inf).argmax(0)
        points, logits = points.view(count, *batch.x.shape), logits.view(count, len(batch), -1)
        return NoiseState(points[worst, images], step, logits[worst, images])

    def _draw(self, batch: AttackBatch, number: Tensor) -> Inputs:
        """Return the draw of that number, or the given start for the first."""
        draw = DISTRIBUTIONS[self.distribution]
        point = draw(self.ball, batch, batch.streams.at(self.distribution).at_each(number))
        if batch.start is None:
            return point
        start = self.ball.project(batch.start, batch.x, batch.radius)
        return torch.where(per_example(number == 0, point), start, point)


def _draw_uniform(ball: Ball, batch: AttackBatch, streams: Streams) -> Inputs:
    return ball.sample(batch.x, streams, batch.radius)


def _draw_corner(ball: Ball, batch: AttackBatch, streams: Streams) -> Inputs:
    return _project_to_sphere(ball, batch, streams.signs(batch.x))


def _draw_gaussian(ball: Ball, batch: AttackBatch, streams: Streams) -> Inputs:
    return _project_to_sphere(ball, batch, streams.normal(batch.x))


def _project_to_sphere(ball: Ball, batch: AttackBatch, direction: Tensor) -> Inputs:
    """Return the point at distance `radius` in a direction, clipped to the box."""
    step = per_example(batch.radius, direction) * ball.norm.unit(direction)
    return ball.project(batch.x + step, batch.x, batch.radius)


DISTRIBUTIONS: dict[str, Callable[[Ball, AttackBatch, Streams], Inputs]] = {
    "uniform": _draw_uniform,
    "corners": _draw_corner,
    "gaussian": _draw_gaussian,
}
