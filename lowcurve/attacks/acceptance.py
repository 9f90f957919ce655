"""The one place where an attack's answer is accepted: it is finite, in its ball and in its pixel box."""

import logging
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lowcurve.analysis.norms import Norm, per_example
from lowcurve.types import AttackFunction, Inputs, PerExample

log = logging.getLogger("lowcurve")
NOT_ACCEPTED = "They are not finite, or lie outside the attack's ball or its pixel box."
SLACK = 1e-5
"""Relative excess of a length that rounding may cause."""


@dataclass(frozen=True)
class Region:
    """Where the answers of an attack must lie: within `radius` of the image, and inside the box.

    Args:
        norm: Norm of the radius. None if there is no radius.
        radius: Largest distance from the image, in pixel units.
        box: Lowest and highest pixel value. None means the hull of [0, 1] and the image's own values.
        reach: Number of radii that an answer may be away, where a call gives the radii.

    Example:
        >>> from lowcurve.analysis.norms import LINF
        >>> x, points = torch.full((3, 1), 0.5), torch.tensor([[0.6], [0.7], [math.nan]])
        >>> Region(LINF, 0.1).contains(x, points)
        tensor([ True, False, False])
    """

    norm: Norm | None = None
    radius: float = math.inf
    box: tuple[float, float] | None = None
    reach: float = 1.0

    def contains(self, x: Inputs, point: Inputs, radius: PerExample | None = None) -> Tensor:
        """Return for each image whether its point is finite, in the ball and in the box, up to rounding.

        Args:
            x: The images.
            point: The points, of x's shape.
            radius: A radius for each image that replaces the region's.
        """
        low, high = self.box or (0.0, 1.0)
        if self.box is None and x.numel():
            low, high = min(low, float(x.amin())), max(high, float(x.amax()))
        flat = point.flatten(1)
        found = torch.isfinite(flat).all(1)
        largest = max(abs(end) for end in (low, high) if math.isfinite(end)) if math.isfinite(low + high) else 1.0
        pixel = 2 * torch.finfo(point.dtype).eps * largest
        found &= ((flat >= low - pixel) & (flat <= high + pixel)).all(1)
        limit = self.radius if radius is None else self.reach * radius.to(point)
        if self.norm is None or (radius is None and math.isinf(self.radius)):
            return found
        rounding = pixel * self.norm.of_ones(flat.shape[1])
        return found & (self.norm.length(point - x) <= limit * (1 + SLACK) + rounding)


def region_of(method: AttackFunction) -> Region:
    """Return where the answers of an attack must lie. A function of another library says no more than that they are pixels."""
    region = getattr(method, "region", None)
    return region if isinstance(region, Region) else Region()


def accept(method: AttackFunction, x: Inputs, point: Inputs, radius: PerExample | None = None) -> tuple[Inputs, Tensor]:
    """Return an attack's answers, with x itself in place of each that is not finite or lies outside, and which are accepted.

    Args:
        method: The attack.
        x: The images.
        point: The answers, of x's shape.
        radius: The radius of each image, if the call gave them.

    Cost: a few passes over the images.

    Example:
        >>> from lowcurve.attacks.pgd import PGD
        >>> accept(PGD("linf", 0.1), torch.full((2, 1), 0.5), torch.tensor([[0.6], [math.nan]]))
        (tensor([[0.6000],
                [0.5000]]), tensor([ True, False]))
    """
    accepted = region_of(method).contains(x, point, radius)
    return torch.where(per_example(accepted, x), point, x), accepted


def tell_not_accepted(name: str, accepted: Tensor) -> None:
    """Log how many answers of an attack do not count, if there are any.

    Args:
        name: Name of the attack.
        accepted: For each image, whether its answer is accepted.
    """
    if not bool(accepted.all()):
        log.warning("%s: %d of %d answers do not count. %s", name, int((~accepted).sum()), len(accepted), NOT_ACCEPTED)
