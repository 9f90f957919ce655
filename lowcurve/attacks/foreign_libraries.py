"""The attacks of torchattacks, foolbox, ART and adversarial-library: how they are made and called."""

import copy
import functools
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn

from lowcurve.attacks.foreign_base import (
    RADII,
    Foreign,
    Request,
    defaults_of,
    exponent_of,
    fitting,
    no_targets,
    radius_name,
    scaled,
    set_radius,
)
from lowcurve.errors import InputError, describe
from lowcurve.types import Inputs, Labels


class Torchattacks(Foreign):
    """An attack of torchattacks. It holds its model, so a copy with another model is made for each call."""

    library = "torchattacks"

    def needs_target(self) -> bool:
        """Return whether its targets are the labels of the call."""
        return bool(self.told("attack_mode") == "targeted(label)")

    def find(self, model: nn.Module, x: Inputs, y: Labels, request: Request) -> Tensor:
        """Make the attack for this model, and call it."""
        if isinstance(self.attack, type):
            known = {"n_classes": request.classes, "norm": f"L{request.exponent:g}"}
            attack = self.attack(model, **self.arguments(known, request))
        else:
            attack = copy.deepcopy(self.attack, {id(self.attack.model): model})
        for one in (attack, *attack._attacks.values()):
            set_radius(one, request)
            one.device, one._normalization_applied = x.device, None
        if request.target is not None:
            if "targeted" not in attack.supported_mode:
                raise no_targets(self.name)
            attack.set_mode_targeted_by_label(quiet=True)
        found: Tensor = attack(x, y if request.target is None else request.target)
        return found


class Foolbox(Foreign):
    """An attack of foolbox. It returns the points, the points clipped into the ball, and its successes."""

    library = "foolbox"

    @property
    def takes_radius(self) -> bool:
        """True for all but minimum-norm attacks."""
        base = importlib.import_module("foolbox.attacks.base")
        inner = self.attack
        while isinstance(inner, base.Repeated):
            inner = inner.attack
        return not issubclass(inner if isinstance(inner, type) else type(inner), base.MinimizationAttack)

    @property
    def exponent(self) -> float | None:
        """Exponent of the attack's distance."""
        found = self.told("_distance") if "distance" in self.parameters else self.told("distance")
        return exponent_of(getattr(found or getattr(self.kind, "distance", None), "p", None))

    @property
    def own_radius(self) -> None:
        """None: a radius is given in each call."""
        return

    def needs_target(self) -> bool:
        """Return False: targets are given in each call."""
        return False

    def find(self, model: nn.Module, x: Inputs, y: Labels, request: Request) -> Tensor:
        """Call the attack with one radius, or without one for a minimum-norm attack."""
        foolbox = importlib.import_module("foolbox")
        attack = self.attack(**self.options) if isinstance(self.attack, type) else copy.copy(self.attack)
        if "distance" in self.parameters and attack._distance is None:
            attack._distance = getattr(foolbox.distances, f"l{request.exponent:g}")
        set_radius(attack, request)
        goal = foolbox.criteria.Misclassification(y)
        if request.target is not None:
            goal = foolbox.criteria.TargetedMisclassification(request.target)
        bounded = foolbox.PyTorchModel(model, bounds=(0, 1), device=x.device)
        points, clipped, _ = attack(bounded, x, goal, epsilons=request.radius)
        found: Tensor = points if request.radius is None else clipped
        return found


class ART(Foreign):
    """An evasion attack of the Adversarial Robustness Toolbox. It holds its estimator, and takes and returns arrays."""

    library = "ART"

    @property
    def takes_radius(self) -> bool:
        """True if it has a radius and does not search for the smallest one."""
        return "eps" in self.parameters and not self.told("minimal")

    @property
    def own_radius(self) -> float | None:
        """Radius that the attack was made with, divided by the width of its estimator's box."""
        radius = super().own_radius
        clips = None if isinstance(self.attack, type) else self.attack.estimator.clip_values
        return radius if radius is None or clips is None else radius / float(np.max(clips[1]) - np.min(clips[0]))

    def find(self, model: nn.Module, x: Inputs, y: Labels, request: Request) -> np.ndarray:
        """Make the attack for this model, and call it with arrays."""
        classification = importlib.import_module("art.estimators.classification")
        estimator = classification.PyTorchClassifier(
            model,
            nn.CrossEntropyLoss(),
            tuple(x.shape[1:]),
            request.classes,
            clip_values=(0.0, 1.0),
            device_type="cpu" if x.device.type == "cpu" else "gpu",
        )
        targeted = {} if request.target is None else {"targeted": True}
        if isinstance(self.attack, type):
            exponent = np.inf if np.isinf(request.exponent) else int(request.exponent)
            known = {"norm": exponent, **targeted}
            attack = self.attack(estimator, **self.arguments(known, request))
        else:
            attack = copy.deepcopy(self.attack, {id(self.attack.estimator): estimator})
            attack.set_params(**fitting(targeted, dict.fromkeys(attack.attack_params)))
        if request.target is not None and "targeted" not in attack.attack_params:
            raise no_targets(self.name)
        for one in (attack, *(getattr(attack, "attacks", None) or ())):
            wanted = {**scaled(one, request), "verbose": False}
            one.set_params(**fitting(wanted, dict.fromkeys(one.attack_params)))
        goal = y if request.target is None else request.target
        labels = nn.functional.one_hot(goal, request.classes).float().cpu().numpy()
        found: np.ndarray = attack.generate(x=x.detach().cpu().numpy(), y=labels)
        return found


class Function(Foreign):
    """A function (model, x, y) -> x', such as those of adversarial-library."""

    @property
    def library(self) -> str:  # type: ignore[override]
        """The package of the function."""
        root = (self.kind.__module__ or "").partition(".")[0]
        return "adversarial-library" if root == "adv_lib" else ""

    @property
    def kind(self) -> Any:
        """The function itself, without the arguments that `functools.partial` fixed."""
        return self.attack.func if isinstance(self.attack, functools.partial) else self.attack

    @property
    def name(self) -> str:
        """Library and name of the function."""
        return f"{self.library} {getattr(self.kind, '__name__', type(self.kind).__name__)}".strip()

    @property
    def parameters(self) -> Mapping[str, Any]:
        """The function's parameters."""
        return defaults_of(self.kind)

    @property
    def fixed(self) -> Mapping[str, Any]:
        """The arguments that the user fixed."""
        return {**getattr(self.attack, "keywords", {}), **self.options}

    def told(self, *names: str) -> Any:
        """Return the first of these values that the user fixed, or the function's own default."""
        fixed = {**self.parameters, **self.fixed}
        found = (fixed.get(name) for name in names)
        return next((value for value in found if value is not None and value is not inspect.Parameter.empty), None)

    @property
    def takes_radius(self) -> bool:
        """True if it has a parameter for the radius. Those of adversarial-library must be given."""
        name = radius_name(self.parameters)
        required = name is not None and self.parameters[name] is inspect.Parameter.empty
        return required or (name is not None and not self.library)

    @property
    def minimal(self) -> bool:
        """True for functions of adversarial-library without a radius. Other functions count as attacks in a ball."""
        return bool(self.library) and not self.takes_radius

    @property
    def exponent(self) -> float | None:
        """Exponent of the norm that is fixed, or that the function's name tells."""
        told = next((self.fixed[name] for name in ("norm", "distance", "p") if name in self.fixed), None)
        if told is None and self.library:
            told = self.parameters.get("distance", self.name.rpartition("_")[2])
        return exponent_of(told)

    def find(self, model: nn.Module, x: Inputs, y: Labels, request: Request) -> Any:
        """Call the function with what it takes of radius, norm, box, target and random numbers.

        The labels are the third argument, or the one that is called y.
        """
        given: dict[str, Any] = {"generator": request.generator, "clip_min": 0.0, "clip_max": 1.0}
        if self.library or self.parameters.get("norm") is inspect.Parameter.empty:
            given |= {"norm": request.exponent, "p": request.exponent}
        if self.library or request.target is not None:
            given["targeted"] = request.target is not None
        name = radius_name(self.parameters)
        if name is not None and self.takes_radius:
            given[name] = request.radius
        if request.target is not None and "targeted" not in self.parameters:
            raise no_targets(self.name)
        known = {k: v for k, v in fitting(given, self.parameters).items() if k in RADII or k not in self.fixed}
        goal = y if request.target is None else request.target
        third, named = [*self.parameters, "y"][2], "y" in self.parameters
        labels, named_labels = ((), {"y": goal}) if named and third != "y" else ((goal,), {})
        return self.attack(model, x, *labels, **{**self.options, **known, **named_labels})


LIBRARIES: Mapping[str, type[Foreign]] = {"torchattacks": Torchattacks, "foolbox": Foolbox, "art": ART}
"""Libraries whose attacks are classes, by the name of their package."""


def library_of(attack: object) -> str | None:
    """Return the package of an attack of another library that is known here; None for anything else.

    Example:
        >>> library_of(len) is None
        True
    """
    inner = attack.func if isinstance(attack, functools.partial) else attack
    kind = inner if isinstance(inner, type) else type(inner)
    roots = [base.__module__.partition(".")[0] for base in kind.__mro__]
    roots.append((getattr(inner, "__module__", None) or "").partition(".")[0])
    return next((root for root in roots if root in (*LIBRARIES, "adv_lib")), None)


def as_foreign(attack: object, options: Mapping[str, Any]) -> Foreign:
    """Return an attack of another library with its conventions.

    Args:
        attack: An attack, its class or a function (model, x, y) -> x'.
        options: Arguments with which a class is made or a function is called.

    Raises:
        InputError: If it is none, or if it is already made and options are given.
    """
    kind = LIBRARIES.get(library_of(attack) or "")
    if kind is not None:
        if options and not isinstance(attack, type):
            hint = "set them where the attack is made, or give its class"
            raise InputError("no options for an attack that is already made", ", ".join(options), hint)
        return kind(attack, options)
    if hasattr(attack, "run_standard_evaluation"):
        hint = "write lc.attacks.AutoAttack('linf', 8/255), which runs the authors' code"
        raise InputError("an attack that can be called", "AutoAttack of its authors", hint)
    if isinstance(attack, nn.Module | type) or not (callable(attack) and _takes_batch(attack)):
        hint = "write lc.attacks.foreign(torchattacks.PGD, 'linf', 8/255)"
        raise InputError("an attack of another library, or a function (model, x, y) -> x'", describe(attack), hint)
    return Function(attack, options)


def _takes_batch(function: Callable[..., object]) -> bool:
    """Return whether a function can be called with a model, images and labels, the last perhaps by the name y."""
    try:
        found = inspect.signature(function).parameters
    except ValueError:  # a function without a signature, as some of C
        return True
    kinds = [parameter.kind for parameter in found.values()]
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        return True
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(kind in positional for kind in kinds) >= (2 if "y" in found else 3)
