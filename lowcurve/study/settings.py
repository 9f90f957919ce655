"""The settings of a study: every number that decides its results."""

from dataclasses import dataclass, field, replace
from typing import Literal

from lowcurve.analysis.norms import Ball, Norm, parse_radius
from lowcurve.attacks import FULL, PGD, SUITES, Effort
from lowcurve.data import Limits
from lowcurve.errors import InputError, nearest
from lowcurve.evaluation.audit import Budget
from lowcurve.libraries import require_logger_names
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
    """Options of measuring and attacking: numbers of test examples, steps and points.

    Args:
        examples: Number of attacked test examples.
        first: Take the first examples of the test set. By default they are random where `limits.test` is set.
        steps: Number of steps of PGD.
        effort: Numbers of the suite "strong". Smaller ones than by default make it weaker, and the results say so.
        audited: Number of test examples in the tests for gradient masking. 0 makes no audit.
        audit: Run what the verdict needs ("usual"), or every test with larger searches ("thorough").
        budget: Largest cost of those tests per example.
        certified: Number of attacked test examples that are certified. Networks with costly bounds get fewer. None for 0.
        save_inputs: Save the adversarial inputs.
        radii: Radii of the robustness curve. They are multiples of the study's radius.
        curvature_examples: Number of test examples. They serve curvature, linearity and stability.
        lanczos_steps: Largest number of Lanczos steps for a Hessian eigenvalue.
        density_examples: Number of test examples for the spectral density.
        boundary_examples: Number of test examples for distances to the decision boundary. Its curvature is measured
            there, too.
        profile_examples: Number of test examples for curvature profiles. None are made for 0.
        largest_profile: Largest number of input dimensions of a curvature profile.
        gallery: Number of classes in the gallery of perturbed images. None is made for 0.
        drawn: Number of images at which boundaries and surfaces are drawn. No figures are made for 0.
        drawn_points: Number of points along a side of a drawn plane.
        drawn_paths: Number of images between which paths are searched. None are searched for 0. They cost more than all
            other figures; `--full` sets 30, and `lowcurve draw path` searches them later.

    Raises:
        InputError: If a number is too small or the radii do not rise.
    """

    examples: int = 360
    first: bool = False
    steps: int = 20
    effort: Effort = FULL
    audited: int = 120
    audit: Literal["usual", "thorough"] = "usual"
    budget: Budget = field(default_factory=Budget)
    certified: int = 100
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
    drawn_paths: int = 0

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
    """All settings of a study: a comparison of training methods on one data set.

    Args:
        data: Data set. Choose digits, colored-digits, two-moons, mnist, cifar10, cifar100, svhn, tiny-imagenet, or the
            path of an image folder or of parquet files.
        data_dir: Folder of parquet files as on the Hugging Face hub. It allows work without a network connection.
            Default: the environment variable LOWCURVE_DATA.
        resize: Side in pixels of the squares that images of several sizes become: the shorter side is resized, and the
            middle is cut out. Default: no resizing.
        limits: Largest numbers of examples.
        network: Architecture. Choose mlp, small-convnet, yu2018-mnist, yu2018-cifar, resnet18, resnet20,
            wide-resnet28-10, lcnn-resnet18, lcnn-resnet18-plain, lcnn-vgg11, vit-tiny, vit-tiny-patch8, convnext-atto,
            convnext-tiny or aol-convnet, whose Lipschitz constant is bounded.
        nonlinearity: Nonlinearity of the network, for example relu or softplus. Another network than the data's usual
            one has its own by default.
        width: Width of the network. Another network than the data's usual one has its own by default.
        model: Your own network instead of `network`. Write package.module:function.
        weights: File with the state dict of your own network. It then replaces the standard network.
        mean: Mean of each channel. Set it if your own network does not normalize its inputs itself.
        std: Standard deviation of each channel. Set it if your own network does not normalize its inputs itself.
        methods: Training methods. Choose from standard, CURE, gradient-norm, CURE+gradient-norm, FGSM, RS-FGSM, N-FGSM,
            CURE+N-FGSM, gradient-norm+N-FGSM, SORA, PGD, gradient-norm+PGD, TRADES, LLR, GradAlign, ELLE-A, DeepFool,
            adversarial-set, LCNN, LCNN+gradient-norm, minimal, teacher or distillation.
        norm: Norm of the attacks.
        radius: Radius of the attacks (epsilon in the literature) in pixel units. Write 8/255, 0.1 or pixels:8.
        suite: Attacks that measure robustness. Choose strong, autoattack, moosavi2019cure, srinivas2022lcnn,
            yu2018-mnist or yu2018-cifar10.
        seed: Seed of all random numbers.
        training: Optimization of networks with new weights.
        fine_tuning: Optimization of networks that start from the standard one. These are CURE, DeepFool and
            adversarial-set.
        statistics: BatchNorm statistics in training. Choose batch or frozen.
        cure: Options of CURE.
        gradient: Options of gradient-norm.
        low_curvature: Options of LCNN and minimal.
        training_attack: Options of the attack in training.
        others: Options of the other methods.
        validation_steps: Number of steps of the PGD on the validation examples after each epoch. 0 means none.
        evaluation: Options of measuring and attacking.
        accelerator: Device. Choose auto, cpu or cuda.
        devices: Number of processes on each machine.
        nodes: Number of machines.
        strategy: Way in which processes share a training. Choose auto, ddp or ddp_spawn.
        precision: Precision in the words of Lightning Fabric, for example 32-true or bf16-mixed.
        compile: Compile the forward pass with torch.compile, except in penalties that differentiate twice.
        loggers: Places that get the training curves, and all but csv the figures. Choose csv, tensorboard, wandb, mlflow or
            trackio.

    Raises:
        InputError: If an option is out of range.
    """

    data: str = "digits"
    data_dir: str | None = None
    resize: int | None = None
    limits: Limits = EVERYTHING
    network: str = "small-convnet"
    nonlinearity: str | None = None
    width: int | None = 16
    model: str | None = None
    weights: str | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    methods: tuple[str, ...] = DEFAULT_METHODS
    norm: Literal["l_inf", "l_2", "l_1"] = "l_inf"
    radius: str | float = "0.125"
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
    loggers: tuple[str, ...] = ("csv",)

    def __post_init__(self) -> None:
        # A YAML file may hold the plain number.
        object.__setattr__(self, "radius", str(self.radius))
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
        if (self.mean or self.std) and self.model is None:
            hint = "Add --model package.module:function, or leave out --mean and --std"
            raise InputError("--mean and --std together with a network of your own", "no --model", hint)
        require_logger_names(self.loggers)
        if self.validation_steps < 0:
            raise InputError("validation_steps of 0 or more", self.validation_steps, "write --validation_steps 10")
        for multiple in (1.0, *self.evaluation.radii):
            self.ball(multiple)

    def resolve(self) -> "Study":
        """Return the study with norm and radius of the training attack filled in.

        A later evaluation at another radius then does not change how networks are trained.
        """
        attack = self.training_attack
        attack = replace(attack, norm=attack.norm or self.norm, radius=attack.radius or self.radius)
        return replace(self, training_attack=attack)

    def ball(self, multiple: float = 1.0) -> Ball:
        """Return the ball of the attacks, at a multiple of the study's radius."""
        return Ball(Norm(self.norm), multiple * parse_radius(self.radius))

    def scale(self, dimensions: int) -> float:
        """Return the l_2 length of the study's largest perturbation, the scale h at which curvature matters to an attack.

        Args:
            dimensions: Number of entries of one input.
        """
        return self.ball().l2_length(dimensions)

    @property
    def attacks(self) -> str:
        """The suite's name. If it has less effort than by default, that is said."""
        effort = self.evaluation.effort.describe() if self.suite == "strong" else ""
        return f"{self.suite}, {effort}" if effort else self.suite

    @property
    def hardware(self) -> Hardware:
        """Device, precision and processes."""
        return Hardware(self.accelerator, self.devices, self.nodes, self.strategy, self.precision, self.compile)

    @property
    def validation_attack(self) -> PGD | None:
        """The attack on the validation examples after each epoch, or None."""
        return PGD(self.ball(), steps=self.validation_steps) if self.validation_steps else None
