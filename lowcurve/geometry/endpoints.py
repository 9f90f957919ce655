"""Which points a path is looked for between: pairs of one class, by family, matched in their start or their distance.

Values in, values out: the adversarial and the noisy points have been found elsewhere, and y is what the network says of each.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lowcurve import randomness
from lowcurve.analysis.norms import L2
from lowcurve.errors import InputError
from lowcurve.types import Inputs, Labels, PerExample

NO_SOURCE = -1


@dataclass(frozen=True)
class LabeledPoints:
    """Points with the label y that the network gives each and the number of the image that it was made from (`source`;
    NOWHERE for noise). Two points of one image are never paired."""

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
        """Some of them."""
        return LabeledPoints(self.x[rows], self.y[rows], self.source[rows])


@dataclass(frozen=True)
class Endpoints:
    """Pairs of different points of one class: the ends, their class, ||end - start||, and the numbers of both among the points
    that were given as starts and as ends."""

    start: Inputs
    end: Inputs
    y: Labels
    distance: PerExample
    start_index: Tensor
    end_index: Tensor

    def __len__(self) -> int:
        return len(self.start)


def match_endpoints(
    starts: LabeledPoints, ends: LabeledPoints, *, generator: torch.Generator, distance: PerExample | None = None
) -> Endpoints:
    """Each start with an end of its class that was made from another image, and no end twice.

    distance: one a start, which the end's distance should be near (that of another family's pair with the same start, say);
    without it the ends are drawn. The best matches are made first; starts for which none is left are left out, so
    `start_index` says whose pairs these are.
    Cost: starts times ends numbers.

    Example:
        >>> y, at = torch.zeros(3, dtype=torch.long), torch.arange(3)
        >>> starts, ends = LabeledPoints(torch.zeros(1, 2), y[:1], at[:1]), LabeledPoints(torch.eye(3)[:, :2] * 3 + 1, y, at)
        >>> found = match_endpoints(starts, ends, generator=randomness.stream(0), distance=torch.tensor([4.0]))
        >>> found.end_index, found.distance  # (1, 4); (4, 1) is as far, but of the same image
        (tensor([1]), tensor([4.1231]))
    """
    eligible = (starts.y[:, None] == ends.y) & (starts.source[:, None] != ends.source)
    eligible |= (starts.y[:, None] == ends.y) & (starts.source[:, None] == NO_SOURCE)
    apart = torch.cdist(starts.x.flatten(1).double(), ends.x.flatten(1).double())
    eligible &= apart > 0
    if distance is None:
        cost = randomness.uniform(apart, 0, 1, generator=generator)
    else:
        cost = (apart - distance.to(apart)[:, None]).abs()
    end = _matched(torch.where(eligible, cost, torch.inf))
    rows = torch.nonzero(end >= 0).flatten()
    return _endpoints(starts, ends, rows, end[rows])


def pair_points(points: LabeledPoints, *, generator: torch.Generator) -> Endpoints:
    """Pairs of points of one class made from different images, drawn; no point in two pairs, and about half as many as points.

    Example:
        >>> points = LabeledPoints(torch.arange(8.0)[:, None], torch.arange(8) % 2, torch.arange(8))
        >>> found = pair_points(points, generator=randomness.stream(0))
        >>> len(found), bool((found.start_index % 2 == found.end_index % 2).all())
        (4, True)
    """
    order = randomness.permutation(len(points), generator=generator).to(points.y.device)
    grouped = order[points.y[order].argsort(stable=True)]
    first = torch.arange(len(points), device=grouped.device) % 2 == 0  # every second of a class, but for its odd one
    found = match_endpoints(points.take(grouped[first]), points.take(grouped[~first]), generator=generator)
    start, end = grouped[first][found.start_index], grouped[~first][found.end_index]
    return Endpoints(found.start, found.end, found.y, found.distance, start, end)


def natural_pairs(natural: LabeledPoints, *, generator: torch.Generator) -> Endpoints:
    """Two natural images of one predicted class.

    Reference: Fawzi et al. 2018, section 3 (first scenario); bardusco_report, Table 2 (natural).
    """
    return pair_points(natural, generator=generator)


def natural_adversarial_pairs(
    natural: LabeledPoints,
    adversarial: LabeledPoints,
    *,
    generator: torch.Generator,
    distance: PerExample | None = None,
) -> Endpoints:
    """A natural image of class y and an adversarial image, made from another one, that the network calls y.

    With `LabeledPoints(pairs.start, pairs.y, ...)` of natural pairs and their distances, both families share starts

    Reference: Fawzi et al. 2018, section 3 (second scenario).
    """
    return match_endpoints(natural, adversarial, generator=generator, distance=distance)


def adversarial_pairs(adversarial: LabeledPoints, origin: Labels, *, generator: torch.Generator) -> Endpoints:
    """Two adversarial images led into one class y from the regions of others; origin: what each image was before.

    Errors: InputError where an image was of class y before.

    Reference: bardusco_report, section 2.2.1 and Table 2 (adversarial).
    """
    if origin.shape != adversarial.y.shape or bool((origin == adversarial.y).any()):
        raise InputError("adversarial images of a class that they were not of", "others", "leave failed attacks out")
    return pair_points(adversarial, generator=generator)


def natural_noise_pairs(
    natural: LabeledPoints, noise: LabeledPoints, *, generator: torch.Generator, distance: PerExample | None = None
) -> Endpoints:
    """A natural image of class y and random noise that was led to y (`source` NOWHERE).

    Reference: Fawzi et al. 2018, section 3 (third scenario).
    """
    return match_endpoints(natural, noise, generator=generator, distance=distance)


def _matched(cost: Tensor) -> Tensor:
    """For each row a column that no other has, the lowest costs first, or -1: in rounds, each row asks for its cheapest."""
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


def _endpoints(starts: LabeledPoints, ends: LabeledPoints, start: Tensor, end: Tensor) -> Endpoints:
    a, b = starts.x[start], ends.x[end]
    return Endpoints(a, b, starts.y[start], L2.length(b - a), start, end)
