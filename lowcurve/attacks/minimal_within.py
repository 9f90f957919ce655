"""Minimum-norm attack from noise, limited to a ball: for networks whose gradients mislead near the image."""

from dataclasses import dataclass, replace

from torch import Tensor

from lowcurve.attacks.active_set import IterativeAttack
from lowcurve.attacks.base import BallAttack
from lowcurve.attacks.far_starts import far_start
from lowcurve.attacks.minimal import MinimalNorm, MinimalNormState
from lowcurve.attacks.state import AttackBatch, AttackRun
from lowcurve.errors import InputError
from lowcurve.losses import margin_loss
from lowcurve.types import Inputs, Logits, PerExample

HOPE = 2.0
"""A run is given up where its nearest point is farther away than HOPE minus the share of its steps, in radii."""


@dataclass(frozen=True)
class MinimalNormWithin(BallAttack, IterativeAttack):
    """Search for the boundary from outside the ball: minimum-norm attacks from noise that fools the network.

    Attacks inside the ball fail where the gradient near the image is 0 or misleading, as it is after training at a large
    l_inf radius or with interval bounds. This attack starts far outside, from the image with noise of the smallest scale
    that fools the network, and follows the boundary inwards as `MinimalNorm` does. It succeeds where it enters the ball.
    The answer is the point of lowest margin inside the ball, and x itself where the search never entered it. A radius for
    each image and a start may be given in the call; the start takes the place of the first noise.

    A run gives up where the nearest point that fooled the network stays far from the ball: 1.6 radii away after 40 percent of
    the steps, 1 radius at the end, with a linear limit between. On eight networks that lost one of 1,399 runs that entered the
    ball, and no image.

    Args:
        norm: "linf", "l2", "l1", a norm, or a `Ball` with its own radius and box.
        radius: Radius in pixel units, the literature's epsilon. Leave it out with a `Ball`.
        steps: Gradient steps in each run.
        restarts: Number of runs, each from other noise.
        box: Lowest and highest pixel value. Leave it out with a `Ball`.

    Raises:
        InputError: If a setting is out of range.

    Cost: at most restarts * steps input gradients, half of them where the boundary is far away, and ten forward passes for
        each start.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 2, bias=False)
        >>> _ = model.weight.data.copy_(torch.tensor([[1.0, -2.0], [0.0, 0.0]]))
        >>> attack = MinimalNormWithin("l2", 0.3)
        >>> x = torch.tensor([[0.8, 0.3]])  # the boundary is at 0.2 / sqrt(5) = 0.089
        >>> found = attack(model, x, torch.tensor([0]))
        >>> bool(model(found).argmax(1) == 1), bool((found - x).norm() <= 0.3)
        (True, True)

    Reference: Pintor et al. 2021, Algorithm 1; the starts are of this package.
    """

    steps: int = 100
    restarts: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1 or self.restarts < 1:
            raise InputError("at least one step and one start", (self.steps, self.restarts), "write restarts=8")

    @property
    def runs(self) -> tuple[AttackRun, ...]:
        """One run for each start."""
        return (replace(self, restarts=1),) * self.restarts

    @property
    def search(self) -> MinimalNorm:
        """The attack without a radius."""
        return MinimalNorm(self.ball.norm, self.ball.box, self.steps)

    def begin(self, batch: AttackBatch) -> MinimalNormState:
        """Return the given start, or one that fools the network far away."""
        start = far_start(batch, self.search.box_ball, self.steps) if batch.start is None else batch.start
        return self.search.begin(replace(batch, start=start))

    def step(self, batch: AttackBatch, state: MinimalNormState) -> tuple[Logits, MinimalNormState]:
        """Make a step of `MinimalNorm`."""
        return self.search.step(batch, state)

    def gives_up(self, batch: AttackBatch, state: MinimalNormState) -> Tensor:
        """Return for each image whether the nearest point that fooled the network stays too far from the ball."""
        return state.stays_beyond(batch.radius, self.steps, HOPE)

    def value(self, batch: AttackBatch, point: Inputs, logits: Logits) -> PerExample:  # noqa: ARG002 (AttackRun's signature)
        """Return the margin loss."""
        return margin_loss(logits, batch.y)

    def is_inside(self, batch: AttackBatch, point: Inputs) -> Tensor:
        """Return for each image whether a point lies in its ball."""
        return self.ball.norm.length(point - batch.x) <= batch.radius
