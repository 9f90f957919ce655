"""Measure paths: length, deviation from the straight line, clearance, and what the straight segment would meet.

All columns have one number per pair, nan where no path was found. Lengths are l_2 in pixel units.
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
from lowcurve.losses import evaluate_loss, margin_loss
from lowcurve.models.modes import frozen
from lowcurve.network_calls import call
from lowcurve.types import Classifier, Loss, PerExample

AT_ONCE = 16
"""Paths that are in memory in double precision at a time."""


def resample(paths: Paths, points: int) -> Tensor:
    """Compute points of each path at equal steps of arc length, from start to end.

    In general the anchors are not among them. For a pair without a path they are points of the straight segment.

    Args:
        paths: The paths.
        points: Number of points per path.

    Returns:
        Points of shape (pairs, points, ...), in double precision.

    Raises:
        InputError: If `points` is below 2.

    Example:
        >>> corner = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]]])
        >>> resample(Paths.through(corner, torch.tensor([0])), 5)[0].tolist()
        [[0.0, 0.0], [0.5, 0.0], [1.0, 0.0], [1.0, 0.5], [1.0, 1.0]]
    """
    _require_points(points)
    parts = in_chunks(lambda part: _resample(paths.anchors[part].double(), points), len(paths), AT_ONCE)
    return torch.cat(parts) if parts else paths.anchors.new_zeros(0, points, *paths.anchors.shape[2:]).double()


def _segment_lengths(anchors: Tensor) -> Tensor:
    """Return the length of each segment, (pairs, segments); padding has length 0."""
    steps = anchors[:, 1:] - anchors[:, :-1]
    return L2.length(steps.flatten(0, 1)).view(steps.shape[:2])


def _resample(anchors: Tensor, points: int) -> Tensor:
    lengths = _segment_lengths(anchors)
    ends = lengths.cumsum(1)
    positions = torch.linspace(0, 1, points, dtype=ends.dtype, device=ends.device) * ends[:, -1:]
    # Take the first segment that ends at or beyond the position, which never has length 0.
    place = torch.searchsorted(ends, positions.contiguous()).minimum(
        torch.tensor(lengths.shape[1] - 1, device=ends.device)
    )
    length = lengths.gather(1, place)
    share = torch.where(
        length > 0, (positions - (ends - lengths).gather(1, place)) / torch.where(length > 0, length, 1), 0
    )
    pair = torch.arange(len(anchors), device=anchors.device)[:, None]
    before, after = anchors[pair, place], anchors[pair, place + 1]
    return before + share.reshape(*share.shape, *[1] * (anchors.ndim - 2)) * (after - before)


def path_measures(paths: Paths, *, points: int = 257) -> dict[str, PerExample]:
    """Measure the shape of each path, without the network.

    Args:
        paths: The paths.
        points: Number of points at which the mean deviation is taken.

    Returns:
        Columns, computed in double precision because deviations are small:

        - "anchors" and "segments": their numbers.
        - "distance": the distance of the ends, known of every pair.
        - "length", and "excess length", length / distance - 1.
        - "maximal deviation": the largest distance of a point to the straight line through the ends, divided by the
            distance of the ends.
        - "mean deviation": the mean of that quotient over arc length.
        - "clearance": as in `Paths`.

    Raises:
        InputError: If `points` is below 2.

    Example:
        >>> corner = torch.tensor([[[0.0, 0.0], [1.0, 1.0], [2.0, 0.0]]])
        >>> found = path_measures(Paths.through(corner, torch.tensor([0])))
        >>> found["maximal deviation"], found["mean deviation"], found["excess length"]  # 1/2, 1/4, sqrt(2) - 1
        (tensor([0.5000]), tensor([0.2500]), tensor([0.4142]))

    Reference: bardusco_report, section 2.2.1 and Table 2 (number of points, normalized distance).
    """
    _require_points(points)

    def measure_chunk(part: slice) -> dict[str, PerExample]:
        anchors = paths.anchors[part].double()
        length, distance = _segment_lengths(anchors).sum(1), L2.length(anchors[:, -1] - anchors[:, 0])
        return {
            "distance": distance,
            "length": length,
            "excess length": length / distance - 1,
            "maximal deviation": _distances_from_line(anchors, anchors).amax(1) / distance,
            "mean deviation": _mean_over_length(_distances_from_line(anchors, _resample(anchors, points))) / distance,
        }

    parts = in_chunks(measure_chunk, len(paths), AT_ONCE)
    like, found = paths.clearance, paths.found
    shape = {name: torch.cat([part[name] for part in parts]).to(like) for name in parts[0]} if parts else {}
    counts = {"anchors": paths.counts.to(like), "segments": paths.counts.to(like) - 1}
    columns = {name: torch.where(found, column, torch.nan) for name, column in (counts | shape).items()}
    return columns | {"distance": shape.get("distance", like), "clearance": paths.clearance}


def _distances_from_line(anchors: Tensor, points: Tensor) -> Tensor:
    """Return the distance of each point, (pairs, points, ...), to the line through the first and the last anchor."""
    axes = L2.unit(anchors[:, -1] - anchors[:, 0])[:, None].expand_as(points).flatten(0, 1)
    positions = (points - anchors[:, :1]).flatten(0, 1)
    return L2.length(positions - per_example(dot(positions, axes), positions) * axes).view(points.shape[:2])


def _mean_over_length(values: Tensor) -> PerExample:
    """Return the mean by the trapezoidal rule."""
    return (values[:, 1:] + values[:, :-1]).mean(1) / 2


def straight_line_measures(
    model: Classifier, paths: Paths, *, samples: int = 101, loss: Loss = margin_loss, chunk: int = 256
) -> dict[str, PerExample]:
    """Measure the straight segment between the ends of every pair, with a path or without.

    Args:
        model: The network.
        paths: The paths, or pairs without one.
        samples: Points per segment at equal steps, ends included.
        loss: Loss of the barrier.
        chunk: Batch size.

    Returns:
        Columns: "share outside", the share of the samples outside the region; "barrier", the largest loss at a
        sample. The default loss is -margin, which is above 0 where the segment leaves the region and says by how
        much.

    Raises:
        InputError: If `samples` is below 2.

    Cost: `samples` forward images per pair.

    Example:
        >>> def rings(x):  # class 1 at a distance from 0 of 1 and more
        ...     return torch.stack([torch.ones(len(x)), x.square().sum(1)], 1)
        >>> paths = Paths.through(torch.tensor([[[-2.0, 0.0], [2.0, 0.0]]]), torch.tensor([1]))
        >>> straight_line_measures(rings, paths, samples=5)  # at -2, -1, 0, 1, 2
        {'share outside': tensor([0.6000]), 'barrier': tensor([1.])}
    """
    _require_points(samples)
    pairs = Segments(paths.start, paths.end, paths.y)

    def evaluate_samples(part: slice) -> tuple[Tensor, Tensor]:
        number = torch.arange(part.start, part.stop, device=paths.y.device)
        rows, share = number // samples, (number % samples).double() / (samples - 1)
        x, y = pairs.at(rows, share), pairs.y[rows]
        with torch.no_grad():
            return ~(inner_margin(model, x, y) > 0), evaluate_loss(loss, call(model, x), y)

    with frozen(model):
        parts = in_chunks(evaluate_samples, len(pairs) * samples, chunk)
    if not parts:
        return {"share outside": paths.clearance, "barrier": paths.clearance}
    outside, losses = (torch.cat(column).view(-1, samples) for column in zip(*parts, strict=True))
    return {"share outside": outside.to(paths.clearance).mean(1), "barrier": losses.amax(1)}


@dataclass(frozen=True)
class PrincipalComponents:
    """Paths in their own principal axes.

    Attributes:
        coordinates: Shape (pairs, points, components), centered, of points at equal steps of arc length. The sign
            of each axis makes its longest coordinate positive.
        explained: Shape (pairs, points), the share of the variance of every component, in descending order.
    """

    coordinates: Tensor
    explained: Tensor


def principal_components(paths: Paths, *, points: int = 101, components: int = 3) -> PrincipalComponents:
    """Compute the principal components of each path by itself, which show whether it is a line or lies in a plane.

    The computation is exact, from the matrix of scalar products of the points. The first component explains all of
    a straight path.

    Args:
        paths: The paths.
        points: Number of points per path.
        components: Number of coordinates.

    Returns:
        Coordinates and shares of the variance.

    Raises:
        InputError: If `points` is below 2 or `components` is not between 1 and `points`.

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

    def analyze_chunk(part: slice) -> tuple[Tensor, Tensor]:
        flat = _resample(paths.anchors[part].double(), points).flatten(2)
        flat = flat - flat.mean(1, keepdim=True)
        values, vectors = torch.linalg.eigh(flat @ flat.transpose(1, 2))
        values, vectors = values.flip(1), vectors.flip(2)
        values = values.relu()
        coordinates = (vectors * values.sqrt()[:, None])[:, :, :components]
        longest = coordinates.gather(1, coordinates.abs().argmax(1, keepdim=True))
        return coordinates * torch.where(longest < 0, -1, 1), values / values.sum(1, keepdim=True)

    parts = in_chunks(analyze_chunk, len(paths), AT_ONCE)
    if not parts:
        return PrincipalComponents(torch.zeros(0, points, components), torch.zeros(0, points))
    return PrincipalComponents(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _require_points(points: int) -> None:
    if points < 2:
        raise InputError("at least two points of a path", points, "write points=101")
