"""The training methods by name: what each starts from, what it is trained on and what it minimizes."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from lowcurve.analysis.norms import Ball, Norm, parse_radius
from lowcurve.attacks import NFGSM, PGD, RSFGSM, DeepFool, OneStep
from lowcurve.errors import InputError
from lowcurve.losses import TemperatureCrossEntropy, log_odds, margin, margin_loss
from lowcurve.models import LCNNConversion, SmoothConversion
from lowcurve.penalties import CURE, ELLE, LLR, TRADES, AdaptiveWeight, Distillation, GradAlign, InputGradientNorm
from lowcurve.penalties import LCNN as SharpnessAndNorms
from lowcurve.penalties.cure import released
from lowcurve.penalties.differentiation import Differentiation
from lowcurve.training import Objective, Schedule, Term
from lowcurve.types import AttackFunction, Classifier, Inputs, Logits

if TYPE_CHECKING:
    from lowcurve.study.settings import Study


@dataclass(frozen=True)
class Cure:
    """`weight` (gamma) times the penalty at scale h, reached after the share `ramp` of training. form: published (squared
    norm, pixel units) or released (the norm, in normalized inputs). differentiation, step: exact, detached, first_order,
    first_order_detached, or secant at a step. every: taken at every k-th step, with k times the weight. from_scratch: trained
    as the standard network is, in place of fine-tuning that one."""

    weight: float = 0.03
    h: float = 1.0
    ramp: float = 0.25
    form: Literal["published", "released"] = "published"
    direction: Literal["sign", "gradient"] = "sign"
    differentiation: Differentiation = "exact"
    step: float | None = None
    every: int = 1
    from_scratch: bool = False


@dataclass(frozen=True)
class GradientNorm:
    """`weight` times the norm of the input gradient of the loss, or of the margin: squared or not, reached after the share
    `ramp` of training."""

    weight: float = 1.0
    norm: Literal["l_1", "l_2", "l_inf"] = "l_2"
    squared: bool = True
    of: Literal["loss", "margin"] = "loss"
    ramp: float = 0.0
    differentiation: Differentiation = "exact"
    step: float | None = None
    every: int = 1


@dataclass(frozen=True)
class TrainingAttack:
    """The attack of adversarial training and the ball of what is trained within one; norm and radius are those of the study
    unless they are given. steps: of PGD, TRADES and LLR. step_size: of PGD, 2.5 radius / steps unless it is given. ramp: where
    the loss is taken at attacked inputs, the radius (and the step with it) grows from 0 over this share of training."""

    steps: int = 7
    norm: Literal["l_inf", "l_2"] | None = None
    radius: str | None = None
    step_size: float | None = None
    loss: Literal["cross-entropy", "margin"] = "cross-entropy"
    ramp: float = 0.0


@dataclass(frozen=True)
class Others:
    """What the other methods are set to: the weights of TRADES (1 / lambda), LLR, GradAlign and ELLE-A; the temperature of
    distillation; the images of each class in the adversarial set."""

    trades: float = 6.0
    llr: float = 1.0
    alignment: float = 0.2
    elle: float = 4000.0
    temperature: float = 20.0
    per_class: int = 50


@dataclass(frozen=True)
class LowCurvature:
    """Of the methods LCNN and minimal, which change the network: beta and gamma of each layer at the start, the weights of
    their penalties (LCNN), and the weight decay of log beta (minimal)."""

    beta: float = 5.0
    gamma: float = 10.0
    weight_of_beta: float = 1e-3
    weight_of_gamma: float = 1e-3
    decay: float = 0.1


Makes = Callable[["Study", tuple[float, ...], Classifier], Objective]
"""Study, deviations of the pixels, the network before -> what is minimized."""


@dataclass(frozen=True)
class Method:
    """Which network must be there `before`, whether training starts from its weights (and is fine-tuning then), what is
    minimized, and which conversion its network undergoes first, if under one."""

    objective: Makes
    before: str = ""
    starts: bool = False
    conversion: Callable[["Study"], LCNNConversion | SmoothConversion] | None = None


def method_of(name: str, study: "Study") -> Method:
    """The method of that name as the study wants it: CURE starts from the standard network, or from nothing.

    Example:
        >>> from lowcurve.study.settings import Study
        >>> method_of("CURE", Study()).before, method_of("CURE", Study(cure=Cure(from_scratch=True))).before
        ('standard', '')
    """
    method = METHODS[name]
    return replace(method, before="", starts=False) if name == "CURE" and study.cure.from_scratch else method


def objective_of(name: str, study: "Study", std: tuple[float, ...], before: Classifier | None = None) -> Objective:
    """What the method of that name minimizes. before: the network that it needs; left out, the objective is one to describe
    or to rehearse and not to train with."""
    return METHODS[name].objective(study, std, before or the_network_before)


def the_network_before(x: Inputs) -> Logits:  # noqa: ARG001 (the signature of Classifier)
    """Stands for a network that is not there yet, and says so where it is asked."""
    raise InputError("the network that this method learns from", "none", "write objective_of(..., before=model)")


def ball_of(study: "Study") -> Ball:
    """The ball of training."""
    against = study.training_attack
    return Ball(Norm(against.norm or study.norm), parse_radius(against.radius or study.radius))


def _from_nothing(share: float) -> Schedule:
    """From 0 to 1 over that share of training, or 1 from the start."""
    return Schedule(start=0.0, until=share) if share else Schedule()


def _attacked(study: "Study", attack: AttackFunction, **penalties: Term) -> Objective:
    ramp = _from_nothing(study.training_attack.ramp)
    return Objective(attack=attack, radius_schedule=ramp, penalties=penalties, statistics=study.statistics)


def _penalized(study: "Study", **penalties: Term) -> Objective:
    return Objective(penalties=penalties, statistics=study.statistics)


def _together(first: Makes, second: Makes) -> Makes:
    """The attack of the first, the penalties of both."""

    def made(study: "Study", std: tuple[float, ...], before: Classifier) -> Objective:
        one, other = first(study, std, before), second(study, std, before)
        return replace(one, penalties={**one.penalties, **other.penalties})

    return made


def _standard(study: "Study", std: tuple[float, ...], before: Classifier) -> Objective:  # noqa: ARG001
    return _penalized(study)


def _cure(study: "Study", std: tuple[float, ...], before: Classifier) -> Objective:  # noqa: ARG001
    ours = study.cure
    form = released(std, ours.h) if ours.form == "released" else CURE(ours.h)
    penalty = CURE(form.h, form.squared, ours.direction, form.scale, ours.differentiation, ours.step)
    ramp = Schedule(start=0.05, until=ours.ramp)
    return _penalized(study, curvature=Term(penalty, ours.weight, scale_schedule=ramp, every=ours.every))


def _gradient_norm(study: "Study", std: tuple[float, ...], before: Classifier) -> Objective:  # noqa: ARG001
    ours = study.gradient
    of = margin if ours.of == "margin" else None
    penalty = InputGradientNorm(Norm(ours.norm), ours.squared, of, ours.differentiation, ours.step)
    ramp = _from_nothing(ours.ramp)
    return _penalized(study, gradient=Term(penalty, ours.weight, weight_schedule=ramp, every=ours.every))


def _low_curvature(study: "Study", std: tuple[float, ...], before: Classifier) -> Objective:  # noqa: ARG001
    ours = study.low_curvature
    penalty = SharpnessAndNorms(ours.weight_of_beta, ours.weight_of_gamma)
    return _penalized(study, sharpness=Term(penalty, 1.0))


def _lcnn(study: "Study") -> LCNNConversion:
    return LCNNConversion(study.low_curvature.beta, study.low_curvature.gamma)


def _smooth(study: "Study") -> SmoothConversion:
    return SmoothConversion(study.low_curvature.beta)


def _one_step(study: "Study", std: tuple[float, ...], before: Classifier) -> Objective:  # noqa: ARG001
    return _attacked(study, OneStep(ball_of(study)))


def _random_start(study: "Study", std: tuple[float, ...], before: Classifier) -> Objective:  # noqa: ARG001
    return _attacked(study, RSFGSM(ball_of(study)))


def _noisy(study: "Study", std: tuple[float, ...], before: Classifier) -> Objective:  # noqa: ARG001
    return _attacked(study, NFGSM(ball_of(study)))


def _pgd(study: "Study", std: tuple[float, ...], before: Classifier) -> Objective:  # noqa: ARG001
    against = study.training_attack
    loss = {"cross-entropy": log_odds, "margin": margin_loss}[against.loss]
    attack = PGD(ball_of(study), steps=against.steps, step_size=against.step_size, loss=loss, answer="last")
    return _attacked(study, attack)


def _trades(study: "Study", std: tuple[float, ...], before: Classifier) -> Objective:  # noqa: ARG001
    penalty = TRADES(ball_of(study), study.training_attack.steps)
    return _penalized(study, divergence=Term(penalty, study.others.trades))


def _llr(study: "Study", std: tuple[float, ...], before: Classifier) -> Objective:  # noqa: ARG001
    penalty = LLR(ball_of(study), study.training_attack.steps)
    return _penalized(study, linearity=Term(penalty, study.others.llr))


def _alignment(study: "Study", std: tuple[float, ...], before: Classifier) -> Objective:  # noqa: ARG001
    ball = ball_of(study)
    return _attacked(study, OneStep(ball), alignment=Term(GradAlign(ball.radius), study.others.alignment))


def _elle(study: "Study", std: tuple[float, ...], before: Classifier) -> Objective:  # noqa: ARG001
    ball = ball_of(study)
    return _attacked(study, OneStep(ball), chords=Term(ELLE(ball.radius), AdaptiveWeight(study.others.elle)))


def _deepfool(study: "Study", std: tuple[float, ...], before: Classifier) -> Objective:  # noqa: ARG001
    if study.training_attack.ramp:
        hint = "leave out --training_attack.ramp"
        raise InputError("an attack within a ball, whose radius can grow", "DeepFool, which has none", hint)
    return _attacked(study, DeepFool(ball_of(study).norm))


def _teacher(study: "Study", std: tuple[float, ...], before: Classifier) -> Objective:  # noqa: ARG001
    return Objective(loss=TemperatureCrossEntropy(study.others.temperature), statistics=study.statistics)


def _distillation(study: "Study", std: tuple[float, ...], before: Classifier) -> Objective:  # noqa: ARG001
    term = Term(Distillation(before, study.others.temperature), 1.0)
    return Objective(penalties={"distillation": term}, statistics=study.statistics, loss_weight=0.0)


METHODS = {
    "standard": Method(_standard),
    "CURE": Method(_cure, "standard", starts=True),
    "gradient-norm": Method(_gradient_norm),
    "CURE+gradient-norm": Method(_together(_cure, _gradient_norm)),
    "FGSM": Method(_one_step),
    "RS-FGSM": Method(_random_start),
    "N-FGSM": Method(_noisy),
    "CURE+N-FGSM": Method(_together(_noisy, _cure)),
    "PGD": Method(_pgd),
    "gradient-norm+PGD": Method(_together(_pgd, _gradient_norm)),
    "TRADES": Method(_trades),
    "LLR": Method(_llr),
    "GradAlign": Method(_alignment),
    "ELLE-A": Method(_elle),
    "DeepFool": Method(_deepfool, "standard", starts=True),
    "adversarial-set": Method(_standard, "standard", starts=True),
    "LCNN": Method(_low_curvature, conversion=_lcnn),
    "LCNN+gradient-norm": Method(_together(_gradient_norm, _low_curvature), conversion=_lcnn),
    "minimal": Method(_gradient_norm, conversion=_smooth),
    "teacher": Method(_teacher),
    "distillation": Method(_distillation, "teacher"),
}
"""In the order in which they are trained and read; what a method needs comes before it."""
USUAL = ("standard", "CURE", "gradient-norm", "PGD")
