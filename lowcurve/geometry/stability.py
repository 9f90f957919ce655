"""Bound and measure the change of gradient and value near a point.

C is the normalized curvature ||H||_2 / ||g||_2. Lengths are l_2 in pixel units, unless a norm is named.
"""

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from lowcurve import randomness
from lowcurve.analysis.calculus import gradient, value_and_gradient
from lowcurve.analysis.hessians import hessian
from lowcurve.analysis.norms import L2, Norm, dot
from lowcurve.errors import InputError
from lowcurve.geometry.curvature import Curvature
from lowcurve.types import Field, Inputs, PerExample


@dataclass(frozen=True)
class ChangeBounds:
    """Three bounds of one change.

    `printed` and `sharp` need the largest C on the segment from x to x + e, or in a ball around it. With C at x,
    the number that is measured, they are estimates and not bounds. `quadratic` is a bound with C at x, but for
    quadratic fields only. All are 0 at length 0; elsewhere they are infinite where C is.

    Attributes:
        printed: The bound as the paper prints it.
        sharp: A bound that some field attains.
        quadratic: The bound for quadratic fields.
    """

    printed: PerExample
    sharp: PerExample
    quadratic: PerExample


def gradient_change_bounds(length: float | PerExample, curvature: PerExample) -> ChangeBounds:
    """Bound ||g(x + e) - g(x)|| / ||g(x)|| by exp(a) - 1 (sharp) <= a exp(a) (printed), with a = ||e|| C.

    For a quadratic field the bound is a. Proof: d/dt ||g(x + t e)|| <= a ||g(x + t e)||, so ||g(x + t e)|| <=
    ||g(x)|| exp(t a) (Gronwall), and the change is at most the integral of a ||g(x)|| exp(t a). The field exp(k <w,
    x>) attains it, with C = k ||w|| everywhere.

    Args:
        length: ||e||, one number or one per example.
        curvature: C of each example.

    Returns:
        The three bounds.

    Example:
        >>> gradient_change_bounds(0.5, torch.tensor([2.0]))  # e, e - 1 and 1
        ChangeBounds(printed=tensor([2.7183]), sharp=tensor([1.7183]), quadratic=tensor([1.]))

    Reference: srinivas2022lcnn, Proposition 1.
    """
    _, a = _length_and_scaled_curvature(length, curvature)
    return _change(curvature, a * a.exp(), torch.expm1(a), a)


def value_change_bounds(length: float | PerExample, curvature: PerExample, gradient_norm: PerExample) -> ChangeBounds:
    """Bound |f(x + e) - f(x)| by ||e|| ||g|| (exp(a) - 1) / a, with a = ||e|| C.

    That is `sharp`; `printed` is ||e|| ||g|| (1 + a exp(a)). `sharp` is the integral of ||e|| ||g|| exp(t a). For a
    quadratic field the bound is ||e|| ||g|| (1 + a / 2), where the paper has 1 + a. Where g = 0 the bounds are 0,
    but infinite where C is.

    Args:
        length: ||e||, one number or one per example.
        curvature: C of each example.
        gradient_norm: ||g(x)|| of each example.

    Returns:
        The three bounds.

    Example:
        >>> one = torch.ones(1)
        >>> value_change_bounds(1.0, one, one).quadratic, value_change_bounds(1.0, 0 * one, one).sharp
        (tensor([1.5000]), tensor([1.]))

    Reference: srinivas2022lcnn, Proposition 2.
    """
    length, a = _length_and_scaled_curvature(length, curvature)
    first = length * gradient_norm.double()
    unknown = torch.where(torch.isfinite(a), 0, a)  # 0 times an infinite growth would be nan.
    growths = (1 + a * a.exp(), _exp_quotient(a), 1 + a / 2)
    return _change(curvature, *(torch.where(first == 0, unknown, first * growth) for growth in growths))


def linearity_error_bounds(length: float | PerExample, curvature: PerExample) -> ChangeBounds:
    """Bound |f(x + e) - f(x) - <g, e>| / ||g|| by (exp(a) - 1 - a) / C (sharp), with a = ||e|| C.

    `sharp` is the integral of ||e|| (exp(t a) - 1). For a quadratic field the bound is C ||e||^2 / 2. `printed` is
    C ||e|| / 2, which lacks a power of ||e||: the left side is a length, as C ||e||^2 / 2 is. Even C ||e||^2 / 2
    with the largest C is not a bound: the field exp(k <w, x>) exceeds it and attains `sharp`.

    Args:
        length: ||e||, one number or one per example.
        curvature: C of each example.

    Returns:
        The three bounds.

    Example:
        >>> linearity_error_bounds(1.0, torch.tensor([1.0]))  # 1/2, e - 2 and 1/2
        ChangeBounds(printed=tensor([0.5000]), sharp=tensor([0.7183]), quadratic=tensor([0.5000]))

    Reference: srinivas2022lcnn, Eq. (1).
    """
    length, a = _length_and_scaled_curvature(length, curvature)
    return _change(curvature, a / 2, length * a * _second_exp_quotient(a), length * a / 2)


def _length_and_scaled_curvature(length: float | PerExample, curvature: PerExample) -> tuple[Tensor, Tensor]:
    """Return ||e|| and a = ||e|| C in double precision; a = 0 at length 0, whatever C."""
    lengths = torch.as_tensor(length, device=curvature.device).double()
    return lengths, torch.where(lengths == 0, 0, lengths * curvature.double())


def _exp_quotient(a: Tensor) -> Tensor:
    """Return (exp(a) - 1) / a, 1 at 0."""
    short = torch.minimum(a, torch.full_like(a, 1e4))  # exp overflows from here on, and inf / inf is nan.
    return torch.where(short == 0, 1, torch.expm1(short) / short)


def _second_exp_quotient(a: Tensor) -> Tensor:
    """Return (exp(a) - 1 - a) / a^2, 1/2 at 0; by its series where the difference cancels."""
    short = torch.minimum(a, torch.full_like(a, 1e4))
    series = 1 / 2 + short / 6 + short.square() / 24 + short**3 / 120
    return torch.where(short < 3e-3, series, (torch.expm1(short) - short) / short.square())


def _change(like: PerExample, *forms: Tensor) -> ChangeBounds:
    return ChangeBounds(*(form.to(like) for form in forms))


@dataclass(frozen=True)
class GradientStability:
    """Measure ||g(x + e) - g(x)|| / ||g(x)|| under noise of each length, and its estimate length * C with C at x.

    Columns for each length: "gradient change, noise 0.01", the mean over random directions e, and "gradient change,
    estimate 0.01". Directions are uniform on the sphere, the same at all lengths, and depend on the example alone.
    There is no pixel box, so e keeps its length. Where g = 0, the change is 0 if g stays 0 and infinite otherwise.

    The estimate is for the worst direction. A random one sees about ||H||_F / sqrt(d) instead of ||H||_2, so in
    high dimension noise stays below the estimate even for quadratic fields. H does not contain kinks: ReLU, and
    ties in max-pooling (blank pixels), change the gradient at any length, and noise may be far above the estimate.

    Args:
        lengths: Lengths of the noise, l_2 in pixel units.
        draws: Number of directions.
        seed: Their seed.
        steps: Maximum number of Lanczos steps for C.
        tolerance: Relative residual at which Lanczos stops.

    Cost: 1 + draws * lengths gradients, and the cost of `Curvature`.

    Example:
        >>> columns = GradientStability(lengths=(0.1,))(lambda x: x.square().sum(1), torch.tensor([[3.0, 4.0]]))
        >>> {name: round(column.item(), 4) for name, column in columns.items()}  # ||2 e|| / ||2 x||; C = 1/5
        {'gradient change, noise 0.1': 0.02, 'gradient change, estimate 0.1': 0.02}

    Reference: srinivas2022lcnn, Fig. 2 and section 5.2.
    """

    lengths: tuple[float, ...] = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
    draws: int = 4
    seed: int = 0
    steps: int = 12
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        if not self.lengths or not all(math.isfinite(length) and length > 0 for length in self.lengths):
            raise InputError("finite lengths above 0, one at least", self.lengths, "write lengths=(0.01, 0.1)")
        _require_draws(self.draws)

    def __call__(self, field: Field, x: Inputs) -> dict[str, PerExample]:
        """Measure the columns at x."""
        grad, directions = gradient(field, x), _directions(x, self.draws, self.seed)
        curvature = Curvature(self.steps, self.tolerance)(field, x)["normalized curvature"]
        columns = {}
        for length in self.lengths:
            changes = [L2.length(gradient(field, x + length * e) - grad) for e in directions]
            relative = _relative(torch.stack(changes).mean(0), L2.length(grad))
            columns[f"gradient change, noise {length:g}"] = relative
            columns[f"gradient change, estimate {length:g}"] = length * curvature
        return columns


def linearity_error(field: Field, x: Inputs, perturbation: Inputs) -> dict[str, PerExample]:
    """Compute |f(x + e) - f(x) - <g, e>| / ||g||, and its second-order prediction |<e, H e>| / (2 ||g||).

    Both are l_2 lengths in pixel units. The first is a difference of values and has the rounding error of f(x),
    about 1e-7 |f| / ||g|| in float32.

    Args:
        field: Per-example loss as a function of the input.
        x: Inputs, shape (batch, ...).
        perturbation: e, of x's shape; for an attack x' - x.

    Returns:
        Columns "linearity error" and "linearity error, second order". Where g = 0, they are 0 if the numerator is 0
        and infinite otherwise.

    Cost: one forward pass, one gradient and one Hessian product.

    Example:
        >>> columns = linearity_error(lambda x: x[:, 0].exp(), torch.zeros(1, 1), torch.ones(1, 1))
        >>> columns["linearity error"], columns["linearity error, second order"]  # e - 2 and 1/2
        (tensor([0.7183]), tensor([0.5000]))

    Reference: srinivas2022lcnn, Eq. (1), left side.
    """
    values, grad = value_and_gradient(field, x)
    with torch.no_grad():
        moved = field(x + perturbation)
    quadratic = dot(perturbation, hessian(field, x)(perturbation))
    size, error = L2.length(grad), (moved - values - dot(grad, perturbation)).abs()
    return {
        "linearity error": _relative(error, size),
        "linearity error, second order": _relative(quadratic.abs() / 2, size),
    }


@dataclass(frozen=True)
class LinearityError:
    """Measure `linearity_error` at e = radius v, for random v or for the steepest direction of the norm.

    The pixel box is ignored.

    Args:
        radius: Length of e in the norm, in pixel units.
        norm: Norm of the radius.
        direction: "random" is uniform on the l_2 sphere, then scaled. With "steepest" it is the step of FGSM (l_inf) or
            along the gradient (l_2).
        draws: Number of random directions for the mean.
        seed: Seed of the directions.

    Cost: that of `linearity_error`, once per direction.

    Example:
        >>> measure = LinearityError(0.5, direction="steepest")
        >>> measure(lambda x: x[:, 0] + 3 * x[:, 0].square() / 2, torch.zeros(1, 2))["linearity error"]  # 3 * 0.25 / 2
        tensor([0.3750])

    Reference: srinivas2022lcnn, Eq. (1).
    """

    radius: float
    norm: Norm = L2
    direction: Literal["random", "steepest"] = "random"
    draws: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.radius) and self.radius > 0):
            raise InputError("a finite radius above 0", self.radius, "write pixels(8) for 8/255")
        if self.direction not in ("random", "steepest"):
            raise InputError('a direction "random" or "steepest"', repr(self.direction), 'write direction="random"')
        _require_draws(self.draws)

    def __call__(self, field: Field, x: Inputs) -> dict[str, PerExample]:
        """Measure the columns at x."""
        if self.direction == "steepest":
            return linearity_error(field, x, self.radius * self.norm.steepest(gradient(field, x)))
        directions = map(self.norm.unit, _directions(x, self.draws, self.seed))
        found = [linearity_error(field, x, self.radius * v) for v in directions]
        return {name: torch.stack([columns[name] for columns in found]).mean(0) for name in found[0]}


class Mean(Protocol):
    """A mean over examples with its standard error, such as a `results.Summary`."""

    @property
    def mean(self) -> float:
        """The mean."""
        ...

    @property
    def standard_error(self) -> float:
        """The standard error of the mean."""
        ...


@dataclass(frozen=True)
class Discrepancy:
    """A relative difference of means.

    Attributes:
        value: The difference over the training mean.
        standard_error: Its standard error.
    """

    value: float
    standard_error: float


def discrepancy(train: Mean, test: Mean) -> Discrepancy:
    """Compute (mean(test) - mean(train)) / mean(train): 0 for equal means, 9 where the test mean is ten times as large.

    The standard error is that of the ratio of two independent means by the delta method, sqrt(s_test^2 + (ratio
    s_train)^2) / |mean(train)|. It is nan where a summary of one example has none. The paper prints a division by
    the test mean, under which no test mean above the training mean could give its value of 11.75.

    Args:
        train: Mean on the training set.
        test: Mean on the test set.

    Returns:
        The difference with its standard error.

    Raises:
        InputError: If a mean is not finite (a normalized curvature at g = 0), or the training mean is 0.

    Example:
        >>> from types import SimpleNamespace as Summary
        >>> discrepancy(train=Summary(mean=2.0, standard_error=0.1), test=Summary(mean=3.0, standard_error=0.2))
        Discrepancy(value=0.5, standard_error=0.125)

    Reference: srinivas2022lcnn, Table 3.
    """
    if not (math.isfinite(train.mean) and math.isfinite(test.mean) and train.mean != 0):
        found = f"{train.mean:g} (train) and {test.mean:g} (test)"
        raise InputError("finite means, not 0 on the training set", found, "leave out examples whose gradient is 0")
    ratio = test.mean / train.mean
    error = math.hypot(test.standard_error, ratio * train.standard_error) / abs(train.mean)
    return Discrepancy((test.mean - train.mean) / train.mean, error)


def _directions(x: Inputs, draws: int, seed: int) -> list[Inputs]:
    """Draw unit vectors uniform on the sphere, from each example's own stream."""
    labels = torch.zeros(len(x), dtype=torch.long, device=x.device)
    streams = randomness.example_streams(randomness.stream(seed, "directions"), x, labels)
    return [L2.unit(streams.at(draw).normal(x)) for draw in range(draws)]


def _relative(change: PerExample, gradient_norm: PerExample) -> PerExample:
    return torch.where(change == 0, 0, change / gradient_norm)


def _require_draws(draws: int) -> None:
    if draws < 1:
        raise InputError("at least one draw", draws, "write draws=4")
