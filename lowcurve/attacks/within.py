"""An attack that knows no radius, held to a ball: how a table at one radius judges by minimal perturbations."""

from dataclasses import dataclass

import torch

from lowcurve.analysis.norms import Ball, per_example
from lowcurve.types import Attack, Classifier, Inputs, Labels


@dataclass(frozen=True)
class Within:
    """x' of the attack where ||x' - x|| <= radius, x itself elsewhere: whom it fools inside of the ball has fallen.

    Of an attack that looks for the nearest boundary, such as `DeepFool`, who stands is who was not moved across within the
    radius. Nothing is scaled or clipped. Cost: the attack's.

    Example:
        >>> from lowcurve.analysis.norms import LINF
        >>> from lowcurve.attacks import DeepFool
        >>> from lowcurve.randomness import stream
        >>> x, y = torch.tensor([[0.6, 0.4], [0.9, 0.1]]), torch.tensor([0, 0])  # boundaries at 0.1 and 0.4
        >>> attack = Within(DeepFool(LINF), Ball(LINF, 0.2))
        >>> LINF.length(attack(torch.nn.Identity(), x, y, generator=stream(0)) - x).round(decimals=2)
        tensor([0.1000, 0.0000])

    Reference: moosavi2019cure, Table 1 (l_inf-DF at 4/255).
    """

    attack: Attack
    ball: Ball

    def __call__(self, model: Classifier, x: Inputs, y: Labels, *, generator: torch.Generator) -> Inputs:
        """The adversarial inputs x', of x's shape."""
        point = self.attack(model, x, y, generator=generator)
        near = self.ball.norm.length(point - x) <= self.ball.radius
        return torch.where(per_example(near, x), point, x)
