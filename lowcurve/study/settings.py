"""What a study does, in full: every number that decides its outcome."""

from dataclasses import dataclass, field, replace
from typing import Literal

from lowcurve.analysis.norms import Ball, Norm, parse_radius
from lowcurve.attacks import FULL, PGD, SUITES, Effort
from lowcurve.data import Limits
from lowcurve.errors import InputError, nearest
from lowcurve.evaluation.audit import Budget
from lowcurve.study.method_options import (
    DEFAULT_METHODS,
    METHOD_NAMES,
    Cure,
    GradientNorm,
    LowCurvature,
    OtherMethods,
    TrainingAttack,
)
from lowcurve.training import Hardware, Optimization

EVERYTHING = Limits()
DIGITS_TRAINING = Optimization(epochs=40, batch_size=64, learning_rate=2e-3)
DIGITS_FINE_TUNING = Optimization(epochs=30, batch_size=64, learning_rate=2e-3)


@dataclass(frozen=True)
class Evaluation:
    """How many test examples each step sees, and how long it looks. `radii` are multiples of the study's radius.

    examples: of the attacks; steps: of PGD. effort: of the suite strong. audited: how many of them the tests for gradient
    masking see, 0 for no audit; budget: what these may cost for each. save_inputs: keep the inputs that the attacks found.
    drawn: at how many images boundaries and surfaces are drawn, 0 for no pictures; drawn_points: along a side of a plane;
    drawn_paths: between how many images paths are looked for, 0 for none.
    """

    examples: int = 360
    steps: int = 20
    effort: Effort = FULL
    audited: int = 120
    budget: Budget = field(default_factory=Budget)
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
    drawn: int = 1
    drawn_points: int = 41
    drawn_paths: int = 30

    def __post_init__(self) -> None:
        if min(self.steps, self.effort.steps, self.lanczos_steps) < 1:
            raise InputError("at least one step", "none", "write --evaluation.steps 20")
        if min(self.examples, self.curvature_examples) < 1:
            raise InputError("at least one example", "none", "write --evaluation.examples 100")
        if not self.radii:
            raise InputError("at least one radius", "none", "write --evaluation.radii 0.0,0.5,1.0")
        if list(self.radii) != sorted(self.radii) or self.radii[0] < 0:
            raise InputError("radii of 0 or more in rising order", self.radii, "write --evaluation.radii 0.0,0.5,1.0")


@dataclass(frozen=True)
class Study:
    """A comparison of training methods on one data set, from pixels to a report.

    data: digits, colored-digits, two-moons, mnist, cifar10, cifar100, svhn, tiny-imagenet, or the path of an image folder or
    of parquet files.
    data_dir: a folder of parquet files in the hub's layout, for work without network (also LOWCURVE_DATA).
    network: small-convnet, yu2018-mnist, yu2018-cifar, resnet18, resnet20, wide-resnet28-10, mlp.
    model: package.module:factory, your own network in place of `network`; weights: its state dict, from which fine-tuning
    then starts instead of training a standard network. mean, std: standardization in front of your own network, a number per
    channel, if it is not the network's first layer. methods: which networks to make, of standard, CURE, gradient-norm,
    CURE+gradient-norm, FGSM, RS-FGSM, N-FGSM, CURE+N-FGSM, PGD, gradient-norm+PGD, TRADES, LLR, GradAlign, ELLE-A, DeepFool,
    adversarial-set, teacher, LCNN, LCNN+gradient-norm, minimal (these three convert the network), distillation.
    suite: the attacks that robustness is judged by, of strong, moosavi2019cure, srinivas2022lcnn, yu2018-mnist and
    yu2018-cifar10. radius: of the attacks, written 8/255, 0.1 or pixels:8, in pixel units.
    training: of networks from scratch; fine_tuning: of those that start from the standard one (CURE, DeepFool,
    adversarial-set). statistics: of BatchNorm in training, those of the batch or frozen. validation_steps: of a PGD on the
    validation split after each epoch, 0 for none. devices, nodes, strategy: how many processes share the training, on
    each of how many machines, and how (auto, ddp).
    """

    data: str = "digits"
    data_dir: str | None = None
    limits: Limits = EVERYTHING
    network: str = "small-convnet"
    nonlinearity: str = "relu"
    width: int | None = 16
    model: str | None = None
    weights: str | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    methods: tuple[str, ...] = DEFAULT_METHODS
    norm: Literal["l_inf", "l_2"] = "l_inf"
    radius: str = "0.125"
    suite: str = "strong"
    seed: int = 0
    training: Optimization = DIGITS_TRAINING
    fine_tuning: Optimization = DIGITS_FINE_TUNING
    statistics: Literal["batch", "frozen"] = "batch"
    cure: Cure = field(default_factory=Cure)
    gradient: GradientNorm = field(default_factory=GradientNorm)
    low_curvature: LowCurvature = field(default_factory=LowCurvature)
    training_attack: TrainingAttack = field(default_factory=TrainingAttack)
    others: OtherMethods = field(default_factory=OtherMethods)
    validation_steps: int = 0
    evaluation: Evaluation = Evaluation()
    accelerator: str = "auto"
    devices: int = 1
    nodes: int = 1
    strategy: str = "auto"
    precision: str = "32-true"
    compile: bool = False

    def __post_init__(self) -> None:
        for method in self.methods:
            if method not in METHOD_NAMES:
                hint = nearest(method, METHOD_NAMES, "write --methods standard,CURE")
                raise InputError(f"methods among {', '.join(METHOD_NAMES)}", repr(method), hint)
        if self.suite not in SUITES:
            raise InputError(
                f"a suite among {', '.join(SUITES)}",
                repr(self.suite),
                nearest(self.suite, SUITES, "write --suite strong"),
            )
        if not self.methods and self.model is None:
            raise InputError("at least one method", "none", "write --methods standard,CURE")
        if (self.mean or self.std) and self.model is None:
            hint = "Add --model package.module:function, or leave out --mean and --std"
            raise InputError("--mean and --std together with a network of your own", "no --model", hint)
        if self.validation_steps < 0:
            raise InputError("validation_steps of 0 or more", self.validation_steps, "write --validation_steps 10")
        for multiple in (1.0, *self.evaluation.radii):
            self.ball(multiple)

    def resolve(self) -> "Study":
        """With nothing left open, so that a later evaluation at another radius does not change how networks are made."""
        against = self.training_attack
        against = replace(against, norm=against.norm or self.norm, radius=against.radius or self.radius)
        return replace(self, training_attack=against)

    def ball(self, multiple: float = 1.0) -> Ball:
        """The ball of the attacks, at a multiple of the study's radius."""
        return Ball(Norm(self.norm), multiple * parse_radius(self.radius))

    def scale(self, dimensions: int) -> float:
        """Return the l_2 length of the study's largest perturbation: the scale h at which curvature matters to an attack."""
        return self.ball().l2_reach(dimensions)

    @property
    def hardware(self) -> Hardware:
        """Where it is trained and evaluated."""
        return Hardware(self.accelerator, self.devices, self.nodes, self.strategy, self.precision, self.compile)

    @property
    def validation_attack(self) -> PGD | None:
        """What each epoch is tried with."""
        return PGD(self.ball(), steps=self.validation_steps) if self.validation_steps else None
