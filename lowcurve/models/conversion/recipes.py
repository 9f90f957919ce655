"""What a network is made into: one small value for each recipe."""

from dataclasses import dataclass

from lowcurve.errors import InputError


@dataclass(frozen=True)
class Minimal:
    """Every nonlinearity becomes a centered softplus, and nothing else changes: the recipe to begin with.

    To be trained with the penalty on the input gradient's norm and a weight decay on beta. beta: the sharpness at the start;
    each call changes by log(2) / beta at most against ReLU. learn: whether beta is trained, one for each call.

    Example:
        >>> Minimal(beta=100.0)
        Minimal(beta=100.0, learn=True)

    Reference: srinivas2022lcnn, section 3.3 (the nonlinearity alone).
    """

    beta: float = 10.0
    learn: bool = True

    def __post_init__(self) -> None:
        require_positive("beta", self.beta)


@dataclass(frozen=True)
class LCNN:
    """Low curvature: a centered softplus for every nonlinearity, and no block that lengthens by more than a learned gamma.

    A block is a convolution or linear layer, with the BatchNorm behind it. gamma: where its bound starts at least; one whose
    norm is larger starts above it, so that a trained network begins as the function it is, but for its nonlinearities. To be
    trained with the penalty on betas and gammas (`penalties.LCNN`). learn: whether betas are trained.

    Example:
        >>> LCNN()
        LCNN(beta=5.0, gamma=10.0, learn=True)

    Reference: srinivas2022lcnn, sections 3.3 and 3.4.
    """

    beta: float = 5.0
    gamma: float = 10.0
    learn: bool = True

    def __post_init__(self) -> None:
        require_positive("beta", self.beta)
        require_positive("gamma", self.gamma)


@dataclass(frozen=True)
class Lipschitz:
    """Every layer has Lipschitz constant one at most, once and for all: no gamma is learned. The function changes.

    Layers, not sums: x + f(x) can still be twice as steep as its parts. Bounds are as near as power iteration is.

    Example:
        >>> Lipschitz()
        Lipschitz(beta=5.0, learn=True)
    """

    beta: float = 5.0
    learn: bool = True

    def __post_init__(self) -> None:
        require_positive("beta", self.beta)


Recipe = Minimal | LCNN | Lipschitz


def require_positive(name: str, value: float) -> None:
    """Refuses what is no positive number."""
    if not 0 < value < float("inf"):
        raise InputError(f"a positive number for {name}", value, f"write {name}=10.0")
