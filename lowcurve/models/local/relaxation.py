"""The form of bounds of a nonlinearity's change, given the interval in which its input changes.

The value before is z + t with low <= t <= high, where z belongs to the image itself. So t = 0 is always possible, and all
bounds are of phi(z + t) - phi(z). Tensors have the shape (batch, ...) with the recorded value's own shape.
"""

from abc import ABC, abstractmethod

from torch import Tensor

from lowcurve.models.local.windows import Window, by_row

OUTWARD = 1e-6
"""Relative increase of every offset, for its rounding to single precision."""


class Relaxation(ABC):
    """Bounds of the change of a nonlinearity's result, for the images of a batch.

    Rows are coefficients of the result, shape (batch, rows, ...); what returns rows returns those of its input.
    """

    @abstractmethod
    def parallel(
        self, rows: Tensor, window: Window | None = None, before: Window | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Replace the result by one linear function and an error.

        Args:
            rows: Coefficients of the result. The batch is 1 if all images have the same.
            window: Windows of the coefficients, None for whole images.
            before: Windows of the input on which they depend.

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

    def lower_together(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Bound the rows from below with a bound of all changes together, where there is one.

        Args:
            rows: Coefficients of the result.

        Returns:
            Coefficients of the input, and the constant of each row.
        """
        return self.lower(rows)

    @abstractmethod
    def derivative(self, least: Tensor, most: Tensor) -> tuple[Tensor, Tensor]:
        """Bound the derivatives in the input.

        Args:
            least: Least derivatives in the result.
            most: Largest derivatives in the result.

        Returns:
            The least and the largest derivatives in the input.
        """

    @abstractmethod
    def reach(self) -> tuple[Tensor, Tensor]:
        """Bound the change of the result: its least and largest change."""

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


def errors_of(rows: Tensor, below: Tensor, above: Tensor, window: Window | None = None) -> tuple[Tensor, Tensor]:
    """Bound sums of coefficients times errors.

    Args:
        rows: Coefficients, shape (batch, rows, ...), or those of windows. The batch is 1 if all images have the same.
        below: Least errors, shape (batch, ...).
        above: Largest errors.
        window: The windows.

    Returns:
        The least and the largest sum for each row, in the order of the elements.
    """
    middle, half = ((above + sign * below).to(rows) / 2 for sign in (1, -1))
    if window is None:
        center, away = _sums(rows.flatten(2), middle.flatten(1)), _sums(rows.flatten(2).abs(), half.flatten(1))
    else:
        flat = rows.flatten(3)
        center = by_row(_sums(flat, window.gather(middle).flatten(2)))
        away = by_row(_sums(flat.abs(), window.gather(half).flatten(2)))
    return center - away, center + away


def _sums(rows: Tensor, values: Tensor) -> Tensor:
    """Sum coefficients, shape (batch or 1, ..., rows, elements), times values, shape (batch, ..., elements)."""
    if len(rows) < len(values):  # one product of matrices for all images
        return (rows[0] @ values.movedim(0, -1)).movedim(-1, 0)
    return (rows @ values[..., None])[..., 0]
