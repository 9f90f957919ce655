"""Pair the endpoints of paths: points of one class, by family, with matched starts or distances.

The adversarial and noisy points are computed elsewhere, and y is the network's own prediction for each point.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lowcurve import randomness
from lowcurve.analysis.norms import L2
from lowcurve.errors import InputError
from lowcurve.types import Inputs, Labels, PerExample

NO_SOURCE = -1
"""The source of a point that was made from no image."""


@dataclass(frozen=True)
class LabeledPoints:
    """Points with the network's label and the image that each was made from.

    Two points of one image are never paired.

    Args:
        x: The points, shape (points, ...).
        y: The network's label of each point.
        source: Number of the image that a point was made from; NO_SOURCE for noise.
    """

    x: Inputs
    y: Labels
    source: Tensor

    def __post_init__(self) -> None:
        if not len(self.x) == len(self.y) == len(self.source):
            found = f"{len(self.x)}, {len(self.y)} and {len(self.source)}"
            raise InputError("a label and a source for each point", found, "give as many of each")

    def __len__(self) -> int:
        return len(self.x)

    def take(self, rows: Tensor) -> "LabeledPoints":
        """Select some points."""
        return LabeledPoints(self.x[rows], self.y[rows], self.source[rows])


@dataclass(frozen=True)
class Endpoints:
    """Pairs of different points of one class.

    Attributes:
        start: First points, shape (pairs, ...).
        end: Second points, of the same shape.
        y: The class of each pair.
        distance: ||end - start||, l_2 in pixel units.
        start_index: Numbers of the first points among the given starts.
        end_index: Numbers of the second points among the given ends.
    """

    start: Inputs
    end: Inputs
    y: Labels
    distance: PerExample
    start_index: Tensor
    end_index: Tensor

    def __len__(self) -> int:
        return len(self.start)


def match_endpoints(
    starts: LabeledPoints,
    ends: LabeledPoints,
    *,
    generator: torch.Generator | None = None,
    seed: int = 0,
    distance: PerExample | None = None,
) -> Endpoints:
    """Match each start with an end of its class that was made from another image.

    No end is used twice. The best matches are made first; starts without a remaining end are left out, see
    `start_index`.

    Args:
        starts: Candidate starts.
        ends: Candidate ends.
        generator: Source of the random choice, unused where `distance` is given. By default it is made from `seed`.
        seed: Seed of the random numbers, used without a generator.
        distance: Desired distance of each start to its end, such as that of another family's pair with the same
            start. Without it the ends are chosen at random.

    Returns:
        The pairs.

    Cost: starts times ends numbers of memory.

    Example:
        >>> y, at = torch.zeros(3, dtype=torch.long), torch.arange(3)
        >>> starts, ends = LabeledPoints(torch.zeros(1, 2), y[:1], at[:1]), LabeledPoints(torch.eye(3)[:, :2] * 3 + 1, y, at)
        >>> found = match_endpoints(starts, ends, distance=torch.tensor([4.0]))
        >>> found.end_index, found.distance  # (1, 4); (4, 1) is as far, but of the same image
        (tensor([1]), tensor([4.1231]))
    """
    eligible = (starts.y[:, None] == ends.y) & (starts.source[:, None] != ends.source)
    eligible |= (starts.y[:, None] == ends.y) & (starts.source[:, None] == NO_SOURCE)
    distances = torch.cdist(starts.x.flatten(1).double(), ends.x.flatten(1).double())
    eligible &= distances > 0
    if distance is None:
        generator = generator or randomness.stream(seed, "pairs")
        cost = randomness.uniform(distances, 0, 1, generator=generator)
    else:
        cost = (distances - distance.to(distances)[:, None]).abs()
    end = _assign_columns(torch.where(eligible, cost, torch.inf))
    rows = torch.nonzero(end >= 0).flatten()
    return _select_pairs(starts, ends, rows, end[rows])


def pair_points(points: LabeledPoints, *, generator: torch.Generator | None = None, seed: int = 0) -> Endpoints:
    """Pair points of one class made from different images, at random.

    No point is in two pairs; there are about half as many pairs as points.

    Args:
        points: The points.
        generator: Source of the random choice; by default one made from `seed`.
        seed: Seed of the random numbers, used without a generator.

    Returns:
        The pairs; both indices are numbers among `points`.

    Example:
        >>> points = LabeledPoints(torch.arange(8.0)[:, None], torch.arange(8) % 2, torch.arange(8))
        >>> found = pair_points(points)
        >>> len(found), bool((found.start_index % 2 == found.end_index % 2).all())
        (4, True)
    """
    generator = generator or randomness.stream(seed, "pairs")
    order = randomness.permutation(len(points), generator=generator).to(points.y.device)
    grouped = order[points.y[order].argsort(stable=True)]
    first = torch.arange(len(points), device=grouped.device) % 2 == 0  # every second point, sorted by class
    found = match_endpoints(points.take(grouped[first]), points.take(grouped[~first]), generator=generator)
    start, end = grouped[first][found.start_index], grouped[~first][found.end_index]
    return Endpoints(found.start, found.end, found.y, found.distance, start, end)


def natural_pairs(natural: LabeledPoints, *, generator: torch.Generator | None = None, seed: int = 0) -> Endpoints:
    """Pair natural images of one predicted class.

    Args:
        natural: Natural images.
        generator: Source of the random choice; by default one made from `seed`.
        seed: Seed of the random numbers, used without a generator.

    Returns:
        The pairs.

    Reference: Fawzi et al. 2018, section 3 (first scenario); bardusco_report, Table 2 (natural).
    """
    return pair_points(natural, generator=generator, seed=seed)


def natural_adversarial_pairs(
    natural: LabeledPoints,
    adversarial: LabeledPoints,
    *,
    generator: torch.Generator | None = None,
    seed: int = 0,
    distance: PerExample | None = None,
) -> Endpoints:
    """Pair a natural image of class y with an adversarial image that the network calls y, made from another image.

    Pass `LabeledPoints(pairs.start, pairs.y, ...)` of natural pairs and their distances to give both families the
    same starts and similar distances.

    Args:
        natural: Natural images, the starts.
        adversarial: Adversarial images, the candidate ends.
        generator: Source of the random choice; by default one made from `seed`.
        seed: Seed of the random numbers, used without a generator.
        distance: Desired distance of each start to its end; see `match_endpoints`.

    Returns:
        The pairs.

    Reference: Fawzi et al. 2018, section 3 (second scenario).
    """
    return match_endpoints(natural, adversarial, generator=generator, seed=seed, distance=distance)


def adversarial_pairs(
    adversarial: LabeledPoints, origin: Labels, *, generator: torch.Generator | None = None, seed: int = 0
) -> Endpoints:
    """Pair two adversarial images that were moved into one class y from other classes.

    Args:
        adversarial: Adversarial images.
        origin: The class of each image before the attack.
        generator: Source of the random choice; by default one made from `seed`.
        seed: Seed of the random numbers, used without a generator.

    Returns:
        The pairs.

    Raises:
        InputError: If an image was of class y before the attack.

    Reference: bardusco_report, section 2.2.1 and Table 2 (adversarial).
    """
    if origin.shape != adversarial.y.shape or bool((origin == adversarial.y).any()):
        raise InputError("adversarial images of a class that they were not of", "others", "leave failed attacks out")
    return pair_points(adversarial, generator=generator, seed=seed)


def natural_noise_pairs(
    natural: LabeledPoints, noise: LabeledPoints, *, generator: torch.Generator, distance: PerExample | None = None
) -> Endpoints:
    """Pair a natural image of class y with random noise that was moved into y.

    Args:
        natural: Natural images, the starts.
        noise: Noise points, with `source` NO_SOURCE.
        generator: Source of the random choice.
        distance: Desired distance of each start to its end; see `match_endpoints`.

    Returns:
        The pairs.

    Reference: Fawzi et al. 2018, section 3 (third scenario).
    """
    return match_endpoints(natural, noise, generator=generator, distance=distance)


def _assign_columns(cost: Tensor) -> Tensor:
    """Return for each row a column that no other row has, lowest costs first, or -1.

    In each round every free row proposes to its cheapest free column.
    """
    match = torch.full_like(cost[:, 0], -1, dtype=torch.long) if cost.numel() else torch.full((len(cost),), -1)
    while cost.numel():
        least, column = cost.min(1)
        rows = torch.nonzero(torch.isfinite(least)).flatten()
        if not len(rows):
            break
        rows = rows[least[rows].argsort(stable=True)]
        rank = torch.arange(len(rows), device=rows.device)
        best = torch.full_like(cost[0], len(rows), dtype=torch.long).scatter_reduce(0, column[rows], rank, "amin")
        rows = rows[best[best < len(rows)]]
        match[rows] = column[rows]
        cost = cost.index_fill(0, rows, torch.inf).index_fill(1, column[rows], torch.inf)
    return match


def _select_pairs(starts: LabeledPoints, ends: LabeledPoints, start: Tensor, end: Tensor) -> Endpoints:
    a, b = starts.x[start], ends.x[end]
    return Endpoints(a, b, starts.y[start], L2.length(b - a), start, end)
