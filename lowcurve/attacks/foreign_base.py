"""The common part of all libraries: the description of an attack, and the request of a call."""

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import nn

from lowcurve.errors import InputError
from lowcurve.types import Inputs, Labels

RADII = ("eps", "ε", "epsilon", "max_epsilon", "radius")
"""Names under which attacks take their radius."""
STEPS = ("alpha", "eps_step", "abs_stepsize")
"""Names of lengths that belong to the radius, so that they are scaled with it."""
NORMS: Mapping[object, float] = {
    "Linf": math.inf, "L2": 2.0, "L1": 1.0, "inf": math.inf, "linf": math.inf, "l2": 2.0, "l1": 1.0,
}  # fmt: skip
"""Names that attacks have for norms, as exponents."""


@dataclass(frozen=True)
class Request:
    """The request of one call.

    Attributes:
        exponent: Exponent of the norm: 1, 2 or infinity.
        radius: Radius on the box [0, 1]. None for a minimum-norm attack.
        base: Radius for which the attack's own step sizes were chosen, or None.
        target: Class to which each image is led. None leads away from the true one.
        classes: Number of logits.
        generator: Source of random numbers.
    """

    exponent: float
    radius: float | None
    base: float | None
    target: Labels | None
    classes: int
    generator: torch.Generator


@dataclass(frozen=True)
class Foreign(ABC):
    """An attack of another library.

    Args:
        attack: The attack, its class or its function.
        options: Arguments with which a class is made or a function is called.
    """

    attack: Any
    options: Mapping[str, Any] = field(default_factory=dict)
    library: ClassVar[str]

    @property
    def kind(self) -> Any:
        """The attack's class or function."""
        return self.attack if isinstance(self.attack, type) else type(self.attack)

    @property
    def name(self) -> str:
        """Library and kind."""
        return f"{self.library} {self.kind.__name__}"

    @property
    def parameters(self) -> Mapping[str, Any]:
        """The parameters with which the attack is made or called, and their defaults."""
        return defaults_of(self.kind.__init__)

    def told(self, *names: str) -> Any:
        """Return the first of these values that the user or the attack fixed; None if there is none."""
        for name in names:
            found = self.options.get(name)
            if found is None and not isinstance(self.attack, type):
                found = getattr(self.attack, name, None)
            if found is not None:
                return found
        return None

    @property
    def exponent(self) -> float | None:
        """Exponent of the norm in which the attack was made, None if it does not say."""
        return exponent_of(self.told("norm"))

    @property
    def own_radius(self) -> float | None:
        """Radius on [0, 1] that the attack was made with, None if it has none."""
        return as_number(self.told(*RADII)) if self.takes_radius else None

    @property
    def minimal(self) -> bool:
        """True for a minimum-norm attack, which has no radius."""
        return not self.takes_radius

    @property
    def takes_radius(self) -> bool:
        """True if the attack can be called with a radius."""
        return radius_name(self.parameters) is not None

    def needs_target(self) -> bool:
        """Return whether the attack was made for targets that a call must give."""
        return bool(self.told("targeted"))

    def arguments(self, known: Mapping[str, Any], request: Request) -> dict[str, Any]:
        """Return the arguments with which a class is made: those given, those known, and lengths of the asked radius.

        The default of a step size belongs to the default of the radius, so it is scaled with it.
        """
        given, name = dict(known), radius_name(self.parameters)
        if name is not None and request.base is not None:
            ratio = request.base / default if (default := as_number(self.parameters[name])) else 1.0
            steps = {step: as_number(self.parameters.get(step)) for step in STEPS}
            given |= {step: value * ratio for step, value in steps.items() if value} | {name: request.base}
        return fitting(given, self.parameters) | dict(self.options)

    @abstractmethod
    def find(self, model: nn.Module, x: Inputs, y: Labels, request: Request) -> Any:
        """Return what the attack returns for images in [0, 1]."""


def defaults_of(function: Callable[..., object]) -> Mapping[str, Any]:
    """Return the parameters of a function with their defaults; none for a function of C that does not tell them."""
    try:
        return {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()}
    except ValueError:
        return {}


def fitting(values: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the values that are parameters."""
    return {name: value for name, value in values.items() if name in parameters}


def radius_name(parameters: Mapping[str, Any]) -> str | None:
    """Return the name of the parameter for the radius, None if there is none."""
    return next((name for name in RADII if name in parameters), None)


def as_number(value: object) -> float | None:
    """Return a number as a float, None for anything else."""
    return float(value) if isinstance(value, int | float) else None


def exponent_of(norm: object) -> float | None:
    """Return the exponent of a norm that another library names, None if it is not known."""
    return NORMS.get(norm) if isinstance(norm, str) else as_number(norm)


def scaled(attack: object, request: Request) -> dict[str, float]:
    """Return an attack's radius and step sizes for the requested radius, by their names."""
    name = next((name for name in RADII if as_number(getattr(attack, name, None))), None)
    own = as_number(getattr(attack, name)) if name else request.base
    if request.radius is None or not own:
        return {}
    steps = {step: as_number(getattr(attack, step, None)) for step in STEPS}
    lengths = {step: value * request.radius / own for step, value in steps.items() if value}
    return {**lengths, **({name: request.radius} if name else {})}


def set_radius(attack: object, request: Request) -> None:
    """Set an attack's radius and step sizes to the requested radius."""
    for name, value in scaled(attack, request).items():
        vars(attack)[name] = value


def no_targets(name: str) -> InputError:
    """Return the error of an attack that takes no target."""
    return InputError("an attack that can be led to a class", name, "leave target= out, or give another attack")
