"""Hue shifts: the logits over the whole circle of hues, the worst shift, and the range in which the label is kept.

A hue shift turns the hue of every pixel by one angle and keeps saturation and value (HSV). The family has one parameter, so
a grid with refinement finds its worst member, and no gradient can be masked.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lowcurve.attacks.base import Attack, Options
from lowcurve.attacks.color.spaces import HSV, PIXEL_BOX, clip_to_box, require_color
from lowcurve.attacks.state import require_logits
from lowcurve.errors import InputError
from lowcurve.losses import margin, require_loss_field
from lowcurve.models.modes import frozen
from lowcurve.network_calls import call
from lowcurve.types import Classifier, Field, Inputs, Labels, PerExample

GOLDEN = (math.sqrt(5) - 1) / 2
BATCH_SIZE = 512
"""Number of shifted images in a forward pass; no result depends on it."""
BASINS = 3
"""Number of local minima of the grid that are refined."""


def hue_shift(x: Inputs, degrees: PerExample) -> Inputs:
    """Turn the hue of every pixel by an angle, one for each image.

    The result is exactly x at 0 degrees, and it is differentiable in the angle. Greys stay as they are.

    Args:
        x: Color images, (batch, 3, height, width), pixel units.
        degrees: Angle for each image, (batch,).

    Returns:
        The shifted images, of x's shape.

    Raises:
        InputError: If the images do not have three channels.

    Example:
        >>> red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
        >>> hue_shift(red, torch.tensor([30.0])).flatten()  # orange
        tensor([1.0000, 0.5000, 0.0000])

    Reference: Hosseini and Poovendran 2018, section 3; bardusco_report, Fig. 9.
    """
    return _HueRotation.of(x).at(degrees)


@dataclass(frozen=True)
class _HueRotation:
    """Images that are converted to HSV once, for any number of angles."""

    colors: HSV
    rest: Tensor  # rounding error of the conversion to HSV and back

    @classmethod
    def of(cls, x: Inputs) -> "_HueRotation":
        colors = HSV.of(x)
        return cls(colors, x - colors.rgb(torch.zeros_like(x[:, 0, 0, 0])))

    def at(self, degrees: PerExample, rows: Tensor | None = None) -> Inputs:
        colors, rest = (self.colors, self.rest) if rows is None else (self.colors.take(rows), self.rest[rows])
        return clip_to_box(colors.rgb(degrees.to(rest)) + rest)


def hue_logits(model: Classifier, x: Inputs, degrees: Tensor, *, batch_size: int = BATCH_SIZE) -> Tensor:
    """Compute the logits of every image at every hue shift.

    Args:
        model: Classifier in eval mode.
        x: Color images, (batch, 3, height, width), pixel units.
        degrees: Shifts, (shifts,) or (batch, shifts).
        batch_size: Number of shifted images in a forward pass.

    Returns:
        Logits, (batch, shifts, classes).

    Raises:
        InputError: If the shifts have another shape, or the images do not have three channels.

    Cost: batch x shifts forward passes, no gradient.

    Example:
        >>> means = lambda x: x.mean((2, 3))
        >>> hue_logits(means, torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1), torch.tensor([0.0, 120.0]))
        tensor([[[1., 0., 0.],
                 [0., 1., 0.]]])
    """
    if degrees.ndim not in (1, 2) or (degrees.ndim == 2 and len(degrees) != len(x)):
        expected = f"shifts of shape (n,) or ({len(x)}, n)"
        raise InputError(expected, tuple(degrees.shape), "write torch.arange(0, 360, 10)")
    with torch.no_grad():
        return _logits(model, _HueRotation.of(x), degrees.to(x).expand(len(x), -1), batch_size)


def _logits(model: Classifier, rotation: _HueRotation, degrees: Tensor, batch_size: int = BATCH_SIZE) -> Tensor:
    """Return the logits as in `hue_logits`, for images that are converted already."""
    rows = torch.arange(len(degrees), device=degrees.device).repeat_interleave(degrees.shape[1])
    points = zip(torch.split(rows, batch_size), torch.split(degrees.flatten(), batch_size), strict=True)
    parts = [call(model, rotation.at(angles, few)) for few, angles in points]
    return torch.cat(parts).view(*degrees.shape, parts[0].shape[1])


@dataclass(frozen=True)
class HueCircle:
    """Measure the lowest margin over all hue shifts, and the range of shifts in which the label is kept.

    Columns, in degrees or as the margin z_y - max z_k:

    - "worst hue margin": the lowest margin.
    - "worst hue": the shift of lowest margin.
    - "hue kept above", "hue kept below": the largest shift up and down from 0 before the label is lost.
    - "hue range": their sum, at most high - low; 0 for an image that is misclassified without a shift.
    - "share of hues kept": fraction of the grid at which the label is kept.

    Minima that are narrower than the grid are missed; `HueFloor` estimates by how much. The refinement is by golden section
    and not by Newton's method, because the margin has kinks. The model must be in eval mode.

    Args:
        low: Lowest shift, from -180 to 0 degrees.
        high: Highest shift, from 0 to 180 degrees.
        angles: Grid intervals.
        refinements: Golden-section evaluations around each of the `BASINS` lowest local minima. The two intervals in
            which the label is first lost are halved as often. Eight reach 0.7 and 0.04 degrees.

    Raises:
        InputError: If a setting is out of range.

    Cost: angles + 1 + (BASINS + 2) refinements forward passes for each image, in full batches; one less for the whole
    circle.

    Example:
        >>> from lowcurve.losses import loss_field
        >>> field = loss_field(lambda x: x.mean((2, 3)), torch.tensor([0]))  # red, green or blue
        >>> columns = HueCircle()(field, torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1))
        >>> columns["hue range"].round(), columns["worst hue margin"]  # yellow is at 60, magenta at -60
        (tensor([120.]), tensor([-1.]))

    Reference: Hosseini and Poovendran 2018, section 3 (hue shifts, there by random search).
    """

    low: float = -180.0
    high: float = 180.0
    angles: int = 36
    refinements: int = 8

    def __post_init__(self) -> None:
        if not -180 <= self.low <= 0 <= self.high <= 180 or self.low == self.high:
            found = (self.low, self.high)
            raise InputError("a hue range around 0 within -180 to 180 degrees", found, "write low=-180, high=180")
        if self.angles < 2 or self.refinements < 0:
            found = (self.angles, self.refinements)
            raise InputError("at least two hue intervals, and no fewer than 0 refinements", found, "write angles=36")

    def __call__(self, field: Field, x: Inputs) -> dict[str, PerExample]:
        """Return the columns for a `loss_field` at the images x."""
        shown = require_loss_field(field)
        found = self.search(shown.model, x, shown.y)
        return {
            "worst hue margin": found.margin,
            "worst hue": found.worst,
            "hue kept above": found.above,
            "hue kept below": found.below,
            "hue range": found.above + found.below,
            "share of hues kept": found.share,
        }

    @property
    def closed(self) -> bool:
        """True if the shifts cover the whole circle, so that -180 and 180 are the same point."""
        return self.high - self.low == 360

    def grid(self) -> Tensor:
        """Return the grid of shifts, in increasing order from low to high, with 0 among them."""
        width = (self.high - self.low) / self.angles
        down, up = math.ceil(-self.low / width - 1e-9), math.ceil(self.high / width - 1e-9)
        below = torch.linspace(self.low, 0, down + 1, dtype=torch.float64)
        return torch.cat([below[:-1], torch.linspace(0, self.high, up + 1, dtype=torch.float64)])

    def search(self, model: Classifier, x: Inputs, y: Labels) -> "HueResult":
        """Search the circle of each image.

        Args:
            model: Classifier in eval mode.
            x: Color images, (batch, 3, height, width), pixel units.
            y: True labels, (batch,).

        Returns:
            A `HueResult`.
        """
        with torch.no_grad():
            rotation, grid = _HueRotation.of(x), self.grid().to(x)

            def at(degrees: Tensor) -> Tensor:
                logits = _logits(model, rotation, degrees).flatten(0, 1)
                labels = y.repeat_interleave(degrees.shape[1])
                require_logits(logits, labels)
                return margin(logits, labels).view(degrees.shape)

            margins = at((grid[:-1] if self.closed else grid).expand(len(x), -1))
            kept = margins > 0
            share = kept.to(x).mean(1)
            if self.closed:
                margins, kept = (torch.cat([values, values[:, :1]], dim=1) for values in (margins, kept))
            zero = int((grid == 0).nonzero())
            ways = ((kept[:, zero:], grid[zero:]), (kept[:, : zero + 1].flip(1), grid[: zero + 1].flip(0)))
            above, below = self._kept(at, *ways).unbind(1)
            worst, lowest = self._worst(at, margins, grid)
            stays = lowest >= margins[:, zero]
            return HueResult(lowest, torch.where(stays, 0, worst), above, -below, share)

    def _kept(self, at: Callable[[Tensor], Tensor], *ways: tuple[Tensor, Tensor]) -> Tensor:
        """Return the largest shift in each direction that keeps the label, by bisection of the interval that loses it."""
        inner, outer = [], []
        for kept, way in ways:
            held = kept.long().cumprod(1).sum(1)  # number of grid points from 0 on that keep the label
            inner.append(way[torch.where(held > 0, held - 1, 0)])
            outer.append(way[torch.where((held == len(way)) | (held == 0), (held - 1).relu(), held)])
        reached, lost = torch.stack(inner, dim=1), torch.stack(outer, dim=1)
        for _ in range(0 if bool((reached == lost).all()) else self.refinements):
            middle = (reached + lost) / 2
            right = at(middle) > 0
            reached, lost = torch.where(right, middle, reached), torch.where(right, lost, middle)
        return reached

    def _worst(self, at: Callable[[Tensor], Tensor], margins: Tensor, grid: Tensor) -> tuple[PerExample, PerExample]:
        """Return the shift of lowest margin and that margin, which is at most the lowest of the grid."""
        lowest, place = margins.min(1)
        worst = grid[place]
        if self.refinements < 2:
            return worst, lowest
        beyond = margins[:, 1:2] if self.closed else torch.full_like(margins[:, :1], torch.inf)
        before = margins[:, -2:-1] if self.closed else beyond
        sides = torch.cat([before, margins, beyond], dim=1)
        minimal = (margins <= sides[:, :-2]) & (margins <= sides[:, 2:])
        minimal[:, -1] &= not self.closed  # the same point as the first
        centers = grid[margins.masked_fill(~minimal, torch.inf).topk(min(BASINS, len(grid)), largest=False).indices]
        width = float((grid[1:] - grid[:-1]).max())
        low, high = centers - width, centers + width
        if not self.closed:
            low, high = torch.where(low < self.low, self.low, low), torch.where(high > self.high, self.high, high)
        angles, values = _golden(at, low, high, self.refinements)
        value, basin = values.min(1)
        angle = angles.gather(1, basin[:, None]).squeeze(1)
        angle = torch.where(angle.abs() > 180, angle - 360 * angle.sign(), angle)
        return torch.where(value < lowest, angle, worst), torch.minimum(value, lowest)


@dataclass(frozen=True)
class HueResult:
    """The result of a search of the hue circle, one entry for each image.

    Attributes:
        margin: Lowest margin.
        worst: Shift of lowest margin, in degrees.
        above: Largest shift up from 0 that keeps the label, in degrees.
        below: Largest shift down from 0 that keeps the label, in degrees.
        share: Fraction of the grid with the label kept.
    """

    margin: PerExample
    worst: PerExample
    above: PerExample
    below: PerExample
    share: PerExample


def _golden(at: Callable[[Tensor], Tensor], low: Tensor, high: Tensor, forward_passes: int) -> tuple[Tensor, Tensor]:
    """Return the lowest points that golden section finds between low and high, and the values there."""
    left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    value, other = at(left), at(right)
    for _ in range(forward_passes - 2):
        first = value < other
        low, high = torch.where(first, low, left), torch.where(first, right, high)
        new = torch.where(first, high - GOLDEN * (high - low), low + GOLDEN * (high - low))
        seen = at(new)
        left, right = torch.where(first, new, right), torch.where(first, left, new)
        value, other = torch.where(first, seen, other), torch.where(first, value, seen)
    return torch.where(value < other, left, right), torch.minimum(value, other)


@dataclass(frozen=True)
class HueShift(Attack):
    """Return the image at the hue shift of lowest margin; x itself where no shift lowers the margin.

    The search covers the whole family, so nothing is random. Grey images do not change.

    Args:
        low: Lowest shift, from -180 to 0 degrees.
        high: Highest shift, from 0 to 180 degrees.
        angles: Grid intervals.
        refinements: As in `HueCircle`.

    Raises:
        InputError: If a setting is out of range, the images do not have three channels, or they leave the pixel box.

    Cost: as for `HueCircle`.

    Example:
        >>> red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
        >>> model = lambda x: x.mean((2, 3))
        >>> HueShift(low=-120, high=0)(model, red, torch.tensor([0])).argmax(1).flatten()
        tensor([2])

    Reference: Hosseini and Poovendran 2018, section 3 (there by random search); bardusco_report, Fig. 9.
    """

    low: float = -180.0
    high: float = 180.0
    angles: int = 36
    refinements: int = 8

    def __post_init__(self) -> None:
        _ = self.circle

    norm: ClassVar[None] = None

    @property
    def circle(self) -> HueCircle:
        """The search over the allowed shifts."""
        return HueCircle(self.low, self.high, self.angles, self.refinements)

    def perturb(self, model: Classifier, x: Inputs, y: Labels, options: Options) -> Inputs:  # noqa: ARG002 (Attack's signature)
        """Return the adversarial images x', of x's shape."""
        require_color(x)
        PIXEL_BOX.require_inside_box(x)
        if not len(x):
            return x
        with frozen(model), torch.no_grad():
            return hue_shift(x, self.circle.search(model, x, y).worst)
