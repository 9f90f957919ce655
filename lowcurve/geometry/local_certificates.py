"""Certify radii with bounds that hold in the ball around each image; see `models.local.bounds`."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lowcurve.analysis.calculus import jacobian
from lowcurve.analysis.norms import L2, Norm
from lowcurve.errors import InputError
from lowcurve.losses import require_loss_field
from lowcurve.models.local.bounds import ORDERS, LocalBounds, Point
from lowcurve.types import Field, Inputs, PerExample

ROUNDING = 1e-6
"""Relative rounding of a radius to single precision, downward."""
MEMORY = 2**25
"""Number of coefficients of a batch, of those that the second order keeps."""


@dataclass(frozen=True)
class LocalCertificate:
    """Measure the radius within which every point of the pixel box is proved to be classified as y.

    A radius is proved if a lower bound of every margin in the ball is positive: by `LocalBounds`, the best of its orders for
    each margin. The radius is searched: each step fits m - a r - b r^2 to the last bound and tries its zero. So the result is
    proved, and a longer search may prove a little more. It is 0 for a misclassified image.

    Columns: "certified radius"; for each of `radii` "verified at 0.1", which is 1 if that radius or a larger one was proved;
    with `each` also "certified radius, zero order" and so on, each order alone.

    Args:
        bounds: Bounds of the same network.
        norm: l_1, l_2 or l_inf.
        radii: Radii in pixel units that are decided one by one.
        steps: Number of radii that are tried for each image, besides these.
        orders: Which bounds are tried, of "zero", "first" and "second".
        each: Search with each order alone, too.

    Cost: the Jacobian of the logits, and at most steps + len(radii) times that of `LocalBounds.margins`.

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
        return max(1, min(64, MEMORY // max(1, self.bounds.width * math.prod(self.bounds.shape))))

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
        bend, wanted = torch.zeros_like(low), torch.tensor(sorted(self.radii), dtype=low.dtype, device=low.device)
        high[~(start.margin > 0)] = 0.0
        left = torch.full_like(low, self.steps)
        for _ in range(self.steps + len(self.radii)):
            tried = start.zero_of(bend, low, high)
            inside = (wanted > low[:, None]) & (wanted < high[:, None])
            open_ = inside.any(1)
            if len(wanted):
                away = torch.where(inside, (wanted / tried[:, None]).log().abs(), torch.inf)
                tried = torch.where(open_, wanted[away.argmin(1)], tried)
            places = torch.nonzero((high > 0) & (open_ | (left > 0))).flatten()
            if not len(places):
                break
            left = left - (~open_).to(left)
            radius = tried[places]
            worst = start.worst_margin(self.bounds, places, radius, self.norm, orders)
            proved = worst > 0
            low[places[proved]] = torch.maximum(low[places], radius)[proved]
            high[places[~proved]] = torch.minimum(high[places], radius)[~proved]
            straight = (start.margins - start.slopes * tried[:, None]).amin(1)[places]
            bend[places] = ((straight - worst) / radius.square()).nan_to_num(torch.inf).clamp(min=0)
        return low * (1 - ROUNDING / 2)


@dataclass(frozen=True)
class _Start:
    """Images with their margins, and the length of each margin's gradient."""

    point: Point
    x: Inputs
    margins: Tensor
    slopes: Tensor

    @classmethod
    def of(cls, field: Field, x: Inputs, bounds: LocalBounds, norm: Norm) -> "_Start":
        point = bounds.at(x, field.y)  # type: ignore[attr-defined]
        jacobians = jacobian(field.logits, x).double().flatten(2)  # type: ignore[attr-defined]
        gradients = point.rows[:, :, 0] @ jacobians
        slopes = norm.dual.length(gradients.flatten(0, 1)).view(len(x), -1)
        return cls(point, x, point.margins, slopes)

    @property
    def margin(self) -> Tensor:
        """The smallest margin of each image."""
        return self.margins.amin(1)

    def zero_of(self, bend: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Return where the smallest m - a r - b r^2 is 0, or a radius between what was proved and what was not."""
        m = self.margins.clamp(min=0)
        root = 2 * m / (self.slopes + (self.slopes.square() + 4 * bend[:, None] * m).sqrt())
        # The fall grows faster than r^2, so a guess from smaller radii alone is too large.
        guess = root.nan_to_num(0).amin(1) * torch.where(high.isinf(), 0.5, 0.99)
        middle = torch.where(high.isinf(), 1.5 * low, torch.where(low > 0, (low + high) / 2, high / 4))
        fits = (guess > 1.01 * low) & (guess < 0.99 * high)
        return torch.where(fits, guess, middle).clamp(min=1e-12)

    def worst_margin(
        self, bounds: LocalBounds, places: Tensor, radius: Tensor, norm: Norm, orders: tuple[str, ...]
    ) -> Tensor:
        """Bound the smallest margin of some images; -inf where nothing is known."""
        found = bounds.margins(self.point.take(places), self.x[places], radius, norm, orders)
        best = torch.stack([bound.nan_to_num(-torch.inf) for bound in found.values()]).amax(0)
        return best.amin(1)
