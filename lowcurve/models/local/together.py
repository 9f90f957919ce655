"""Bounds of a whole layer's errors where the changes of its units have a bounded length together.

In a ball in l_2 the units of a layer cannot all take their worst change at once. If the changes t_i of a layer's inputs satisfy
sum_i D_i t_i^2 <= q^2, then for functions f_i and every multiplier w >= 0

    sum_i c_i f_i(t_i) >= sum_i min over t in [low_i, high_i] of (c_i f_i(t) + w D_i t^2 / 2) - w q^2 / 2.

`lengths` has D and q.

Reference: Chiu, Wang and Zhang 2025 (SDP-CROWN), which has this bound with D = 1 and without the intervals.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

MULTIPLIERS = tuple(2.0**power for power in range(-12, 7, 2))
"""Multipliers that are tried, times ||sqrt(D) c|| / q."""
REFINEMENTS = (2.0, 0.5, 2**0.5, 0.5**0.5)
"""Factors of the best of these that are tried next, one after another."""
CALIBRATED = 5
"""Number of rows for which all are tried; the others take the median of what is best there."""
ROUNDING = 1e-6
"""Share of the largest terms by which a sum in single precision is lowered."""


@dataclass(frozen=True)
class Layer:
    """Functions of straight pieces, one for each unit of a layer, and what is known of their arguments.

    Attributes:
        points: The ends of the pieces in rising order, shape (points, batch, 1, units).
        values: The functions there, of that shape, or with functions of their own for each row of coefficients.
        error: Largest distance of the true functions from these, with rounding; the shape of one of the values.
        weights: D_i >= 0, shape (batch, 1, units).
        length: Bound of ||sqrt(D) t|| of the arguments t, shape (batch,).
    """

    points: Tensor
    values: Tensor
    error: Tensor
    weights: Tensor
    length: Tensor

    @classmethod
    def of(
        cls, points: Tensor, values: Tensor, error: Tensor, weights: Tensor, length: Tensor, dtype: torch.dtype
    ) -> "Layer":
        """Return the functions in the precision of the coefficients.

        Args:
            points: The ends of the pieces, in double precision.
            values: The functions there.
            error: Largest distance of the true functions from these.
            weights: Weight of each argument in the length.
            length: Bound of the length of the weighted arguments.
            dtype: The precision.
        """
        width, rise = points.diff(dim=0), values.diff(dim=0).abs()
        steepest = torch.where(width > 0, rise / torch.where(width > 0, width, 1), 0).amax(0)
        rounding = ROUNDING * (8 * values.abs().amax(0) + points.abs().amax(0) * steepest)
        return cls(
            points.to(dtype), values.to(dtype), (error + rounding).to(dtype), weights.to(dtype), length.to(dtype)
        )

    def least(self, rows: Tensor) -> Tensor:
        """Bound sums of coefficients times the functions from below.

        Args:
            rows: Coefficients, shape (batch, rows, units). The batch is 1 if all images have the same.

        Returns:
            Shape (batch, rows).
        """
        scale = self._scale(rows)
        step = -(-rows.shape[1] // CALIBRATED)
        if step == 1:
            return self._search(rows, scale)[1]
        few = replace(self, values=self.values[:, :, ::step], error=self.error[:, ::step])
        multiplier, _ = few._search(rows[:, ::step], scale[:, ::step])
        return self._bound(rows, multiplier.median(1, keepdim=True).values * scale)

    def _search(self, rows: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Return the best multiplier of each row, as a share of the scale, and the bound with it."""
        first = rows.new_tensor(MULTIPLIERS)
        trials = torch.stack([self._bound(rows, multiplier * scale) for multiplier in first])
        best, found = first[trials.argmax(0)], trials.amax(0)
        for factor in REFINEMENTS:
            tried = factor * best
            bound = self._bound(rows, tried * scale)
            best, found = torch.where(bound > found, tried, best), torch.maximum(bound, found)
        return best, found

    def _scale(self, rows: Tensor) -> Tensor:
        size = (rows * self.weights.sqrt()).norm(dim=-1)
        scale: Tensor = size / self.length[:, None].clamp(min=torch.finfo(rows.dtype).tiny ** 0.5)
        return scale

    def _bound(self, rows: Tensor, multiplier: Tensor) -> Tensor:
        """Bound the sums with one multiplier for each row."""
        weight, found = (multiplier[..., None] * self.weights).clamp(min=torch.finfo(rows.dtype).tiny ** 0.5), None
        for low, high, first, last in zip(self.points, self.points[1:], self.values, self.values[1:], strict=False):
            width = high - low
            slope = rows * torch.where(width > 0, (last - first) / torch.where(width > 0, width, 1), 0)
            t = torch.minimum(torch.maximum(-slope / weight, low), high)
            value = rows * first + slope * (t - low) + weight / 2 * t.square()
            found = value if found is None else torch.minimum(found, value)
        assert found is not None
        price = (1 + 8 * ROUNDING) / 2 * multiplier * self.length[:, None].square()
        bound: Tensor = (found - rows.abs() * self.error).sum(-1) - price
        return bound
