"""Families of paths compared: intervals by resampling, and tests of pairs by turning signs. All draws come from a stream."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lowcurve import randomness
from lowcurve.errors import InputError
from lowcurve.types import PerExample

AT_ONCE = 2**22
"""So many drawn numbers are held at a time."""


@dataclass(frozen=True)
class Interval:
    """A statistic of `count` numbers and the interval that holds the middle `level` of its values under resampling."""

    count: int
    value: float
    low: float
    high: float
    level: float


def bootstrap_interval(
    values: PerExample,
    *,
    generator: torch.Generator,
    statistic: Literal["mean", "median"] = "mean",
    draws: int = 2000,
    level: float = 0.95,
) -> Interval:
    """The mean or median, between the (1 - level) / 2 and (1 + level) / 2 quantiles of what `draws` resamples give.

    The percentile interval: too short for few numbers (about 90 % in place of 95 for ten), and for the mean of a heavy tail.

    Example:
        >>> bootstrap_interval(torch.full((9,), 2.0), generator=randomness.stream(0))
        Interval(count=9, value=2.0, low=2.0, high=2.0, level=0.95)

    Reference: Efron 1979, bootstrap methods.
    """
    numbers = _finite(values)
    if draws < 1 or not 0 < level < 1 or statistic not in ("mean", "median"):
        received = (statistic, draws, level)
        raise InputError("a mean or median, at least one draw and a level from 0 to 1", received, "write draws=2000")
    reduce = torch.mean if statistic == "mean" else _median
    found, left = [], draws
    while left:
        some = min(left, max(1, AT_ONCE // len(numbers)))
        rows = randomness.integers((some, len(numbers)), 0, len(numbers), generator=generator)
        found.append(reduce(numbers[rows], 1))
        left -= some
    low, high = torch.quantile(torch.cat(found), torch.tensor([(1 - level) / 2, (1 + level) / 2]).double()).tolist()
    return Interval(len(numbers), float(reduce(numbers[None], 1)), low, high, level)


def _median(values: Tensor, axis: int) -> Tensor:
    """The middle, between the two in the middle where there are as many on both sides; torch's own takes the lower."""
    return torch.quantile(values, 0.5, dim=axis)


@dataclass(frozen=True)
class PairedTest:
    """Of `count` pairs the mean and median difference, and how probable a rank sum this far from 0 would be, were the signs of
    the differences tossed (two-sided). The smallest p-value is 1 / (draws + 1)."""

    count: int
    mean_difference: float
    median_difference: float
    p_value: float


def paired_test(
    first: PerExample, second: PerExample, *, generator: torch.Generator, draws: int = 20_000
) -> PairedTest:
    """Wilcoxon's signed-rank test of first - second: pairs, one number a pair in each, in the same order.

    Its statistic is the sum of the ranks of |difference|, with the differences' signs (ties share their mean rank, differences
    of 0 are left out). Under the hypothesis that either sign is as likely, its law is had by drawing the signs: right at
    any count and with ties. Ranks make it deaf to heavy tails.

    Example:
        >>> apart = torch.arange(1.0, 21.0)
        >>> paired_test(apart + 1, apart, generator=randomness.stream(0)).p_value < 1e-3
        True
        >>> paired_test(apart, apart, generator=randomness.stream(0)).p_value
        1.0

    Reference: Wilcoxon 1945, individual comparisons by ranking methods.
    """
    if first.shape != second.shape:
        found = f"{len(first)} and {len(second)}"
        raise InputError("as many numbers in both families", found, "take the pairs that both have")
    if draws < 1:
        raise InputError("at least one draw of the signs", draws, "write draws=20000")
    differences = _finite(first) - _finite(second)
    changed = differences[differences != 0]
    _, group, sizes = torch.unique(changed.abs(), return_inverse=True, return_counts=True)
    ranks = (sizes.cumsum(0).double() - (sizes - 1) / 2)[group]
    observed, extreme, left = (changed.sign() * ranks).sum().abs(), 0, draws
    while left:
        some = min(left, max(1, AT_ONCE // max(1, len(ranks))))
        signs = randomness.integers((some, len(ranks)), 0, 2, generator=generator).double() * 2 - 1
        extreme += int(((signs @ ranks).abs() >= observed * (1 - 1e-12)).sum())
        left -= some
    median = float(_median(differences[None], 1))
    return PairedTest(len(differences), float(differences.mean()), median, (extreme + 1) / (draws + 1))


def _finite(values: PerExample) -> PerExample:
    """The numbers in double precision on the CPU."""
    numbers = torch.as_tensor(values).detach().double().cpu()
    if numbers.ndim != 1 or not len(numbers) or not bool(torch.isfinite(numbers).all()):
        expected, found = "a row of finite numbers, at least one", f"shape {tuple(numbers.shape)}, or nan among them"
        raise InputError(expected, found, "leave the pairs without a path out: column[paths.found]")
    return numbers
