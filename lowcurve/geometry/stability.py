"""How far gradient and value move near a point: what normalized curvature promises of it, and what is measured.

C is the normalized curvature ||H||_2 / ||g||_2. Lengths are l_2, in pixel units, unless a norm is named.
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
    """Three bounds of one change: as `printed`; `sharp`, which a field attains; `quadratic`, that of a quadratic field.

    The first two need the largest C on the segment from x to x + e (or in a ball around it). With C at x, the number that
    is measured, they are estimates and no bounds. `quadratic` is a bound with C at x, of quadratic fields alone.
    Conventions: 0 at length 0, else inf where C is inf.
    """

    printed: PerExample
    sharp: PerExample
    quadratic: PerExample


def gradient_change_bounds(length: float | PerExample, curvature: PerExample) -> ChangeBounds:
    """||g(x + e) - g(x)|| / ||g(x)|| <= exp(a) - 1 (sharp) <= a exp(a) (printed), a = ||e|| C; a for a quadratic field.

    ||g(x + t e)|| grows by at most a ||g(x + t e)|| dt, so it is at most ||g(x)|| exp(t a) (Gronwall), and the change at
    most the integral of a ||g(x)|| exp(t a). exp(k <w, x>) attains it, with C = k ||w|| everywhere.

    Example:
        >>> gradient_change_bounds(0.5, torch.tensor([2.0]))  # e, e - 1 and 1
        ChangeBounds(printed=tensor([2.7183]), sharp=tensor([1.7183]), quadratic=tensor([1.]))

    Reference: srinivas2022lcnn, Proposition 1.
    """
    _, a = _length_and_turn(length, curvature)
    return _change(curvature, a * a.exp(), torch.expm1(a), a)


def value_change_bounds(length: float | PerExample, curvature: PerExample, slope: PerExample) -> ChangeBounds:
    """|f(x + e) - f(x)| <= ||e|| ||g|| (exp(a) - 1) / a (sharp) <= ||e|| ||g|| (1 + a exp(a)) (printed), a = ||e|| C.

    slope: ||g(x)||. sharp: the integral of ||e|| ||g|| exp(t a). quadratic: ||e|| ||g|| (1 + a / 2), where the paper has
    1 + a. Where g = 0 they are 0, but inf where C is.

    Example:
        >>> one = torch.ones(1)
        >>> value_change_bounds(1.0, one, one).quadratic, value_change_bounds(1.0, 0 * one, one).sharp
        (tensor([1.5000]), tensor([1.]))

    Reference: srinivas2022lcnn, Proposition 2.
    """
    length, a = _length_and_turn(length, curvature)
    first = length * slope.double()
    unknown = torch.where(torch.isfinite(a), 0, a)  # in place of 0 times an infinite growth
    growths = (1 + a * a.exp(), _first_growth(a), 1 + a / 2)
    return _change(curvature, *(torch.where(first == 0, unknown, first * growth) for growth in growths))


def linearity_error_bounds(length: float | PerExample, curvature: PerExample) -> ChangeBounds:
    """|f(x + e) - f(x) - <g, e>| / ||g|| <= (exp(a) - 1 - a) / C (sharp), a = ||e|| C; C ||e||^2 / 2 for a quadratic field.

    sharp: the integral of ||e|| (exp(t a) - 1). printed: C ||e|| / 2, which lacks a power of ||e|| (the left side is a
    length, as C ||e||^2 / 2 is). That with the largest C is no bound either: exp(k <w, x>) exceeds it and attains `sharp`.

    Example:
        >>> linearity_error_bounds(1.0, torch.tensor([1.0]))  # 1/2, e - 2 and 1/2
        ChangeBounds(printed=tensor([0.5000]), sharp=tensor([0.7183]), quadratic=tensor([0.5000]))

    Reference: srinivas2022lcnn, Eq. (1).
    """
    length, a = _length_and_turn(length, curvature)
    return _change(curvature, a / 2, length * a * _second_growth(a), length * a / 2)


def _length_and_turn(length: float | PerExample, curvature: PerExample) -> tuple[Tensor, Tensor]:
    """||e|| and a = ||e|| C in double precision; a = 0 at length 0 whatever C."""
    lengths = torch.as_tensor(length, device=curvature.device).double()
    return lengths, torch.where(lengths == 0, 0, lengths * curvature.double())


def _first_growth(a: Tensor) -> Tensor:
    """(exp(a) - 1) / a, 1 at 0."""
    short = torch.minimum(a, torch.full_like(a, 1e4))  # infinite from there on, and inf / inf is no number
    return torch.where(short == 0, 1, torch.expm1(short) / short)


def _second_growth(a: Tensor) -> Tensor:
    """(exp(a) - 1 - a) / a^2, 1/2 at 0; by its series where the difference cancels."""
    short = torch.minimum(a, torch.full_like(a, 1e4))
    series = 1 / 2 + short / 6 + short.square() / 24 + short**3 / 120
    return torch.where(short < 3e-3, series, (torch.expm1(short) - short) / short.square())


def _change(like: PerExample, *forms: Tensor) -> ChangeBounds:
    return ChangeBounds(*(form.to(like) for form in forms))


@dataclass(frozen=True)
class GradientStability:
    """||g(x + e) - g(x)|| / ||g(x)|| under noise of each length, beside the estimate length * C with C at x.

    Columns, for each length: "gradient change, noise 0.01", the mean over `draws` directions e uniform on the sphere, and
    "gradient change, estimate 0.01". The directions are the same at all lengths and depend on the example alone. No pixel
    box: e keeps its length. The estimate is for the worst direction: a random one sees about ||H||_F / sqrt(d) in place of
    ||H||_2, so that noise stays below it in high dimension also where the field is quadratic. Kinks are not in H: ReLU,
    and ties in max-pooling (blank pixels), change the gradient at any length, and noise may be far above the estimate.
    Conventions: where g = 0, 0 if it stays 0 and inf otherwise.
    Cost: 1 + draws * lengths gradients, and those of `Curvature` with these steps and tolerance.

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
        slope, directions = gradient(field, x), _directions(x, self.draws, self.seed)
        curvature = Curvature(self.steps, self.tolerance)(field, x)["normalized curvature"]
        columns = {}
        for length in self.lengths:
            changes = [L2.length(gradient(field, x + length * e) - slope) for e in directions]
            relative = _relative(torch.stack(changes).mean(0), L2.length(slope))
            columns[f"gradient change, noise {length:g}"] = relative
            columns[f"gradient change, estimate {length:g}"] = length * curvature
        return columns


def linearity_error(field: Field, x: Inputs, perturbation: Inputs) -> dict[str, PerExample]:
    """|f(x + e) - f(x) - <g, e>| / ||g||, and |<e, H e>| / (2 ||g||), which predicts it: both are l_2 lengths in pixel units.

    perturbation: e, of x's shape; an attack's is x' - x. Columns: "linearity error", "linearity error, second order".
    A difference of values: it has the rounding error of f(x), about 1e-7 |f| / ||g|| in float32.
    Conventions: where g = 0, 0 where the numerator is 0 and inf otherwise.
    Cost: one forward pass, one gradient, one Hessian-vector product.

    Example:
        >>> columns = linearity_error(lambda x: x[:, 0].exp(), torch.zeros(1, 1), torch.ones(1, 1))
        >>> columns["linearity error"], columns["linearity error, second order"]  # e - 2 and 1/2
        (tensor([0.7183]), tensor([0.5000]))

    Reference: srinivas2022lcnn, Eq. (1), left side.
    """
    values, slope = value_and_gradient(field, x)
    with torch.no_grad():
        moved = field(x + perturbation)
    bend = dot(perturbation, hessian(field, x)(perturbation))
    size, error = L2.length(slope), (moved - values - dot(slope, perturbation)).abs()
    return {
        "linearity error": _relative(error, size),
        "linearity error, second order": _relative(bend.abs() / 2, size),
    }


@dataclass(frozen=True)
class LinearityError:
    """`linearity_error` at e = radius v: v random, the mean over `draws`, or the steepest direction of the norm (no draw).

    norm, radius: ||e|| = radius in this norm. direction: "random", uniform on the l_2 sphere and then scaled; "steepest",
    the step of FGSM (l_inf) or along the gradient (l_2). The pixel box is left aside.
    Cost: that of `linearity_error`, once for each draw.

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
        if self.direction == "steepest":
            return linearity_error(field, x, self.radius * self.norm.steepest(gradient(field, x)))
        directions = map(self.norm.unit, _directions(x, self.draws, self.seed))
        found = [linearity_error(field, x, self.radius * v) for v in directions]
        return {name: torch.stack([columns[name] for columns in found]).mean(0) for name in found[0]}


class Mean(Protocol):
    """A mean over examples with its standard error: a `results.Summary`, say."""

    @property
    def mean(self) -> float: ...

    @property
    def standard_error(self) -> float: ...


@dataclass(frozen=True)
class Discrepancy:
    """A relative difference of means with its standard error."""

    value: float
    standard_error: float


def discrepancy(train: Mean, test: Mean) -> Discrepancy:
    """(mean(test) - mean(train)) / mean(train): 0 where a geometric measure is the same on both, 9 where test is ten times.

    The standard error is that of the ratio mean(test) / mean(train) of two independent means, by the delta method:
    sqrt(s_test^2 + (ratio s_train)^2) / |mean(train)|; nan where a summary of one example has none.
    The paper prints a division by the test's mean, under which no test mean above the train's could give its 11.75.
    Errors: InputError where a mean is not finite (a normalized curvature at g = 0) or the train's is 0.

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
    """Unit vectors uniform on the sphere, each example's its own."""
    labels = torch.zeros(len(x), dtype=torch.long, device=x.device)
    streams = randomness.example_streams(randomness.stream(seed, "directions"), x, labels)
    return [L2.unit(streams.at(draw).normal(x)) for draw in range(draws)]


def _relative(change: PerExample, slope: PerExample) -> PerExample:
    return torch.where(change > 0, change / slope, 0)


def _require_draws(draws: int) -> None:
    if draws < 1:
        raise InputError("at least one draw", draws, "write draws=4")
