"""The only reductions over examples outside training."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lowcurve.errors import InputError


@dataclass(frozen=True, repr=False)
class Summary:
    """Mean with its standard error, and the 10, 50 and 90 % quantiles: a heavy tail shows in their distance."""

    count: int
    mean: float
    standard_error: float
    low: float
    median: float
    high: float

    def __repr__(self) -> str:
        return (
            f"mean {self.mean:.4g} ± {self.standard_error:.2g}, median {self.median:.4g},"
            f" 10 % to 90 %: {self.low:.4g} to {self.high:.4g}, {self.count} values"
        )


def summarize(values: Sequence[float] | np.ndarray) -> Summary:
    """The one reduction over examples outside training. Infinite numbers make the mean infinite, its error unknown, and
    leave the quantiles below them what they are.

    Example:
        >>> summarize([1.0, 2.0, 3.0]).median
        2.0
    """
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.size == 0:
        raise InputError("at least one number", "none", "measure at least one example")
    low, median, high = (_quantile(np.sort(numbers), share) for share in (0.1, 0.5, 0.9))
    known = numbers.size > 1 and bool(np.isfinite(numbers).all())
    error = float(numbers.std(ddof=1) / math.sqrt(numbers.size)) if known else math.nan
    return Summary(int(numbers.size), float(numbers.mean()), error, low, median, high)


def _quantile(rising: np.ndarray, share: float) -> float:
    """Linear between neighbors; infinite only where it reaches an infinite one, for which interpolation has no number."""
    place = share * (rising.size - 1)
    below, above = float(rising[math.floor(place)]), float(rising[math.ceil(place)])
    between = place - math.floor(place)
    return below if below == above or not between else below + between * (above - below)


@dataclass(frozen=True, repr=False)
class Proportion:
    """A share of examples with its 95 % Wilson interval."""

    successes: int
    count: int
    value: float
    low: float
    high: float

    def __repr__(self) -> str:
        low, high = f"{100 * self.low:.1f}", f"{100 * self.high:.1f}"
        return f"{self.value:.1%} (95% CI {low}-{high}%, {self.successes} of {self.count})"

    def __format__(self, spec: str) -> str:
        return format(self.value, spec) if spec else repr(self)

    def __float__(self) -> float:
        return self.value


def proportion(successes: int, count: int) -> Proportion:
    """successes / count with the 95 % Wilson score interval, which stays inside [0, 1] and is honest near its ends.

    Example:
        >>> proportion(285, 360)
        79.2% (95% CI 74.7-83.0%, 285 of 360)
        >>> p = proportion(0, 10)
        >>> p.low, round(p.high, 4)
        (0.0, 0.2775)

    Reference: Wilson 1927, Probable inference, the law of succession, and statistical inference.
    """
    if not 0 <= successes <= count or count == 0:
        raise InputError(
            "0 <= successes <= count and count > 0", f"{successes} of {count}", "evaluate at least one example"
        )
    z, p = 1.959963984540054, successes / count
    center = (p + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(p * (1 - p) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    low = 0.0 if successes == 0 else center - half
    high = 1.0 if successes == count else center + half
    return Proportion(successes, count, p, low, high)
