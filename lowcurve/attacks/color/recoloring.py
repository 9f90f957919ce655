"""A smooth map of colors for each image: equal colors stay equal, and none looks very different."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from lowcurve.analysis.calculus import value_gradient_and_aux
from lowcurve.analysis.norms import LINF, Ball, per_example
from lowcurve.attacks.active_set import IterativeAttack
from lowcurve.attacks.base import Options
from lowcurve.attacks.color.spaces import PIXEL_BOX, clip_to_box, color_difference, lab, require_color
from lowcurve.attacks.state import AttackBatch, AttackRun, State
from lowcurve.errors import InputError
from lowcurve.losses import margin_loss
from lowcurve.types import Classifier, Inputs, Labels, Logits, Loss, PerExample

ROUNDING = 1e-9
"""The share of the bound that is left to the rounding of double precision."""
BEYOND = 1e-3
"""What is taken off beyond what the bound asks for, as a share."""
SHRINKS = 8


@dataclass(frozen=True)
class RecoloringState(State):
    """The state of a `Recoloring` run.

    Attributes:
        grid: Displacements of the grid's colors, (batch, 3, nodes, nodes, nodes).
        shrinking: Factor by which each pixel's displacement is shrunk into the bound, (batch, 1, height, width).
    """

    grid: Tensor
    shrinking: Tensor


@dataclass(frozen=True)
class Recoloring(IterativeAttack):
    """x' = c + s(c) d(c) where a pixel's color is c: d trilinear on a grid of colors, s a shrinking into the bound.

    No pixel's color differs from what it was by more than `bound` in CIEDE2000, about 1 being just noticed; s is found
    pixel by pixel, as a function of the color alone, and is 0 where no shrinking would do. The grid's displacements
    ascend by signed steps from 0, so that the answer is never weaker than x; their squared differences between
    neighbors, weighted by `smoothness`, are taken from what is ascended, not from what the answer is chosen by.

    bound: in CIEDE2000, at least 0. nodes: grid points along red, green and blue. reach: the largest displacement in
    pixel units before shrinking. loss: what is raised. `ball` is the whole pixel box. Nothing is drawn.

    Errors: InputError for images without three channels.
    Cost: steps input gradients and color differences at up to 8 points each, steps + 1 forward passes.

    Example:
        >>> model, x = lambda x: x.mean((2, 3)), torch.tensor([0.5, 0.48, 0.4]).view(1, 3, 1, 1)
        >>> found = Recoloring(bound=5.0)(model, x, torch.tensor([0]))
        >>> found.argmax(1).flatten(), color_difference(lab(found), lab(x)).item() <= 5.0
        (tensor([1]), True)

    Reference: Laidlaw and Feizi 2019, section 3 (ReColorAdv, there with a bound on each channel of CIELUV).
    """

    bound: float = 5.0
    steps: int = 20
    nodes: int = 8
    reach: float = 0.3
    smoothness: float = 0.05
    loss: Loss = margin_loss

    def __post_init__(self) -> None:
        if not (math.isfinite(self.bound) and self.bound >= 0):
            raise InputError("a finite color difference of at least 0", self.bound, "write Recoloring(bound=5.0)")
        if self.steps < 1 or self.nodes < 2 or not 0 < self.reach <= 1 or not 0 <= self.smoothness < math.inf:
            found = (self.steps, self.nodes, self.reach, self.smoothness)
            expected = "a step, two nodes, a reach of at most 1 and a smoothness of at least 0"
            raise InputError(expected, found, "write Recoloring(steps=20, nodes=8, reach=0.3, smoothness=0.05)")

    norm: ClassVar[None] = None

    @property
    def ball(self) -> Ball:
        """The whole pixel box."""
        return PIXEL_BOX

    @property
    def runs(self) -> tuple[AttackRun, ...]:
        """One walk."""
        return (self,)

    def perturb(self, model: Classifier, x: Inputs, y: Labels, options: Options) -> Inputs:
        """The adversarial inputs x', of x's shape."""
        require_color(x)
        return super().perturb(model, x, y, options)

    def begin(self, batch: AttackBatch) -> RecoloringState:
        """x itself: no color is displaced."""
        require_color(batch.x)
        grid = batch.x.new_zeros(len(batch), 3, *[self.nodes] * 3)
        return RecoloringState(batch.x, batch.zeros(), grid, torch.ones_like(batch.x[:, :1]))

    def step(self, batch: AttackBatch, state: RecoloringState) -> tuple[Logits, RecoloringState]:
        """One signed step of the grid's displacements."""

        def evaluate(grid: Tensor) -> tuple[PerExample, Logits]:
            point = clip_to_box(batch.x + state.shrinking * displacements(batch.x, grid))
            logits = batch.evaluate(point)
            return self.value(batch, point, logits) - self.smoothness * roughness(grid), logits

        _, gradient, logits = value_gradient_and_aux(evaluate, state.grid)
        size = self.reach * (1 - state.step.to(gradient) / self.steps) / 2
        grid = LINF.project(state.grid + per_example(size, gradient) * gradient.sign(), self.reach)
        with torch.no_grad():
            point, shrinking = self.recolor(batch.x, grid)
        return logits, RecoloringState(point, state.step, grid, shrinking)

    def value(self, batch: AttackBatch, point: Inputs, logits: Logits) -> PerExample:  # noqa: ARG002 (AttackRun's signature)
        """The loss."""
        return self.loss(logits, batch.y)

    def recolor(self, x: Inputs, grid: Tensor) -> tuple[Inputs, Tensor]:
        """The images under a grid's displacements, and how much of its way each pixel went, (batch, 1, height, width).

        Differences are had in double precision from the very pixels that will be returned: CIEDE2000 jumps where two
        colors stand on opposite sides of grey, and rounding decides on which side of the jump.
        """
        way = displacements(x, grid)
        colors, ways = (values.movedim(1, -1).reshape(-1, 3) for values in (x, way))
        share, left = torch.ones_like(colors[:, :1]), torch.arange(len(colors), device=x.device)
        limit = self.bound * (1 - ROUNDING)
        for number in range(SHRINKS):
            here = colors[left]
            far = color_difference(lab(here.double()), lab(clip_to_box(here + share[left] * ways[left]).double()))
            left, far = left[far > limit], far[far > limit, None]
            if not len(left):
                break
            # A little more than what is too much, or the last steps towards the bound are endless.
            less = (limit / far) * (1 - BEYOND) if number + 1 < SHRINKS else torch.zeros_like(far)
            share[left] *= less.to(share)
        share = share.view(len(x), *x.shape[2:], 1).movedim(-1, 1)
        return clip_to_box(x + share * way), share


def displacements(x: Inputs, grid: Tensor) -> Tensor:
    """How far each pixel moves within the box under the displacements (batch, 3, blue, green, red) of the grid's colors.

    Example:
        >>> displacements(torch.full((1, 3, 1, 1), 0.9), torch.full((1, 3, 2, 2, 2), 0.2)).flatten()
        tensor([0.1000, 0.1000, 0.1000])
    """
    places = (2 * x - 1).movedim(1, -1)[:, None]
    moved = F.grid_sample(grid, places, mode="bilinear", padding_mode="border", align_corners=True).squeeze(2)
    return clip_to_box(x + moved) - x


def roughness(grid: Tensor) -> PerExample:
    """The sum of squared differences between neighboring nodes, an example each: 0 for one displacement of all colors.

    Example:
        >>> roughness(torch.arange(8.0).view(1, 1, 2, 2, 2))  # 4 edges each of length 1, 2 and 4
        tensor([84.])
    """
    return torch.stack([grid.diff(dim=axis).square().flatten(1).sum(1) for axis in (2, 3, 4)]).sum(0)
