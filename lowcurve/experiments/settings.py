"""What a study does, in full: every number that decides its outcome, with presets by data set and scale."""

from dataclasses import dataclass, replace
from typing import Literal

from lowcurve.analysis.norms import L2, LINF, Ball, Norm, parse_radius
from lowcurve.attacks import FULL, PGD, SUITES, Effort
from lowcurve.data import Augmentation, Limits
from lowcurve.errors import InputError
from lowcurve.penalties import InputGradientNorm
from lowcurve.penalties.cure import published, released
from lowcurve.training import Objective, Optimization, Schedule, Term

Scale = Literal["smoke", "laptop", "paper"]
SCALES: tuple[Scale, ...] = ("smoke", "laptop", "paper")
METHODS = ("standard", "CURE", "gradient-norm", "PGD")
EVERYTHING = Limits()
ON_A_LAPTOP = Effort(steps=50, targets=3, queries=1000)
DIGITS_TRAINING = Optimization(epochs=40, batch_size=64, learning_rate=2e-3)
DIGITS_FINE_TUNING = Optimization(epochs=30, batch_size=64, learning_rate=2e-3)


@dataclass(frozen=True)
class Cure:
    """CURE fine-tuning from the standard network: `weight` (gamma) times the penalty at scale h, reached after the share
    `ramp` of training. form: published (squared norm, pixel units) or released (the norm, in standardized inputs)."""

    weight: float = 0.03
    h: float = 1.0
    ramp: float = 0.25
    form: Literal["published", "released"] = "published"


@dataclass(frozen=True)
class TrainingAttack:
    """The PGD of adversarial training; norm and radius are those of the study unless they are given."""

    steps: int = 7
    norm: Literal["l_inf", "l_2"] | None = None
    radius: str | None = None


@dataclass(frozen=True)
class Evaluation:
    """How many test examples each step sees, and how long it looks. `radii` are multiples of the study's radius.

    examples: of the attacks; steps: of PGD. effort: of the suite strong. audited: how many of them the tests for gradient
    masking see, 0 for no audit. save_inputs: keep the inputs that the attacks found.
    """

    examples: int = 360
    steps: int = 20
    effort: Effort = FULL
    audited: int = 120
    save_inputs: bool = True
    radii: tuple[float, ...] = (
        0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0, 1.125, 1.25, 1.375, 1.5, 1.625, 1.75, 1.875, 2.0,
    )  # fmt: skip
    curvature_examples: int = 360
    lanczos_steps: int = 12
    density_examples: int = 16
    boundary_examples: int = 100
    profile_examples: int = 32
    largest_profile: int = 1024
    gallery: int = 5

    def __post_init__(self) -> None:
        if min(self.steps, self.effort.steps, self.lanczos_steps) < 1:
            raise InputError("at least one step", "none", "write --evaluation.steps 20")
        if min(self.examples, self.curvature_examples) < 1:
            raise InputError("at least one example", "none", "write --evaluation.examples 100")
        if not self.radii:
            raise InputError("at least one radius", "none", "write --evaluation.radii [0.0,0.5,1.0]")
        if list(self.radii) != sorted(self.radii) or self.radii[0] < 0:
            raise InputError("radii of 0 or more in rising order", self.radii, "write --evaluation.radii [0.0,0.5,1.0]")


@dataclass(frozen=True)
class Study:
    """A comparison of training methods on one data set, from pixels to a report.

    data: digits, two-moons, mnist, cifar10, cifar100, svhn, tiny-imagenet, or the path of an image folder or parquet.
    data_dir: a folder of parquet files in the hub's layout, for work without network (also LOWCURVE_DATA).
    network: small-convnet, yu2018-mnist, yu2018-cifar, resnet18, resnet20, wide-resnet28-10, mlp.
    model: package.module:factory, your own network in place of `network`; weights: its state dict, from which CURE then
    starts instead of training a standard network. methods: which networks to make, of standard, CURE, gradient-norm, PGD.
    suite: the attacks that robustness is judged by, of strong, moosavi2019cure, srinivas2022lcnn, yu2018-mnist and
    yu2018-cifar10. radius: of the attacks, written 8/255, 0.1 or pixels:8, in pixel units. gradient_weight: of ||grad l||_2^2.
    training: of the standard, gradient-norm and PGD networks; fine_tuning: of CURE.
    """

    data: str = "digits"
    data_dir: str | None = None
    limits: Limits = EVERYTHING
    network: str = "small-convnet"
    nonlinearity: str = "relu"
    width: int | None = 16
    model: str | None = None
    weights: str | None = None
    methods: tuple[str, ...] = METHODS
    norm: Literal["l_inf", "l_2"] = "l_inf"
    radius: str = "0.125"
    suite: str = "strong"
    seed: int = 0
    training: Optimization = DIGITS_TRAINING
    fine_tuning: Optimization = DIGITS_FINE_TUNING
    cure: Cure = Cure()
    gradient_weight: float = 1.0
    training_attack: TrainingAttack = TrainingAttack()
    evaluation: Evaluation = Evaluation()
    accelerator: str = "auto"
    precision: str = "32-true"

    def __post_init__(self) -> None:
        for method in self.methods:
            if method not in METHODS:
                raise InputError(f"methods among {', '.join(METHODS)}", repr(method), "write --methods [standard,CURE]")
        if self.suite not in SUITES:
            raise InputError(f"a suite among {', '.join(SUITES)}", repr(self.suite), "write --suite strong")
        if not self.methods:
            raise InputError("at least one method", "none", "write --methods [standard,CURE]")
        for multiple in (1.0, *self.evaluation.radii):
            self.ball(multiple)

    def resolved(self) -> "Study":
        """With nothing left open, so that a later evaluation at another radius does not change how networks are made."""
        against = self.training_attack
        against = replace(against, norm=against.norm or self.norm, radius=against.radius or self.radius)
        return replace(self, training_attack=against)

    def ball(self, multiple: float = 1.0) -> Ball:
        """The ball of the attacks, at a multiple of the study's radius."""
        return Ball(Norm(self.norm), multiple * parse_radius(self.radius))

    def scale(self, dimensions: int) -> float:
        """The l_2 length of the study's largest perturbation: the scale h at which curvature matters to an attack."""
        radius = parse_radius(self.radius)
        return radius * dimensions**0.5 if Norm(self.norm) == LINF else radius

    def objective(self, method: str, std: tuple[float, ...]) -> Objective:
        """What this method minimizes."""
        if method == "CURE":
            penalty = published(self.cure.h) if self.cure.form == "published" else released(std, self.cure.h)
            ramp = Schedule(start=0.05, until=self.cure.ramp)
            return Objective(penalties={"curvature": Term(penalty, self.cure.weight, scale_schedule=ramp)})
        if method == "gradient-norm":
            return Objective(penalties={"gradient norm": Term(InputGradientNorm(L2), self.gradient_weight)})
        if method == "PGD":
            against = self.training_attack
            ball = Ball(Norm(against.norm or self.norm), parse_radius(against.radius or self.radius))
            return Objective(attack=PGD(ball, steps=against.steps))
        return Objective()


def preset(data: str, scale: str = "laptop") -> Study:
    """The study of a data set at a scale: smoke (seconds, to see that it runs), laptop (minutes on two cores), paper.

    Example:
        >>> preset("mnist").radius, preset("cifar10").radius
        ('0.1', '8/255')
    """
    if scale not in SCALES:
        raise InputError(f"a scale among {', '.join(SCALES)}", repr(scale), "write --scale laptop")
    study = replace(_at_laptop(data), data=data)
    if scale == "smoke":
        return _shortened(study)
    return _at_paper(study) if scale == "paper" else study


def _at_laptop(data: str) -> Study:
    if data == "digits":
        return Study()
    if data == "two-moons":
        quick = Optimization(epochs=40, batch_size=64, learning_rate=5e-3)
        return Study(
            network="mlp",
            width=None,
            radius="0.05",
            training=quick,
            fine_tuning=quick,
            cure=Cure(weight=0.001, h=0.1),
            gradient_weight=0.01,
        )
    if data == "mnist":
        return Study(
            limits=Limits(train=10_000, validation=1000, test=1000),
            radius="0.1",
            training=Optimization(epochs=6, batch_size=128, learning_rate=2e-3),
            fine_tuning=Optimization(epochs=5, batch_size=128, learning_rate=2e-3),
            cure=Cure(weight=0.1, h=3.0),
            evaluation=Evaluation(examples=200, effort=ON_A_LAPTOP, curvature_examples=200, profile_examples=8),
        )
    augmentation = Augmentation(crop_padding=4, flip=data != "svhn")
    return Study(
        limits=Limits(train=10_000, validation=1000, test=500),
        nonlinearity="softplus",
        width=32,
        radius="8/255",
        training=Optimization(epochs=10, batch_size=128, learning_rate=2e-3, augmentation=augmentation),
        fine_tuning=Optimization(epochs=6, batch_size=128, learning_rate=2e-3, augmentation=augmentation),
        cure=Cure(weight=4.0, h=1.7),
        gradient_weight=0.3,
        evaluation=Evaluation(examples=200, effort=ON_A_LAPTOP, curvature_examples=100, profile_examples=0),
    )


def _at_paper(study: Study) -> Study:
    if study.data in ("digits", "two-moons"):
        return study
    if study.data == "mnist":
        long = replace(study.training, epochs=30)
        whole = replace(study.evaluation, examples=10_000, effort=FULL, curvature_examples=1000, profile_examples=100)
        return replace(
            study,
            limits=Limits(),
            network="yu2018-mnist",
            width=None,
            training=long,
            fine_tuning=long,
            evaluation=whole,
        )
    return replace(
        study,
        limits=Limits(),
        network="resnet18",
        nonlinearity="relu",
        width=None,
        training=Optimization(
            epochs=100, optimizer="sgd", learning_rate=0.1, weight_decay=5e-4, augmentation=study.training.augmentation
        ),
        fine_tuning=Optimization(
            epochs=20, optimizer="adam", learning_rate=1e-4, learning_rate_schedule=Schedule(end=0.01), weight_decay=0.0
        ),
        cure=Cure(weight=4.0, h=3.0, form="released"),
        training_attack=TrainingAttack(steps=10),
        evaluation=replace(study.evaluation, examples=10_000, effort=FULL, curvature_examples=1000),
    )


def _shortened(study: Study) -> Study:
    few = replace(study.training, epochs=1)
    evaluation = Evaluation(
        examples=32, steps=3, effort=Effort(3, 1, 20), audited=8, radii=(0.0, 1.0), curvature_examples=16, lanczos_steps=4,
        density_examples=2, boundary_examples=4, profile_examples=2, largest_profile=64, gallery=2,
    )  # fmt: skip
    return replace(
        study,
        limits=Limits(train=256, validation=64, test=64),
        width=8,
        training=few,
        fine_tuning=few,
        training_attack=TrainingAttack(steps=2),
        evaluation=evaluation,
    )
