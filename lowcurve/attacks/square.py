"""Square attack: random search with square patches, which uses no gradient and is not misled by a masked one."""

from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from lowcurve.analysis.norms import L1, LINF, Norm, per_example
from lowcurve.attacks.active_set import ROWS, IterativeAttack
from lowcurve.attacks.base import BallAttack
from lowcurve.attacks.state import AttackBatch, AttackRun, State, is_fooled, require_logits, select_rows
from lowcurve.errors import InputError
from lowcurve.losses import margin_loss
from lowcurve.randomness import Streams
from lowcurve.types import Inputs, Logits, PerExample

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""The patches' area is halved after each of these numbers of 10,000 queries."""
TILE = 5
AHEAD = 4
"""Candidates that are made at once right after a success. Their number doubles with the time since then."""


@dataclass(frozen=True)
class SquareState(State):
    """The state of a `Square` run.

    Attributes:
        best: Point of highest loss so far.
        highest: Loss there.
        waited: Number of points since that one.
        logits: Logits at the point, once `look_ahead` has evaluated it.
    """

    best: Inputs
    highest: PerExample
    waited: Tensor
    logits: Logits


@dataclass(frozen=True)
class Square(BallAttack, IterativeAttack):
    """Square attack: the best of `queries` points, each the best point so far with one random square patch changed.

    In l_inf a patch is set to x + radius or x - radius, channel by channel, and the search begins at vertical stripes. In
    l_1 and l_2 two patches exchange their share of the budget, and the search begins at a grid of tiles. Inputs may have
    any rank: the last two axes are height and width, those before them channels; a vector is an image of height 1. A
    radius for each image and a start may be given in the call.

    Args:
        norm: "linf", "l2", "l1", a norm, or a `Ball` with its own radius and box.
        radius: Radius in pixel units, the literature's epsilon. Leave it out with a `Ball`.
        queries: Number of points in each run.
        share: Fraction of the image that the first patches cover. It is halved on the paper's schedule, scaled to
            `queries`.
        restarts: Number of runs.
        box: Lowest and highest pixel value. Leave it out with a `Ball`.

    Raises:
        InputError: If a setting is out of range.

    Cost: restarts * queries forward passes, no gradient.

    Example:
        >>> model = torch.nn.Linear(2, 2, bias=False)
        >>> _ = model.weight.data.copy_(torch.tensor([[1.0, -2.0], [0.0, 0.0]]))
        >>> attack = Square("linf", 0.1, queries=50)
        >>> attack(model, torch.tensor([[0.5, 0.5]]), torch.tensor([0]))
        tensor([[0.4000, 0.6000]])

    Reference: Andriushchenko et al. 2020, Algorithms 1 to 3; Croce and Hein 2021, section 5.3, in l_1.
    """

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
        """Number of queries before the last one."""
        return self.queries - 1

    @property
    def runs(self) -> tuple[AttackRun, ...]:
        """One run for each restart."""
        return (self,) * self.restarts

    def begin(self, batch: AttackBatch) -> SquareState:
        """Return the given start, or stripes or tiles."""
        streams = batch.streams.at("start")
        if batch.start is not None:
            point = self.ball.project(batch.start, batch.x, batch.radius)
        elif self.norm != LINF:
            point = self._add(batch, _tiles(_as_images(batch.x), streams, self.ball.norm))
        else:
            stripes = streams.signs(_as_images(batch.x)[:, :, :1, :])
            point = self._add(batch, stripes.expand_as(_as_images(batch.x)) * _broadcast(batch.radius))
        zeros, lowest = batch.zeros(), torch.full_like(batch.radius, -torch.inf)
        return SquareState(point, zeros, batch.x, lowest, zeros, torch.full_like(batch.clean_logits, torch.nan))

    def step(self, batch: AttackBatch, state: SquareState) -> tuple[Logits, SquareState]:
        """Keep the candidate if it is the best. `look_ahead` has evaluated it and makes the next one."""
        with torch.no_grad():
            value = self.value(batch, state.point, state.logits)
        higher = value > state.highest
        best = torch.where(per_example(higher, state.point), state.point, state.best)
        highest, waited = torch.fmax(value, state.highest), torch.where(higher, 0, state.waited + 1)
        return state.logits, replace(state, point=best, best=best, highest=highest, waited=waited)

    def look_ahead(self, batch: AttackBatch, state: SquareState, most: int) -> SquareState:
        """Move each image on to its next candidate that counts, or to the last one that is looked at.

        All candidates until then are made from the same best point, so they are evaluated in one forward pass. Few of them are
        wasted, because the longer an image has waited, the longer it will wait.
        """
        count = torch.minimum(AHEAD + 2 * state.waited, self.steps - state.step)
        count = torch.where(state.step == 0, 1, count).clamp(1, max(1, min(most, ROWS) // len(batch)))
        rows, begin = torch.repeat_interleave(count), count.cumsum(0) - count
        number, many = torch.arange(len(rows), device=rows.device) - begin[rows], select_rows(batch, rows)
        steps = state.step[rows] + number
        points = self._candidate(many, state.best[rows], steps - 1)
        points = torch.where(per_example(steps == 0, points), state.point[rows], points)
        with torch.no_grad():
            logits = many.evaluate(points)
            require_logits(logits, many.y, finite=False)
            counts = (self.value(many, points, logits) > state.highest[rows]) | ~torch.isfinite(logits).all(1)
            counts |= is_fooled(many.model, logits, many.y)
        passed = (count - 1).scatter_reduce(0, rows[counts], number[counts], "amin")
        place = begin + passed
        return replace(
            state, point=points[place], logits=logits[place], step=state.step + passed, waited=state.waited + passed
        )

    def _candidate(self, batch: AttackBatch, best: Inputs, step: Tensor) -> Inputs:
        """Return the best point with one random patch changed, by the draws of a step."""
        streams = batch.streams.at_each(step)
        added = _as_images(best - batch.x)
        schedule = self.queries, self.share, *added.shape[2:]
        sides = _sides(*schedule, added.device)[step]
        if self.norm != LINF:
            kinds, pyramids = _pyramids(*schedule, self.ball.norm, added.dtype, added.device)
            patch = _Patch(sides, kinds[step], pyramids)
            return self._add(batch, _exchange(added, patch, batch.radius, streams, self.ball.norm))
        inside = _window(sides, added, streams.at("place"))
        signs = streams.at("signs").signs(added[:, :, :1, :1])
        return self._add(batch, torch.where(inside, signs * _broadcast(batch.radius), added))

    def value(self, batch: AttackBatch, point: Inputs, logits: Logits) -> PerExample:  # noqa: ARG002 (AttackRun's signature)
        """Return the margin loss."""
        return margin_loss(logits, batch.y)

    def _add(self, batch: AttackBatch, added: Tensor) -> Tensor:
        return self.ball.project(batch.x + added.reshape(batch.x.shape), batch.x, batch.radius)


@lru_cache(maxsize=64)
def _sides(queries: int, share: float, height: int, width: int, device: torch.device) -> Tensor:
    """Return the sides of the patch after each query, shape (queries, 2), cut to the image."""
    marks = torch.tensor(HALVINGS) * queries
    halvings = (torch.arange(queries)[:, None] * 10_000 > marks).sum(1)
    area, one = share * 0.5**halvings * height * width, torch.tensor(1)
    if min(height, width) == 1:
        both = torch.stack([torch.ones_like(area), area.round()], 1)
        return both.long().maximum(one).to(device)
    side = area.sqrt().round().long().maximum(one)
    return side[:, None].minimum(torch.tensor([height - 1, width - 1])).to(device)


def _broadcast(values: PerExample) -> Tensor:
    return values[:, None, None, None]


def _as_images(x: Tensor) -> Tensor:
    """Return x as (batch, channels, height, width): a matrix has one channel, a vector has height 1."""
    if x.ndim >= 4:
        return x.flatten(1, -3)
    return x[:, None] if x.ndim == 3 else x.flatten(1)[:, None, None]


def _corner(sides: Tensor, like: Tensor, streams: Streams) -> Tensor:
    """Return the first row and column of a window of these sides, uniform over the image, shape (batch, 2)."""
    places = torch.tensor(like.shape[2:], device=like.device) - sides + 1
    return (streams.uniform(sides.double(), 0, 1) * places).floor().long()


def _window(sides: Tensor, like: Tensor, streams: Streams) -> Tensor:
    """Return which pixels lie in a random window, shape (batch, 1, height, width)."""
    return _inside(_corner(sides, like, streams), sides, like)


@lru_cache(maxsize=64)
def _pyramids(
    queries: int, share: float, height: int, width: int, norm: Norm, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return the kind of the pyramid after each query, and all pyramids of length 1.

    The second tensor has the shape (kinds, 2, 2 height, 2 width). Its second axis tells which axis is cut in half. The window
    begins at 0, and beyond it, also at negative indices, the entries are 0.
    """
    sides, kinds = torch.unique(_sides(queries, share, height, width, device), dim=0, return_inverse=True)
    found = torch.zeros(len(sides), 2, 2 * height, 2 * width, dtype=dtype, device=device)
    like, corner = found[:, :1, :height, :width], torch.zeros_like(sides)
    for axis in (0, 1):
        vertical = torch.full((len(sides),), axis == 1, device=device)
        found[:, axis, :height, :width] = norm.unit(_pyramid(sides, corner, like, vertical, norm))[:, 0]
    return kinds, found


def _pyramid(sides: Tensor, corner: Tensor, like: Tensor, vertical: Tensor, norm: Norm) -> Tensor:
    """Return eta in each image's window and 0 elsewhere: a pyramid and its negative, shape (batch, 1, height, width).

    It is steeper in l_1, where little can be spent on the edge of a window.

    Reference: Andriushchenko et al. 2020, Eq. (2).
    """
    rows, columns = _places(corner, like)
    # A random axis of the two is cut in half.
    lengthwise = torch.where(vertical[:, None, None], rows, columns)
    crosswise = torch.where(vertical[:, None, None], columns, rows)
    length = torch.where(vertical, sides[:, 0], sides[:, 1])[:, None, None]
    depth = torch.where(vertical, sides[:, 1], sides[:, 0])[:, None, None]
    inside = (lengthwise >= 0) & (lengthwise < length) & (crosswise >= 0) & (crosswise < depth)
    half = length // 2
    second = lengthwise >= half
    part = torch.where(second, length - half, half)
    middle = torch.where(second, half, 0) + part // 2
    distance = torch.maximum((lengthwise - middle).abs(), (crosswise - depth // 2).abs())
    largest = int(distance.max()) + int(depth.max()) + 2
    sums = torch.cumsum(torch.arange(1, largest + 1, device=like.device).to(like).pow(-4 if norm == L1 else -2), 0)
    sums = torch.cat([sums.new_zeros(1), sums])
    n = torch.maximum(depth, part) // 2
    height = (sums[n + 1] - sums[torch.minimum(distance, n)]) * inside
    return (height * torch.where(second, -1, 1))[:, None].to(like)


def _tiles(like: Tensor, streams: Streams, norm: Norm) -> Tensor:
    """Return a grid of pyramids with a random sign for each tile and channel; the projection gives it its length."""
    height, width = like.shape[2:]
    side = max(1, min(TILE, height, width) if min(height, width) > 1 else 1)
    added = torch.zeros_like(like)
    ones = torch.ones(len(like), dtype=torch.long, device=like.device)
    for number, (row, column) in enumerate((r, c) for r in range(0, height, side) for c in range(0, width, side)):
        sides = torch.stack([ones * min(side, height - row), ones * min(side, width - column)], 1)
        here = streams.at("tile", number)
        vertical = here.at("turned").uniform(like[:, 0, 0, 0], 0, 1) < 0.5
        corner = torch.stack([ones * row, ones * column], 1)
        pyramid = _pyramid(sides, corner, like, vertical, norm)
        added += (norm.unit(pyramid) if norm == L1 else pyramid) * here.signs(like[:, :, :1, :1])
    if norm == L1:
        return added
    return norm.unit(added) * 1e3  # longer than any radius, so that the projection reaches the sphere


@dataclass(frozen=True)
class _Patch:
    """The windows of some images: their sides, the kinds of their pyramids, and all pyramids; see `_pyramids`."""

    sides: Tensor
    kinds: Tensor
    pyramids: Tensor


def _exchange(added: Tensor, patch: _Patch, radius: PerExample, streams: Streams, norm: Norm) -> Tensor:
    """Put a new pyramid with the unused budget and that of two windows into the first window, and zeros into the second."""
    first = _corner(patch.sides, added, streams.at("first"))
    second = _window(patch.sides, added, streams.at("second"))
    vertical = streams.at("turned").uniform(added[:, 0, 0, 0], 0, 1) < 0.5
    kind, axis = patch.kinds[:, None, None], vertical.long()[:, None, None]
    eta, inside = patch.pyramids[kind, axis, *_places(first, added)][:, None], _inside(first, patch.sides, added)
    power = 1 if norm == L1 else 2
    unused = radius**power - norm.length(added) ** power
    unused = torch.where(unused > 1e-6 * radius**power, unused, 0)  # otherwise a rounding error would become a budget
    either = (torch.where(inside | second, added, 0).abs() ** power).sum((2, 3), keepdim=True)
    available = (either + _broadcast(unused) / added.shape[1]) ** (1 / power)
    here = torch.where(inside, added, 0)
    direction = eta * streams.at("signs").signs(added[:, :, :1, :1]) + _unit_channels(here, norm)
    return torch.where(inside, _unit_channels(direction, norm) * available, torch.where(second, 0, added))


def _inside(corner: Tensor, sides: Tensor, like: Tensor) -> Tensor:
    (rows, columns), (height, width) = _places(corner, like), sides[:, :, None, None].unbind(1)
    return ((rows >= 0) & (rows < height) & ((columns >= 0) & (columns < width)))[:, None]


def _places(corner: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows and columns counted from the corner, of shape (batch, height, 1) and (batch, 1, width)."""
    rows, columns = (torch.arange(size, device=like.device) for size in like.shape[2:])
    return rows[:, None] - corner[:, 0, None, None], columns - corner[:, 1, None, None]


def _unit_channels(v: Tensor, norm: Norm) -> Tensor:
    """Return each channel of each image scaled to length 1; zeros stay zero."""
    return norm.unit(v.flatten(0, 1)).view_as(v)
