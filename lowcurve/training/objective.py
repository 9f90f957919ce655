"""What a training step minimizes: a loss, perhaps on attacked inputs, and weighted penalties, all in one BatchNorm mode."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from lowcurve.analysis.calculus import Jet
from lowcurve.analysis.double_backward import TwiceDifferentiable
from lowcurve.errors import InputError
from lowcurve.losses import cross_entropy, loss_field, require_eval
from lowcurve.models.conversion import fold_batchnorm
from lowcurve.models.modes import set_training
from lowcurve.penalties import AdaptiveWeight, Penalty
from lowcurve.penalties.differentiation import TWICE, require_smooth
from lowcurve.training.schedule import Schedule
from lowcurve.types import AttackFunction, Inputs, Labels, Loss, PerExample


class Part(NamedTuple):
    """A term of an objective before it is weighted: what it weighs at this step, and its mean over the batch."""

    weight: float
    mean: Tensor


@dataclass(frozen=True)
class Term:
    """A penalty with its weight; `weight_schedule` multiplies the weight, `scale_schedule` the penalty's own h.

    weight: a number, or a `AdaptiveWeight`, which follows the penalty's mean from step to step. every: taken at every k-th step
    alone, with k times the weight, so that its mean over steps is what it would be.
    """

    penalty: Penalty
    weight: float | AdaptiveWeight
    weight_schedule: Schedule = Schedule()
    scale_schedule: Schedule = Schedule()
    every: int = 1

    def __post_init__(self) -> None:
        _require_penalty(self.penalty)
        if self.every < 1:
            raise InputError("a penalty at every step, or every second, or third", self.every, "write every=1")
        scale = self.scale_schedule
        if scale != Schedule():
            self.penalty.at_scale(1.0)  # raises an error for a penalty without a scale
        if min(scale.start, scale.end) <= 0 or scale.warm_up:
            raise InputError("a scale that stays above 0", scale, "begin at 0.05 of it, not at 0")

    def at(self, progress: float) -> tuple[float, Penalty]:
        """Weight and penalty at this point of training.

        Example:
            >>> from lowcurve.penalties import CURE
            >>> Term(CURE(h=0.4), weight=2.0, scale_schedule=Schedule(start=0.5)).at(0.0)[1].h
            0.2
        """
        penalty, scale = self.penalty, self.scale_schedule(progress)
        if scale != 1.0:
            penalty = penalty.at_scale(scale)
        weight = self.weight.now if isinstance(self.weight, AdaptiveWeight) else self.weight
        return self.every * weight * self.weight_schedule(progress), penalty

    def taken(self, progress: float, step: int) -> bool:
        """Whether the penalty is looked at in this step: not where it weighs nothing, unless its weight follows it."""
        return step % self.every == 0 and (isinstance(self.weight, AdaptiveWeight) or self.at(progress)[0] != 0)


@dataclass(frozen=True)
class Objective:
    """w mean_i l_i + sum_k weight_k mean_i penalty_k,i, with l at the clean inputs or at those of an attack.

    attack: if given, its inputs are made in eval mode, with BatchNorm folded away (`fold_batchnorm`), and the loss is taken
    there (adversarial training). radius_schedule: a factor on the attack's radius over training, from 0 to 1; where the
    radius is large from the first step on, a network may never leave chance. penalties_at: beside an attack, the penalties
    are taken at the "clean" inputs (as FGSM with GradAlign, ELLE or CURE is published) or at the "attacked" ones.
    loss_weight, loss_schedule: w and its factor over training; 0 leaves the penalties alone, as in distillation, and "loss"
    is then 0 in the terms.

    statistics: "batch" (BatchNorm in training mode) or "frozen" (its running statistics, which stay); every term sees the
    same, and penalties by differences of losses need frozen ones. In batch mode each forward pass but the attack's moves
    the running statistics: one for the loss, which penalties at its point share; one more if penalties look at another
    point, as all but ELLE do; and a penalty's own, 1 of CURE, GradAlign and TRADES, 3 of ELLE, of LLR its steps and 1.

    Where no penalty follows the clean gradient into the parameters, it comes with the loss's own backward pass, which is then
    made at once. Penalties that differentiate it go through `TwiceDifferentiable` layers.

    Every term is a mean over examples of a per-example number, or one of the network alone, so duplicating the batch changes
    nothing.
    """

    loss: Loss = cross_entropy
    attack: AttackFunction | None = None
    radius_schedule: Schedule = Schedule()
    penalties: Mapping[str, Term] = field(default_factory=dict)
    statistics: Literal["batch", "frozen"] = "batch"
    penalties_at: Literal["clean", "attacked"] = "clean"
    loss_weight: float = 1.0
    loss_schedule: Schedule = Schedule()

    def __post_init__(self) -> None:
        if self.statistics not in ("batch", "frozen"):
            raise InputError('statistics "batch" or "frozen"', repr(self.statistics), 'write statistics="batch"')
        if self.penalties_at not in ("clean", "attacked"):
            received, hint = repr(self.penalties_at), 'write penalties_at="clean"'
            raise InputError('penalties at the "clean" or at the "attacked" inputs', received, hint)
        if "loss" in self.penalties:
            raise InputError('penalties with names other than "loss"', '"loss"', "rename the penalty")
        share = self.radius_schedule
        if share != Schedule() and not hasattr(self.attack, "ball"):
            name = type(self.attack).__name__
            raise InputError("an attack within a ball to schedule", name, "leave out radius_schedule")
        if min(share.start, share.end) < 0 or max(share.start, share.end) > 1:
            raise InputError("shares of the attack's radius, from 0 to 1", share, "give the attack its largest radius")

    @property
    def differentiates_twice(self) -> bool:
        """Whether a step differentiates an input gradient, which some distributed strategies do silently wrong."""
        return any(term.penalty.differentiates_twice for term in self.penalties.values())

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
        """The named scalars whose sum is minimized; "loss" first, and 0 for a penalty whose step this is not.

        Example:
            >>> from lowcurve.penalties import CURE
            >>> objective = Objective(penalties={"curvature": Term(CURE(h=0.4), 2.0)}, loss_weight=0.5)
            >>> flat = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).requires_grad_(False)
            >>> _ = flat[1].weight.zero_(), flat[1].bias.zero_()
            >>> terms = objective.terms(flat, torch.zeros(3, 1, 2, 2), torch.zeros(3).long(), generator=torch.Generator())
            >>> {name: round(term.item(), 4) for name, term in terms.items()}  # log(2) / 2, and nothing to bend
            {'loss': 0.3466, 'curvature': 0.0}
        """
        parts = self.parts(model, x, y, generator=generator, progress=progress, step=step)
        return {name: part.weight * part.mean for name, part in parts.items()}

    def parts(
        self,
        model: nn.Module,
        x: Inputs,
        y: Labels,
        *,
        generator: torch.Generator,
        progress: float = 1.0,
        step: int = 0,
        autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> dict[str, Part]:
        """The terms with their weights still beside them: what `after` wants to know.

        autocast: the precision of the attack and of a loss that shares nothing with a penalty. Half precision ruins the
        small differences that penalties are made of, so whatever a penalty sees is computed as the model's weights are.
        A penalty that weighs nothing has a mean without a graph.
        """
        taken = {name: term.at(progress) for name, term in self.penalties.items() if term.taken(progress, step)}
        here = x
        if self.attack is not None:
            with set_training(model, training=False), fold_batchnorm(model, x), autocast():
                here = self.attack(model, x, y, generator=generator, **self._reach(x, progress))
        there = x if self.penalties_at == "clean" else here
        apart = all(penalty.detaches_gradient for _, penalty in taken.values())
        twice = any(penalty.differentiates_twice for _, penalty in taken.values())
        own = TwiceDifferentiable() if twice else nullcontext()
        with set_training(model, training=self.statistics == "batch"):
            field = loss_field(model, y, self.loss, batch_statistics=True)
            jet = Jet(field, there)
            looked = any(not penalty.data_free for _, penalty in taken.values())
            factor = self.loss_weight * self.loss_schedule(progress)
            if not (looked and there is here):  # nothing needs the input gradient, and x stays a constant
                with autocast():
                    logits = field.logits(here)
                loss = field.from_logits(logits.to(here.dtype)).mean()
            elif apart and factor:
                loss = jet.mean_with_gradients([p for p in model.parameters() if p.requires_grad])
            else:
                with own:
                    loss = jet.values.mean()
            parts = {"loss": Part(factor, loss)}
            for name in self.penalties:
                weight, penalty = taken.get(name, (0.0, None))
                with own, nullcontext() if weight else torch.no_grad():
                    mean = loss.new_zeros(()) if penalty is None else penalty(jet, generator=generator).mean()
                parts[name] = Part(weight, mean)
        return parts

    def _reach(self, x: Inputs, progress: float) -> dict[str, PerExample]:
        """The radius for an attack that is not to have its own at this point of training."""
        share = self.radius_schedule(progress)
        return {} if share == 1.0 else {"radius": share * self.attack.ball.radii(x)}  # type: ignore[union-attr]

    def after(self, means: Mapping[str, Tensor], *, step: int = 0) -> "Objective":
        """The objective of the next step, given the means of this one's terms: each `AdaptiveWeight` has moved on.

        Example:
            >>> from lowcurve.penalties import ELLE
            >>> calm = Objective(penalties={"chords": Term(ELLE(), AdaptiveWeight(errors=3, mean=1.0))})
            >>> calm.after({"chords": torch.tensor(2.0)}).penalties["chords"].weight.now
            4000.0
        """
        moved = {
            name: replace(term, weight=term.weight.after(float(means[name])))
            for name, term in self.penalties.items()
            if isinstance(term.weight, AdaptiveWeight) and step % term.every == 0
        }
        return replace(self, penalties={**self.penalties, **moved}) if moved else self

    def require(self, model: nn.Module, x: Inputs, y: Labels) -> None:
        """Refuse a network on which a penalty by differences of losses cannot be had, before a step is made.

        x, y: a few examples. It must be smooth as it stands in eager mode, since compiling hides its kinks, and have no layer
        that acts on the batch or by chance unless `statistics` are frozen.
        """
        ways = {name: term.penalty.differentiation for name, term in self.penalties.items()}
        for name, way in ways.items():
            if way not in TWICE and self.statistics == "batch":
                _require_alike_in_training(model, name, way)
            if way.startswith("first_order"):
                with set_training(model, training=False):
                    require_smooth(Jet(loss_field(model, y, self.loss), x))


def _require_penalty(penalty: object) -> None:
    if not isinstance(penalty, Penalty):
        hint = "derive its class from lowcurve.penalties.Penalty"
        raise InputError("a penalty for a term", type(penalty).__name__, hint)


def _require_alike_in_training(model: nn.Module, name: str, way: str) -> None:
    """Refuse a model whose forward passes in training mode differ in more than their inputs."""
    with set_training(model, training=True):
        try:
            require_eval(model)
        except InputError as error:
            hint = 'write Objective(..., statistics="frozen"), or differentiation="exact"'
            raise InputError(f'frozen statistics beside {name} by "{way}"', error.received, hint) from None
