"""The conversions that `convert` can apply to a network, each with its settings."""

from dataclasses import dataclass

from lowcurve.errors import InputError


@dataclass(frozen=True)
class SmoothConversion:
    """Replace every nonlinearity by a centered softplus and change nothing else.

    Start with this one. Train the converted network with the penalty on the input gradient's norm and weight decay on beta.

    Args:
        beta: Sharpness at the start, one per call. Each call differs from ReLU by at most log(2) / beta.
        learn: Train beta.

    Raises:
        InputError: If beta is not positive and finite.

    Example:
        >>> SmoothConversion(beta=100.0)
        SmoothConversion(beta=100.0, learn=True)

    Reference: srinivas2022lcnn, section 3.3 (the nonlinearity alone).
    """

    beta: float = 10.0
    learn: bool = True

    def __post_init__(self) -> None:
        require_positive("beta", self.beta)


@dataclass(frozen=True)
class LCNNConversion:
    """Replace every nonlinearity by a centered softplus and bound the norm of every block by a learned gamma.

    A block is a convolution or linear layer together with the BatchNorm after it. A block whose norm exceeds gamma gets a
    larger gamma at the start, so that only the nonlinearities change the function of a trained network. Train the converted
    network with the penalty on betas and gammas (`penalties.LCNNPenalty`).

    Args:
        beta: Sharpness at the start, one per call.
        gamma: Bound of each block at the start, or more where the block's norm is larger.
        learn: Train beta. Gamma is always trained.

    Raises:
        InputError: If beta or gamma is not positive and finite.

    Example:
        >>> LCNNConversion()
        LCNNConversion(beta=5.0, gamma=10.0, learn=True)

    Reference: srinivas2022lcnn, sections 3.3 and 3.4.
    """

    beta: float = 5.0
    gamma: float = 10.0
    learn: bool = True

    def __post_init__(self) -> None:
        require_positive("beta", self.beta)
        require_positive("gamma", self.gamma)


@dataclass(frozen=True)
class LipschitzConversion:
    """Replace every nonlinearity by a centered softplus and bound the Lipschitz constant of every layer by one.

    The bound is fixed, so the function of a trained network changes. It holds for layers and not for sums: x + f(x) can have
    Lipschitz constant two. The bounds are as accurate as power iteration.

    Args:
        beta: Sharpness at the start, one per call.
        learn: Train beta.

    Raises:
        InputError: If beta is not positive and finite.

    Example:
        >>> LipschitzConversion()
        LipschitzConversion(beta=5.0, learn=True)
    """

    beta: float = 5.0
    learn: bool = True

    def __post_init__(self) -> None:
        require_positive("beta", self.beta)


Conversion = SmoothConversion | LCNNConversion | LipschitzConversion


def require_positive(name: str, value: float) -> None:
    """Raise an InputError unless the value is positive and finite.

    Args:
        name: Name of the setting in the message.
        value: The value to check.

    Raises:
        InputError: If the value is not positive and finite.
    """
    if not 0 < value < float("inf"):
        raise InputError(f"a positive number for {name}", value, f"write {name}=10.0")
