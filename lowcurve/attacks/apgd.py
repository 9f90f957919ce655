"""Auto-PGD: projected gradient ascent with momentum whose step size follows the progress of each image."""

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from lowcurve.analysis.norms import per_example
from lowcurve.attacks.active_set import strongest
from lowcurve.attacks.base import BallAttack
from lowcurve.attacks.state import Images, Rows, Walk, climbed
from lowcurve.attacks.targets import Target, aim, require_target
from lowcurve.errors import InputError
from lowcurve.losses import log_odds
from lowcurve.types import Inputs, Logits, Loss, PerExample

MOMENTUM = 0.75


@dataclass(frozen=True)
class APGD(BallAttack):
    """x' = the point of highest loss on projected ascent with momentum 3/4, whose step size halves and which goes back to
    its best point whenever progress has stalled, each image for itself.

    The step begins at 2 radius and is halved at a checkpoint w_j where fewer than 3/4 of the steps since the last one rose,
    or where neither the step size nor the highest loss has changed. loss, target, restarts: as in `PGD`; the losses that
    do not change with the scale of the logits (`log_odds` along its signs, `margin_loss`) need no ratio to make them so,
    and work for two classes as for ten. targets: that many walks, towards the likeliest other class, the second likeliest
    and so on, in place of one `target`. Parameters receive no gradient.

    Cost: restarts * steps input gradients, for each of the targets.

    Example:
        >>> model = torch.nn.Linear(2, 2, bias=False)
        >>> _ = model.weight.data.copy_(torch.tensor([[1.0, -2.0], [0.0, 0.0]]))
        >>> attack = APGD("linf", 0.1, steps=10)
        >>> attack(model, torch.tensor([[0.5, 0.5]]), torch.tensor([0]))
        tensor([[0.4000, 0.6000]])

    Reference: Croce and Hein 2020, Algorithm 1.
    """

    takes_radius = takes_start = True
    steps: int = 100
    restarts: int = 1
    loss: Loss = log_odds
    target: Target = None
    targets: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1 or self.restarts < 1:
            raise InputError(
                "at least one step and one start", (self.steps, self.restarts), "write APGD(ball, steps=100)"
            )
        if self.targets < 0 or (self.targets and self.target is not None):
            found = f"targets={self.targets}, target={self.target!r}"
            raise InputError("a number of targets, or one target", found, "write APGD(ball, targets=9)")
        require_target(self.target)

    @property
    def walks(self) -> tuple[Walk, ...]:
        """One walk for each start and target."""
        ranks: tuple[Target, ...] = tuple(range(1, self.targets + 1)) or (self.target,)
        return tuple(replace(self, target=rank, targets=0, restarts=1) for rank in ranks for _ in range(self.restarts))

    perturb = strongest

    def begin(self, images: Images) -> Rows:
        """A uniform start, or the given one."""
        point = (
            self.ball.sample(images.x, images.streams.at("start"), images.radius)
            if images.start is None
            else self.ball.project(images.start, images.x, images.radius)
        )
        lowest = torch.full_like(images.radius, -torch.inf)
        none = torch.zeros_like(images.y)
        return {
            "point": point, "before": point, "best": point, "best slope": torch.zeros_like(point),
            "highest": lowest, "last": lowest, "highest then": lowest, "size": 2 * images.radius,
            "rose": none, "halved": torch.ones_like(none, dtype=torch.bool),
        }  # fmt: skip

    def step(self, images: Images, rows: Rows) -> tuple[Logits, Rows]:
        """One step with momentum, from the best point where the step size has just been halved."""
        point = rows["point"]
        value, slope, logits = climbed(self, images, point)
        higher = value > rows["highest"]
        best = torch.where(per_example(higher, point), point, rows["best"])
        best_slope = torch.where(per_example(higher, point), slope, rows["best slope"])
        highest = torch.maximum(value, rows["highest"])
        rose = rows["rose"] + (value > rows["last"])
        after = {
            "best": best, "best slope": best_slope, "highest": highest, "last": value, "rose": rose,
            "highest then": rows["highest then"], "size": rows["size"], "halved": rows["halved"],
        }  # fmt: skip
        back = self._reconsider(rows["step"], after)
        there = per_example(back, point)
        here, before = torch.where(there, best, point), torch.where(there, best, rows["before"])
        slope = torch.where(there, best_slope, slope)
        size = per_example(after["size"], point)
        reached = self.ball.project(here + size * self.ball.norm.steepest(slope), images.x, images.radius)
        # The first step has nothing behind it.
        share = per_example(torch.where(rows["step"] == 0, 1.0, MOMENTUM).to(point), point)
        following = self.ball.project(
            here + share * (reached - here) + (1 - share) * (here - before), images.x, images.radius
        )
        return logits, {**after, "point": following, "before": here}

    def value(self, images: Images, point: Inputs, logits: Logits) -> PerExample:  # noqa: ARG002 (the signature of Walk)
        """The loss, or that of the target lowered."""
        return aim(self.loss, self.target, images, logits)

    def _reconsider(self, step: Tensor, rows: Rows) -> Tensor:
        """At a checkpoint: halve the step of those who stalled, in place, and say who goes back to the best point."""
        marks = torch.tensor((0, *_checkpoints(self.steps)), device=step.device)
        place = torch.searchsorted(marks[1:-1], step) + 1  # of the next mark, at or after this step
        at = marks[place] == step
        span = (marks[place] - marks[place - 1]).to(rows["size"])
        few = rows["rose"] < MOMENTUM * span
        still = ~rows["halved"] & (rows["highest"] <= rows["highest then"])
        stalled = at & (few | still)
        rows["size"] = torch.where(stalled, rows["size"] / 2, rows["size"])
        rows["halved"] = torch.where(at, stalled, rows["halved"])
        rows["highest then"] = torch.where(at, rows["highest"], rows["highest then"])
        rows["rose"] = torch.where(at, 0, rows["rose"])
        return stalled


@lru_cache
def _checkpoints(steps: int) -> tuple[int, ...]:
    """w_j = ceil(p_j steps) with p_0 = 0, p_1 = 0.22 and p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06)."""
    before, here, found = 0.0, 0.22, []
    while here <= 1:
        found.append(math.ceil(here * steps))
        before, here = here, here + max(here - before - 0.03, 0.06)
    return tuple(sorted(set(found)))
