"""SORA: a one-step attack to train with, whose step follows the curvature that the steps before it met."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lowcurve.analysis.norms import dot, per_example
from lowcurve.attacks.one_step import OneStep
from lowcurve.attacks.state import AttackBatch
from lowcurve.errors import InputError
from lowcurve.losses import cross_entropy
from lowcurve.types import Inputs, Loss, PerExample


@dataclass(frozen=True)
class SORA(OneStep):
    """One step of random length from a random point, the shorter the more the loss bends along the steps before.

    x' = P(x + n + s u * steepest(grad l(x + n))), with n uniform in the ball of `noise` radii, every entry of u uniform in
    [0, 1], and

        s = length radius min(1, bend / (1 - c)).

    c is the share of the slope that is left after a step: <p, grad l(x')> / <p, grad l(x + n)>, with p the steepest
    direction. On a quadratic loss it is 1 + s <p, H p> / <p, grad l>, so 1 - c grows with the curvature that would end the
    rise. Training measures c on every batch from gradients that it computes anyway (`slope_left`), and `linearity` is its
    moving average. With length 0 of u nothing is left of the step, so lengths vary in every pixel.

    Source: the text of the paper was not available for this implementation. It follows the abstract, and formulas and
    numbers of the authors' released code; no code was copied. One thing differs: in l_2 the noise is
    uniform in the ball, and the released code draws its length uniformly.

    In a training step it sees the network in the mode of the step, unlike every other attack here, since c would otherwise
    compare two networks. Called alone it sees eval mode.

    The answer leaves the ball by design, up to noise + length radii. Use it to train, not to evaluate. `Objective.update`
    returns the attack of the next step; called alone the attack keeps its `linearity`.

    Args:
        norm: As in `OneStep`.
        radius: As in `OneStep`.
        noise: As in `OneStep`.
        length: Largest length of the step, in radii.
        reach: As in `OneStep`.
        loss: Loss to maximize. It is the objective's own loss, since c compares the two gradients.
        box: As in `OneStep`.
        linearity: Moving average of c.
        bend: Loss of slope 1 - c up to which the step keeps its largest length.
        memory: Share of the old average that is kept at each step.

    Raises:
        InputError: If an option is out of range.

    Cost: one input gradient, as for N-FGSM.

    Example:
        >>> attack = SORA("linf", 0.1)
        >>> attack.step_length, round(attack.update(-1.0).step_length, 4)  # in radii: a reversed slope shortens the step
        (2.0, 0.3653)

    Reference: Teymourian et al. 2026 (SORA), as released.
    """

    keeps_mode = True
    noise: float = 1.0
    length: float = 2.0
    reach: float = 3.0
    loss: Loss = cross_entropy
    linearity: float = 0.99
    bend: float = 0.02
    memory: float = 0.95

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (-1 <= self.linearity <= 1 and self.bend > 0 and 0 <= self.memory < 1):
            received = (self.linearity, self.bend, self.memory)
            expected = "linearity from -1 to 1, bend above 0, and memory from 0 to below 1"
            raise InputError(expected, received, "write SORA(ball, linearity=0.99, bend=0.02, memory=0.95)")

    @property
    def step_length(self) -> float:
        """Largest length of the next step, in radii."""
        lost = 1 - self.linearity
        return self.length * (1.0 if lost <= self.bend else self.bend / lost)

    def update(self, slope_left: float) -> "SORA":
        """Return the attack of the next step.

        Args:
            slope_left: c of this step's batch. It is clipped to [-1, 1].
        """
        c = min(1.0, max(-1.0, slope_left))
        return replace(self, linearity=self.memory * self.linearity + (1 - self.memory) * c)

    def slope_left(self, before: Tensor, after: Tensor) -> PerExample:
        """Return c of each example: <p, after> / <p, before> with p the steepest direction of `before`.

        It is 1 where a gradient is 0 or not finite.

        Args:
            before: Gradients at the start of the step, shape (batch, ...).
            after: Gradients at its end, shape (batch, ...).

        Example:
            >>> SORA("linf", 0.1).slope_left(torch.tensor([[3.0, -1.0]]), torch.tensor([[1.0, -1.0]]))
            tensor([0.5000])
        """
        slope = self.ball.norm.dual.length(before)
        left = dot(self.ball.norm.steepest(before), after) / torch.where(slope == 0, 1, slope)
        return torch.where((slope == 0) | ~torch.isfinite(left), 1, left)

    def _move(self, batch: AttackBatch, start: Inputs, slope: Tensor) -> Inputs:
        shares = batch.streams.at("step").uniform(start, 0, 1)
        size, reach = self.step_length * batch.radius, self.reach * batch.radius
        step = per_example(size, start) * shares * self.ball.norm.steepest(slope)
        return self.ball.project(start + step, batch.x, reach)
