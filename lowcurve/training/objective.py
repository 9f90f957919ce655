"""What a training step minimizes: a loss, perhaps on attacked inputs, and weighted penalties, all in one BatchNorm mode."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from lowcurve.analysis.calculus import Jet
from lowcurve.errors import InputError
from lowcurve.losses import cross_entropy, loss_field
from lowcurve.models.modes import mode
from lowcurve.types import Attack, Inputs, Labels, Loss, PerExample


class Penalty(Protocol):
    """A field's jet at the training inputs -> one number per example, attached to the parameters."""

    def __call__(self, jet: Jet, *, generator: torch.Generator) -> PerExample: ...


@dataclass(frozen=True)
class Schedule:
    """A factor over training: from `start` to `end` while progress (0 to 1) runs from 0 to `until`, then `end`.

    Example:
        >>> ramp = Schedule(start=0.0, end=1.0, until=0.5)
        >>> ramp(0.0), ramp(0.25), ramp(0.9)
        (0.0, 0.5, 1.0)
    """

    start: float = 1.0
    end: float = 1.0
    until: float = 1.0
    shape: Literal["linear", "cosine"] = "linear"

    def __post_init__(self) -> None:
        if self.shape not in ("linear", "cosine"):
            raise InputError('a schedule\'s shape "linear" or "cosine"', repr(self.shape), 'write shape="cosine"')

    def __call__(self, progress: float) -> float:
        share = 1.0 if self.until <= 0 else min(progress / self.until, 1.0)
        if self.shape == "cosine":
            share = (1 - math.cos(math.pi * share)) / 2
        return self.start + (self.end - self.start) * share


@dataclass(frozen=True)
class Term:
    """A penalty with its weight; `weight_schedule` multiplies the weight, `scale_schedule` the penalty's own h.

    every: taken at every k-th step alone, with k times the weight, so that its mean over steps is what it would be.
    """

    penalty: Penalty
    weight: float
    weight_schedule: Schedule = Schedule()
    scale_schedule: Schedule = Schedule()
    every: int = 1

    def __post_init__(self) -> None:
        if self.every < 1:
            raise InputError("a penalty at every step, or every second, or third", self.every, "write every=1")
        if self.scale_schedule != Schedule() and not hasattr(self.penalty, "h"):
            name = type(self.penalty).__name__
            raise InputError("a penalty with a scale h to schedule", name, "leave out scale_schedule")
        if min(self.scale_schedule.start, self.scale_schedule.end) <= 0:
            raise InputError("a scale that stays above 0", self.scale_schedule, "begin at 0.05 of it, not at 0")

    def at(self, progress: float) -> tuple[float, Penalty]:
        """Weight and penalty at this point of training.

        Example:
            >>> from lowcurve.penalties import CURE
            >>> Term(CURE(h=0.4), weight=2.0, scale_schedule=Schedule(start=0.5)).at(0.0)[1].h
            0.2
        """
        penalty, scale = self.penalty, self.scale_schedule(progress)
        if scale != 1.0:
            penalty = replace(penalty, h=penalty.h * scale)  # type: ignore[type-var, attr-defined]
        return self.every * self.weight * self.weight_schedule(progress), penalty


@dataclass(frozen=True)
class Objective:
    """mean_i l_i + sum_k weight_k mean_i penalty_k,i, with l at the clean inputs or at those of an attack.

    attack: if given, its inputs are made in eval mode and take the place of the clean ones (adversarial training).
    statistics: "batch" (BatchNorm in training mode) or "frozen" (its running statistics); every term sees the same. In
    batch mode every forward pass moves the running statistics, so CURE moves them twice a step, once at x + h z.

    Every term is a mean over examples of a per-example number, so duplicating the batch changes nothing.
    """

    loss: Loss = cross_entropy
    attack: Attack | None = None
    penalties: Mapping[str, Term] = field(default_factory=dict)
    statistics: Literal["batch", "frozen"] = "batch"

    def __post_init__(self) -> None:
        if self.statistics not in ("batch", "frozen"):
            raise InputError('statistics "batch" or "frozen"', repr(self.statistics), 'write statistics="batch"')
        if "loss" in self.penalties:
            raise InputError('penalties with names other than "loss"', '"loss"', "rename the penalty")

    @property
    def differentiates_twice(self) -> bool:
        """Whether a step differentiates an input gradient, which some distributed strategies do silently wrong."""
        return any(getattr(term.penalty, "differentiates_twice", True) for term in self.penalties.values())

    def terms(
        self,
        model: nn.Module,
        x: Inputs,
        y: Labels,
        *,
        generator: torch.Generator,
        progress: float = 1.0,
        step: int = 0,
    ) -> dict[str, Tensor]:
        """The named scalars whose sum is minimized; "loss" first, and 0 for a penalty whose step this is not."""
        taken = {name: term for name, term in self.penalties.items() if step % term.every == 0}
        if self.attack is not None:
            with mode(model, training=False):
                x = self.attack(model, x, y, generator=generator)
        with mode(model, training=self.statistics == "batch"):
            jet = Jet(loss_field(model, y, self.loss, batch_statistics=True), x)
            # Without penalties nothing needs the input gradient, and x stays a constant.
            values = jet.values if taken else jet.field(x)
            terms = {"loss": values.mean()} | dict.fromkeys(self.penalties, values.new_zeros(()))
            for name, term in taken.items():
                weight, penalty = term.at(progress)
                terms[name] = weight * penalty(jet, generator=generator).mean()
        return terms
