"""Attacks of other libraries as attacks of this package, which judges their answers."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lowcurve import randomness
from lowcurve.analysis.norms import EXPONENTS, Ball, Norm, as_ball, per_example
from lowcurve.attacks.acceptance import Region, tell_not_accepted
from lowcurve.attacks.base import Attack, Options
from lowcurve.attacks.foreign_base import Foreign, Request
from lowcurve.attacks.foreign_libraries import as_foreign
from lowcurve.attacks.state import require_logits
from lowcurve.attacks.targets import Target, require_target, target_class
from lowcurve.attacks.unit_box import UnitBoxClassifier
from lowcurve.errors import InputError, describe
from lowcurve.models.modes import frozen
from lowcurve.network_calls import ERRORS, call, first_line, is_memory_error
from lowcurve.types import Classifier, Inputs, Labels, PerExample

ROUNDING = 1e-3
"""Share of the radius, and of the box's width, by which a library's rounding may exceed them."""


@dataclass(frozen=True, repr=False)
class ForeignAttack(Attack):
    """An attack of another library; `foreign` makes it.

    Attributes:
        source: The attack with its library's conventions.
        norm: Norm of its perturbations.
        radius: Radius in pixel units. None for a minimum-norm attack without a limit.
        box: Lowest and highest pixel value.
        target: Class to which images are led.
        takes_radius: Whether a call may give one radius for each image.
    """

    source: Foreign
    norm: Norm
    radius: float | None = None
    box: tuple[float, float] = (0.0, 1.0)
    target: Target = None
    takes_radius: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "takes_radius", self.source.takes_radius or self.minimal)

    def __repr__(self) -> str:
        within = "" if self.radius is None else f", radius {self.radius:.4g}"
        return f"<{self.name} in {self.norm.name}{within}>"

    @property
    def name(self) -> str:
        """Library and kind of the attack."""
        return self.source.name

    @property
    def minimal(self) -> bool:
        """True for a minimum-norm attack. A radius then limits only what counts."""
        return self.source.minimal

    @property
    def region(self) -> Region:
        """The ball of the radius if there is one, in the box."""
        return Region(self.norm, math.inf if self.radius is None else self.radius, self.box)

    def perturb(self, model: Classifier, x: Inputs, y: Labels, options: Options) -> Inputs:
        """Return the adversarial images x', of x's shape."""
        as_ball(self.norm, self.radius or 0.0, self.box).require_inside_box(x)
        if not len(x):
            return x
        seed = int(randomness.integers((), 0, 2**31, generator=options.generator))
        path = (seed, "foreign", self.name)
        with frozen(model), randomness.temporary_seed(*path), randomness.SeparateDraws(*path).resume():
            with torch.no_grad():
                logits = call(model, x)
            require_logits(logits, y)
            goal = None if self.target is None else target_class(self.target, logits, y)
            network = UnitBoxClassifier(model, self.box, x.device)
            point = x.clone()
            for radius, rows in self._groups(x, options.radius):
                target = None if goal is None else goal[rows]
                request = self._request(radius, target, logits.shape[1], options.generator)
                point[rows] = self._find(network, x[rows], y[rows], request)
        limit = self.radius if options.radius is None else options.radius.to(x)
        point = point if limit is None else self._within(x, point, limit)
        tell_not_accepted(self.name, self.region.contains(x, point, options.radius))
        return point

    def _groups(self, x: Inputs, radius: PerExample | None) -> list[tuple[float | None, Tensor]]:
        """Return the images of each radius, as the libraries take one radius in a call."""
        every = torch.arange(len(x), device=x.device)
        if self.minimal or radius is None:
            return [(None if self.minimal else self.radius, every)]
        return [(float(one), every[radius.to(x.device) == one]) for one in torch.unique(radius) if float(one) > 0]

    def _request(
        self, radius: float | None, target: Labels | None, classes: int, generator: torch.Generator
    ) -> Request:
        width = self.box[1] - self.box[0]
        lengths = [None if length is None else length / width for length in (radius, self.radius)]
        return Request(EXPONENTS[self.norm.name], lengths[0], lengths[1], target, classes, generator)

    def _find(self, network: UnitBoxClassifier, x: Inputs, y: Labels, request: Request) -> Inputs:
        """Call the attack, and return its answer as pixels."""
        try:
            answer = self.source.find(network, network.from_pixels(x), y, request)
        except ERRORS as error:
            if isinstance(error, InputError) or is_memory_error(error):
                raise
            hint = "call the attack alone to see the whole error, or set its options"
            raise InputError(f"{self.name} to run on these images", first_line(error), hint) from error
        return network.to_pixels(_points(answer, x, self.name))

    def _within(self, x: Inputs, point: Inputs, limit: float | PerExample) -> Inputs:
        """Return x for what lies beyond the limit, and repair what exceeds it by rounding only.

        What an attack in a ball returns outside it stays, so that it is seen and refused.
        """
        limits = torch.as_tensor(limit, dtype=x.dtype, device=x.device).expand(len(x))
        length = self.norm.length(point - x)
        if self.minimal:
            return torch.where(per_example(length <= limits, x), point, x)
        low, high = self.box
        excess = ROUNDING * 1e-3 * (high - low)
        inside = ((point >= low - excess) & (point <= high + excess)).flatten(1).all(1)
        near = inside & (length <= limits * (1 + ROUNDING))
        ball = Ball(self.norm, self.radius or 0.0, self.box)
        return torch.where(per_example(near, x), ball.project(point, x, limits), point)


def foreign(
    attack: Any,
    norm: Norm | str | Ball,
    radius: float | None = None,
    *,
    box: tuple[float, float] = (0.0, 1.0),
    target: Target = None,
    **options: Any,
) -> ForeignAttack:
    """Return an attack of another library as an attack of this package: alone, or as a member of a `Suite`.

    It takes attacks of torchattacks, foolbox, adversarial-library and ART (the Adversarial Robustness Toolbox), and any
    function (model, x, y) -> x'. `evaluation.attack` accepts an answer only if it is finite, in the ball and in the box, and
    judges it by the network itself. The library sees the network on [0, 1] and in eval mode, whatever model the attack was
    made with. It gets the images' device and the true labels, or the targets. The global random states are seeded for the
    call and restored, so a seed repeats it; but the answer depends on the batch.

    Args:
        attack: An attack such as `torchattacks.PGD(model)` or `foolbox.attacks.LinfPGD()`, a class such as
            `torchattacks.PGD`, or a function such as `adv_lib.attacks.apgd` or a `functools.partial` of it. A function gets
            the radius if it has a parameter `eps`, `epsilon` or `radius`.
        norm: "linf", "l2", "l1", a norm, or a `Ball` with its own radius and box.
        radius: Radius in pixel units, the literature's epsilon. Left out, it is the attack's own. An attack that was made
            with another radius is run with this one, and its step size is scaled. Of a minimum-norm
            attack, only answers within the radius count; without one all do.
        box: Lowest and highest pixel value. Leave it out with a `Ball`.
        target: As in `PGD`; libraries whose attacks need targets get them as labels.
        **options: Arguments with which a class is made or a function is called, in the library's own words and on [0, 1].

    Returns:
        A `ForeignAttack`.

    Raises:
        InputError: If it is no attack, if norm or radius are missing or contradict the attack's own, or if the attack was
            made for targets and none is given.

    Cost: the attack's, and one forward pass.

    Example:
        >>> def brighter(model, x, y, eps):
        ...     return (x + eps).clamp(0, 1)
        >>> attack = foreign(brighter, "linf", 0.25)
        >>> attack
        <brighter in l_inf, radius 0.25>
        >>> attack(torch.nn.Identity(), torch.tensor([[0.5, 0.875]]), torch.tensor([0]))
        tensor([[0.7500, 1.0000]])
    """
    if isinstance(attack, Attack):
        raise InputError("an attack of another library", describe(attack), "give it as it is")
    require_target(target)
    source = as_foreign(attack, options)
    if isinstance(norm, Ball):
        ball = as_ball(norm, radius, box)
        norm, radius, box = ball.norm, ball.radius, ball.box
    if radius is None and source.own_radius is not None:
        radius = source.own_radius * (box[1] - box[0])
    if radius is None and source.takes_radius:
        hint = "write lc.attacks.foreign(attack, 'linf', 8/255)"
        raise InputError(f"a radius for {source.name}", "none", hint)
    chosen = as_ball(norm, 0.0 if radius is None else radius, box).norm
    own = {1.0: "l1", 2.0: "l2", math.inf: "linf"}.get(source.exponent or 0.0)
    if own is not None and source.exponent != EXPONENTS[chosen.name]:
        raise InputError(f"the norm of {source.name}, {own}", chosen.name, f"write {own!r}, or give another attack")
    if target is None and source.needs_target():
        raise InputError(f"a target for {source.name}, which was made for one", "none", "write target=1")
    return ForeignAttack(source, chosen, radius, box, target)


def _points(answer: Any, x: Inputs, name: str) -> Inputs:
    """Return an answer as a tensor like x: the first entry of that shape in a tuple or a list."""
    for one in answer if isinstance(answer, tuple | list) else (answer,):
        if isinstance(one, Tensor | np.ndarray) and tuple(one.shape) == tuple(x.shape):
            return torch.as_tensor(one).detach().to(x)
    found = tuple(answer.shape) if isinstance(answer, Tensor | np.ndarray) else type(answer).__name__
    raise InputError(f"images of shape {tuple(x.shape)} from {name}", found, "return the attacked images alone")
