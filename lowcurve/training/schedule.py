"""Schedules of a weight, a scale or the learning rate over training."""

import math
from dataclasses import dataclass
from typing import Literal

from lowcurve.errors import InputError


@dataclass(frozen=True)
class Schedule:
    """A factor over training, as a function of the share of steps done.

    The factor rises from 0 to `start` during the warm-up, then goes from `start` to `end`, and stays at `end`.

    Args:
        start: First factor. It is reached at the end of the warm-up.
        end: Last factor.
        until: Share of training at which the last factor is reached.
        shape: Course of the factor. It is "linear", "cosine" (half a period) or "exponential" (equal ratios).
        warm_up: Share of training over which the factor rises from 0 to its first value.
        milestones: Shares of training. At each of them the factor is divided by ten.

    Raises:
        InputError: If the shape is unknown, the warm-up does not end by `until`, an exponential course has a factor of 0,
            or a milestone is not between 0 and 1.

    Example:
        >>> ramp = Schedule(start=0.0, end=1.0, until=0.5)
        >>> ramp(0.0), ramp(0.25), ramp(0.9)
        (0.0, 0.5, 1.0)
        >>> triangle = Schedule(end=0.0, warm_up=0.5)
        >>> triangle(0.0), triangle(0.25), triangle(0.5), triangle(0.75)
        (0.0, 0.5, 1.0, 0.5)
        >>> halving, steps = Schedule(end=0.25, shape="exponential"), Schedule(milestones=(0.5, 0.75))
        >>> halving(0.5), [round(steps(share), 4) for share in (0.4, 0.5, 0.9)]
        (0.5, [1.0, 0.1, 0.01])
    """

    start: float = 1.0
    end: float = 1.0
    until: float = 1.0
    shape: Literal["linear", "cosine", "exponential"] = "linear"
    warm_up: float = 0.0
    milestones: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.shape not in ("linear", "cosine", "exponential"):
            expected = 'a schedule\'s shape "linear", "cosine" or "exponential"'
            raise InputError(expected, repr(self.shape), 'write shape="cosine"')
        if self.shape == "exponential" and min(self.start, self.end) <= 0:
            received = (self.start, self.end)
            raise InputError("an exponential course between factors above 0", received, "write end: 0.01")
        if not all(0 < share < 1 for share in self.milestones):
            hint = "write milestones: [0.75, 0.875]"
            raise InputError("milestones as shares of training between 0 and 1", self.milestones, hint)
        if self.warm_up and not 0 < self.warm_up <= self.until:
            expected = f"a warm-up from 0 to {self.until}, where the schedule ends"
            raise InputError(expected, self.warm_up, "write warm_up: 0.1 for the first tenth of training")

    def __call__(self, progress: float) -> float:
        """Return the factor at a share of training from 0 to 1."""
        return self._course(progress) * 0.1 ** sum(progress >= share for share in self.milestones)

    def _course(self, progress: float) -> float:
        if progress < self.warm_up:
            return self.start * progress / self.warm_up
        length = self.until - self.warm_up
        share = 1.0 if length <= 0 else min((progress - self.warm_up) / length, 1.0)
        if self.shape == "cosine":
            share = (1 - math.cos(math.pi * share)) / 2
        if self.shape == "exponential":
            return float(self.start * (self.end / self.start) ** share)
        return self.start + (self.end - self.start) * share
