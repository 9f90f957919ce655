"""Objectives: a loss, on clean or attacked inputs, and weighted penalties, all in one BatchNorm mode."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Literal
from weakref import WeakSet

import torch
from torch import Tensor, nn

from lowcurve.analysis.calculus import Jet
from lowcurve.analysis.double_backward import TwiceDifferentiable, autocast_of
from lowcurve.analysis.later_gradient import LaterGradient
from lowcurve.analysis.verification import require_second_derivatives
from lowcurve.attacks import SORA, BallAttack, OneStep
from lowcurve.errors import InputError, describe
from lowcurve.losses import cross_entropy, loss_field, require_class_numbers, require_loss_field
from lowcurve.models.conversion import fold_batchnorm
from lowcurve.models.modes import keep_buffers, set_training
from lowcurve.network_calls import uncompiled
from lowcurve.penalties import AdaptiveWeight, Penalty
from lowcurve.penalties.differentiation import DOUBLE_BACKWARD, require_deterministic, require_graph, require_smooth
from lowcurve.randomness import stream, temporary_seed
from lowcurve.training.alignment import SLOPE_LEFT, StepAlignment
from lowcurve.training.schedule import Schedule
from lowcurve.training.terms import Term, TermValue, require_term
from lowcurve.types import AttackFunction, Inputs, Labels, Loss, PerExample


@dataclass(frozen=True)
class Objective:
    """w mean_i l_i + sum_k weight_k mean_i penalty_k,i, with the loss l at clean inputs or at those of an attack.

    Every term is a mean over examples of a per-example number, or one number of the network alone. So duplicating the batch
    changes nothing.

    Each forward pass in training mode moves the running statistics of BatchNorm, except those of the attack. The loss has
    one, which penalties at the same inputs share. If penalties use other inputs, there is one more, except for ELLE. CURE,
    GradAlign and TRADES have 1 of their own, ELLE has 3, and LLR has `steps` + 1.

    If no penalty differentiates the clean input gradient, the loss's own backward pass computes that gradient and runs at
    once. Penalties that do differentiate it use `TwiceDifferentiable` layers. Where torch compiles the network or parts of
    it, these penalties run it as it was before, since compiled code has no second derivative.

    Args:
        loss: Loss, one number per example.
        attack: Attack for adversarial training. It runs in eval mode with BatchNorm folded (`fold_batchnorm`), and the loss
            is taken at its inputs.
        radius_schedule: Factor from 0 to 1 on the attack's radius over training. With a large radius from the first step
            on, a network may stay at chance level.
        penalties: Terms by name.
        statistics: BatchNorm mode of all terms. "batch" is training mode. With "frozen" running statistics are used,
            and stay as they are. With "own" each layer keeps the mode in which it is given, as `regularized` needs it.
            Penalties by differences of losses need layers in eval mode.
        penalties_at: Inputs of the penalties when there is an attack: "clean", as FGSM with GradAlign, ELLE or CURE is
            published, or "attacked".
        loss_weight: w. With 0 only the penalties are minimized, as in distillation, and the term "loss" is 0.
        loss_schedule: Factor on w over training.

    Raises:
        InputError: If an option is out of range.
    """

    loss: Loss = cross_entropy
    attack: AttackFunction | None = None
    radius_schedule: Schedule = Schedule()
    penalties: Mapping[str, Term] = field(default_factory=dict)
    statistics: Literal["batch", "frozen", "own"] = "batch"
    penalties_at: Literal["clean", "attacked"] = "clean"
    loss_weight: float = 1.0
    loss_schedule: Schedule = Schedule()

    def __post_init__(self) -> None:
        if self.statistics not in ("batch", "frozen", "own"):
            raise InputError('statistics "batch", "frozen" or "own"', repr(self.statistics), 'write statistics="batch"')
        if self.penalties_at not in ("clean", "attacked"):
            received, hint = repr(self.penalties_at), 'write penalties_at="clean"'
            raise InputError('penalties at the "clean" or at the "attacked" inputs', received, hint)
        for term in self.penalties.values():
            require_term(term)
        _require_attack(self.attack)
        if isinstance(self.attack, SORA) and self.attack.loss != self.loss:
            expected = "the objective's own loss in SORA, which compares its gradients"
            raise InputError(expected, describe(self.attack.loss), "write SORA(ball, loss=...) with that loss")
        if "loss" in self.penalties:
            raise InputError('penalties with names other than "loss"', '"loss"', "rename the penalty")
        share = self.radius_schedule
        if share != Schedule() and not isinstance(self.attack, BallAttack):
            name = type(self.attack).__name__
            raise InputError("an attack within a ball to schedule", name, "leave out radius_schedule")
        if min(share.start, share.end) < 0 or max(share.start, share.end) > 1:
            raise InputError("shares of the attack's radius, from 0 to 1", share, "give the attack its largest radius")

    @property
    def differentiates_twice(self) -> bool:
        """True if a step differentiates an input gradient, which some distributed strategies do wrongly without an error."""
        return any(term.penalty.differentiates_twice for term in self.penalties.values())

    def terms(
        self,
        model: nn.Module,
        x: Inputs,
        y: Labels,
        *,
        generator: torch.Generator | None = None,
        seed: int = 0,
        progress: float = 1.0,
        step: int = 0,
    ) -> dict[str, Tensor]:
        """Compute the weighted terms whose sum is minimized.

        Args:
            model: Network to train.
            x: Inputs, shape (batch, ...), pixel units.
            y: Labels, shape (batch,), or in another form that the loss takes, such as probabilities (batch, classes).
            generator: Source of the step's random numbers. By default it is made from `seed`.
            seed: Seed of the random numbers, used without a generator.
            progress: Share of training done, from 0 to 1.
            step: Number of the training step.

        Returns:
            Scalars by name, "loss" first. A penalty that is not computed in this step is 0.

        Example:
            >>> from lowcurve.penalties import CURE
            >>> objective = Objective(penalties={"curvature": Term(CURE(h=0.4), 2.0)}, loss_weight=0.5)
            >>> flat = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).requires_grad_(False)
            >>> _ = flat[1].weight.zero_(), flat[1].bias.zero_()
            >>> terms = objective.terms(flat, torch.zeros(3, 1, 2, 2), torch.zeros(3).long())
            >>> {name: round(term.item(), 4) for name, term in terms.items()}  # log(2) / 2, and no curvature
            {'loss': 0.3466, 'curvature': 0.0}
        """
        generator = generator or stream(seed, "step")
        values = self.term_values(model, x, y, generator=generator, progress=progress, step=step)
        return {name: value.weight * value.mean for name, value in values.items()}

    def term_values(
        self,
        model: nn.Module,
        x: Inputs,
        y: Labels,
        *,
        generator: torch.Generator,
        progress: float = 1.0,
        step: int = 0,
        autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> dict[str, TermValue]:
        """Compute the terms with their weights apart, as `update` needs them.

        Args:
            model: Network to train.
            x: Inputs, shape (batch, ...), pixel units.
            y: Labels, as in `terms`.
            generator: Source of the step's random numbers.
            progress: Share of training done. It is from 0 to 1.
            step: Number of the step.
            autocast: Precision of the attack. A loss that shares nothing with a penalty has it, too. What a penalty uses has
                the precision of the weights, because half precision ruins small differences. In bfloat16 it has that of
                autocast if no penalty minds (`Penalty.rounds_like_the_loss`).

        Returns:
            Weight and mean by name, "loss" first. The mean of a penalty with weight 0 has no graph.
        """
        due = {name: term.at(progress) for name, term in self.penalties.items() if term.is_due(progress, step)}
        with self._mode_of_attack(model, x), autocast():
            loss_input, slope = self._attacked(model, x, y, generator, progress)
        penalty_input = x if self.penalties_at == "clean" else loss_input
        detached = all(penalty.detaches_gradient for _, penalty in due.values())
        twice = any(penalty.differentiates_twice for _, penalty in due.values())
        precision = self._precision(due.values(), autocast, x)
        with self._mode(model):
            field = loss_field(model, y, self.loss, batch_statistics=True)
            jet = Jet(field, penalty_input)
            field = require_loss_field(jet.field)  # all its passes draw the same random numbers
            shares_input = penalty_input is loss_input and any(not penalty.data_free for _, penalty in due.values())
            factor = self.loss_weight * self.loss_schedule(progress)
            later = LaterGradient(loss_input) if slope is not None and factor and not shares_input else None
            if not shares_input:  # no penalty uses the input gradient of the loss
                with autocast():
                    logits = field.logits(loss_input if later is None else later.leaf)
                loss = field.from_logits(logits.to(loss_input.dtype)).mean()
                loss = loss if later is None else later.watch(loss)
            elif detached and factor:
                loss = jet.mean_with_gradients([p for p in model.parameters() if p.requires_grad])
            else:
                with _layers(model, twice), precision():
                    loss = jet.values.mean()
            values = {"loss": TermValue(factor, loss)}
            for name in self.penalties:
                weight, penalty = due.get(name, (0.0, None))
                with _layers(model, twice), precision(), nullcontext() if weight else torch.no_grad():
                    mean = loss.new_zeros(()) if penalty is None else penalty(jet, generator=generator).mean()
                if weight and penalty and penalty.differentiates_twice:
                    require_graph(name, mean, loss)
                values[name] = TermValue(weight, mean)
            if slope is not None and isinstance(self.attack, OneStep):
                classes, after = (jet.logits if shares_input else logits).shape[1], later or jet.known_gradient
                alignment = StepAlignment(self.attack, classes, slope, after)
                values["loss"] = values["loss"]._replace(alignment=alignment)
        return values

    def _attacked(
        self, model: nn.Module, x: Inputs, y: Labels, generator: torch.Generator, progress: float
    ) -> tuple[Inputs, Tensor | None]:
        """Return the inputs of the loss, and the gradient that a one-step attack followed."""
        if self.attack is None:
            return x, None
        require_class_numbers(y)
        radius = self._radius(x, progress)
        if isinstance(self.attack, OneStep):
            return self.attack.with_slope(model, x, y, generator=generator, **radius)
        return self.attack(model, x, y, generator=generator, **radius), None

    @contextmanager
    def _mode_of_attack(self, model: nn.Module, x: Inputs) -> Iterator[None]:
        """Put the network in eval mode with BatchNorm folded, unless the attack keeps the mode of the terms."""
        if self.attack is None:
            yield
        elif isinstance(self.attack, OneStep) and self.attack.keeps_mode:
            with self._mode(model):
                yield
        else:
            with set_training(model, training=False), fold_batchnorm(model, x):
                yield

    @staticmethod
    def _precision(
        due: Iterable[tuple[float, Penalty]], autocast: Callable[[], AbstractContextManager[object]], x: Inputs
    ) -> Callable[[], AbstractContextManager[object]]:
        """Return autocast where it is to bfloat16 and changes no penalty more than the loss, and otherwise nothing."""
        if not all(penalty.rounds_like_the_loss for _, penalty in due):
            return nullcontext
        with autocast():
            return autocast if autocast_of(x) is torch.bfloat16 else nullcontext

    def _mode(self, model: nn.Module) -> AbstractContextManager[None]:
        """Put the network in the mode of all terms."""
        return nullcontext() if self.statistics == "own" else set_training(model, training=self.statistics == "batch")

    def _radius(self, x: Inputs, progress: float) -> dict[str, PerExample]:
        """Return the attack's radius at this point of training as keyword arguments, empty for its own radius."""
        share = self.radius_schedule(progress)
        if share == 1.0 or not isinstance(self.attack, BallAttack):
            return {}
        return {"radius": share * self.attack.ball.radii(x)}

    def update(self, means: Mapping[str, Tensor], *, step: int = 0) -> "Objective":
        """Return the objective of the next step, with every `AdaptiveWeight` and the step of `SORA` updated.

        Args:
            means: Means of this step's terms, without weights, and "slope left" for SORA.
            step: Number of this step.

        Example:
            >>> from lowcurve.penalties import ELLE
            >>> calm = Objective(penalties={"chords": Term(ELLE(), AdaptiveWeight(errors=3, mean=1.0))})
            >>> calm.update({"chords": torch.tensor(2.0)}).penalties["chords"].weight.current
            4000.0
        """
        updated = {
            name: replace(term, weight=term.weight.update(float(means[name])))
            for name, term in self.penalties.items()
            if isinstance(term.weight, AdaptiveWeight) and step % term.every == 0
        }
        attack = self.attack
        if isinstance(attack, SORA) and SLOPE_LEFT in means:
            attack = attack.update(float(means[SLOPE_LEFT]))
        if not updated and attack is self.attack:
            return self
        return replace(self, attack=attack, penalties={**self.penalties, **updated})

    def check_network(self, model: nn.Module, x: Inputs, y: Labels) -> None:
        """Raise an error for a network on which a penalty is not possible.

        A penalty that differentiates an input gradient needs right second derivatives. One by differences of losses needs
        a smooth network. Unless `statistics` are frozen, it must also have no layer that depends on the batch or on random
        numbers. All passes of a step must be able to draw the same random numbers.

        Args:
            model: Network to train. A compiled one is checked as it was before, since compiling hides kinks.
            x: A few inputs.
            y: Their labels.

        Raises:
            InputError: If the network does not fit a penalty.
        """
        with uncompiled(model):
            self._check(model, x, y)

    def _check(self, model: nn.Module, x: Inputs, y: Labels) -> None:
        if self.penalties:
            self._require_repeatable(model, x, y)
        ways = {name: term.penalty.differentiation for name, term in self.penalties.items()}
        with self._mode(model):
            for name, way in ways.items():
                if way not in DOUBLE_BACKWARD:
                    require_deterministic(model, name, way)
        with set_training(model, training=False):
            if any(way.startswith("first_order") for way in ways.values()):
                require_smooth(Jet(loss_field(model, y, self.loss), x))
            if self.differentiates_twice:
                right = require_second_derivatives(loss_field(model, y, self.loss), x)
                (_WITH_LAYERS_OF_TORCH.discard if right else _WITH_LAYERS_OF_TORCH.add)(model)

    def _require_repeatable(self, model: nn.Module, x: Inputs, y: Labels) -> None:
        """Refuse a network whose random numbers differ from pass to pass, as those of numpy do."""
        field = loss_field(model, y, self.loss, batch_statistics=True).repeating_draws()
        with self._mode(model), keep_buffers(model), torch.no_grad(), temporary_seed(0, "draws"):
            first, second = field.logits(x), field.logits(x)
        change = float((first - second).abs().max())
        if change > 1e-3 * float(first.abs().max()):
            expected = "a network with the same logits in all passes of a step"
            received = f"logits that differ by {change:.2g} from pass to pass"
            hint = "draw its random numbers with torch.rand, and keep nothing of one pass for the next"
            raise InputError(expected, received, hint)


@contextmanager
def _layers(model: nn.Module, twice: bool) -> Iterator[None]:
    """Run layers that can be differentiated twice, and none of them compiled."""
    if not twice:
        yield
        return
    with nullcontext() if model in _WITH_LAYERS_OF_TORCH else TwiceDifferentiable(), uncompiled(model):
        yield


_WITH_LAYERS_OF_TORCH: "WeakSet[nn.Module]" = WeakSet()
"""Networks for which `TwiceDifferentiable` was found wrong or impossible."""


def _require_attack(attack: object) -> None:
    if attack is not None and (not callable(attack) or isinstance(attack, type)):
        raise InputError("an attack to train on", describe(attack), 'write lc.PGD("linf", 8/255)')
