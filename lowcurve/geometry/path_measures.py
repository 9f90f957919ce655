"""What a path is like: how long, how bent, how clear of the boundary, and what the straight way would have met.

All columns have one number a pair, nan where no path was found; lengths are l_2, in pixel units.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lowcurve.analysis.chunks import in_chunks
from lowcurve.analysis.norms import L2, dot, per_example
from lowcurve.errors import InputError
from lowcurve.geometry.paths import Paths
from lowcurve.geometry.regions import inner_margin
from lowcurve.geometry.segments import Segments
from lowcurve.losses import margin_loss
from lowcurve.models.modes import frozen
from lowcurve.types import Classifier, Loss, PerExample

AT_ONCE = 16
"""So many paths are held in double precision at a time."""


def resample(paths: Paths, points: int) -> Tensor:
    """So many points of each path, at equal steps of arc length from start to end: (pairs, points, ...), in double precision.

    Of a pair without a path, points of the straight segment. Between anchors; the anchors themselves are in general not among
    them.

    Example:
        >>> corner = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]]])
        >>> resample(Paths.through(corner, torch.tensor([0])), 5)[0].tolist()
        [[0.0, 0.0], [0.5, 0.0], [1.0, 0.0], [1.0, 0.5], [1.0, 1.0]]
    """
    _require_points(points)
    parts = in_chunks(lambda part: _resample(paths.anchors[part].double(), points), len(paths), AT_ONCE)
    return torch.cat(parts) if parts else paths.anchors.new_zeros(0, points, *paths.anchors.shape[2:]).double()


def _lengths(anchors: Tensor) -> Tensor:
    """The length of each segment, (pairs, segments); 0 for those that padding makes."""
    steps = anchors[:, 1:] - anchors[:, :-1]
    return L2.length(steps.flatten(0, 1)).view(steps.shape[:2])


def _resample(anchors: Tensor, points: int) -> Tensor:
    lengths = _lengths(anchors)
    ends = lengths.cumsum(1)
    way = torch.linspace(0, 1, points, dtype=ends.dtype, device=ends.device) * ends[:, -1:]
    # The first segment that ends at or beyond the place, so that none of length 0 is taken.
    place = torch.searchsorted(ends, way.contiguous()).minimum(torch.tensor(lengths.shape[1] - 1, device=ends.device))
    length = lengths.gather(1, place)
    share = torch.where(length > 0, (way - (ends - lengths).gather(1, place)) / torch.where(length > 0, length, 1), 0)
    pair = torch.arange(len(anchors), device=anchors.device)[:, None]
    before, after = anchors[pair, place], anchors[pair, place + 1]
    return before + share.reshape(*share.shape, *[1] * (anchors.ndim - 2)) * (after - before)


def path_measures(paths: Paths, *, points: int = 257) -> dict[str, PerExample]:
    """The shape of each path, without a look at the network.

    Columns: "anchors" and "segments", their counts; "distance" of the ends (known of every pair); "length"; "excess length",
    length / distance - 1; "maximal deviation", the largest distance of an anchor (and so of any point) to the straight line
    through the ends, over their distance; "mean deviation", its mean over arc length, at `points` equal steps; "clearance", of
    `Paths`. In double precision, since deviations are small.

    Example:
        >>> corner = torch.tensor([[[0.0, 0.0], [1.0, 1.0], [2.0, 0.0]]])
        >>> found = path_measures(Paths.through(corner, torch.tensor([0])))
        >>> found["maximal deviation"], found["mean deviation"], found["excess length"]  # 1/2, 1/4, sqrt(2) - 1
        (tensor([0.5000]), tensor([0.2500]), tensor([0.4142]))

    Reference: bardusco_report, section 2.2.1 and Table 2 (number of points, normalized distance).
    """
    _require_points(points)

    def measured(part: slice) -> dict[str, PerExample]:
        anchors = paths.anchors[part].double()
        length, distance = _lengths(anchors).sum(1), L2.length(anchors[:, -1] - anchors[:, 0])
        return {
            "distance": distance,
            "length": length,
            "excess length": length / distance - 1,
            "maximal deviation": _from_line(anchors, anchors).amax(1) / distance,
            "mean deviation": _mean_over_way(_from_line(anchors, _resample(anchors, points))) / distance,
        }

    parts = in_chunks(measured, len(paths), AT_ONCE)
    like, found = paths.clearance, paths.found
    shape = {name: torch.cat([part[name] for part in parts]).to(like) for name in parts[0]} if parts else {}
    counts = {"anchors": paths.counts.to(like), "segments": paths.counts.to(like) - 1}
    columns = {name: torch.where(found, column, torch.nan) for name, column in (counts | shape).items()}
    return columns | {"distance": shape.get("distance", like), "clearance": paths.clearance}


def _from_line(anchors: Tensor, points: Tensor) -> Tensor:
    """The distance of each point, (pairs, points, ...), to the line through the first and the last anchor."""
    along = L2.unit(anchors[:, -1] - anchors[:, 0])[:, None].expand_as(points).flatten(0, 1)
    way = (points - anchors[:, :1]).flatten(0, 1)
    return L2.length(way - per_example(dot(way, along), way) * along).view(points.shape[:2])


def _mean_over_way(values: Tensor) -> PerExample:
    """By the trapezoidal rule."""
    return (values[:, 1:] + values[:, :-1]).mean(1) / 2


def straight_line_measures(
    model: Classifier, paths: Paths, *, samples: int = 101, loss: Loss = margin_loss, chunk: int = 256
) -> dict[str, PerExample]:
    """What the straight segment between the ends meets, of every pair, with a path or without.

    Columns: "share outside", of `samples` points at equal steps, ends included, how many lie outside the region; "barrier", the
    largest loss at any of them: by default -margin, which is above 0 where the segment leaves the region and says how deep.
    Cost: `samples` forward images a pair.

    Example:
        >>> def rings(x):  # class 1 at a distance from 0 of 1 and more
        ...     return torch.stack([torch.ones(len(x)), x.square().sum(1)], 1)
        >>> paths = Paths.through(torch.tensor([[[-2.0, 0.0], [2.0, 0.0]]]), torch.tensor([1]))
        >>> straight_line_measures(rings, paths, samples=5)  # at -2, -1, 0, 1, 2
        {'share outside': tensor([0.6000]), 'barrier': tensor([1.])}
    """
    _require_points(samples)
    pairs = Segments(paths.start, paths.end, paths.y)

    def look(part: slice) -> tuple[Tensor, Tensor]:
        number = torch.arange(part.start, part.stop, device=paths.y.device)
        rows, share = number // samples, (number % samples).double() / (samples - 1)
        x, y = pairs.at(rows, share), pairs.y[rows]
        with torch.no_grad():
            return ~(inner_margin(model, x, y) > 0), loss(model(x), y)

    with frozen(model):
        parts = in_chunks(look, len(pairs) * samples, chunk)
    if not parts:
        return {"share outside": paths.clearance, "barrier": paths.clearance}
    outside, losses = (torch.cat(column).view(-1, samples) for column in zip(*parts, strict=True))
    return {"share outside": outside.to(paths.clearance).mean(1), "barrier": losses.amax(1)}


@dataclass(frozen=True)
class PrincipalComponents:
    """A path in its own principal axes.

    coordinates: (pairs, points, components), of points at equal steps of arc length, around their mean; each axis is turned
    so that its longest coordinate is positive. explained: (pairs, points), every component's share of the variance, falling.
    """

    coordinates: Tensor
    explained: Tensor


def principal_components(paths: Paths, *, points: int = 101, components: int = 3) -> PrincipalComponents:
    """PCA of each path by itself: how nearly it is a line (one component), or lies in a plane.

    Exact, from the matrix of scalar products of `points` points of the path. A straight path explains all with the first.

    Example:
        >>> corner = torch.tensor([[[0.0, 0.0], [1.0, 1.0], [2.0, 0.0]]])
        >>> found = principal_components(Paths.through(corner, torch.tensor([0])), points=3, components=2)
        >>> found.coordinates[0, :, 1].float(), found.explained[0, :2].float()  # of (-1, -1/3), (0, 2/3), (1, -1/3)
        (tensor([-0.3333,  0.6667, -0.3333]), tensor([0.7500, 0.2500]))

    Reference: bardusco_report, Figs. 5 to 8.
    """
    _require_points(points)
    if not 1 <= components <= points:
        raise InputError(f"1 to {points} components", components, "write components=3")

    def analyzed(part: slice) -> tuple[Tensor, Tensor]:
        flat = _resample(paths.anchors[part].double(), points).flatten(2)
        flat = flat - flat.mean(1, keepdim=True)
        values, vectors = torch.linalg.eigh(flat @ flat.transpose(1, 2))
        values, vectors = values.flip(1), vectors.flip(2)
        values = torch.where(values > 0, values, 0)
        coordinates = (vectors * values.sqrt()[:, None])[:, :, :components]
        longest = coordinates.gather(1, coordinates.abs().argmax(1, keepdim=True))
        return coordinates * torch.where(longest < 0, -1, 1), values / values.sum(1, keepdim=True)

    parts = in_chunks(analyzed, len(paths), AT_ONCE)
    if not parts:
        return PrincipalComponents(torch.zeros(0, points, components), torch.zeros(0, points))
    return PrincipalComponents(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _require_points(points: int) -> None:
    if points < 2:
        raise InputError("at least two points of a path", points, "write points=101")
