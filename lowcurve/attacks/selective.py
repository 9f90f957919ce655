"""Attacks that take part only where the attacks before them came near success, so that the effort follows what still falls."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lowcurve.analysis.norms import Ball, Norm
from lowcurve.attacks.active_set import IterativeAttack
from lowcurve.attacks.base import Options
from lowcurve.attacks.state import AttackRun
from lowcurve.errors import InputError
from lowcurve.types import Classifier, Inputs, Labels, PerExample


@dataclass(frozen=True)
class Margins:
    """Margins z_y - max z_k of each image, shape (batch,). A `Selective` attack chooses its images by them.

    Attributes:
        clean: At the clean image.
        lowest: The lowest so far.
        before: The lowest before the last member of the suite that tried the image.
        last: At the answer of that member.
    """

    clean: PerExample
    lowest: PerExample
    before: PerExample
    last: PerExample

    @classmethod
    def begin(cls, clean: PerExample) -> "Margins":
        """Return the margins before any attack."""
        return cls(clean, clean.clone(), clean.clone(), clean.clone())

    def take(self, rows: Tensor) -> "Margins":
        """Return the margins of some of the images."""
        return Margins(self.clean[rows], self.lowest[rows], self.before[rows], self.last[rows])

    def record(self, rows: Tensor, found: PerExample) -> None:
        """Enter the margins at a member's answers."""
        self.before[rows], self.last[rows] = self.lowest[rows], found
        self.lowest[rows] = torch.fmin(found, self.lowest[rows])


class Selective(IterativeAttack):
    """An attack for some of the images, chosen by the margins that the members before it in a `Suite` have reached.

    All limits are fractions of the clean margin, so they do not depend on the scale of the logits.

    Attributes:
        near: Largest margin of an image that takes part.
        from_nearest: True if the attack begins at the best point of the members before it.
    """

    near: float
    from_nearest: bool = False

    def takes_part(self, margins: Margins) -> Tensor:
        """Return which images take part.

        Args:
            margins: Their margins.
        """
        return margins.lowest <= self.near * margins.clean


@dataclass(frozen=True)
class NearlyFooled(Selective):
    """Try an attack only on images that the members before it in a `Suite` nearly fooled.

    Longer searches find images near the boundary only, and few robust images lie there. Called alone, the attack is tried on
    every image.

    Args:
        attack: The attack.
        near: Largest margin of an image that takes part, as a fraction of its clean margin.
        matched: An image also takes part if the last member that tried it lowered its margin by this fraction of what all
            before it have. After a short search without gradients, that shows that the gradients before it mislead.

    Raises:
        InputError: If the attack does not consist of runs in a ball, or a fraction is negative.

    Cost: the attack's, for the images that take part.

    Example:
        >>> from lowcurve.attacks.apgd import APGD
        >>> attack = NearlyFooled(APGD("linf", 0.1, steps=10), near=0.2)
        >>> margins = Margins.begin(torch.ones(2))
        >>> margins.record(torch.tensor([0, 1]), torch.tensor([0.1, 0.3]))
        >>> attack.takes_part(margins)
        tensor([ True, False])
    """

    attack: IterativeAttack
    near: float = 0.15
    matched: float = float("inf")

    def __post_init__(self) -> None:
        if not isinstance(self.attack, IterativeAttack):
            raise InputError("an attack of runs in a ball", type(self.attack).__name__, 'write APGD("linf", 8/255)')
        if not (self.near >= 0 and self.matched >= 0):
            raise InputError("fractions of no less than 0", (self.near, self.matched), "write near=0.2")

    @property
    def ball(self) -> Ball:
        """The attack's ball."""
        return self.attack.ball

    @property
    def norm(self) -> Norm:
        """The norm of the ball."""
        return self.ball.norm

    @property
    def runs(self) -> tuple[AttackRun, ...]:
        """The attack's runs."""
        return self.attack.runs

    def takes_part(self, margins: Margins) -> Tensor:
        """Return which images take part; see `Selective.takes_part`."""
        nearly = super().takes_part(margins)
        if self.matched == float("inf"):  # times a gain of 0 it is undefined
            return nearly
        return nearly | (margins.clean - margins.last >= self.matched * (margins.clean - margins.before))

    def perturb(self, model: Classifier, x: Inputs, y: Labels, options: Options) -> Inputs:
        """Return the adversarial images x', of x's shape."""
        return self.attack.perturb(model, x, y, options)
