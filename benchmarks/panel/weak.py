"""Evaluations of the third set that are too weak, as users write them. Each is judged as it stands: its own images count."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lowcurve.analysis.norms import Ball
from lowcurve.randomness import temporary_seed
from panel.attacks import PLAIN, PerImage, follow, inside


@dataclass(frozen=True)
class Weak:
    """Projected gradient ascent that returns its last point.

    Args:
        ball: Norm, radius and pixel box.
        steps: Number of steps. One step starts at the image, more at a random point.
        size: Length of a step in radii; by default 2.5 / steps.
        share: Part of the radius that is used, such as 1 / 255 where the pixel range is mistaken.
        loss: Loss per image.
        seed: Seed of its start and of the network's draws.
    """

    ball: Ball
    steps: int = 20
    size: float | None = None
    share: float = 1.0
    loss: PerImage = PLAIN
    seed: int = 0

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, generator: torch.Generator) -> Tensor:
        """Return the attacked images."""
        del generator  # one batch, with a seed of its own
        ball = Ball(self.ball.norm, self.share * self.ball.radius)
        one = {"size": 1.0, "start": False} if self.steps == 1 else {"size": self.size}
        with temporary_seed(self.seed, "weak"):
            return follow(model, x, y, ball, steps=self.steps, loss=self.loss, **one)


@dataclass(frozen=True)
class RandomPoints:
    """Random points of the ball, of which the worst counts."""

    ball: Ball
    draws: int = 50

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, generator: torch.Generator) -> Tensor:
        """Return the attacked images."""
        del generator
        found = x.clone()
        with temporary_seed(0, "weak"), torch.no_grad():
            for _ in range(self.draws):
                near = inside(x + self.ball.radius * (2 * torch.rand_like(x) - 1), x, self.ball)
                wrong = model(near).argmax(1) != y
                found[wrong] = near[wrong]
        return found


def to_class_zero(z: Tensor, y: Tensor) -> Tensor:
    """Return the loss of an attack towards class 0 alone, or class 1 from there."""
    return -F.cross_entropy(z, (y == 0).long(), reduction="none")
