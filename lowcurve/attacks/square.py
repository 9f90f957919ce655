"""Square: random search with square patches, which asks for no gradient and so sees through a masked one."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from lowcurve.analysis.norms import L2, per_example
from lowcurve.attacks.active_set import strongest
from lowcurve.attacks.base import BallAttack
from lowcurve.attacks.state import Images, Rows, Walk
from lowcurve.errors import InputError
from lowcurve.losses import margin_loss
from lowcurve.randomness import Streams
from lowcurve.types import Inputs, Logits, PerExample

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""After so many of 10,000 queries the area of the patches is halved."""
TILE = 5


@dataclass(frozen=True)
class Square(BallAttack):
    """x' = the point of highest loss among `queries`, each the best so far with one random square patch changed.

    In l_inf a patch is set to x + radius or x - radius, channel by channel, and the search begins at vertical stripes; in
    l_2 two patches trade their share of the budget, and it begins at a grid of tiles. `share` is the part of the image
    that the first patches cover; it is halved on the schedule of the paper, scaled to `queries`. Inputs of any rank: the
    last two axes are height and width, those before them channels; a point of the plane is an image of height 1. Each
    query shows the network one point inside ball and box, and one that is not better is thrown away.

    Cost: `queries` forward passes, no gradient.

    Example:
        >>> model = torch.nn.Linear(2, 2, bias=False)
        >>> _ = model.weight.data.copy_(torch.tensor([[1.0, -2.0], [0.0, 0.0]]))
        >>> attack = Square("linf", 0.1, queries=50)
        >>> attack(model, torch.tensor([[0.5, 0.5]]), torch.tensor([0]))
        tensor([[0.4000, 0.6000]])

    Reference: Andriushchenko et al. 2020, Algorithms 1 to 3.
    """

    takes_radius = takes_start = True
    queries: int = 5000
    share: float = 0.8
    restarts: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.queries < 2 or self.restarts < 1:
            raise InputError("at least two queries and one start", (self.queries, self.restarts), "write queries=5000")
        if not 0 < self.share <= 1:
            raise InputError("a share of the image above 0, at most 1", self.share, "write share=0.8")

    @property
    def steps(self) -> int:
        """The last query is the last look."""
        return self.queries - 1

    @property
    def walks(self) -> tuple[Walk, ...]:
        """One walk a start."""
        return (self,) * self.restarts

    perturb = strongest

    def begin(self, images: Images) -> Rows:
        """Stripes or tiles, or the given start."""
        streams = images.streams.at("start")
        if images.start is not None:
            point = self.ball.project(images.start, images.x, images.radius)
        elif self.ball.norm == L2:
            point = self._moved(images, _tiles(_as_images(images.x), streams))
        else:
            stripes = streams.signs(_as_images(images.x)[:, :, :1, :])
            point = self._moved(images, stripes.expand_as(_as_images(images.x)) * _wide(images.radius))
        return {"point": point, "best": images.x, "highest": torch.full_like(images.radius, -torch.inf)}

    def step(self, images: Images, rows: Rows) -> tuple[Logits, Rows]:
        """Look at the candidate, keep it if it is the best, and make another from the best."""
        point = rows["point"]
        with torch.no_grad():
            logits = images.look(point)
            value = self.value(images, point, logits)
        higher = value > rows["highest"]
        best = torch.where(per_example(higher, point), point, rows["best"])
        highest = torch.maximum(value, rows["highest"])
        streams = images.streams.at_each(rows["step"])
        added = _as_images(best - images.x)
        sides = _sides(self.queries, self.share, *added.shape[2:], added.device)[rows["step"]]
        if self.ball.norm == L2:
            candidate = self._moved(images, _traded(added, sides, images.radius, streams))
        else:
            inside = _window(sides, added, streams.at("place"))
            signs = streams.at("signs").signs(added[:, :, :1, :1])
            candidate = self._moved(images, torch.where(inside, signs * _wide(images.radius), added))
        return logits, {"point": candidate, "best": best, "highest": highest}

    def value(self, images: Images, point: Inputs, logits: Logits) -> PerExample:  # noqa: ARG002 (the signature of Walk)
        """The margin's fall."""
        return margin_loss(logits, images.y)

    def _moved(self, images: Images, added: Tensor) -> Tensor:
        return self.ball.project(images.x + added.reshape(images.x.shape), images.x, images.radius)


@lru_cache(maxsize=64)
def _sides(queries: int, share: float, height: int, width: int, device: torch.device) -> Tensor:
    """The sides of the patch after each query, shape (queries, 2): the same in height and width as far as there is room."""
    marks = torch.tensor(HALVINGS) * queries
    halvings = (torch.arange(queries)[:, None] * 10_000 > marks).sum(1)
    area, one = share * 0.5**halvings * height * width, torch.tensor(1)
    if min(height, width) == 1:
        both = torch.stack([torch.ones_like(area), area.round()], 1)
        return both.long().maximum(one).to(device)
    side = area.sqrt().round().long().maximum(one)
    return side[:, None].minimum(torch.tensor([height - 1, width - 1])).to(device)


def _wide(values: PerExample) -> Tensor:
    return values[:, None, None, None]


def _as_images(x: Tensor) -> Tensor:
    """(batch, channels, height, width): two axes are an image of one channel, one axis an image of height 1."""
    if x.ndim >= 4:
        return x.flatten(1, -3)
    return x[:, None] if x.ndim == 3 else x.flatten(1)[:, None, None]


def _corner(sides: Tensor, like: Tensor, streams: Streams) -> Tensor:
    """The first row and column of a window of these sides, uniform over where it fits, shape (batch, 2)."""
    room = torch.tensor(like.shape[2:], device=like.device) - sides + 1
    return (streams.uniform(sides.double(), 0, 1) * room).floor().long()


def _window(sides: Tensor, like: Tensor, streams: Streams) -> Tensor:
    """Whether each pixel lies in a window at random, shape (batch, 1, height, width)."""
    return _inside(_corner(sides, like, streams), sides, like)


def _pyramid(sides: Tensor, corner: Tensor, like: Tensor, turned: Tensor) -> Tensor:
    """eta in the window of each image, 0 elsewhere: a pyramid and beside it one upside down, shape (batch, 1, h, w).

    Reference: Andriushchenko et al. 2020, Eq. (2).
    """
    places = [torch.arange(like.shape[2 + axis], device=like.device)[None] - corner[:, axis, None] for axis in (0, 1)]
    rows, columns = places[0][:, :, None], places[1][:, None, :]
    # Which of the two axes is cut in two is left to chance.
    along = torch.where(turned[:, None, None], rows, columns)
    across = torch.where(turned[:, None, None], columns, rows)
    length = torch.where(turned, sides[:, 0], sides[:, 1])[:, None, None]
    depth = torch.where(turned, sides[:, 1], sides[:, 0])[:, None, None]
    inside = (along >= 0) & (along < length) & (across >= 0) & (across < depth)
    half = length // 2
    second = along >= half
    part = torch.where(second, length - half, half)
    middle = torch.where(second, half, 0) + part // 2
    distance = torch.maximum((along - middle).abs(), (across - depth // 2).abs())
    largest = int(distance.max()) + int(depth.max()) + 2
    sums = torch.cumsum(torch.arange(1, largest + 1, device=like.device).to(like).pow(-2), 0)
    sums = torch.cat([sums.new_zeros(1), sums])
    n = torch.maximum(depth, part) // 2
    height = (sums[n + 1] - sums[torch.minimum(distance, n)]) * inside
    return (height * torch.where(second, -1, 1))[:, None].to(like)


def _tiles(like: Tensor, streams: Streams) -> Tensor:
    """A grid of tiles, each a pyramid with a sign of its own for each channel; the ball gives it its length."""
    height, width = like.shape[2:]
    side = max(1, min(TILE, height, width) if min(height, width) > 1 else 1)
    added = torch.zeros_like(like)
    ones = torch.ones(len(like), dtype=torch.long, device=like.device)
    for number, (row, column) in enumerate((r, c) for r in range(0, height, side) for c in range(0, width, side)):
        sides = torch.stack([ones * min(side, height - row), ones * min(side, width - column)], 1)
        here = streams.at("tile", number)
        turned = here.at("turned").uniform(like[:, 0, 0, 0], 0, 1) < 0.5
        corner = torch.stack([ones * row, ones * column], 1)
        added += _pyramid(sides, corner, like, turned) * here.signs(like[:, :, :1, :1])
    return L2.unit(added) * 1e3  # longer than any radius: the projection brings it to the sphere


def _traded(added: Tensor, sides: Tensor, radius: PerExample, streams: Streams) -> Tensor:
    """One window gets a new pyramid and the budget of both windows and of what was unused; the other is emptied."""
    first = _corner(sides, added, streams.at("first"))
    second = _window(sides, added, streams.at("second"))
    turned = streams.at("turned").uniform(added[:, 0, 0, 0], 0, 1) < 0.5
    eta = L2.unit(_pyramid(sides, first, added, turned))
    inside = _inside(first, sides, added)
    unused = radius.square() - L2.length(added).square()
    unused = torch.where(unused > 1e-6 * radius.square(), unused, 0)  # the root of a rounding error would be a budget
    either = torch.where(inside | second, added, 0).square().sum((2, 3), keepdim=True)
    available = (either + _wide(unused) / added.shape[1]).sqrt()
    here = torch.where(inside, added, 0)
    direction = eta * streams.at("signs").signs(added[:, :, :1, :1]) + _unit_channels(here)
    return torch.where(inside, _unit_channels(direction) * available, torch.where(second, 0, added))


def _inside(corner: Tensor, sides: Tensor, like: Tensor) -> Tensor:
    ranges = []
    for axis in (0, 1):
        place = torch.arange(like.shape[2 + axis], device=like.device)[None] - corner[:, axis, None]
        ranges.append((place >= 0) & (place < sides[:, axis, None]))
    return (ranges[0][:, :, None] & ranges[1][:, None, :])[:, None]


def _unit_channels(v: Tensor) -> Tensor:
    """Each channel of each image at length 1, or 0."""
    return L2.unit(v.flatten(0, 1)).view_as(v)
