"""Options of the training methods."""

from dataclasses import dataclass
from typing import Literal

from lowcurve.penalties.differentiation import Differentiation

METHOD_NAMES = (
    "standard", "CURE", "gradient-norm", "CURE+gradient-norm", "FGSM", "RS-FGSM", "N-FGSM", "CURE+N-FGSM",
    "gradient-norm+N-FGSM", "SORA", "PGD", "gradient-norm+PGD", "TRADES", "LLR", "GradAlign", "ELLE-A", "DeepFool",
    "adversarial-set", "LCNN", "LCNN+gradient-norm", "minimal", "teacher", "distillation",
)  # fmt: skip
"""All methods in the order of training and reporting. Each comes after the methods whose networks it needs."""
DEFAULT_METHODS = ("standard", "CURE", "gradient-norm", "PGD")


CureForm = Literal["published", "released", "released-master", "released-quick-fix"]


@dataclass(frozen=True)
class Cure:
    """Options of CURE, the penalty on the change of the input gradient.

    Args:
        weight: Weight of the penalty, gamma in the paper.
        h: Scale of the change of the gradient. It is an l_2 length in pixel units.
        ramp: Share of training over which h grows to its value.
        form: Use "published" for the squared norm in pixel units. "released" is the norm in normalized inputs, as in the
            authors' code. Their branches differ in BatchNorm's mode: "released-master" computes the penalty in eval mode,
            and "released-quick-fix" only its direction.
        direction: Direction of the step h. It is the "sign" of the gradient or the "gradient".
        differentiation: Way to differentiate the penalty in the weights. Choose exact, detached, first_order,
            first_order_detached or secant.
        step: Step of the central differences. Only secant needs it.
        every: Compute the penalty in every k-th step only. It has k times the weight.
        from_scratch: Train from new weights instead of fine-tuning the standard network.
    """

    weight: float = 0.03
    h: float = 1.0
    ramp: float = 0.25
    form: CureForm = "published"
    direction: Literal["sign", "gradient"] = "sign"
    differentiation: Differentiation = "exact"
    step: float | None = None
    every: int = 1
    from_scratch: bool = False


@dataclass(frozen=True)
class GradientNorm:
    """Options of the penalty on the norm of the input gradient.

    Args:
        weight: Weight of the penalty.
        norm: Norm of the gradient.
        squared: Square the norm.
        of: Function with the penalized gradient: "loss" or "margin".
        ramp: Share of training in which the weight grows from 0 to its value.
        differentiation: Way to differentiate the penalty in the weights. Choose exact, first_order or secant.
        step: Step of the central differences. Only secant needs it.
        every: Compute the penalty in every k-th step only. It has k times the weight.
    """

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
    """Options of the attack in adversarial training and of the ball that TRADES, LLR, GradAlign and ELLE-A use.

    Args:
        steps: Number of attack steps of PGD, TRADES and LLR in each training step.
        norm: Norm of the ball. Default: the study's norm.
        radius: Radius of the ball. Default: the study's radius.
        step_size: Step size of PGD. Default: 2.5 radius / steps.
        loss: Loss that PGD maximizes: "cross-entropy" or "margin".
        ramp: Share of training over which the radius grows from 0 to its value.
    """

    steps: int = 7
    norm: Literal["l_inf", "l_2", "l_1"] | None = None
    radius: str | float | None = None
    step_size: float | None = None
    loss: Literal["cross-entropy", "margin"] = "cross-entropy"
    ramp: float = 0.0

    def __post_init__(self) -> None:
        if self.radius is not None:
            object.__setattr__(self, "radius", str(self.radius))


@dataclass(frozen=True)
class OtherMethods:
    """Options of the other methods.

    Args:
        trades: Weight of the TRADES divergence. It is 1 / lambda in the paper.
        llr: Weight of the local linearity regularizer (LLR).
        alignment: Weight of GradAlign.
        elle: Weight of ELLE-A. It applies after a step with an unusually large error.
        temperature: Temperature of the teacher and of distillation.
        per_class: Number of images of each class in the adversarial set.
    """

    trades: float = 6.0
    llr: float = 1.0
    alignment: float = 0.2
    elle: float = 4000.0
    temperature: float = 20.0
    per_class: int = 50


@dataclass(frozen=True)
class LowCurvature:
    """Options of the methods LCNN and minimal, which convert the network to low-curvature layers.

    Args:
        beta: Initial sharpness beta of each nonlinearity.
        gamma: Initial Lipschitz bound gamma of each block. It belongs to LCNN.
        weight_of_beta: Weight of the penalty on the betas (LCNN).
        weight_of_gamma: Weight of the penalty on the logarithms of the gammas (LCNN).
        decay: Weight decay of log beta (minimal).
    """

    beta: float = 5.0
    gamma: float = 10.0
    weight_of_beta: float = 1e-3
    weight_of_gamma: float = 1e-3
    decay: float = 0.1
