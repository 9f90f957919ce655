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
    """Margins z_y - max z_k of each image that a suite has reached. A `Selective` attack chooses its images by them.

    Args:
        reached: Margins at the clean image and at the answer of each member, NaN where it did not try the image. Shape
            (batch, 1 + members).

    Example:
        >>> margins = Margins(torch.tensor([[1.0, 0.2, 0.4], [1.0, 0.5, torch.nan]]))
        >>> margins.lowest, margins.before, margins.last
        (tensor([0.2000, 0.5000]), tensor([0.2000, 1.0000]), tensor([0.4000, 0.5000]))
    """

    reached: Tensor

    @classmethod
    def begin(cls, clean: PerExample, members: int) -> "Margins":
        """Return the margins before any attack.

        Args:
            clean: The margins at the clean images.
            members: Number of the suite's members.
        """
        return cls(torch.cat([clean[:, None], clean.new_full((len(clean), members), torch.nan)], 1))

    @property
    def clean(self) -> PerExample:
        """At the clean image."""
        return self.reached[:, 0]

    @property
    def lowest(self) -> PerExample:
        """The lowest so far."""
        return self._reached_before(self.reached.shape[1])

    @property
    def before(self) -> PerExample:
        """The lowest before the last member that tried the image."""
        return self._reached_before((self._latest + (self._latest == 0))[:, None])

    @property
    def last(self) -> PerExample:
        """At the answer of that member."""
        return self.reached.gather(1, self._latest[:, None])[:, 0]

    @property
    def _places(self) -> Tensor:
        return torch.arange(self.reached.shape[1], device=self.reached.device)

    @property
    def _latest(self) -> Tensor:
        return (self._places * ~self.reached.isnan()).amax(1)

    def _reached_before(self, place: Tensor | int) -> PerExample:
        return torch.where(self.reached.isnan() | (self._places >= place), torch.inf, self.reached).amin(1)

    def share_of_gain(self, number: int) -> PerExample:
        """Return how far a member lowered each margin, as a share of how far all members before it have.

        It is infinite where the member did not try the image, and where those before it lowered nothing.

        Args:
            number: The member's number in the suite.
        """
        gain = self.clean - self.reached[:, number + 1]
        earlier = self.clean - self._reached_before(number + 1)
        return torch.where(earlier > 0, gain / earlier, torch.inf).nan_to_num(nan=torch.inf, posinf=torch.inf)

    def take(self, rows: Tensor) -> "Margins":
        """Return the margins of some of the images."""
        return Margins(self.reached[rows])

    def record(self, number: int, rows: Tensor, found: PerExample) -> None:
        """Enter the margins at the answers of a member.

        Args:
            number: The member's number in the suite.
            rows: The images that it tried.
            found: The margins at its answers. The lowest of several counts.
        """
        self.reached[rows, number + 1] = torch.fmin(self.reached[rows, number + 1], found)


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
        >>> margins = Margins.begin(torch.ones(2), members=1)
        >>> margins.record(0, torch.tensor([0, 1]), torch.tensor([0.1, 0.3]))
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
