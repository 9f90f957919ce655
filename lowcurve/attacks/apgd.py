"""Auto-PGD: projected gradient ascent with momentum whose step size follows the progress of each image."""

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from lowcurve.analysis.ascent import ascent_step
from lowcurve.analysis.norms import L1, per_example
from lowcurve.attacks.active_set import IterativeAttack
from lowcurve.attacks.base import BallAttack
from lowcurve.attacks.sparse_ascent import SparseAscent
from lowcurve.attacks.state import AttackBatch, AttackRun, State, evaluate_with_gradient
from lowcurve.attacks.targets import Target, attack_objective, require_target
from lowcurve.errors import InputError
from lowcurve.losses import log_odds
from lowcurve.types import Inputs, Logits, Loss, PerExample

MOMENTUM = 0.75
RISING = 0.75
"""The step size is halved where fewer than this fraction of the steps since the last checkpoint raised the loss."""


@dataclass(frozen=True)
class APGDState(State):
    """The state of an `APGD` run.

    Attributes:
        previous: Point before the last step.
        best: Point of highest loss so far.
        best_gradient: Gradient at the best point.
        highest: Loss at the best point.
        last_value: Loss at the last point.
        highest_at_checkpoint: Highest loss at the last checkpoint.
        step_size: Current step size.
        rises: Number of steps since the last checkpoint that raised the loss.
        halved: True if the last checkpoint halved the step size.
    """

    previous: Inputs
    best: Inputs
    best_gradient: Tensor
    highest: PerExample
    last_value: PerExample
    highest_at_checkpoint: PerExample
    step_size: PerExample
    rises: Tensor
    halved: Tensor


@dataclass(frozen=True)
class APGD(BallAttack, IterativeAttack):
    """Auto-PGD: projected gradient ascent with momentum 3/4 and an adaptive step size for each image.

    The step size begins at 2 radius. At checkpoints w_j it is halved if fewer than 3/4 of the steps since the last one
    raised the loss, or if neither the step size nor the highest loss has changed. The image then continues from its best
    point. Losses that do not change with the scale of the logits are `log_odds`, by its steepest directions,
    and `margin_loss`; they also work for two classes. Parameters receive no gradient. In l_1 each run is a `SparseAscent`.

    Args:
        norm: "linf", "l2", "l1", a norm, or a `Ball` with its own radius and box.
        radius: Radius in pixel units, the literature's epsilon. Leave it out with a `Ball`.
        steps: Gradient steps in each run.
        restarts: Random starts for each target.
        loss: Loss to maximize.
        target: As in `PGD`.
        targets: Number of targets. It replaces `target`. Targets are the likeliest other classes, in order.
        box: Lowest and highest pixel value. Leave it out with a `Ball`.

    Raises:
        InputError: If a setting is out of range.

    Cost: restarts * steps input gradients, for each of the targets.

    Example:
        >>> model = torch.nn.Linear(2, 2, bias=False)
        >>> _ = model.weight.data.copy_(torch.tensor([[1.0, -2.0], [0.0, 0.0]]))
        >>> attack = APGD("linf", 0.1, steps=10)
        >>> attack(model, torch.tensor([[0.5, 0.5]]), torch.tensor([0]))
        tensor([[0.4000, 0.6000]])

    Reference: Croce and Hein 2020, Algorithm 1; Croce and Hein 2021, Algorithm 1, in l_1.
    """

    steps: int = 100
    restarts: int = 1
    loss: Loss = log_odds
    target: Target = None
    targets: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1 or self.restarts < 1:
            raise InputError("at least one step and one start", (self.steps, self.restarts), "write steps=100")
        if self.targets < 0 or (self.targets and self.target is not None):
            found = f"targets={self.targets}, target={self.target!r}"
            raise InputError("a number of targets, or one target", found, "write targets=9 alone")
        require_target(self.target)

    @property
    def runs(self) -> tuple[AttackRun, ...]:
        """One run for each start and target."""
        ranks: tuple[Target, ...] = tuple(range(1, self.targets + 1)) or (self.target,)
        if self.norm == L1:
            runs = (SparseAscent(self.ball, self.steps, self.loss, rank) for rank in ranks)
            return tuple(run for run in runs for _ in range(self.restarts))
        return tuple(replace(self, target=rank, targets=0, restarts=1) for rank in ranks for _ in range(self.restarts))

    def begin(self, batch: AttackBatch) -> APGDState:
        """Return the given start, or a uniform one."""
        point = (
            self.ball.sample(batch.x, batch.streams.at("start"), batch.radius)
            if batch.start is None
            else self.ball.project(batch.start, batch.x, batch.radius)
        )
        lowest, zeros = torch.full_like(batch.radius, -torch.inf), batch.zeros()
        return APGDState(
            point=point, step=zeros, previous=point, best=point, best_gradient=torch.zeros_like(point), highest=lowest,
            last_value=lowest, highest_at_checkpoint=lowest, step_size=2 * batch.radius, rises=zeros,
            halved=torch.ones_like(zeros, dtype=torch.bool),
        )  # fmt: skip

    def step(self, batch: AttackBatch, state: APGDState) -> tuple[Logits, APGDState]:
        """Make one step with momentum, from the best point where the step size has just been halved."""
        point = state.point
        value, gradient, logits = evaluate_with_gradient(self, batch, point)
        higher = per_example(value > state.highest, point)
        state = replace(
            state,
            best=torch.where(higher, point, state.best),
            best_gradient=torch.where(higher, gradient, state.best_gradient),
            highest=torch.fmax(value, state.highest),
            last_value=value,
            rises=state.rises + (value > state.last_value),
        )
        state, stalled = self._check(state)
        back = per_example(stalled, point)
        here, previous = torch.where(back, state.best, point), torch.where(back, state.best, state.previous)
        gradient = torch.where(back, state.best_gradient, gradient)
        reached = ascent_step(here, gradient, batch.x, self.ball, size=state.step_size, radius=batch.radius, whole=True)
        # The first step has no momentum.
        share = per_example(torch.where(state.step == 0, 1.0, MOMENTUM).to(point), point)
        following = self.ball.project(
            here + share * (reached - here) + (1 - share) * (here - previous), batch.x, batch.radius
        )
        return logits, replace(state, point=following, previous=here)

    def value(self, batch: AttackBatch, point: Inputs, logits: Logits) -> PerExample:  # noqa: ARG002 (AttackRun's signature)
        """Return the loss, or minus the loss at the target."""
        return attack_objective(self.loss, self.target, batch, logits)

    def _check(self, state: APGDState) -> tuple[APGDState, Tensor]:
        """Halve the step size of images that stalled at a checkpoint; return the state and which images stalled."""
        span = _spans(self.steps, state.step.device)[state.step]
        at_checkpoint, few_rises = span > 0, state.rises < RISING * span
        unchanged = ~state.halved & (state.highest <= state.highest_at_checkpoint)
        stalled = at_checkpoint & (few_rises | unchanged)
        return replace(
            state,
            step_size=torch.where(stalled, state.step_size / 2, state.step_size),
            halved=torch.where(at_checkpoint, stalled, state.halved),
            highest_at_checkpoint=torch.where(at_checkpoint, state.highest, state.highest_at_checkpoint),
            rises=torch.where(at_checkpoint, 0, state.rises),
        ), stalled


@lru_cache
def _checkpoints(steps: int) -> tuple[int, ...]:
    """Return w_j = ceil(p_j steps) with p_0 = 0, p_1 = 0.22 and p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06)."""
    before, here, found = 0.0, 0.22, []
    while here <= 1:
        found.append(math.ceil(here * steps))
        before, here = here, here + max(here - before - 0.03, 0.06)
    return tuple(sorted(set(found)))


@lru_cache
def _spans(steps: int, device: torch.device) -> Tensor:
    """Return for each step its distance from the checkpoint before it if it is a checkpoint, and 0 if it is none."""
    marks = torch.tensor([0, *_checkpoints(steps)])
    spans = torch.zeros(steps + 1)
    spans[marks[1:]] = marks.diff().to(spans)
    return spans.to(device)
