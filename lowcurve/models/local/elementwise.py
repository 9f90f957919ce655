"""Linear bounds and a quadratic expansion of the change of an elementwise nonlinearity."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from lowcurve.models.local.curves import Curve
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
        length: Bound of the l_2 length of the input's change, shape (batch,). None where it is not used.
    """

    curve: Curve
    z: Tensor
    low: Tensor
    high: Tensor
    length: Tensor | None = None

    @cached_property
    def _samples(self) -> tuple[Tensor, Tensor, Tensor]:
        """Points as changes of the input, the changes of the result there, and the error between them."""
        points, error = self.curve.sample(self.z + self.low, self.z + self.high)
        value = self.curve.value(self.z)
        return points - self.z, self.curve.value(points) - value, error + 1e-14 * (1 + value.abs() + self.z.abs())

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
        return self.chord, *self._offsets(self.chord)

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
        """Use the slope of the chord."""
        del before  # the same windows
        slope, below, above = self._parallel
        least, most = errors_of(rows, below, above, window)
        if window is None and self.length is not None:
            layer = self._layer(slope[:, None], self.length, rows.dtype)
            least = torch.maximum(least, layer.least(rows.flatten(2)))
            most = torch.minimum(most, -layer.least(-rows.flatten(2)))
        slope = slope.to(rows)
        slope = slope[:, None] if window is None else window.gather(slope)[:, :, None]
        return rows * slope, least, most

    def _layer(self, slopes: Tensor, length: Tensor, dtype: torch.dtype) -> Layer:
        """Return the change of the result minus slopes times that of the input, for all units together.

        Args:
            slopes: Shape (batch, 1, ...), or with slopes of their own for each row of coefficients.
            length: Bound of the l_2 length of the input's change.
            dtype: Precision.
        """
        points, changes, error = (values.flatten(-self.z.ndim + 1) for values in self._samples)
        points, changes = points[:, :, None], changes[:, :, None]
        values = changes - slopes.double().flatten(2) * points
        return Layer.of(points, values, error[:, None], length, dtype)

    def lower(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Use the line below for positive coefficients and the line above for negative ones."""
        a, b, c, d = (values.to(rows)[:, None] for values in self._lines)
        positive, negative = rows.clamp(min=0), rows.clamp(max=0)
        constant = (positive * b + negative * d).flatten(2).sum(2)
        if self.length is not None:
            layer = self._layer(torch.where(rows > 0, a, c), self.length, rows.dtype)
            constant = torch.maximum(constant, layer.least(rows.flatten(2)))
        return positive * a + negative * c, constant

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
