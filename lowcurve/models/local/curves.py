"""Elementwise nonlinearities on an interval: the ranges of their slope and of their second derivative, and sample points.

`tests/test_local_bounds.py` compares each range with the values on a fine grid.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lowcurve.analysis.calculus import gradient
from lowcurve.models.jacobians.elementwise import ELEMENTWISE
from lowcurve.models.jacobians.graph import Node

Function = Callable[[Tensor], Tensor]
SAMPLES = 16
"""Number of parts into which the interval of a smooth nonlinearity is divided."""
STEP = 3e-9
"""Bound of the step in torch's softplus at its threshold, times beta."""


@dataclass(frozen=True)
class Curve:
    """An elementwise nonlinearity phi.

    Attributes:
        value: phi.
        slope: phi'.
        bend: phi''. None for a function of straight pieces, and for one of which only global bounds are known.
        inflections: Zeros of phi'', where phi' may be extreme.
        turns: Zeros of phi''', where phi'' may be extreme.
        kinks: Where the straight pieces meet.
        steepest: sup |phi'|.
        most_bent: sup |phi''|, infinite for a kink.
        step: Size of a step of phi that is smaller than rounding in single precision.
    """

    value: Function
    slope: Function
    bend: Function | None = None
    inflections: Sequence[float] = ()
    turns: Sequence[float] = ()
    kinks: Sequence[float | Tensor] = ()
    steepest: float = math.inf
    most_bent: float = math.inf
    step: float = 0.0

    def slopes(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Bound phi' on intervals.

        Args:
            low: Lower ends.
            high: Upper ends.

        Returns:
            The smallest and the largest slope.
        """
        if self.bend is not None:
            return _extremes(self.slope, low, high, self.inflections)
        if self.kinks:
            ends = self.ends(low, high)
            found = torch.stack([self.slope((a + b) / 2) for a, b in itertools.pairwise(ends)])
            return found.amin(0), found.amax(0)
        return torch.full_like(low, -self.steepest), torch.full_like(low, self.steepest)

    def bends(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Bound phi'' on intervals. For a function with kinks the bounds are infinite.

        Args:
            low: Lower ends.
            high: Upper ends.

        Returns:
            The smallest and the largest second derivative.
        """
        if self.bend is not None:
            return _extremes(self.bend, low, high, self.turns)
        return torch.full_like(low, -self.most_bent), torch.full_like(low, self.most_bent)

    def ends(self, low: Tensor, high: Tensor) -> list[Tensor]:
        """Return the ends of intervals, and between them the kinks, moved to an end where they are outside.

        Args:
            low: Lower ends.
            high: Upper ends.

        Returns:
            The places in rising order.
        """
        places = [torch.as_tensor(kink, dtype=low.dtype, device=low.device).expand_as(low) for kink in self.kinks]
        return [low, *(torch.minimum(torch.maximum(place, low), high) for place in places), high]

    def sample(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Return points of intervals, and a bound of phi's distance from the chords between neighboring points.

        Args:
            low: Lower ends.
            high: Upper ends.

        Returns:
            Points, with a first axis of their own, and the bound.
        """
        if self.kinks:
            return torch.stack(self.ends(low, high)), torch.full_like(low, self.step)
        shares = torch.linspace(0, 1, SAMPLES + 1, dtype=low.dtype, device=low.device)
        points = low + shares.view(-1, *[1] * low.ndim) * (high - low)
        width, (least, most) = (high - low) / SAMPLES, self.bends(low, high)
        away = torch.where(width > 0, torch.maximum(-least, most).clamp(min=0) * width.square() / 8, 0)
        flattest, steepest = self.slopes(low, high)
        return points, torch.minimum(away, (steepest - flattest) * width / 4) + self.step


def _extremes(function: Function, low: Tensor, high: Tensor, places: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Return the smallest and largest value of a function on intervals, with the places where it may be extreme."""
    values = [function(low), function(high)]
    values += [function(torch.minimum(torch.maximum(low, low.new_tensor(place)), high)) for place in places]
    stacked = torch.stack(values)
    least, most = stacked.amin(0), stacked.amax(0)
    return least - 1e-9 * least.abs(), most + 1e-9 * most.abs()


def curve_of(node: Node) -> Curve:
    """Return the nonlinearity of a recorded operation.

    Args:
        node: The value that it computes.

    Returns:
        The nonlinearity. One without ranges of its own has its global bounds.
    """
    ((moving, parent),) = node.parents

    def value(z: Tensor) -> Tensor:
        return node.evaluate({parent: z})

    def slope(z: Tensor) -> Tensor:
        return gradient(lambda x: value(x).flatten(1).sum(1), z)

    name, given = node.call.name, {key: v for key, v in node.call.arguments.items() if key != moving}
    if name in SMOOTH and (found := SMOOTH[name](value, **given)) is not None:
        return found
    if name in KINKS:
        return Curve(value, slope, kinks=KINKS[name](**given))
    bound = ELEMENTWISE[name][0](**given)
    return Curve(value, slope, steepest=bound.slope, most_bent=bound.second_derivative)


def _sigmoid_slope(beta: float | Tensor) -> tuple[Function, Function]:
    def bend(z: Tensor) -> Tensor:
        s = torch.sigmoid(beta * z)
        return beta * s * (1 - s)

    return lambda z: torch.sigmoid(beta * z), bend


def _softplus(value: Function, beta: float, threshold: float) -> Curve:
    slope, bend = _sigmoid_slope(beta)
    step = STEP / beta if beta * threshold > 0 and threshold < 35 else 0.0
    return Curve(value, slope, bend, turns=(0.0,), step=step)


def _centered_softplus(value: Function, beta: Tensor) -> Curve:
    slope, bend = _sigmoid_slope(beta.detach().double())
    return Curve(value, slope, bend, turns=(0.0,))


def _log_sigmoid(value: Function) -> Curve:
    slope, bend = _sigmoid_slope(1.0)
    return Curve(value, lambda z: slope(-z), lambda z: -bend(z), turns=(0.0,))


def _sigmoid(value: Function) -> Curve:
    def slope(z: Tensor) -> Tensor:
        s = torch.sigmoid(z)
        return s * (1 - s)

    def bend(z: Tensor) -> Tensor:
        s = torch.sigmoid(z)
        return s * (1 - s) * (1 - 2 * s)

    turn = math.log(2 + math.sqrt(3))
    return Curve(value, slope, bend, (0.0,), (-turn, turn))


def _tanh(value: Function) -> Curve:
    turn = math.atanh(1 / math.sqrt(3))

    def slope(z: Tensor) -> Tensor:
        return 1 / torch.cosh(z.clamp(-300, 300)).square()

    return Curve(value, slope, lambda z: -2 * torch.tanh(z) * slope(z), (0.0,), (-turn, turn))


def _gelu(value: Function, approximate: str) -> Curve | None:
    def density(z: Tensor) -> Tensor:
        return torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)

    def slope(z: Tensor) -> Tensor:
        below: Tensor = torch.special.ndtr(z)
        return below + z * density(z)

    if approximate != "none":
        return None
    return Curve(
        value,
        slope,
        lambda z: density(z) * (2 - z.square()),
        (-math.sqrt(2), math.sqrt(2)),
        (-2.0, 0.0, 2.0),
    )


def _silu(value: Function) -> Curve:
    def slope(z: Tensor) -> Tensor:
        s = torch.sigmoid(z)
        return s * (1 + z * (1 - s))

    def bend(z: Tensor) -> Tensor:
        s = torch.sigmoid(z)
        return s * (1 - s) * (2 + z * (1 - 2 * s))

    flat, turn = 2.399357280515468, 3.435840993535111
    return Curve(value, slope, bend, (-flat, flat), (-turn, 0.0, turn))


def _arctangent(value: Function) -> Curve:
    def slope(z: Tensor) -> Tensor:
        return 1 / (1 + z.square())

    turn = 1 / math.sqrt(3)
    return Curve(value, slope, lambda z: -2 * z * slope(z).square(), (0.0,), (-turn, turn))


def _error_function(value: Function) -> Curve:
    def slope(z: Tensor) -> Tensor:
        return 2 / math.sqrt(math.pi) * torch.exp(-z.square())

    turn = 1 / math.sqrt(2)
    return Curve(value, slope, lambda z: -2 * z * slope(z), (0.0,), (-turn, turn))


SMOOTH: dict[str, Callable[..., Curve | None]] = {
    "softplus": _softplus,
    "centered_softplus": _centered_softplus,
    "log_sigmoid_forward": _log_sigmoid,
    "sigmoid": _sigmoid,
    "tanh": _tanh,
    "gelu": _gelu,
    "silu": _silu,
    "atan": _arctangent,
    "erf": _error_function,
}
"""Nonlinearities with known ranges of phi' and phi'', as functions of phi and the other arguments."""


def _clamp_kinks(min: float | Tensor | None = None, max: float | Tensor | None = None) -> list[float | Tensor]:
    return [end for end in (min, max) if end is not None]


def _constant(self: Tensor | None = None, other: Tensor | None = None) -> list[Tensor]:
    return [value for value in (self, other) if value is not None]


KINKS: dict[str, Callable[..., Sequence[float | Tensor]]] = {
    "maximum": _constant,
    "minimum": _constant,
    "relu": lambda: (0.0,),
    "abs": lambda: (0.0,),
    "leaky_relu": lambda negative_slope: (0.0,),  # noqa: ARG005
    "_prelu_kernel": lambda weight: (0.0,),  # noqa: ARG005
    "clamp": _clamp_kinks,
    "clamp_min": _clamp_kinks,
    "clamp_max": _clamp_kinks,
    "hardtanh": lambda min_val, max_val: (min_val, max_val),
    "softshrink": lambda lambd: (-lambd, lambd),
    "hardsigmoid": lambda: (-3.0, 3.0),
}
"""The kinks of functions of straight pieces."""
