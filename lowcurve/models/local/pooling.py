"""Linear bounds of the change of max-pooling."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from lowcurve.models.jacobians.bounds import refusal
from lowcurve.models.jacobians.graph import Node
from lowcurve.models.jacobians.nonlinear import windows
from lowcurve.models.local.relaxation import OUTWARD, Relaxation, errors_of
from lowcurve.models.local.windows import Window


@dataclass(frozen=True)
class Windows:
    """The windows of a pooling.

    Attributes:
        places: Place of each element of each window among a channel's pixels, shape (outputs, elements). -1 for padding.
        pixels: Number of pixels of a channel.
    """

    places: Tensor
    pixels: int


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

    def parallel(
        self, rows: Tensor, window: Window | None = None, before: Window | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Use the slope of the chord."""
        place, slope, below, above, _ = self._winner
        if window is None or before is None:
            rows = self._rows(rows)
            return self._scatter(rows * slope.to(rows)[:, None], place), *errors_of(rows, below, above)
        numbers = before.number(window.gather(place)).flatten(3)[:, :, None]
        product = (rows * window.gather(slope.to(rows))[:, :, None]).flatten(4)
        start = product.new_zeros(*product.shape[:4], before.size[0] * before.size[1])
        found = start.scatter_add_(-1, numbers.expand_as(product), product).view(*start.shape[:4], *before.size)
        return found, *errors_of(rows, below, above, window)

    def lower(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Use the winner for positive coefficients and the chord for negative ones."""
        rows, (place, *parts, _) = self._rows(rows), self._winner
        slope, _, above = (part.to(rows)[:, None] for part in parts)
        positive, negative = rows.clamp(min=0), rows.clamp(max=0)
        return self._scatter(positive + negative * slope, place), (negative * above).flatten(2).sum(2)

    def reach(self) -> tuple[Tensor, Tensor]:
        """Use the winner and the largest of the others."""
        place, _, _, _, others = self._winner
        low, high = self.low.gather(-1, place), torch.maximum(self.high.gather(-1, place), others)
        return low * (1 + OUTWARD), high * (1 + OUTWARD)

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


def windows_of(node: Node) -> Windows:
    """Return the windows of a recorded pooling.

    Args:
        node: The value that it computes.

    Raises:
        NotAvailable: For its indices, and for more than one input.
    """
    ((_, parent),) = node.parents
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


def windows_of_axes(node: Node) -> Windows:
    """Return the windows of a recorded maximum over axes.

    Args:
        node: The value that it computes.
    """
    ((_, parent),) = node.parents
    rank = len(parent.shape)
    axes = sorted({axis % rank for axis in node.call.arguments["dim"]}) or list(range(rank))
    kept = [axis for axis in range(rank) if axis not in axes]
    numbers = torch.arange(parent.shape.numel(), device=node.device).view(parent.shape).permute(*kept, *axes)
    return Windows(numbers.reshape(node.shape.numel(), -1), parent.shape.numel())
