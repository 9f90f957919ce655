"""Axes of a chart: ranges, ticks and places on the drawing."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeGuard

Number = float | None
MOST_TICKS = 6
"""About so many ticks an axis has."""
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Axis:
    """One axis of a chart.

    Attributes:
        low: Value at its beginning.
        high: Value at its end.
        logarithmic: True if equal steps are equal ratios.
        ticks: Values with their labels.
    """

    low: float
    high: float
    logarithmic: bool
    ticks: tuple[tuple[float, str], ...]

    def share(self, value: Number) -> Number:
        """Return the place of a value, 0 at the beginning and 1 at the end; None where it cannot be drawn.

        Args:
            value: A number, or None.

        Example:
            >>> make_axis([1.0, 100.0], logarithmic=True).share(10.0)
            0.5
        """
        if not is_finite(value) or (self.logarithmic and value <= 0):
            return None
        if self.logarithmic:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def make_axis(values: Iterable[Number], *, logarithmic: bool = False, tight: bool = False) -> Axis:
    """Return the axis for some values: from zero if it is linear and nothing is below zero, unless it is tight.

    Args:
        values: The values to be drawn.
        logarithmic: True for a logarithmic axis.
        tight: End at the smallest and the largest value.

    Example:
        >>> [label for _, label in make_axis([0.0, 0.2]).ticks]
        ['0', '0.05', '0.1', '0.15', '0.2']
    """
    known = [float(v) for v in values if is_finite(v) and not (logarithmic and v <= 0)]
    low, high = (min(known), max(known)) if known else (1.0, 10.0) if logarithmic else (0.0, 1.0)
    if logarithmic:
        if not low < high * (1 - 1e-9):
            low, high = low / 2, high * 2
        return Axis(low, high, True, _logarithmic_ticks(low, high))
    if low >= 0 and not tight:
        low = 0.0
    if not high - low > 1e-12 * max(abs(low), abs(high)):
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    return Axis(low, high, False, _linear_ticks(low, high))


def with_margin(axis: Axis, share: float = 0.04) -> Axis:
    """Return the axis with room beyond its values, except below a zero where it begins.

    Args:
        axis: The axis.
        share: The room, as a share of the axis.
    """
    if axis.logarithmic:
        room = (axis.high / axis.low) ** share
        low, high = axis.low / room, axis.high * room
        return Axis(low, high, True, _logarithmic_ticks(low, high))
    room = share * (axis.high - axis.low)
    low, high = (axis.low if axis.low == 0 else axis.low - room), axis.high + room
    return Axis(low, high, False, _linear_ticks(low, high))


def is_finite(value: Number) -> TypeGuard[float]:
    """Return whether a value is a finite number.

    Args:
        value: A number, or None.
    """
    return value is not None and math.isfinite(value)


def _linear_ticks(low: float, high: float) -> tuple[tuple[float, str], ...]:
    rough = (high - low) / MOST_TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    places = max(0, -math.floor(math.log10(step) + 1e-9) + (1 if step / power == 2.5 else 0))
    large = max(abs(low), abs(high)) >= 1e5 or places > 5
    values = [k * step for k in range(first, last + 1)]
    texts = [f"{v:.3g}" if large else f"{v + 0.0:.{places}f}" for v in values]
    short = [t.rstrip("0").rstrip(".") if "." in t and "e" not in t else t for t in texts]
    return tuple(zip(values, short, strict=True))


def _logarithmic_ticks(low: float, high: float) -> tuple[tuple[float, str], ...]:
    """Return powers of ten where there are enough of them, and otherwise 1, 2 and 5 times these."""
    bottom, top = math.floor(math.log10(low)), math.ceil(math.log10(high))
    decades = math.log10(high / low)
    factors: Sequence[int] = (1,) if decades > 2.5 else (1, 2, 5) if decades > 0.5 else tuple(range(1, 10))
    every = max(1, math.ceil(decades / MOST_TICKS))
    found = []
    for power in range(bottom, top + 1):
        if len(factors) == 1 and power % every:
            continue
        for factor in factors:
            value = factor * 10.0**power
            if low * (1 - 1e-9) <= value <= high * (1 + 1e-9):
                found.append((value, _power(power) if len(factors) == 1 else _plain(value)))
    return tuple(found)


def _power(power: int) -> str:
    return _plain(10.0**power) if -3 < power < 4 else "10" + str(power).translate(SUPERSCRIPTS)


def _plain(value: float) -> str:
    return f"{value:.4g}" if 1e-4 <= value < 1e6 else f"{value:.0e}"
