"""Local linearity: penalties on how far the loss is from its tangent, or from a chord, within a ball around the input."""

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from lowcurve.analysis.calculus import Jet, value_and_gradient
from lowcurve.analysis.norms import L2, LINF, Ball, dot, per_example, pixels
from lowcurve.errors import InputError
from lowcurve.penalties.base import Penalty
from lowcurve.penalties.differentiation import TWICE, WAYS, Differentiation, of_gradients, require_differentiation
from lowcurve.penalties.search import farthest, require_search, streams_of
from lowcurve.types import Inputs, PerExample


@dataclass(frozen=True)
class LLR(Penalty):
    """linearity * |l(x + d) - l(x) - <d, g(x)>| + tilt * |<d, g(x)>|, g = grad l, at the d in the ball that makes the first
    term largest; per example.

    d is found by `steps` of projected ascent from a random point, each 2.5 radius / steps long (twice that in l_2), and held
    constant. linearity, tilt: lambda and mu; 4 and 3 for CIFAR-10 at 8/255, to be used with weight 1. ball: pixel
    units. differentiation, step: of <d, g(x)>; see `of_gradients`.

    Cost beside the shared clean forward pass, in forward passes F: 2 F a step of the ascent, and 6 F (exact) or 11 F.

    Example:
        >>> field = lambda x: 3 * x[:, 0].square() / 2 + x[:, 1]  # |d H d| / 2 = 0.015 and g = (0, 1)
        >>> jet = Jet(field, torch.tensor([[0.0, 0.5]]))
        >>> round(LLR(Ball(LINF, 0.1, box=(-1.0, 1.0)), tilt=0.0)(jet, generator=torch.Generator()).item(), 4)
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
        require_search(self.steps)
        if not all(math.isfinite(weight) and weight >= 0 for weight in (self.linearity, self.tilt)):
            received = (self.linearity, self.tilt)
            raise InputError("weights of linearity and tilt of 0 or more", received, "write linearity=4.0, tilt=3.0")
        require_differentiation(self.differentiation, self.step, "exact", "first_order", "secant")

    @property
    def differentiates_twice(self) -> bool:
        """Whether the parameters' gradient is that of an input gradient."""
        return self.differentiation == "exact"

    def __call__(self, jet: Jet, *, generator: torch.Generator) -> PerExample:
        """One number per example, at least 0."""
        far = self._farthest(jet, generator)
        shift = far - jet.x.detach()
        rise = of_gradients(jet, lambda g: dot(g, shift), differentiation=self.differentiation, step=self.step)
        gap = jet.field(far) - jet.values - rise
        return self.linearity * gap.abs() + self.tilt * rise.abs()

    def _farthest(self, jet: Jet, generator: torch.Generator) -> Inputs:
        """Where in the ball the loss is farthest from its tangent, as far as the ascent finds it."""
        x, level = jet.x.detach(), jet.values.detach()
        clean = jet.gradient.detach() if self.differentiates_twice else jet.detached_gradient

        def slope(point: Inputs) -> Tensor:
            reached, there = value_and_gradient(jet.field, point)
            side = (reached - level - dot(point - x, clean)).sign()
            return per_example(side, x) * (there - clean)

        start = self.ball.sample(x, streams_of(x, generator))
        return farthest(slope, start, x, self.ball, steps=self.steps)


@dataclass(frozen=True)
class GradAlign(Penalty):
    """1 - cos(g(x), g(x + r)) with g = grad l and r ~ U(-radius, radius) in every pixel, per example; 0 where either
    gradient is 0.

    x + r is not clipped to the pixel box. radius: that of the attack, in pixel units; the released weights go with it: 0.2 at
    8/255 and 2.0 at 16/255, on a ladder from 0.036 at 2/255. There, an example with a zero gradient is left out of
    the mean; here it counts, with 0. differentiation, step: see `of_gradients`; the released code is exact, "detached" was
    reported to do no worse.

    Cost beside the shared clean forward pass, in forward passes F: exact 9 F, detached 7 F, first_order 15 F,
    first_order_detached 9 F.

    Example:
        >>> jet = Jet(lambda x: 3 * x[:, 0] + 4 * x[:, 1], torch.tensor([[0.5, 0.5]]))
        >>> GradAlign()(jet, generator=torch.Generator())
        tensor([0.])

    Reference: Andriushchenko and Flammarion 2020 (GradAlign); its released code.
    """

    radius: float = pixels(8)
    differentiation: Differentiation = "exact"
    step: float | None = None

    def __post_init__(self) -> None:
        _require_radius(self.radius)
        require_differentiation(self.differentiation, self.step, *WAYS)

    @property
    def differentiates_twice(self) -> bool:
        """Whether the parameters' gradient is that of an input gradient."""
        return self.differentiation in TWICE

    @property
    def detaches_gradient(self) -> bool:
        """Whether the clean gradient is held constant."""
        return self.differentiation != "exact"

    def __call__(self, jet: Jet, *, generator: torch.Generator) -> PerExample:
        """One number per example, from 0 to 2."""
        x = jet.x.detach()
        near = x + streams_of(x, generator).uniform(x, -self.radius, self.radius)
        return of_gradients(jet, _misalignment, lambda _: near, differentiation=self.differentiation, step=self.step)


@dataclass(frozen=True)
class ELLE(Penalty):
    """(l(c) - (1 - t) l(a) - t l(b))^2 with c = (1 - t) a + t b, a and b uniform in the l_inf ball around x, t ~ U(0, 1);
    per example: how far the loss is from its chord.

    The points are not clipped to the pixel box. radius: that of the attack, in pixel units; the released weights go with it:
    1000 up to 8/255, then 5000 and 10000. ELLE-A is this penalty under the weight of `AdaptiveWeight`.

    Cost: three forward passes and their ordinary backward passes; no gradient in x at all.

    Example:
        >>> ELLE(radius=0.1)(Jet(lambda x: x[:, 0], torch.zeros(1, 1)), generator=torch.Generator()).item() < 1e-14
        True

    Reference: Abad Rocamora et al. 2024 (ELLE); its released code.
    """

    radius: float = pixels(8)
    differentiates_twice = False

    def __post_init__(self) -> None:
        _require_radius(self.radius)

    def __call__(self, jet: Jet, *, generator: torch.Generator) -> PerExample:
        """One number per example, at least 0."""
        x = jet.x.detach()
        streams = streams_of(x, generator)
        a, b = (x + streams.at(end).uniform(x, -self.radius, self.radius) for end in ("a", "b"))
        t = streams.at("share").uniform(x.flatten(1)[:, 0], 0, 1)
        between = a + per_example(t, x) * (b - a)
        return (jet.field(between) - (1 - t) * jet.field(a) - t * jet.field(b)).square()


@dataclass(frozen=True)
class AdaptiveWeight:
    """ELLE-A's weight, step by step: 0 at first, `weight` after a step whose error stood out, `decay` times the last otherwise.

    An error, the mean of the penalty over a batch, stands out if it exceeds mean + deviations * standard deviation of all
    before it, of which there must be `patience`. now: the weight of the coming step. errors, mean, squares: of the steps
    so far, how many, their mean and their squared deviations from it; what a checkpoint has to keep.

    Example:
        >>> calm = AdaptiveWeight().after(1.0).after(1.1).after(0.9)
        >>> calm.now, calm.after(9.0).now, calm.after(9.0).after(1.0).now
        (0.0, 4000.0, 3960.0)

    Reference: Abad Rocamora et al. 2024 (ELLE-A); its released code.
    """

    weight: float = 4000.0
    deviations: float = 2.0
    decay: float = 0.99
    patience: int = 3
    now: float = 0.0
    errors: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def after(self, error: float) -> "AdaptiveWeight":
        """The weight after a step with this error."""
        spread = math.sqrt(self.squares / self.errors) if self.errors else 0.0
        surges = self.errors >= self.patience and error > self.mean + self.deviations * spread
        away, errors = error - self.mean, self.errors + 1
        mean = self.mean + away / errors
        squares = self.squares + away * (error - mean)
        now = self.weight if surges else self.now * self.decay
        return replace(self, now=now, errors=errors, mean=mean, squares=squares)


def _misalignment(a: Tensor, b: Tensor) -> PerExample:
    """1 - cos(a, b), as half the squared distance of the unit vectors, which does not cancel for small angles."""
    apart = L2.unit(a) - L2.unit(b)
    both = (L2.length(a) > 0) & (L2.length(b) > 0)
    return torch.where(both, dot(apart, apart) / 2, 0)


def _require_radius(radius: float) -> None:
    if not (math.isfinite(radius) and radius > 0):
        raise InputError("a radius > 0 to draw points in, in pixel units", radius, "write pixels(8) for 8/255")
