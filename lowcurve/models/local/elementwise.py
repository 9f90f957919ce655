"""Linear bounds and a quadratic expansion of the change of an elementwise nonlinearity."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from lowcurve.models.local.curves import Curve
from lowcurve.models.local.regions import ROUNDING
from lowcurve.models.local.relaxation import OUTWARD, Relaxation, errors_of
from lowcurve.models.local.together import Layer
from lowcurve.models.local.windows import Window

PREFERENCE = 0.3
"""A quadratic remainder is used where this share of its largest value is below the width of the linear bounds."""


@dataclass(frozen=True)
class Elementwise(Relaxation):
    """The bounds of an elementwise nonlinearity.

    Attributes:
        curve: The nonlinearity.
        z: Its input at the image.
        low: Least change of the input, at most 0.
        high: Largest change, at least 0.
        together: Choose slopes for bounds of a layer's changes together.
        length: Bound of ||sqrt(D) t|| for the input's change t and the deviation D, shape (batch,). None where it is not used.
    """

    curve: Curve
    z: Tensor
    low: Tensor
    high: Tensor
    together: bool = False
    length: Tensor | None = None

    @cached_property
    def rounding(self) -> Tensor:
        """Bound of the rounding of a change, and of steps of the nonlinearity that are smaller."""
        return self.curve.step + 1e-14 * (1 + self.curve.value(self.z).abs() + self.z.abs())

    @cached_property
    def _samples(self) -> tuple[Tensor, Tensor, Tensor]:
        """Points as changes of the input, the changes of the result there, and the error between them."""
        points, error = self.curve.sample(self.z + self.low, self.z + self.high)
        return points - self.z, self.curve.value(points) - self.curve.value(self.z), error + self.rounding

    def _offsets(self, slope: Tensor) -> tuple[Tensor, Tensor]:
        """Bound the change of the result minus slope times that of the input."""
        points, changes, error = self._samples
        rest = changes - slope * points
        below, above = rest.amin(0) - error, rest.amax(0) + error
        return below.clamp(max=0) * (1 + OUTWARD), above.clamp(min=0) * (1 + OUTWARD)

    @cached_property
    def chord(self) -> Tensor:
        """The slope between the ends of the interval, rounded to single precision."""
        points, changes, _ = self._samples
        width = points[-1] - points[0]
        narrow = width <= 1e-9 * (1 + self.z.abs())
        slope = torch.where(
            narrow, self.curve.slope(self.z), (changes[-1] - changes[0]) / torch.where(narrow, 1, width)
        )
        return slope.float().double()

    @cached_property
    def _parallel(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.center, *self._offsets(self.center)

    @cached_property
    def _lines(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Slopes and offsets of the best line below and above: the one that is nearest at the middle of the interval."""
        points, _, _ = self._samples
        middle = (points[0] + points[-1]) / 2
        places = (points[0], points[-1]) if self.curve.kinks else (points[0], middle, points[-1])
        slopes = self.curve.slope(self.z + torch.stack(places))
        a = c = self.chord
        b, d = self._offsets(a)
        for slope in slopes:
            below, above = self._offsets(slope)
            higher = slope * middle + below > a * middle + b
            lower = slope * middle + above < c * middle + d
            a, b = torch.where(higher, slope, a), torch.where(higher, below, b)
            c, d = torch.where(lower, slope, c), torch.where(lower, above, d)
        return a, b, c, d

    @cached_property
    def _slopes(self) -> tuple[Tensor, Tensor]:
        return self.curve.slopes(self.z + self.low, self.z + self.high)

    @cached_property
    def _expansion(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Slope, least and largest error, and least and largest coefficient of the squared change."""
        slope, below, above = self._parallel
        least, most = (bend / 2 for bend in self.curve.bends(self.z + self.low, self.z + self.high))
        furthest = torch.maximum(-self.low, self.high).square()
        quadratic = PREFERENCE * (torch.maximum(-least, most) * furthest).nan_to_num(torch.inf) < above - below
        tangent = self.curve.slope(self.z)
        zero = torch.zeros_like(slope)
        return (
            torch.where(quadratic, tangent, slope),
            torch.where(quadratic, zero, below),
            torch.where(quadratic, zero, above),
            torch.where(quadratic, least.clamp(max=0), zero),
            torch.where(quadratic, most.clamp(min=0), zero),
        )

    def parallel(
        self, rows: Tensor, window: Window | None = None, before: Window | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Use the slope of the chord, or the center."""
        del before  # the same windows
        slope, below, above = self._parallel
        least, most = errors_of(rows, below, above, window)
        if self.length is not None:
            # By the Cauchy-Schwarz inequality, sum c_i f_i(t_i) >= -||sqrt(D) c|| ||sqrt(D) t||.
            size, error = self.deviation, self.rounding
            squares = errors_of(rows.square(), -size, size, window)[1]
            together = squares.sqrt() * self.length.to(rows)[:, None] * (1 + ROUNDING)
            together = together + errors_of(rows, -error, error, window)[1]
            least, most = torch.maximum(least, -together), torch.minimum(most, together)
        slope = slope.to(rows)
        slope = slope[:, None] if window is None else window.gather(slope)[:, :, None]
        return rows * slope, least, most

    @cached_property
    def _secants(self) -> tuple[Tensor, Tensor]:
        """Bound (phi(z + t) - phi(z)) / t in the interval.

        By the mean value theorem it is a slope. Between two kinks it is monotone in t, so for straight pieces its values there
        suffice.
        """
        least, most = self._slopes
        if self.curve.kinks:
            points, changes, _ = self._samples
            ratio, none = changes / torch.where(points == 0, 1, points), points == 0
            least = torch.maximum(least, torch.where(none, torch.inf, ratio).amin(0).minimum(most))
            most = torch.minimum(most, torch.where(none, -torch.inf, ratio).amax(0).maximum(least))
        return least, most

    @cached_property
    def center(self) -> Tensor:
        """The slope of `parallel`: the chord's, or the middle of the secants' where a layer's changes are bounded together."""
        if not (self.together and self.curve.kinks):
            return self.chord
        least, most = self._secants
        return ((least + most) / 2).float().double()

    @cached_property
    def deviation(self) -> Tensor:
        """Return D >= 0 with |phi(z + t) - phi(z) - center * t| <= D |t| in the interval, shape (batch, ...)."""
        least, most = self._secants
        return torch.maximum(most - self.center, self.center - least).clamp(min=0) * (1 + OUTWARD)

    @property
    def steepest(self) -> Tensor:
        """The largest absolute slope of an image's units in their intervals, shape (batch,)."""
        return torch.maximum(self._slopes[0].abs(), self._slopes[1].abs()).flatten(1).amax(1)

    def lower_together(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Use the slope of `parallel`, and the length of the layer's change."""
        if self.length is None:
            return self.lower(rows)
        points, changes, error = (values.flatten(-self.z.ndim + 1) for values in self._samples)
        points, changes, center, weights = (
            values.unsqueeze(-2) for values in (points, changes, self.center.flatten(1), self.deviation.flatten(1))
        )
        layer = Layer.of(points, changes - center * points, error[:, None], weights, self.length, rows.dtype)
        return rows * self.center.to(rows)[:, None], layer.least(rows.flatten(2))

    def lower(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Use the line below for positive coefficients and the line above for negative ones."""
        a, b, c, d = (values.to(rows)[:, None] for values in self._lines)
        positive, negative = rows.clamp(min=0), rows.clamp(max=0)
        return positive * a + negative * c, (positive * b + negative * d).flatten(2).sum(2)

    def reach(self) -> tuple[Tensor, Tensor]:
        """Use the samples."""
        return self._offsets(torch.zeros_like(self.z))

    def derivative(self, least: Tensor, most: Tensor) -> tuple[Tensor, Tensor]:
        """Multiply by the interval of slopes."""
        low, high = (values.to(least)[:, None] for values in self._slopes)
        ends = [least * low, least * high, most * low, most * high]
        return (
            torch.minimum(torch.minimum(ends[0], ends[1]), torch.minimum(ends[2], ends[3])),
            torch.maximum(torch.maximum(ends[0], ends[1]), torch.maximum(ends[2], ends[3])),
        )

    def expand(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Use the tangent with a quadratic remainder, or the chord where that is narrower."""
        if not self.curve.most_bent < math.inf and self.curve.bend is None:
            return super().expand(rows)
        slope, below, above, least, most = (values.to(rows)[:, None] for values in self._expansion)
        positive, negative = rows.clamp(min=0), rows.clamp(max=0)
        remainder = -(positive * least + negative * most)
        return rows * slope, (positive * below + negative * above).flatten(2).sum(2), remainder
