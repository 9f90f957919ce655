"""Brute force: random points of the ball, and the worst of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lowcurve.analysis.norms import Ball, per_example
from lowcurve.attacks.active_set import strongest
from lowcurve.attacks.base import BallAttack
from lowcurve.attacks.state import Images, Rows, Walk
from lowcurve.errors import InputError
from lowcurve.losses import margin_loss
from lowcurve.randomness import Streams
from lowcurve.types import Inputs, Logits, PerExample

Law = Literal["uniform", "corners", "gaussian"]


@dataclass(frozen=True)
class Noise(BallAttack):
    """x' = the point of lowest margin among `draws` random points of the ball.

    It follows nothing, so nothing can lead it astray: an image that stands under a gradient attack and falls to noise
    shows that the gradients are masked.

    ball: norm, radius and pixel box. law: "uniform" in the ball; "corners", x + radius u / ||u|| with u of signs -1 and 1,
    the corners of an l_inf ball; "gaussian", the same with normal u, the whole sphere of an l_2 ball. Each is then moved
    into the box. together: so many draws share a forward pass; the lowest margin does not depend on it (where an
    evaluation stops at the first success, the answer is the lowest of those looked at together).

    Called: radius, one an example, takes the place of the ball's; start, of x's shape, that of the first draw.
    Cost: draws + 1 forward passes; no gradient.

    Example:
        >>> model = torch.nn.Linear(2, 2, bias=False)
        >>> _ = model.weight.data.copy_(torch.tensor([[1.0, -2.0], [0.0, 0.0]]))
        >>> attack = Noise("linf", 0.1, draws=100, law="corners")
        >>> attack(model, torch.tensor([[0.5, 0.5]]), torch.tensor([0]))
        tensor([[0.4000, 0.6000]])

    Reference: Carlini et al. 2019, brute-force (random) search.
    """

    takes_radius = takes_start = True
    draws: int = 1000
    law: Law = "uniform"
    together: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.draws < 1 or self.together < 1:
            found = (self.draws, self.together)
            raise InputError("at least one draw, and one at a time", found, "write Noise(ball, draws=1000)")
        if self.law not in LAWS:
            raise InputError('a law "uniform", "corners" or "gaussian"', repr(self.law), 'write law="uniform"')

    @property
    def walks(self) -> tuple[Walk, ...]:
        """One walk."""
        return (self,)

    @property
    def steps(self) -> int:
        """As many as it takes until every draw has been looked at, less the last look."""
        return -(-self.draws // self.together) - 1

    perturb = strongest

    def begin(self, images: Images) -> Rows:
        """The worst of the first draws."""
        return self._worst(images, torch.zeros_like(images.y))

    def step(self, images: Images, rows: Rows) -> tuple[Logits, Rows]:
        """The logits as they were seen with the draw, and the worst of the next draws."""
        return rows["logits"], self._worst(images, rows["step"] + 1)

    def value(self, images: Images, point: Inputs, logits: Logits) -> PerExample:  # noqa: ARG002 (the signature of Walk)
        """The margin with its sign turned."""
        return margin_loss(logits, images.y)

    def _worst(self, images: Images, group: Tensor) -> Rows:
        """The draw of lowest margin in this group of each image, with its logits."""
        count = min(self.together, self.draws)
        everyone = torch.arange(len(images), device=group.device)
        several = images.take(everyone.repeat(count))
        numbers = torch.stack([group * self.together + k for k in range(count)])
        points = self._point(several, numbers.flatten())
        with torch.no_grad():
            logits = images.look(points)
        values = self.value(several, points, logits).view(numbers.shape)
        worst = values.masked_fill(numbers >= self.draws, -torch.inf).argmax(0)
        points, logits = points.view(count, *images.x.shape), logits.view(count, len(images), -1)
        return {"point": points[worst, everyone], "logits": logits[worst, everyone]}

    def _point(self, images: Images, number: Tensor) -> Inputs:
        """The draw of that number, or the given start for the first."""
        point = LAWS[self.law](self.ball, images, images.streams.at(self.law).at_each(number))
        if images.start is None:
            return point
        start = self.ball.project(images.start, images.x, images.radius)
        return torch.where(per_example(number == 0, point), start, point)


def _uniform(ball: Ball, images: Images, streams: Streams) -> Inputs:
    return ball.sample(images.x, streams, images.radius)


def _corner(ball: Ball, images: Images, streams: Streams) -> Inputs:
    return _at_length(ball, images, streams.signs(images.x))


def _gaussian(ball: Ball, images: Images, streams: Streams) -> Inputs:
    return _at_length(ball, images, streams.normal(images.x))


def _at_length(ball: Ball, images: Images, direction: Tensor) -> Inputs:
    """The point at the radius in that direction, moved into the box."""
    step = per_example(images.radius, direction) * ball.norm.unit(direction)
    return ball.project(images.x + step, images.x, images.radius)


LAWS: dict[str, Callable[[Ball, Images, Streams], Inputs]] = {
    "uniform": _uniform,
    "corners": _corner,
    "gaussian": _gaussian,
}
