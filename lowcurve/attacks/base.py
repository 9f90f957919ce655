"""The contract that all attacks share: how they are made from a norm and a radius, and how they are called."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields
from functools import cached_property
from numbers import Integral
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from lowcurve.analysis.norms import Ball, Norm, as_ball
from lowcurve.attacks.acceptance import Region, accept
from lowcurve.data.examples import as_pixels
from lowcurve.data.labels import as_labels
from lowcurve.errors import InputError, describe
from lowcurve.network_calls import gradients_enabled, input_like, without_inference
from lowcurve.randomness import stream
from lowcurve.types import Classifier, Inputs, Labels, PerExample


@dataclass(frozen=True)
class Options:
    """The optional arguments in a call of an attack.

    Attributes:
        generator: Source of the random numbers.
        radius: One radius for each image; None for the ball's.
        start: Where the search begins, of the images' shape; None for the attack's own start.
    """

    generator: torch.Generator
    radius: PerExample | None = None
    start: Inputs | None = None


class Attack(ABC):
    """An attack: maps a model, images and true labels to adversarial images.

    A subclass implements `perturb`, and sets `takes_radius` and `takes_start`. Its attribute `norm` is the norm of its
    perturbations, None if there is none.
    """

    takes_radius: bool = False
    takes_start: ClassVar[bool] = False

    @property
    def region(self) -> Region:
        """Where its answers must lie: its ball with the ball's box, or its box alone."""
        ball = getattr(self, "ball", None)
        if isinstance(ball, Ball):
            return Region(ball.norm, ball.radius, ball.box)
        return Region(box=getattr(self, "box", None))

    @abstractmethod
    def perturb(self, model: Classifier, x: Inputs, y: Labels, options: Options) -> Inputs:
        """Return the adversarial images of a batch that has been checked."""

    @gradients_enabled()
    def __call__(
        self,
        model: Classifier,
        x: Tensor | np.ndarray,
        y: Any,
        *,
        generator: torch.Generator | None = None,
        seed: int = 0,
        radius: PerExample | None = None,
        start: Inputs | None = None,
    ) -> Inputs:
        """Return the adversarial images x', of x's shape; x itself where the attack found none that is finite and inside.

        Args:
            model: Classifier, pixels -> logits.
            x: Images, (batch, ...), tensor or array. Floats lie inside the pixel box; uint8 is divided by 255.
            y: True labels, (batch,), whole numbers of any type.
            generator: Source of the random numbers. By default it is made from `seed`.
            seed: Seed of the random numbers, used without a generator.
            radius: One radius for each image, in pixel units. None takes the ball's.
            start: Where the search begins, of x's shape.

        Raises:
            InputError: If images, labels or logits do not fit, or the attack takes no such radius or start.
        """
        for name, given, taken in (("radius", radius, self.takes_radius), ("start", start, self.takes_start)):
            if given is not None and not taken:
                raise InputError(f"no {name} in a call of {type(self).__name__}", "one", f"leave {name}= out")
        x, y = as_batch(model, x, y)
        point = self.perturb(model, x, y, Options(generator or stream(seed, "attack"), radius, start))
        return accept(self, x, point, radius)[0]


class _OwnRadius(float):
    """The radius that an attack holds. `dataclasses.replace` passes it on, and a new ball overrides it."""


@dataclass(frozen=True)
class BallAttack(Attack):
    """An attack inside a ball around each image.

    Args:
        norm: "linf", "l2", "l1", a norm, or a `Ball` with its own radius and box.
        radius: Radius in pixel units, the literature's epsilon. Leave it out with a `Ball`.
        box: Lowest and highest pixel value. Leave it out with a `Ball`.
    """

    norm: Norm | str | Ball
    radius: float | None = None
    box: tuple[float, float] = field(default=(0.0, 1.0), kw_only=True)

    def __post_init__(self) -> None:
        require_whole_numbers(self)
        if isinstance(self.norm, Ball) and isinstance(self.radius, _OwnRadius):
            ball = self.norm
        else:
            ball = as_ball(self.norm, self.radius, self.box)
        for name, value in (("norm", ball.norm), ("radius", _OwnRadius(ball.radius)), ("box", ball.box)):
            object.__setattr__(self, name, value)

    @cached_property
    def ball(self) -> Ball:
        """The ball of norm, radius and box."""
        return as_ball(self.norm, float(self.radius or 0), self.box)


def require_whole_numbers(attack: Any) -> None:
    """Refuse an attack with a fraction where it counts, such as in steps.

    Args:
        attack: A dataclass. Its fields of type int are looked at.

    Raises:
        InputError: If one of them is no whole number.
    """
    for option in fields(attack):
        value = getattr(attack, option.name)
        if option.type is int and not isinstance(value, Integral):
            raise InputError(f"a whole number of {option.name}", describe(value), f"write {option.name}=10")


def as_batch(model: Classifier, x: Tensor | np.ndarray, y: Any) -> tuple[Inputs, Labels]:
    """Return images and labels as tensors: floats in [0, 1] and whole numbers, on one device.

    A float tensor is returned as it is, but half precision, in which a small step of an attack is lost, becomes float32. An
    array and a tensor of bytes take the precision of the model's inputs, an array also the model's device.

    Example:
        >>> as_batch(torch.nn.Identity(), np.array([[0, 51]], dtype=np.uint8), [1])
        (tensor([[0.0000, 0.2000]]), tensor([1]))
    """
    like = input_like(model) if isinstance(model, nn.Module) else torch.empty(0)
    images = (
        without_inference(x).contiguous()
        if isinstance(x, Tensor)
        else torch.as_tensor(np.asarray(x), device=like.device)
    )
    if images.dtype == torch.uint8:
        images = as_pixels(images, like.dtype)
    elif not images.is_floating_point():
        raise InputError("images of floats in [0, 1] or of uint8", images.dtype, "divide them by their largest value")
    elif not isinstance(x, Tensor) or images.dtype in (torch.float16, torch.bfloat16):
        images = images.to(like.dtype)
    labels = as_labels(y).to(images.device)
    if labels.shape != images.shape[:1]:
        found = tuple(labels.shape)
        raise InputError(f"labels of shape ({len(images)},)", found, "give one class number for each image")
    return images, without_inference(labels)
