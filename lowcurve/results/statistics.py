"""Summaries over examples: quantiles, and shares with their intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lowcurve.errors import InputError


@dataclass(frozen=True, repr=False)
class Summary:
    """Mean and quantiles of one number per example. The distance of the quantiles shows a heavy tail.

    Attributes:
        count: Number of examples, without those whose number is NaN.
        mean: Their mean.
        standard_error: Standard error of the mean; NaN for one example or infinite numbers.
        low: 10 % quantile.
        median: Median.
        high: 90 % quantile.
        missing: Number of examples whose number is NaN. They are left out of everything else.
    """

    count: int
    mean: float
    standard_error: float
    low: float
    median: float
    high: float
    missing: int = 0

    def __repr__(self) -> str:
        return (
            f"mean {self.mean:.4g} ± {self.standard_error:.2g}, median {self.median:.4g},"
            f" 10 % to 90 %: {self.low:.4g} to {self.high:.4g}, {self.count} values"
            + (f", and {self.missing} NaN left out" if self.missing else "")
        )


def summarize(values: Sequence[float] | np.ndarray) -> Summary:
    """Summarize one number per example.

    Infinite numbers make the mean infinite and its error NaN. They do not change the quantiles below them. NaN is left out and
    counted; if nothing else is there, every number of the summary is NaN.

    Args:
        values: At least one number.

    Raises:
        InputError: If there are no numbers.

    Example:
        >>> summarize([1.0, 2.0, 3.0]).median
        2.0
        >>> summarize([1.0, 2.0, 3.0, math.nan])
        mean 2 ± 0.58, median 2, 10 % to 90 %: 1.2 to 2.8, 3 values, and 1 NaN left out
    """
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.size == 0:
        raise InputError("at least one number", "none", "measure at least one example")
    everything, numbers = numbers, numbers[~np.isnan(numbers)]
    missing = int(everything.size - numbers.size)
    if not numbers.size:
        unknown = math.nan
        return Summary(0, unknown, unknown, unknown, unknown, unknown, missing)
    low, median, high = (_quantile(np.sort(numbers), share) for share in (0.1, 0.5, 0.9))
    known = numbers.size > 1 and bool(np.isfinite(numbers).all())
    error = float(numbers.std(ddof=1) / math.sqrt(numbers.size)) if known else math.nan
    return Summary(int(numbers.size), float(numbers.mean()), error, low, median, high, missing)


def _quantile(rising: np.ndarray, share: float) -> float:
    """Interpolate linearly between neighbors. Unlike numpy, return a finite number unless an infinite one is needed."""
    place = share * (rising.size - 1)
    below, above = float(rising[math.floor(place)]), float(rising[math.ceil(place)])
    between = place - math.floor(place)
    return below if below == above or not between else below + between * (above - below)


@dataclass(frozen=True, repr=False)
class Proportion:
    """A share of examples with its 95 % Wilson interval.

    Attributes:
        successes: Number of examples that count.
        count: Number of all examples.
        value: successes / count.
        low: Lower end of the interval.
        high: Upper end of the interval.
    """

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
    """Return successes / count with its 95 % Wilson score interval, which stays in [0, 1] and also covers near its ends.

    Args:
        successes: Number of examples that count.
        count: Number of all examples, at least one.

    Raises:
        InputError: If the share is not one of at least one example.

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
    from scipy.stats import binomtest  # slow to import

    interval = binomtest(successes, count).proportion_ci(method="wilson")
    low = 0.0 if successes == 0 else float(interval.low)
    high = 1.0 if successes == count else float(interval.high)
    return Proportion(successes, count, successes / count, low, high)
