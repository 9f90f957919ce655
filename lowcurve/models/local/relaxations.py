"""Linear bounds of the change of a nonlinearity, given the interval in which its input changes.

The value before is z + t with low <= t <= high, where z belongs to the image itself. So t = 0 is always possible, and all
bounds are of phi(z + t) - phi(z). Tensors have the shape (batch, ...) with the recorded value's own shape.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from lowcurve.models.jacobians.bounds import refusal
from lowcurve.models.jacobians.elementwise import ELEMENTWISE
from lowcurve.models.jacobians.graph import Node
from lowcurve.models.jacobians.nonlinear import windows
from lowcurve.models.local.curves import Curve, curve_of

POOLING = ("max_pool2d_with_indices", "max_pool3d_with_indices", "adaptive_max_pool2d", "adaptive_max_pool3d")
NONLINEAR = {*ELEMENTWISE, *POOLING}
OUTWARD = 1e-6
"""Relative increase of every offset, for its rounding to single precision."""
PREFERENCE = 0.3
"""A quadratic remainder is used where this share of its largest value is below the width of the linear bounds."""


class Relaxation(ABC):
    """Bounds of the change of a nonlinearity's result, for the images of a batch.

    Rows are coefficients of the result, shape (batch, rows, ...); what returns rows returns those of its input.
    """

    @abstractmethod
    def parallel(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Replace the result by one linear function and an error.

        Args:
            rows: Coefficients of the result.

        Returns:
            Coefficients of the input, and the least and the largest error of each row.
        """

    @abstractmethod
    def lower(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Bound the rows from below by linear functions of the input, with the better of two slopes for each sign.

        Args:
            rows: Coefficients of the result.

        Returns:
            Coefficients of the input, and the constant of each row.
        """

    @abstractmethod
    def derivative(self, least: Tensor, most: Tensor) -> tuple[Tensor, Tensor]:
        """Bound the derivatives in the input.

        Args:
            least: Least derivatives in the result.
            most: Largest derivatives in the result.

        Returns:
            The least and the largest derivatives in the input.
        """

    def expand(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Replace the result by a linear function, an error and a quadratic remainder.

        Args:
            rows: Coefficients of the result.

        Returns:
            Coefficients of the input, the least error of each row, and q >= 0 with a remainder of at least -sum q t^2, or None
            if there is none.
        """
        before, least, _ = self.parallel(rows)
        return before, least, None


@dataclass(frozen=True)
class Elementwise(Relaxation):
    """The bounds of an elementwise nonlinearity.

    Attributes:
        curve: The nonlinearity.
        z: Its input at the image.
        low: Least change of the input, at most 0.
        high: Largest change, at least 0.
    """

    curve: Curve
    z: Tensor
    low: Tensor
    high: Tensor

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
        slopes = [self.curve.slope(self.z + place) for place in (points[0], middle, points[-1])]
        found = [(slope, *self._offsets(slope)) for slope in (self.chord, *slopes)]
        stacked = [torch.stack(parts) for parts in zip(*found, strict=True)]
        values = stacked[0] * middle
        lowest = (values + stacked[1]).nan_to_num(-torch.inf).argmax(0, keepdim=True)
        highest = (values + stacked[2]).nan_to_num(torch.inf).argmin(0, keepdim=True)
        pick = [(stacked[0], lowest), (stacked[1], lowest), (stacked[0], highest), (stacked[2], highest)]
        a, b, c, d = (values.gather(0, place)[0] for values, place in pick)
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

    def parallel(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Use the slope of the chord."""
        slope, below, above = self._parallel
        return rows * slope.to(rows)[:, None], *_errors(rows, below, above)

    def lower(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Use the line below for positive coefficients and the line above for negative ones."""
        a, b, c, d = (values.to(rows)[:, None] for values in self._lines)
        positive, negative = rows.clamp(min=0), rows.clamp(max=0)
        return positive * a + negative * c, (positive * b + negative * d).flatten(2).sum(2)

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


@dataclass(frozen=True)
class Largest(Relaxation):
    """The bounds of max-pooling. The winner of a window is its largest element at the image.

    max(x_1, ..., x_n) is at least the winner, and at most the larger of the winner and the upper bounds of all others. That is
    convex in the winner, so its chord is a bound.

    Attributes:
        places: Place in the input of each element of each window, shape (outputs, elements). -1 for padding.
        shape: Shape of the input.
        z: The input at the image, in rows (batch, channels, pixels).
        low: Least change of the input, in such rows.
        high: Largest change.
    """

    places: Tensor
    shape: torch.Size
    z: Tensor
    low: Tensor
    high: Tensor

    def _gather(self, values: Tensor, padding: float) -> Tensor:
        """Return the elements of each window, shape (batch, channels, outputs, elements)."""
        found = values[..., self.places.clamp(min=0)]
        return torch.where(self.places >= 0, found, padding)

    @cached_property
    def _winner(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Place, slope, least and largest error for the winner, and the constant of the line above."""
        z = self._gather(self.z, -torch.inf)
        value, first = z.max(-1, keepdim=True)
        top = self._gather(self.z + self.high, -torch.inf)
        others = (top.scatter(-1, first, -torch.inf).amax(-1) - value[..., 0]).nan_to_num(neginf=-1e30)
        place = self.places.expand_as(z).gather(-1, first)[..., 0]
        low, high = self.low.gather(-1, place), self.high.gather(-1, place)
        width = high - low
        narrow = width <= 0
        rise = torch.maximum(high, others) - torch.maximum(low, others)
        slope = torch.where(narrow, 1, rise / torch.where(narrow, 1, width)).clamp(0, 1).float().double()
        above = torch.maximum(torch.maximum(low, others) - slope * low, torch.maximum(high, others) - slope * high)
        below = (1 - slope) * low
        return place, slope, below * (1 + OUTWARD), above.clamp(min=0) * (1 + OUTWARD), others

    def _scatter(self, rows: Tensor, place: Tensor) -> Tensor:
        """Give the coefficients of outputs, shape (batch, rows, channels, outputs), to places of the input."""
        channels, size = self.z.shape[1:]
        start = rows.new_zeros(*rows.shape[:2], channels, size)
        return start.scatter_add(3, place[:, None].expand_as(rows), rows).view(*rows.shape[:2], *self.shape)

    def _rows(self, rows: Tensor) -> Tensor:
        return rows.reshape(*rows.shape[:2], self.z.shape[1], -1)

    def parallel(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Use the slope of the chord."""
        rows, (place, slope, below, above, _) = self._rows(rows), self._winner
        return self._scatter(rows * slope.to(rows)[:, None], place), *_errors(rows, below, above)

    def lower(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Use the winner for positive coefficients and the chord for negative ones."""
        rows, (place, *parts, _) = self._rows(rows), self._winner
        slope, _, above = (part.to(rows)[:, None] for part in parts)
        positive, negative = rows.clamp(min=0), rows.clamp(max=0)
        return self._scatter(positive + negative * slope, place), (negative * above).flatten(2).sum(2)

    def derivative(self, least: Tensor, most: Tensor) -> tuple[Tensor, Tensor]:
        """Give the derivative to the winner if no other element can be larger, else possibly to each that can be."""
        least, most = self._rows(least), self._rows(most)
        can = (
            self._gather(self.z + self.high, -torch.inf)
            >= self._gather(self.z + self.low, -torch.inf).amax(-1)[..., None]
        )
        alone = can.sum(-1) == 1
        found = []
        for rows, may in ((least, least.clamp(max=0)), (most, most.clamp(min=0))):
            part = torch.where(alone[:, None], rows, may)
            total = torch.zeros(*rows.shape[:2], *self.shape).to(rows)
            for element in range(self.places.shape[1]):
                place = self.places[:, element].clamp(min=0).expand(can.shape[:-1])
                total = total + self._scatter(part * can[:, None, ..., element], place)
            found.append(total)
        return found[0], found[1]


def _errors(rows: Tensor, below: Tensor, above: Tensor) -> tuple[Tensor, Tensor]:
    """Return the least and the largest sum of coefficients times errors between below and above."""
    flat = rows.flatten(2)
    middle, half = ((above + sign * below).flatten(1)[..., None].to(rows) / 2 for sign in (1, -1))
    center, away = (flat @ middle)[..., 0], (flat.abs() @ half)[..., 0]
    return center - away, center + away


@dataclass(frozen=True)
class Windows:
    """The windows of a pooling.

    Attributes:
        places: Place of each element of each window among a channel's pixels, shape (outputs, elements). -1 for padding.
        pixels: Number of pixels of a channel.
    """

    places: Tensor
    pixels: int


def prepare(node: Node) -> Curve | Windows:
    """Return what does not depend on the image: the nonlinearity, or the places of a pooling's windows.

    Args:
        node: The value that a nonlinear operation computes.

    Raises:
        NotAvailable: For an argument or a shape that is not supported.
    """
    if len(node.parents) != 1:
        raise refusal(node, ", of several values that depend on the input")
    ((_, parent),) = node.parents
    if node.call.name not in POOLING:
        if parent.shape != node.shape or node.output:
            raise refusal(node, " with broadcasting")
        return curve_of(node)
    if node.output:
        raise refusal(node, ", its indices")
    axes = 2 if "2d" in node.call.name else 3
    sizes = parent.shape[-axes:]
    places = torch.zeros(1, 1, dtype=torch.long, device=node.device)
    inside = torch.ones(1, 1, dtype=torch.bool, device=node.device)
    for axis, size in zip(range(-axes, 0), sizes, strict=True):
        spans = [list(span) for span in windows(node, axis, size)]
        width = max(map(len, spans))
        along = torch.tensor([[*span, *[-1] * (width - len(span))] for span in spans], device=node.device)
        within = (along >= 0) & (along < size)
        # The windows of several axes are products: the last axis moves fastest.
        places = (places[:, None, :, None] * size + along.clamp(0, size - 1)[None, :, None, :]).flatten(2).flatten(0, 1)
        inside = (inside[:, None, :, None] & within[None, :, None, :]).flatten(2).flatten(0, 1)
    return Windows(torch.where(inside, places, -1), math.prod(sizes))


def relax(prepared: Curve | Windows, parent: Node, z: Tensor, low: Tensor, high: Tensor) -> Relaxation:
    """Return the bounds of a nonlinear operation.

    Args:
        prepared: What `prepare` returned.
        parent: Its input.
        z: The input at each image, shape (batch, ...).
        low: Least change of the input.
        high: Largest change.
    """
    if isinstance(prepared, Curve):
        return Elementwise(prepared, z, low, high)
    flat = (values.reshape(len(z), -1, prepared.pixels) for values in (z, low, high))
    return Largest(prepared.places, parent.shape, *flat)
