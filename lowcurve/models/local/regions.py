"""The part of a ball that lies in the pixel box, and the least value of linear functions there."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from lowcurve.analysis.norms import L1, L2, LINF, Norm
from lowcurve.models.local.windows import Window, by_row
from lowcurve.types import PerExample

ITERATIONS = 5
"""Number of products for the vector with which an eigenvalue is bounded."""
ROUNDING = 1e-5
"""Relative widening of bounds that are sums in single precision."""
HALVINGS = 12
"""Steps of the search for the multiplier of the l_2 ball."""


@dataclass(frozen=True)
class Part:
    """Some elements of a value, as a linear function of the image's change and an error.

    Attributes:
        rows: Coefficients, shape (batch, elements, pixels), or those of `window`. The batch is 1 if all images have the same.
        least: Least error, shape (batch, elements).
        most: Largest error.
        window: The windows of the coefficients, None for whole images.
    """

    rows: Tensor
    least: Tensor
    most: Tensor
    window: Window | None = None


@dataclass(frozen=True)
class Region:
    """The changes d of some images with ||d|| <= radius for which x + d stays in the pixel box.

    Args:
        x: Images, shape (batch, ...), in double precision.
        radius: One radius for each image.
        norm: l_1, l_2 or l_inf.
        box: Lowest and highest pixel value.
    """

    x: Tensor
    radius: PerExample
    norm: Norm
    box: tuple[float, float] = (0.0, 1.0)

    @property
    def low(self) -> Tensor:
        """Smallest change of each pixel, at most 0, shape (batch, pixels)."""
        flat = self.x.flatten(1)
        return torch.maximum(-self.radius[:, None].expand_as(flat), (self.box[0] - flat).clamp(max=0))

    @property
    def high(self) -> Tensor:
        """Largest change of each pixel, at least 0, shape (batch, pixels)."""
        flat = self.x.flatten(1)
        return torch.minimum(self.radius[:, None].expand_as(flat), (self.box[1] - flat).clamp(min=0))

    def least(self, rows: Tensor, halvings: int = 0) -> Tensor:
        """Bound the least value of linear functions on the region from below.

        In l_inf the bound is the value. In l_1 it is the larger one of those for the ball and for the box. In l_2 the function
        is split in two, rows = b + c. The least value is at least -radius ||b|| plus the least value of c in the box, for every
        split. The best split belongs to the multiplier t for which the point clip(-t rows) has the length radius; without a
        search, t = radius / ||rows||.

        Args:
            rows: Functions, shape (batch, rows, pixels).
            halvings: Steps of the search for the multiplier.

        Returns:
            Bounds, shape (batch, rows).
        """
        return self._least(rows, self.low.to(rows)[:, None], self.high.to(rows)[:, None], halvings)

    def _least(self, rows: Tensor, low: Tensor, high: Tensor, halvings: int = 0) -> Tensor:
        if self.norm == LINF:
            return torch.minimum(rows * low, rows * high).sum(-1)
        radius = self.radius.to(rows).view(-1, *[1] * (rows.ndim - 2))
        if self.norm == L1:
            return torch.maximum(-radius * rows.abs().amax(-1), torch.minimum(rows * low, rows * high).sum(-1))
        tiny = torch.finfo(rows.dtype).tiny
        first = radius / rows.norm(dim=-1).clamp(min=tiny)
        multiplier, longest = first, 1e6 * first
        point = torch.minimum(torch.maximum(-multiplier[..., None] * rows, low), high)
        for _ in range(halvings):
            # A clipped point is too short, so the multiplier grows; it is bisected in its logarithm once it is too long.
            short = point.norm(dim=-1) < radius
            first = torch.where(short, multiplier, first)
            longest = torch.where(short, longest, multiplier)
            multiplier = torch.minimum((first * longest).sqrt(), 4 * first)
            point = torch.minimum(torch.maximum(-multiplier[..., None] * rows, low), high)
        bent = -point / multiplier[..., None].clamp(min=tiny)
        rest = rows - bent
        lengths: Tensor = bent.norm(dim=-1)
        return torch.minimum(rest * low, rest * high).sum(-1) - radius * lengths

    def interval(self, parts: Iterable[Part], shape: torch.Size) -> tuple[Tensor, Tensor]:
        """Bound the least and the largest change of a value on the region, widened for rounding.

        Args:
            parts: All its elements.
            shape: Its shape.

        Returns:
            Both, of shape (batch, *shape) in double precision.
        """
        ends = [self._ends(part) for part in parts]
        low, high = (torch.cat(several, 1).double().view(-1, *shape) for several in zip(*ends, strict=True))
        width = ROUNDING * (high - low)  # both ends are sums of terms of this size, which may cancel in one of them
        return low - width, high + width

    def _ends(self, part: Part) -> tuple[Tensor, Tensor]:
        low, high, rows, window = self.low, self.high, part.rows, part.window
        low, high = (bound.to(rows) for bound in (low, high))
        if window is None:
            low, high = low[:, None], high[:, None]
            least, most = self._least(rows, low, high), -self._least(-rows, low, high)
        else:
            shape = (-1, rows.shape[3], *window.image)
            low, high = (window.gather(bound.view(shape)).flatten(2)[:, :, None] for bound in (low, high))
            rows = rows.flatten(3)
            least, most = (by_row(end) for end in (self._least(rows, low, high), -self._least(-rows, low, high)))
        return least + part.least, most + part.most

    def largest_square(self, matrices: Tensor) -> Tensor:
        """Bound the largest d^T G d on the region, for positive semidefinite G with the rounding of single precision.

        In l_1 it is the largest entry times radius^2, in l_2 the largest eigenvalue times radius^2, and in l_inf the sum of
        absolute entries times the pixels' changes.

        Args:
            matrices: G, shape (batch, rows, pixels, pixels).

        Returns:
            Bounds, shape (batch, rows).
        """
        size = matrices.diagonal(dim1=-2, dim2=-1).clamp(min=0)
        if self.norm == L1:
            return size.amax(-1) * self.radius[:, None].square() * (1 + ROUNDING)
        if self.norm == L2:
            top = torch.linalg.eigvalsh(matrices.nan_to_num(0, 0, 0))[..., -1].clamp(min=0) + ROUNDING * size.sum(-1)
            return torch.where(matrices.isfinite().all(-1).all(-1), top, torch.inf) * self.radius[:, None].square()
        reach = torch.maximum(-self.low, self.high)[:, None]
        total = (reach[..., None] * matrices.abs() * reach[..., None, :]).sum((-1, -2))
        return total + ROUNDING * (reach * size.sqrt()).sum(-1).square()


def bound_top_eigenvalue(matrices: Tensor) -> Tensor:
    """Bound the largest eigenvalue of positive semidefinite matrices.

    For every vector v > 0 it is at most the largest entry of |G| v / v.

    Args:
        matrices: G, shape (batch, size, size), in single precision.

    Returns:
        Shape (batch,), raised for rounding.

    Reference: Collatz 1942 (eigenvalues of a nonnegative matrix).
    """
    sizes = matrices.abs()
    vector = sizes.new_ones(*sizes.shape[:2], 1)
    for _ in range(ITERATIONS):
        vector = sizes @ vector
        vector = vector / vector.amax(1, keepdim=True).clamp(min=torch.finfo(vector.dtype).tiny) + 1e-3
    bound = (sizes.double() @ vector.double() / vector.double()).amax((1, 2))
    trace = matrices.diagonal(dim1=-2, dim2=-1).double().sum(-1)
    return bound * (1 + ROUNDING) + ROUNDING * trace
