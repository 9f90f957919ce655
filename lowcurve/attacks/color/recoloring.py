"""ReColorAdv: a smooth map of colors for each image, within a bound on the perceived color difference."""

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
from lowcurve.losses import evaluate_loss, margin_loss
from lowcurve.types import Classifier, Inputs, Labels, Logits, Loss, PerExample

ROUNDING = 1e-9
"""Fraction of the bound that is reserved for rounding errors in double precision."""
BEYOND = 1e-3
"""Fraction by which a pixel is shrunk more than the bound asks for."""
SHRINKS = 8


@dataclass(frozen=True)
class RecoloringState(State):
    """The state of a `Recoloring` run.

    Attributes:
        grid: Displacements of the grid's colors, (batch, 3, nodes, nodes, nodes).
        shrinking: Factor that shrinks each pixel's displacement into the bound, (batch, 1, height, width).
    """

    grid: Tensor
    shrinking: Tensor


@dataclass(frozen=True)
class Recoloring(IterativeAttack):
    """ReColorAdv: x' = c + s(c) d(c) for a pixel of color c, with d trilinear on a grid of colors and a shrinking factor s.

    No pixel's color changes by more than `bound` in CIEDE2000, where a difference of about 1 is just noticed. The factor s
    is found for each pixel as a function of its color alone, and is 0 where no factor is small enough. The displacements
    of the grid's colors ascend by signed steps from 0, so the answer is never weaker than x. The ascent subtracts their
    squared differences between neighbors, weighted by `smoothness`; the choice of the answer does not.

    Perturbations are not bounded by a norm: `ball` is the whole pixel box, and `norm` is None. Nothing is random.

    Args:
        bound: Largest color difference in CIEDE2000.
        steps: Number of gradient steps.
        nodes: Grid points along each of red, green and blue.
        reach: Largest displacement in pixel units. It is shrunk afterwards.
        smoothness: Weight of the squared differences between neighboring displacements.
        loss: Loss to maximize.

    Raises:
        InputError: If a setting is out of range, or the images do not have three channels.

    Cost: steps input gradients, and color differences at up to 8 points each, and steps + 1 forward passes.

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
        """One run."""
        return (self,)

    def perturb(self, model: Classifier, x: Inputs, y: Labels, options: Options) -> Inputs:
        """Return the adversarial images x', of x's shape."""
        require_color(x)
        return super().perturb(model, x, y, options)

    def begin(self, batch: AttackBatch) -> RecoloringState:
        """Return x itself, without displacements."""
        require_color(batch.x)
        grid = batch.x.new_zeros(len(batch), 3, *[self.nodes] * 3)
        return RecoloringState(batch.x, batch.zeros(), grid, torch.ones_like(batch.x[:, :1]))

    def step(self, batch: AttackBatch, state: RecoloringState) -> tuple[Logits, RecoloringState]:
        """Make one signed step of the grid's displacements."""

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
        """Return the loss."""
        return evaluate_loss(self.loss, logits, batch.y)

    def recolor(self, x: Inputs, grid: Tensor) -> tuple[Inputs, Tensor]:
        """Return the images under a grid's displacements, and the shrinking factor of each pixel, (batch, 1, height, width).

        Color differences are computed in double precision from the pixels that are returned. CIEDE2000 jumps where two
        colors are on opposite sides of grey, and rounding decides on which side a color is.
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
            # A little more shrinking than needed, because convergence to the bound would be slow.
            less = (limit / far) * (1 - BEYOND) if number + 1 < SHRINKS else torch.zeros_like(far)
            share[left] *= less.to(share)
        share = share.view(len(x), *x.shape[2:], 1).movedim(-1, 1)
        return clip_to_box(x + share * way), share


def displacements(x: Inputs, grid: Tensor) -> Tensor:
    """Return the displacement of each pixel within the box under the displacements of a grid of colors.

    Args:
        x: Color images, (batch, 3, height, width), pixel units.
        grid: Displacements of the grid's colors, (batch, 3, blue, green, red).

    Returns:
        Displacements, of x's shape.

    Example:
        >>> displacements(torch.full((1, 3, 1, 1), 0.9), torch.full((1, 3, 2, 2, 2), 0.2)).flatten()
        tensor([0.1000, 0.1000, 0.1000])
    """
    places = (2 * x - 1).movedim(1, -1)[:, None]
    moved = F.grid_sample(grid, places, mode="bilinear", padding_mode="border", align_corners=True).squeeze(2)
    return clip_to_box(x + moved) - x


def roughness(grid: Tensor) -> PerExample:
    """Return the sum of squared differences between neighboring nodes for each image: 0 if all colors move alike.

    Args:
        grid: Displacements of the grid's colors, (batch, 3, blue, green, red).

    Returns:
        One number for each image.

    Example:
        >>> roughness(torch.arange(8.0).view(1, 1, 2, 2, 2))  # 4 edges each of length 1, 2 and 4
        tensor([84.])
    """
    return torch.stack([grid.diff(dim=axis).square().flatten(1).sum(1) for axis in (2, 3, 4)]).sum(0)
