"""Auto-PGD in an l_1 ball: sign steps on few pixels, and first in balls that are larger than asked."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lowcurve.analysis import l1
from lowcurve.analysis.calculus import value_gradient_and_aux
from lowcurve.analysis.norms import Ball, per_example
from lowcurve.attacks.acceptance import Region
from lowcurve.attacks.state import AttackBatch, State, usable_gradient
from lowcurve.attacks.targets import Target, attack_objective
from lowcurve.types import Inputs, Logits, Loss, PerExample

REACHES = ((0.0, 3.0), (0.3, 2.0), (0.6, 1.0))
"""Share of the steps from which the ball has this many radii."""
SPARSER = 1.5
"""The next step changes this many times fewer pixels than the best point does."""
FALLING = 0.95
"""A best point whose number of changed pixels fell below this share of the last one's starts again with the longest step."""
SMALLEST_STEP = 0.1
"""Length of the shortest step, in radii. The longest has one radius."""


@dataclass(frozen=True)
class SparseState(State):
    """The state of a `SparseAscent`.

    Attributes:
        reach: Radius of the ball of this phase, in radii of the attack.
        best: Point of highest loss in this phase.
        best_gradient: Gradient there.
        highest: Loss there.
        size: Length of the next step, in radii of the phase.
        changed: Number of pixels that differ from the image at the last best point.
    """

    reach: PerExample
    best: Inputs
    best_gradient: Tensor
    highest: PerExample
    size: PerExample
    changed: PerExample


@dataclass(frozen=True)
class SparseAscent:
    """A run of `APGD` in l_1: steps of equal size on the pixels of largest slope, whose number adapts to each image.

    A step changes 1.5 times fewer pixels than the best point so far. Its length falls by 1.5 a step, to a tenth of the radius,
    and is the radius again once the best point has become sparser. The first steps ascend in a ball of three radii,
    the next in one of two, because the loss has many local maxima in a small l_1 ball. With a given start all steps are in
    the ball itself.

    Args:
        ball: The l_1 ball.
        steps: Number of steps.
        loss: Loss to maximize.
        target: As in `PGD`.

    Reference: Croce and Hein 2021, Algorithm 1 and section 3.3.
    """

    ball: Ball
    steps: int
    loss: Loss
    target: Target = None

    def begin(self, batch: AttackBatch) -> SparseState:
        """Return the given start, or noise in the largest ball."""
        reach = torch.full_like(batch.radius, REACHES[0][1] if batch.start is None else 1.0)
        start = batch.start
        if start is None:
            start = batch.x + (self.ball.box[1] - self.ball.box[0]) * batch.streams.at("start").normal(batch.x)
        return self._phase(batch, start, reach, batch.zeros())

    def step(self, batch: AttackBatch, state: SparseState) -> tuple[Logits, SparseState]:
        """Make one step from the current point, or from the best one where that has become sparser."""
        point = state.point

        def evaluate(inputs: Tensor) -> tuple[PerExample, Logits]:
            logits = batch.evaluate(inputs)
            return attack_objective(self.loss, self.target, batch, logits), logits

        value, gradient, logits = value_gradient_and_aux(evaluate, point)
        gradient = usable_gradient(batch.model, gradient)
        first, higher = torch.isinf(state.highest), per_example(value > state.highest, point)
        best = torch.where(higher, point, state.best)
        best_gradient = torch.where(higher, gradient, state.best_gradient)
        count = changed(best - batch.x)
        sparser = ~first & (count < FALLING * state.changed)
        size = torch.where(first | sparser, 1.0, (state.size / SPARSER).clamp_min(SMALLEST_STEP))
        back = per_example(sparser, point)
        here, slope = torch.where(back, best, point), torch.where(back, best_gradient, gradient)
        # Pixels of large slope at the edge of the box keep a step out of it, so that the projection leaves them there.
        moves = l1.room_along(here, slope, self.ball.box) > 0
        signs = largest(slope, count / SPARSER, moves).sign()
        radius = state.reach * batch.radius
        length = size * radius / (signs.abs() * moves).flatten(1).sum(1).clamp_min(1)
        following = self.ball.project(here + per_example(length, signs) * signs, batch.x, radius)
        state = replace(
            state,
            point=following,
            best=best,
            best_gradient=best_gradient,
            highest=torch.fmax(value, state.highest),
            size=size,
            changed=count,
        )
        return logits, self._next_phase(batch, state)

    def value(self, batch: AttackBatch, point: Inputs, logits: Logits) -> PerExample:
        """Return the loss, or minus the loss at the target, inside the ball; minus infinity outside."""
        value = attack_objective(self.loss, self.target, batch, logits)
        return torch.where(self.is_inside(batch, point), value, -torch.inf)

    def is_inside(self, batch: AttackBatch, point: Inputs) -> Tensor:
        """Return for each image whether a point lies in its ball."""
        return Region(self.ball.norm, box=self.ball.box).contains(batch.x, point, batch.radius)

    def _phase(self, batch: AttackBatch, start: Inputs, reach: PerExample, step: Tensor) -> SparseState:
        """Return the state at the first point of a phase."""
        point = self.ball.project(start, batch.x, reach * batch.radius)
        nothing, whole = torch.full_like(batch.radius, -torch.inf), torch.ones_like(batch.radius)
        return SparseState(point, step, reach, point, torch.zeros_like(point), nothing, whole, changed(point - batch.x))

    def _next_phase(self, batch: AttackBatch, state: SparseState) -> SparseState:
        """Begin the next phase at the best point, for images that have made the steps of this one."""
        done = (state.step + 1).to(batch.radius) / self.steps
        reach = state.reach
        for share, radii in REACHES[1:]:
            reach = torch.where(done >= share, reach.clamp_max(radii), reach)
        smaller = reach < state.reach
        if not bool(smaller.any()):
            return state
        fresh = self._phase(batch, state.best, reach, state.step)
        chosen = {
            name: torch.where(per_example(smaller, new), new, getattr(state, name)) for name, new in vars(fresh).items()
        }
        return SparseState(**chosen)


def changed(moved: Tensor) -> PerExample:
    """Return the number of entries that a perturbation changes."""
    return (moved != 0).flatten(1).sum(1).to(moved)


def largest(gradient: Tensor, count: PerExample, among: Tensor) -> Tensor:
    """Return the gradient with 0 in all entries that are smaller than the largest ones.

    Args:
        gradient: Shape (batch, ...).
        count: Number of largest entries, at least one.
        among: Which entries are counted, of the gradient's shape. Others are kept if they are no smaller.
    """
    size = gradient.abs().flatten(1)
    kept = count.long().clamp(1, size.shape[1])
    counted = torch.where(among.flatten(1), size, 0)
    top = counted.topk(int(kept.max()) if len(kept) else 1, dim=1).values
    smallest = top.gather(1, kept[:, None] - 1)
    return torch.where((size >= smallest).view_as(gradient), gradient, 0)
