"""Local linearity: penalties on the distance of the loss from its tangent or chord within a ball around the input."""

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from lowcurve.analysis.calculus import Jet, value_and_gradient
from lowcurve.analysis.norms import L2, LINF, Ball, dot, per_example, pixels
from lowcurve.errors import InputError
from lowcurve.penalties.base import Penalty
from lowcurve.penalties.differentiation import (
    DIFFERENTIATIONS,
    DOUBLE_BACKWARD,
    Differentiation,
    apply_to_gradients,
    require_differentiation,
)
from lowcurve.penalties.search import input_streams, projected_ascent, require_ascent
from lowcurve.types import Inputs, PerExample


@dataclass(frozen=True)
class LLR(Penalty):
    """linearity * |l(x + d) - l(x) - <d, g(x)>| + tilt * |<d, g(x)>|, g = grad l, per example.

    d is the point of the ball with the largest first term. It is found by projected ascent from a random point and held
    constant.

    Args:
        ball: Ball around the input, in pixel units.
        steps: Number of steps of the ascent. Each is 2.5 radius / steps long (twice that in l_2).
        linearity: Weight lambda of the paper. It is 4 for CIFAR-10 at 8/255, with a term weight of 1.
        tilt: Weight mu of the paper. It is 3 for CIFAR-10 at 8/255.
        differentiation: Way to differentiate <d, g(x)>; see `apply_to_gradients`.
        step: Step of the central differences; see `apply_to_gradients`.

    Raises:
        InputError: If an option is out of range.

    Cost in addition to the shared clean forward pass, in forward passes F: 2 F per step of the ascent, and 6 F (exact) or 11 F.

    Example:
        >>> field = lambda x: 3 * x[:, 0].square() / 2 + x[:, 1]  # |d H d| / 2 = 0.015 and g = (0, 1)
        >>> jet = Jet(field, torch.tensor([[0.0, 0.5]]))
        >>> round(LLR(Ball(LINF, 0.1, box=(-1.0, 1.0)), tilt=0.0)(jet).item(), 4)
        0.06

    Reference: Qin et al. 2019 (LLR), the regularizer with lambda gamma(eps, x) and mu.
    """

    ball: Ball = field(default_factory=lambda: Ball(LINF, pixels(8)))
    steps: int = 10
    linearity: float = 4.0
    tilt: float = 3.0
    differentiation: Differentiation = "exact"
    step: float | None = None

    def __post_init__(self) -> None:
        require_ascent(self.steps)
        if not all(math.isfinite(weight) and weight >= 0 for weight in (self.linearity, self.tilt)):
            received = (self.linearity, self.tilt)
            raise InputError("weights of linearity and tilt of 0 or more", received, "write linearity=4.0, tilt=3.0")
        require_differentiation(self.differentiation, self.step, "exact", "first_order", "secant")

    @property
    def differentiates_twice(self) -> bool:
        """True for the exact way."""
        return self.differentiation == "exact"

    def evaluate(self, jet: Jet, generator: torch.Generator) -> PerExample:
        """Compute one number of at least 0 per example."""
        far = self._farthest(jet, generator)
        shift = far - jet.x.detach()
        rise = apply_to_gradients(jet, lambda g: dot(g, shift), differentiation=self.differentiation, step=self.step)
        gap = jet.field(far) - jet.values - rise
        return self.linearity * gap.abs() + self.tilt * rise.abs()

    def _farthest(self, jet: Jet, generator: torch.Generator) -> Inputs:
        """Search the point of the ball at which the loss is farthest from its tangent."""
        x, level = jet.x.detach(), jet.values.detach()
        clean = jet.gradient.detach() if self.differentiates_twice else jet.detached_gradient

        def ascent_direction(point: Inputs) -> Tensor:
            value, gradient = value_and_gradient(jet.field, point)
            side = (value - level - dot(point - x, clean)).sign()
            return per_example(side, x) * (gradient - clean)

        start = self.ball.sample(x, input_streams(x, generator))
        return projected_ascent(ascent_direction, start, x, self.ball, steps=self.steps)


@dataclass(frozen=True)
class GradAlign(Penalty):
    """1 - cos(g(x), g(x + r)) with g = grad l and r ~ U(-radius, radius) in every pixel, per example.

    The value is 0 if either gradient is 0. The released code leaves such an example out of the mean; here it counts as 0.
    x + r is not clipped to the pixel box. The released weights depend on the radius: 0.036 at 2/255, 0.2 at 8/255 and 2.0
    at 16/255.

    Args:
        radius: Radius of the attack, in pixel units.
        differentiation: Way to differentiate in the parameters; see `apply_to_gradients`. The released code is exact;
            "detached" was reported to do no worse.
        step: Step of the central differences; see `apply_to_gradients`.

    Raises:
        InputError: If an option is out of range.

    Cost in addition to the shared clean forward pass, in forward passes F: exact 9 F, detached 7 F, first_order 15 F,
    first_order_detached 9 F.

    Example:
        >>> jet = Jet(lambda x: 3 * x[:, 0] + 4 * x[:, 1], torch.tensor([[0.5, 0.5]]))
        >>> GradAlign()(jet)
        tensor([0.])

    Reference: Andriushchenko and Flammarion 2020 (GradAlign); its released code.
    """

    radius: float = pixels(8)
    differentiation: Differentiation = "exact"
    step: float | None = None

    def __post_init__(self) -> None:
        _require_radius(self.radius)
        require_differentiation(self.differentiation, self.step, *DIFFERENTIATIONS)

    @property
    def differentiates_twice(self) -> bool:
        """True for the ways that differentiate an input gradient."""
        return self.differentiation in DOUBLE_BACKWARD

    @property
    def detaches_gradient(self) -> bool:
        """True unless the way is exact."""
        return self.differentiation != "exact"

    def evaluate(self, jet: Jet, generator: torch.Generator) -> PerExample:
        """Compute one number from 0 to 2 per example."""
        x = jet.x.detach()
        near = x + input_streams(x, generator).uniform(x, -self.radius, self.radius)
        return apply_to_gradients(
            jet, _misalignment, lambda _: near, differentiation=self.differentiation, step=self.step
        )


@dataclass(frozen=True)
class ELLE(Penalty):
    """(l(c) - (1 - t) l(a) - t l(b))^2, the squared distance of the loss from a chord, per example.

    a and b are uniform in the l_inf ball around x, c = (1 - t) a + t b and t ~ U(0, 1). The points are not clipped to the
    pixel box. The released weights depend on the radius: 1000 up to 8/255, then 5000 and 10000. ELLE-A is this penalty with
    an `AdaptiveWeight`.

    Args:
        radius: Radius of the attack, in pixel units.

    Raises:
        InputError: If the radius is not above 0.

    Cost: three forward passes and their ordinary backward passes, without any gradient in x.

    Example:
        >>> ELLE(radius=0.1)(Jet(lambda x: x[:, 0], torch.zeros(1, 1))).item() < 1e-14
        True

    Reference: Abad Rocamora et al. 2024 (ELLE); its released code.
    """

    radius: float = pixels(8)
    differentiates_twice = False

    def __post_init__(self) -> None:
        _require_radius(self.radius)

    def evaluate(self, jet: Jet, generator: torch.Generator) -> PerExample:
        """Compute one number of at least 0 per example."""
        x = jet.x.detach()
        streams = input_streams(x, generator)
        a, b = (x + streams.at(end).uniform(x, -self.radius, self.radius) for end in ("a", "b"))
        t = streams.at("share").uniform(x.flatten(1)[:, 0], 0, 1)
        between = a + per_example(t, x) * (b - a)
        return (jet.field(between) - (1 - t) * jet.field(a) - t * jet.field(b)).square()


@dataclass(frozen=True)
class AdaptiveWeight:
    """The weight of ELLE-A, which follows the error: the mean of the penalty over a batch.

    The weight starts at 0. After a step with an unusually large error it becomes `weight`; after every other step it is
    multiplied by `decay`. An error is unusually large if it exceeds mean + deviations * standard deviation of all errors
    before it.

    Args:
        weight: Weight after an unusually large error.
        deviations: An error this many standard deviations above the mean is unusually large.
        decay: Factor on the weight after every other step.
        patience: Number of errors before the first that can be unusually large.
        current: Weight of the next step.
        errors: Number of errors so far.
        mean: Their mean.
        squares: Sum of their squared deviations from the mean.

    Example:
        >>> calm = AdaptiveWeight().update(1.0).update(1.1).update(0.9)
        >>> calm.current, calm.update(9.0).current, calm.update(9.0).update(1.0).current
        (0.0, 4000.0, 3960.0)

    Reference: Abad Rocamora et al. 2024 (ELLE-A); its released code.
    """

    weight: float = 4000.0
    deviations: float = 2.0
    decay: float = 0.99
    patience: int = 3
    current: float = 0.0
    errors: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def update(self, error: float) -> "AdaptiveWeight":
        """Return the weight after a step with this error."""
        deviation = math.sqrt(self.squares / self.errors) if self.errors else 0.0
        large = self.errors >= self.patience and error > self.mean + self.deviations * deviation
        difference, errors = error - self.mean, self.errors + 1
        mean = self.mean + difference / errors
        squares = self.squares + difference * (error - mean)
        current = self.weight if large else self.current * self.decay
        return replace(self, current=current, errors=errors, mean=mean, squares=squares)


def _misalignment(a: Tensor, b: Tensor) -> PerExample:
    """Compute 1 - cos(a, b) as half the squared distance of the unit vectors, which does not cancel for small angles."""
    difference = L2.unit(a) - L2.unit(b)
    zero = (L2.length(a) == 0) | (L2.length(b) == 0)
    return torch.where(zero, 0, dot(difference, difference) / 2)


def _require_radius(radius: float) -> None:
    if not (math.isfinite(radius) and radius > 0):
        raise InputError("a radius > 0 to draw points in, in pixel units", radius, "write pixels(8) for 8/255")
