"""A relay: walks that take over from one another, for the images that the others have nearly brought down."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lowcurve.analysis.norms import Ball, Norm
from lowcurve.attacks.active_set import pursue
from lowcurve.attacks.base import Attack, Options
from lowcurve.attacks.state import Staged, Walk, prepare
from lowcurve.errors import InputError
from lowcurve.losses import margin
from lowcurve.models.modes import frozen
from lowcurve.types import Classifier, Inputs, Labels, PerExample


@dataclass(frozen=True)
class Relay(Attack):
    """x' = where several walks in turn have the loss highest, each begun at the highest point of the ones before it.

    A gradient leads to a top of the loss and stays there, a random search finds a way on and climbs it slowly: by turns they
    get farther than either. In a `Suite` it begins where the other members came nearest, and only images take part that are
    near: those whose margin z_y - max z_k there is at most `near` times that at the clean image, whatever the logits' scale.

    members: attacks in one ball that all raise the margin loss. Called: radius, one an example; start, where they begin, by
    default at the first one's own start, and then every image takes part.

    Cost: that of its walks, for the images that are near and stand.

    Example:
        >>> from lowcurve.attacks.pgd import PGD
        >>> from lowcurve.attacks.square import Square
        >>> from lowcurve.losses import margin_loss
        >>> model = torch.nn.Linear(2, 2, bias=False)
        >>> _ = model.weight.data.copy_(torch.tensor([[1.0, -2.0], [0.0, 0.0]]))
        >>> ball = Ball("linf", 0.1)
        >>> attack = Relay((Square(ball, queries=20), PGD(ball, steps=5, loss=margin_loss)))
        >>> attack(model, torch.tensor([[0.5, 0.5]]), torch.tensor([0]))
        tensor([[0.4000, 0.6000]])
    """

    takes_radius = takes_start = True
    members: tuple[Staged, ...]
    near: float = 0.1

    def __post_init__(self) -> None:
        if len({member.ball for member in self.members}) != 1:
            found = [member.ball for member in self.members]
            raise InputError("attacks in one ball", found, "write Relay((Square(ball), PGD(ball, loss=margin_loss)))")

    @property
    def ball(self) -> Ball:
        """That of all its members."""
        return self.members[0].ball

    @property
    def norm(self) -> Norm:
        """That of the ball."""
        return self.ball.norm

    @property
    def walks(self) -> tuple[Walk, ...]:
        """Those of its members, in turn."""
        return tuple(walk for member in self.members for walk in member.walks)

    def takes(self, clean: PerExample, lowest: PerExample) -> Tensor:
        """Who is near, by the margins at the clean image and at the point found so far."""
        return lowest <= self.near * clean

    def perturb(self, model: Classifier, x: Inputs, y: Labels, options: Options) -> Inputs:
        """The adversarial inputs x', of x's shape; the given start where an image takes no part."""
        with frozen(model), torch.no_grad():
            images = prepare(model, x, y, self.ball, options)
            start = options.start
            best, rows = x.clone() if start is None else start.clone(), torch.arange(len(x), device=x.device)
            if start is not None and len(x):
                near = self.takes(margin(images.logits, y), margin(model(start), y))
                rows = near.nonzero()[:, 0]
            those = images.take(rows)
            for number, walk in enumerate(self.walks):
                those = replace(those, start=pursue(walk, those.named(number), stop=False).point)
            best[rows] = those.x if those.start is None else those.start
        return best.detach()
