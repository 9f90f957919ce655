"""An attack without a radius, limited to a ball, for tables at one radius that use minimal perturbations."""

import math
from dataclasses import dataclass

import torch

from lowcurve.analysis.norms import Norm, as_ball, as_norm, per_example
from lowcurve.attacks.acceptance import Region, region_of
from lowcurve.attacks.base import Attack, Options
from lowcurve.errors import InputError
from lowcurve.types import Classifier, Inputs, Labels


@dataclass(frozen=True)
class Within(Attack):
    """Keep what an attack without a radius finds where it lies within a radius; return x itself elsewhere.

    An image counts as robust under an attack on the nearest boundary, such as `DeepFool`, if no perturbation of at most
    `radius` was found. Nothing is scaled or clipped. Cost: the attack's.

    Args:
        attack: Attack with a norm, such as `DeepFool("linf")`.
        radius: Longest perturbation that is kept, in the attack's norm and pixel units.

    Example:
        >>> from lowcurve.attacks import DeepFool
        >>> x, y = torch.tensor([[0.6, 0.4], [0.9, 0.1]]), torch.tensor([0, 0])  # boundaries at 0.1 and 0.4
        >>> attack = Within(DeepFool("linf"), 0.2)
        >>> attack.norm.length(attack(torch.nn.Identity(), x, y) - x).round(decimals=2)
        tensor([0.1000, 0.0000])

    Reference: moosavi2019cure, Table 1 (l_inf-DF at 4/255).
    """

    attack: Attack
    radius: float

    def __post_init__(self) -> None:
        _ = as_ball(self.norm, self.radius, (-math.inf, math.inf))

    @property
    def norm(self) -> Norm:
        """The attack's norm."""
        norm = getattr(self.attack, "norm", None)
        if norm is None:
            raise InputError(
                "an attack with a norm", type(self.attack).__name__, 'write Within(DeepFool("linf"), 4/255)'
            )
        return as_norm(norm)

    @property
    def region(self) -> Region:
        """The ball of the radius, in the attack's own box."""
        return Region(self.norm, self.radius, region_of(self.attack).box)

    def perturb(self, model: Classifier, x: Inputs, y: Labels, options: Options) -> Inputs:
        """Return the adversarial images x', of x's shape."""
        point = self.attack(model, x, y, generator=options.generator)
        near = self.norm.length(point - x) <= self.radius
        return torch.where(per_example(near, x), point, x)
