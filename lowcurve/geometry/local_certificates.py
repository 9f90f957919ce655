"""Certify radii with bounds that hold in the ball around each image; see `models.local.bounds`."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lowcurve.analysis.calculus import jacobian
from lowcurve.analysis.norms import L2, LINF, Norm
from lowcurve.errors import InputError
from lowcurve.losses import require_loss_field
from lowcurve.models.local.bounds import ORDERS, LocalBounds, Point
from lowcurve.models.local.regions import Region
from lowcurve.types import Field, Inputs, PerExample

ROUNDING = 1e-6
"""Relative rounding of a radius to single precision, downward."""
POWER = 2.8
"""Power of the radius by which a margin's bound falls faster than the margin's tangent, measured on ReLU networks."""
SHORTER, NEAR, LONGER = 0.97, 0.8, 1.05
"""Shares of the radius that this power predicts: the one that is tried, and the range of wanted ones that are tried instead."""
HALVINGS = 24
"""Steps of the search for this radius."""
MORE = 3
"""Further radii for an image of which none was proved."""
MEMORY = 2**25
"""Number of coefficients of a batch, of those that the second order keeps."""
MATRICES = 8
"""Number of matrices of an image's size that are held for each image where changes of a layer are bounded together."""
WITHOUT_ROWS = 64
"""Number of values that are held for each unit in the other orders."""


@dataclass(frozen=True)
class LocalCertificate:
    """Measure the radius within which every point of the pixel box is proved to be classified as y.

    A radius is proved if a lower bound of every margin in the ball is positive: by `LocalBounds`, the best of its orders for
    each margin. The radius is searched: each step fits t(r) - b r^2.8 to the last bound, with t(r) the least value of the
    margin's tangent in the ball and the pixel box, and tries a radius just below its zero. So the result is proved, and a
    longer search may prove a little more. It is 0 for a misclassified image.

    Columns: "certified radius"; for each of `radii` "verified at 0.1", which is 1 if that radius or a larger one was proved;
    with `each` also "certified radius, zero order" and so on, each order alone.

    Args:
        bounds: Bounds of the same network.
        norm: l_1, l_2 or l_inf.
        radii: Radii in pixel units that are decided one by one.
        steps: Number of radii that are tried for each image. More are tried while nothing is proved or one of `radii` may be.
        orders: Which bounds are tried, of "zero", "first" and "second".
        each: Search with each order alone, too.

    Cost: the Jacobian of the logits, and steps times that of `LocalBounds.margins`; once more for each of `radii` that may be
    proved, and at most three times more for an image of which nothing was proved.

    Example:
        >>> from lowcurve.losses import loss_field
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False), torch.nn.ReLU()).eval()
        >>> _ = model[0].weight.data.copy_(torch.tensor([[3.0, 4.0], [-1.0, 0.0]]))
        >>> x, y = torch.tensor([[0.5, 0.5]]), torch.tensor([0])  # z_1 stays 0, z_0 = 3.5 has a gradient of length 5
        >>> certified = LocalCertificate(LocalBounds(model, x), L2, steps=12)
        >>> round(certified(loss_field(model, y), x)["certified radius"].item(), 1)
        0.7

    Reference: Zhang et al. 2018 (CROWN); Singla and Feizi 2020; Entesari, Sharifi and Fazlyab 2024 (bounds in a ball).
    """

    bounds: LocalBounds
    norm: Norm = L2
    radii: tuple[float, ...] = ()
    steps: int = 5
    orders: tuple[str, ...] = ORDERS
    each: bool = False

    def __post_init__(self) -> None:
        if not self.orders or set(self.orders) - set(ORDERS):
            raise InputError(f"orders among {', '.join(ORDERS)}", self.orders, 'write orders=("zero", "second")')

    @property
    def at_once(self) -> int:
        """Number of images whose coefficients fit into memory together."""
        second = "second" in self.orders and self.bounds.is_smooth
        pixels = math.prod(self.bounds.shape)
        each = self.bounds.width * (pixels if second else WITHOUT_ROWS)
        if self.norm != LINF:
            each += MATRICES * pixels**2
        return max(1, min(64, MEMORY // max(1, each)))

    def __call__(self, field: Field, x: Inputs) -> dict[str, PerExample]:
        """Measure the columns at x."""
        field = require_loss_field(field)
        start = _Start.of(field, x, self.bounds, self.norm)
        found = self._search(start, self.orders)
        columns = {"certified radius": found.to(x)}
        columns |= {f"verified at {radius:g}": (found >= radius * (1 - ROUNDING)).to(x) for radius in self.radii}
        if self.each:
            columns |= {
                f"certified radius, {order} order": self._search(start, (order,)).to(x) for order in self.orders
            }
        return columns

    def _search(self, start: "_Start", orders: tuple[str, ...]) -> Tensor:
        """Return the largest radius that was proved for each image."""
        low, high = torch.zeros_like(start.margin), torch.full_like(start.margin, torch.inf)
        high[~(start.margin > 0)] = 0.0
        bends, wanted = torch.zeros_like(start.margins), low.new_tensor(sorted(self.radii))
        left = torch.full_like(low, self.steps)
        for step in range(self.steps + len(self.radii) + MORE):
            zero = start.zero_of(bends)
            guess = (0.5 if step == 0 else SHORTER) * zero
            fits = (guess > 1.01 * low) & (guess < 0.99 * high)
            if step % 2:  # every other radius lies in the middle, so that the search ends also where no power fits
                fits &= high.isinf() | (low == 0)
            guess = torch.where(fits, guess, start.middle(low, high))
            # A wanted radius is tried if it may be proved, and no smaller one that is due proves it too.
            close = (wanted > low[:, None]) & (wanted < torch.minimum(high, LONGER * zero)[:, None])
            due = (left > 0) | (low == 0)
            close &= (wanted >= NEAR * guess[:, None]) | ~due[:, None]
            tried = (
                torch.where(close.any(1), torch.where(close, wanted, -torch.inf).amax(1), guess)
                if len(wanted)
                else guess
            )
            places = torch.nonzero((high > 0) & (due | close.any(1))).flatten()
            if not len(places):
                break
            left[places] -= 1
            radius = tried[places]
            found = start.bound(self.bounds, places, radius, self.norm, orders)
            proved = found.amin(1) > 0
            low[places[proved]] = torch.maximum(low[places], radius)[proved]
            high[places[~proved]] = torch.minimum(high[places], radius)[~proved]
            straight = (start.margins + start.tangents(tried))[places]
            bends[places] = (straight - found) / radius[:, None] ** POWER
        return low * (1 - ROUNDING / 2)


@dataclass(frozen=True)
class _Start:
    """Images with their margins, and each margin's gradient."""

    point: Point
    x: Inputs
    margins: Tensor
    gradients: Tensor
    norm: Norm

    @classmethod
    def of(cls, field: Field, x: Inputs, bounds: LocalBounds, norm: Norm) -> "_Start":
        point = bounds.at(x, field.y)  # type: ignore[attr-defined]
        jacobians = jacobian(field.logits, x).double().flatten(2)  # type: ignore[attr-defined]
        gradients = point.rows[:, :, 0] @ jacobians
        return cls(point, x, point.margins, gradients, norm)

    @property
    def margin(self) -> Tensor:
        """The smallest margin of each image."""
        return self.margins.amin(1)

    def zero_of(self, bends: Tensor) -> Tensor:
        """Return for each image the radius r at which the least of the tangents, less b r^POWER, is 0.

        Args:
            bends: b of each margin, infinite where nothing is known.
        """
        m, bends = self.margins.clamp(min=0), bends.nan_to_num(torch.inf)
        slopes = self.norm.dual.length(self.gradients.flatten(0, 1)).view(m.shape)
        ends = (m / slopes.clamp(min=torch.finfo(m.dtype).tiny)).amin(1)  # where the pixel box does not matter
        least, most = torch.zeros_like(ends), 4 * ends
        for _ in range(HALVINGS):
            middle = (least + most) / 2
            left = (m + self.tangents(middle) - bends * middle[:, None] ** POWER).amin(1)
            least, most = torch.where(left > 0, middle, least), torch.where(left > 0, most, middle)
        return most.clamp(min=1e-12)

    def tangents(self, radius: Tensor) -> Tensor:
        """Return the least change of the margins' tangents at x in the balls of these radii and the pixel box."""
        return Region(self.x.to(radius), radius, self.norm).least(self.gradients)

    def middle(self, low: Tensor, high: Tensor) -> Tensor:
        """Return a radius between one that was proved, or 0, and one that was not, or infinity."""
        return torch.where(high.isinf(), 1.5 * low, torch.where(low > 0, (low + high) / 2, high / 4)).clamp(min=1e-12)

    def bound(self, bounds: LocalBounds, places: Tensor, radius: Tensor, norm: Norm, orders: tuple[str, ...]) -> Tensor:
        """Bound the margins of some images by the best of the orders; -inf where nothing is known."""
        found = bounds.margins(self.point.take(places), self.x[places], radius, norm, orders)
        return torch.stack([bound.nan_to_num(-torch.inf) for bound in found.values()]).amax(0)
