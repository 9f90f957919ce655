"""Bounds of the first and second derivative of elementwise nonlinearities.

`tests/test_jacobians.py` compares each with the largest values on a fine grid.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor


class ElementwiseBound(NamedTuple):
    """Bounds of an elementwise operation phi, rounded up.

    Attributes:
        slope: sup |phi'|, infinite where phi has a step.
        second_derivative: sup |phi''|, infinite where phi has a kink.
    """

    slope: float
    second_derivative: float


KINK = math.inf
_SIGMOID = 1 / (6 * math.sqrt(3))  # sup |sigmoid''|


def _softplus(beta: float, threshold: float) -> ElementwiseBound:
    """The derivative is sigmoid(beta x). Above the threshold torch returns x, a step of log(1 + exp(-threshold)) / beta."""
    return ElementwiseBound(1.0 if beta > 0 and threshold >= 20 else math.inf, abs(beta) / 4)


def _elu(alpha: float, scale: float, input_scale: float) -> ElementwiseBound:
    """ELU is scale x above 0 and scale alpha (exp(input_scale x) - 1) below: smooth where both slopes meet at 0."""
    below = abs(alpha * input_scale)
    smooth = math.isclose(alpha * input_scale, 1.0)
    slope = abs(scale) * max(1.0, below) if input_scale > 0 else math.inf
    return ElementwiseBound(slope, abs(scale) * below * input_scale if smooth else KINK)


def _celu(alpha: float) -> ElementwiseBound:
    """ELU with input_scale = 1 / alpha."""
    return _elu(alpha, 1.0, 1 / alpha)


def _leaky_relu(negative_slope: float) -> ElementwiseBound:
    return ElementwiseBound(max(1.0, abs(negative_slope)), KINK)


def _prelu(weight: Tensor) -> ElementwiseBound:
    return ElementwiseBound(max(1.0, float(weight.abs().max())), KINK)


def _gelu(approximate: str) -> ElementwiseBound:
    return {"none": ElementwiseBound(1.129, 0.798), "tanh": ElementwiseBound(1.130, 0.800)}[approximate]


def _clamp(min: Any = None, max: Any = None) -> ElementwiseBound:  # noqa: ARG001
    """The value is x or a constant."""
    return ElementwiseBound(1.0, KINK)


def _centered_softplus(beta: Tensor) -> ElementwiseBound:
    """The derivative is sigmoid(beta x)."""
    return ElementwiseBound(1.0, float(beta.abs().max()) / 4)


ELEMENTWISE: dict[str, tuple[Callable[..., ElementwiseBound], str]] = {
    "relu": (lambda: ElementwiseBound(1.0, KINK), "self"),
    "abs": (lambda: ElementwiseBound(1.0, KINK), "self"),
    "leaky_relu": (_leaky_relu, "self"),
    "_prelu_kernel": (_prelu, "self"),
    "softplus": (_softplus, "self"),
    "centered_softplus": (_centered_softplus, "x"),
    "log_sigmoid_forward": (lambda: ElementwiseBound(1.0, 0.25), "self"),
    "sigmoid": (lambda: ElementwiseBound(0.25, _SIGMOID), "self"),
    "tanh": (lambda: ElementwiseBound(1.0, 8 * _SIGMOID), "self"),
    "gelu": (_gelu, "self"),
    "silu": (lambda: ElementwiseBound(1.1, 0.5), "self"),
    "mish": (lambda: ElementwiseBound(1.089, 0.65), "self"),
    "elu": (_elu, "self"),
    "celu": (_celu, "self"),
    "clamp": (_clamp, "self"),
    "clamp_min": (_clamp, "self"),
    "clamp_max": (_clamp, "self"),
    "hardtanh": (lambda min_val, max_val: ElementwiseBound(1.0, KINK), "self"),  # noqa: ARG005
    "hardsigmoid": (lambda: ElementwiseBound(0.16667, KINK), "self"),
    "hardswish": (lambda: ElementwiseBound(1.5, KINK), "self"),
    "softshrink": (lambda lambd: ElementwiseBound(1.0, KINK), "self"),  # noqa: ARG005
    "sin": (lambda: ElementwiseBound(1.0, 1.0), "self"),
    "cos": (lambda: ElementwiseBound(1.0, 1.0), "self"),
    "atan": (lambda: ElementwiseBound(1.0, 0.65), "self"),
    "erf": (lambda: ElementwiseBound(1.1284, 0.9681), "self"),
}
"""The bound as a function of the other arguments, and the name of the argument that depends on the input."""
