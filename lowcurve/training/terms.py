"""The terms of an objective: penalties with their weights, and their values at a training step."""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from lowcurve.errors import InputError
from lowcurve.penalties import AdaptiveWeight, Penalty
from lowcurve.training.alignment import StepAlignment
from lowcurve.training.schedule import Schedule


class TermValue(NamedTuple):
    """A term of an objective at one step.

    Attributes:
        weight: Weight of the term at this step.
        mean: Mean of the term over the batch, without the weight.
        alignment: Gradients at both ends of the step of a one-step attack. Only the loss has them.
    """

    weight: float
    mean: Tensor
    alignment: StepAlignment | None = None

    def measures(self) -> dict[str, Tensor]:
        """Return PertAlign and what belongs to it, once the backward pass has run; empty without a one-step attack."""
        return {} if self.alignment is None else self.alignment.measures()


@dataclass(frozen=True)
class Term:
    """A penalty with its weight.

    Args:
        penalty: The penalty.
        weight: A number or an `AdaptiveWeight`. The latter follows the mean of the penalty from step to step.
        weight_schedule: Factor on the weight over training.
        scale_schedule: Factor on the penalty's scale h.
        every: Compute the penalty in every k-th step only. It has k times the weight, so that its mean over steps is
            the same.

    Raises:
        InputError: If `penalty` is no `Penalty`, or an option is out of range.
    """

    penalty: Penalty
    weight: float | AdaptiveWeight
    weight_schedule: Schedule = Schedule()
    scale_schedule: Schedule = Schedule()
    every: int = 1

    def __post_init__(self) -> None:
        require_penalty(self.penalty)
        if self.every < 1:
            raise InputError("a penalty at every step, or every second, or third", self.every, "write every=1")
        scale = self.scale_schedule
        if scale != Schedule():
            self.penalty.at_scale(1.0)  # raises an error for a penalty without a scale
        if min(scale.start, scale.end) <= 0 or scale.warm_up:
            raise InputError("a scale that stays above 0", scale, "begin at 0.05 of it, not at 0")

    def at(self, progress: float) -> tuple[float, Penalty]:
        """Return weight and penalty at a point of training.

        Args:
            progress: Share of training done, from 0 to 1.

        Example:
            >>> from lowcurve.penalties import CURE
            >>> Term(CURE(h=0.4), weight=2.0, scale_schedule=Schedule(start=0.5)).at(0.0)[1].h
            0.2
        """
        penalty, scale = self.penalty, self.scale_schedule(progress)
        if scale != 1.0:
            penalty = penalty.at_scale(scale)
        weight = self.weight.current if isinstance(self.weight, AdaptiveWeight) else self.weight
        return self.every * weight * self.weight_schedule(progress), penalty

    def is_due(self, progress: float, step: int) -> bool:
        """Return True if the penalty is computed in this step.

        A penalty with weight 0 is computed only if its weight is adaptive.

        Args:
            progress: Share of training done, from 0 to 1.
            step: Number of the training step.
        """
        return step % self.every == 0 and (isinstance(self.weight, AdaptiveWeight) or self.at(progress)[0] != 0)


def require_penalty(penalty: object) -> None:
    """Refuse what is no penalty.

    Args:
        penalty: What was given as one.

    Raises:
        InputError: If it is none.
    """
    if not isinstance(penalty, Penalty):
        raise InputError(
            "a penalty for a term", type(penalty).__name__, "derive its class from lowcurve.penalties.Penalty"
        )


def require_term(term: object) -> None:
    """Refuse what is no term of an objective.

    Args:
        term: What was given as one.

    Raises:
        InputError: If it is none.
    """
    if not isinstance(term, Term):
        hint = "write lc.Term(penalty, weight=0.03)"
        raise InputError("penalties with their weights, each a Term", type(term).__name__, hint)
