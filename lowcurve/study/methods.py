"""The training methods by name: the network that each starts from, its training data and its objective."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from lowcurve.analysis.norms import Ball, Norm, parse_radius
from lowcurve.attacks import NFGSM, PGD, RSFGSM, SORA, DeepFool, OneStep
from lowcurve.errors import InputError
from lowcurve.losses import TemperatureCrossEntropy, log_odds, margin, margin_loss
from lowcurve.models import LCNNConversion, SmoothConversion
from lowcurve.penalties import (
    CURE,
    ELLE,
    LLR,
    TRADES,
    AdaptiveWeight,
    Distillation,
    GradAlign,
    InputGradientNorm,
    LCNNPenalty,
)
from lowcurve.penalties.cure import EvalMode, released
from lowcurve.study.settings import Study
from lowcurve.training import Objective, Schedule, Term
from lowcurve.types import AttackFunction, Classifier, Inputs, Logits


@dataclass(frozen=True)
class Setup:
    """The settings and networks of an objective.

    Attributes:
        study: Settings of the study.
        std: Standard deviation of the pixels of each channel.
        previous: Network that the method needs, such as the teacher of distillation.
    """

    study: Study
    std: tuple[float, ...]
    previous: Classifier


@dataclass(frozen=True)
class Method:
    """A training method.

    Attributes:
        objective: Function that builds the objective.
        previous: Name of the method whose network is needed first. It is empty if none is.
        fine_tunes: True if training starts from the weights of the previous network.
        conversion: Function that returns the conversion before training. None means no conversion.
    """

    objective: Callable[[Setup], Objective]
    previous: str = ""
    fine_tunes: bool = False
    conversion: Callable[[Study], LCNNConversion | SmoothConversion] | None = None


def method_of(name: str, study: Study) -> Method:
    """Return the method of a name; CURE starts from the standard network unless the study says otherwise.

    Example:
        >>> from lowcurve.study.method_options import Cure
        >>> method_of("CURE", Study()).previous, method_of("CURE", Study(cure=Cure(from_scratch=True))).previous
        ('standard', '')
    """
    method = METHODS[name]
    return replace(method, previous="", fine_tunes=False) if name == "CURE" and study.cure.from_scratch else method


def objective_of(name: str, study: Study, std: tuple[float, ...], previous: Classifier | None = None) -> Objective:
    """Build the objective of a method.

    Args:
        name: Name of the method.
        study: Settings of the study.
        std: Standard deviation of the pixels of each channel.
        previous: Network that the method needs. Without it the objective can be checked but not trained.

    Returns:
        The objective, with all weights and schedules of the study.
    """
    return METHODS[name].objective(Setup(study, std, previous or _missing_network))


def ball_of(study: Study) -> Ball:
    """Return the ball of the training attack."""
    attack = study.training_attack
    return Ball(Norm(attack.norm or study.norm), parse_radius(attack.radius or study.radius))


def _missing_network(x: Inputs) -> Logits:  # noqa: ARG001 (the signature of Classifier)
    raise InputError("the network that this method learns from", "none", "write objective_of(..., previous=model)")


def _ramp(share: float) -> Schedule:
    """Return a schedule from 0 to 1 over a share of training, or 1 throughout for a share of 0."""
    return Schedule(start=0.0, until=share) if share else Schedule()


def _adversarial(study: Study, attack: AttackFunction, **penalties: Term) -> Objective:
    ramp = _ramp(study.training_attack.ramp)
    return Objective(attack=attack, radius_schedule=ramp, penalties=penalties, statistics=study.statistics)


def _penalized(study: Study, **penalties: Term) -> Objective:
    return Objective(penalties=penalties, statistics=study.statistics)


def _combine(first: Callable[[Setup], Objective], second: Callable[[Setup], Objective]) -> Callable[[Setup], Objective]:
    """Build the objective with the attack of the first and the penalties of both."""

    def build(setup: Setup) -> Objective:
        one, other = first(setup), second(setup)
        return replace(one, penalties={**one.penalties, **other.penalties})

    return build


def _standard(setup: Setup) -> Objective:
    return _penalized(setup.study)


EVAL_MODES: dict[str, EvalMode] = {"released": "none", "released-master": "all", "released-quick-fix": "direction"}
"""Passes of CURE in eval mode by form."""


def _cure(setup: Setup) -> Objective:
    options = setup.study.cure
    form = CURE(options.h) if options.form == "published" else released(setup.std, options.h, EVAL_MODES[options.form])
    penalty = replace(form, direction=options.direction, differentiation=options.differentiation, step=options.step)
    ramp = Schedule(start=0.05, until=options.ramp)
    term = Term(penalty, options.weight, scale_schedule=ramp, every=options.every)
    return _penalized(setup.study, curvature=term)


def _gradient_norm(setup: Setup) -> Objective:
    options = setup.study.gradient
    of = margin if options.of == "margin" else None
    penalty = InputGradientNorm(Norm(options.norm), options.squared, of, options.differentiation, options.step)
    term = Term(penalty, options.weight, weight_schedule=_ramp(options.ramp), every=options.every)
    return _penalized(setup.study, gradient=term)


def _low_curvature(setup: Setup) -> Objective:
    options = setup.study.low_curvature
    penalty = LCNNPenalty(options.weight_of_beta, options.weight_of_gamma)
    return _penalized(setup.study, sharpness=Term(penalty, 1.0))


def _lcnn(study: Study) -> LCNNConversion:
    return LCNNConversion(study.low_curvature.beta, study.low_curvature.gamma)


def _smooth(study: Study) -> SmoothConversion:
    return SmoothConversion(study.low_curvature.beta)


def _one_step(setup: Setup) -> Objective:
    return _adversarial(setup.study, OneStep(ball_of(setup.study)))


def _random_start(setup: Setup) -> Objective:
    return _adversarial(setup.study, RSFGSM(ball_of(setup.study)))


def _noisy(setup: Setup) -> Objective:
    return _adversarial(setup.study, NFGSM(ball_of(setup.study)))


def _sora(setup: Setup) -> Objective:
    return _adversarial(setup.study, SORA(ball_of(setup.study)))


def _pgd(setup: Setup) -> Objective:
    options = setup.study.training_attack
    loss = {"cross-entropy": log_odds, "margin": margin_loss}[options.loss]
    attack = PGD(ball_of(setup.study), steps=options.steps, step_size=options.step_size, loss=loss, answer="last")
    return _adversarial(setup.study, attack)


def _trades(setup: Setup) -> Objective:
    study = setup.study
    penalty = TRADES(ball_of(study), study.training_attack.steps)
    return _penalized(study, divergence=Term(penalty, study.others.trades))


def _llr(setup: Setup) -> Objective:
    study = setup.study
    penalty = LLR(ball_of(study), study.training_attack.steps)
    return _penalized(study, linearity=Term(penalty, study.others.llr))


def _alignment(setup: Setup) -> Objective:
    study, ball = setup.study, ball_of(setup.study)
    return _adversarial(study, OneStep(ball), alignment=Term(GradAlign(ball.radius), study.others.alignment))


def _elle(setup: Setup) -> Objective:
    study, ball = setup.study, ball_of(setup.study)
    return _adversarial(study, OneStep(ball), chords=Term(ELLE(ball.radius), AdaptiveWeight(study.others.elle)))


def _deepfool(setup: Setup) -> Objective:
    if setup.study.training_attack.ramp:
        hint = "leave out --training_attack.ramp"
        raise InputError("an attack within a ball, whose radius can grow", "DeepFool, which has none", hint)
    return _adversarial(setup.study, DeepFool(ball_of(setup.study).norm))


def _teacher(setup: Setup) -> Objective:
    study = setup.study
    return Objective(loss=TemperatureCrossEntropy(study.others.temperature), statistics=study.statistics)


def _distillation(setup: Setup) -> Objective:
    term = Term(Distillation(setup.previous, setup.study.others.temperature), 1.0)
    return Objective(penalties={"distillation": term}, statistics=setup.study.statistics, loss_weight=0.0)


METHODS = {
    "standard": Method(_standard),
    "CURE": Method(_cure, "standard", fine_tunes=True),
    "gradient-norm": Method(_gradient_norm),
    "CURE+gradient-norm": Method(_combine(_cure, _gradient_norm)),
    "FGSM": Method(_one_step),
    "RS-FGSM": Method(_random_start),
    "N-FGSM": Method(_noisy),
    "CURE+N-FGSM": Method(_combine(_noisy, _cure)),
    "gradient-norm+N-FGSM": Method(_combine(_noisy, _gradient_norm)),
    "SORA": Method(_sora),
    "PGD": Method(_pgd),
    "gradient-norm+PGD": Method(_combine(_pgd, _gradient_norm)),
    "TRADES": Method(_trades),
    "LLR": Method(_llr),
    "GradAlign": Method(_alignment),
    "ELLE-A": Method(_elle),
    "DeepFool": Method(_deepfool, "standard", fine_tunes=True),
    "adversarial-set": Method(_standard, "standard", fine_tunes=True),
    "LCNN": Method(_low_curvature, conversion=_lcnn),
    "LCNN+gradient-norm": Method(_combine(_gradient_norm, _low_curvature), conversion=_lcnn),
    "minimal": Method(_gradient_norm, conversion=_smooth),
    "teacher": Method(_teacher),
    "distillation": Method(_distillation, "teacher"),
}
"""Methods by the names in `METHOD_NAMES`, in the same order."""
