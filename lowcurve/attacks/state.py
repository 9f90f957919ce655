"""What an attack works on: the images, what a walk knows of them, and what may be a walk."""

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from lowcurve.analysis.calculus import value_gradient_and_aux
from lowcurve.analysis.norms import Ball
from lowcurve.attacks.base import Options
from lowcurve.errors import InputError
from lowcurve.losses import margin_loss
from lowcurve.randomness import Streams, example_streams
from lowcurve.types import AttackFunction, Classifier, Inputs, Labels, Logits, PerExample

Rows = dict[str, Tensor]
"""What a walk knows: tensors with a row an image. "point" is where it will look next, "step" how often it has looked."""


@dataclass(frozen=True)
class Images:
    """What is attacked: inputs, true labels, a radius and a stream each, the logits at the clean inputs, a start if given."""

    model: Classifier
    x: Inputs
    y: Labels
    radius: PerExample
    streams: Streams
    logits: Logits
    start: Inputs | None = None

    def __len__(self) -> int:
        return len(self.x)

    def look(self, point: Inputs) -> Logits:
        """The logits there, in the inputs' precision also where autocast computes in another."""
        logits = self.model(point)
        return logits.to(point.dtype) if isinstance(logits, Tensor) else logits

    def take(self, rows: Tensor, device: torch.device | None = None) -> "Images":
        """Some of them, on a device."""
        there = rows.to(self.x.device)

        def some(values: Tensor) -> Tensor:
            return values[there].to(device or self.x.device)

        start = None if self.start is None else some(self.start)
        streams = Streams(some(self.streams.keys))
        return Images(self.model, some(self.x), some(self.y), some(self.radius), streams, some(self.logits), start)

    def named(self, *path: object) -> "Images":
        """The same images with the streams of that name."""
        return replace(self, streams=self.streams.at(*path))


class Walk(Protocol):
    """One search from one start: `steps` looks with a move after each, and a last look."""

    @property
    def steps(self) -> int: ...

    def begin(self, images: Images) -> Rows:
        """The first point of each image, and whatever else the walk wants to know of it."""
        ...

    def step(self, images: Images, rows: Rows) -> tuple[Logits, Rows]:
        """Look at rows["point"] and move on: the logits there, and the rows with the next point."""
        ...

    def value(self, images: Images, point: Inputs, logits: Logits) -> PerExample:
        """What the walk raises; the point where it was highest is its answer."""
        ...


@runtime_checkable
class Staged(Protocol):
    """An attack that is a sequence of walks, each tried on what the ones before it have left."""

    @property
    def ball(self) -> Ball: ...

    @property
    def walks(self) -> tuple[Walk, ...]: ...


def targets_of(walk: Walk) -> object:
    """The walk's target, None where it leads away from the true label."""
    return getattr(walk, "target", None)


def usable_walks(attack: Staged, classes: int) -> tuple[tuple[int, Walk], ...]:
    """The attack's walks with their numbers; of those towards a rank that there is not, none but the last resort.

    A rank beyond the other classes means the last of them (`targets.target_of`), so several such walks are the same one.
    """
    ranks = [targets_of(walk) for walk in attack.walks]
    fit = [not isinstance(rank, int) or rank < classes for rank in ranks]
    usable = tuple((number, walk) for number, walk in enumerate(attack.walks) if fit[number])
    return usable or tuple(enumerate(attack.walks))[:1]


def work_of(attack: AttackFunction) -> int:
    """At how many points an attack looks for each image that never falls; 1 where it does not say."""
    return sum(walk.steps + 1 for walk in attack.walks) if isinstance(attack, Staged) else 1


def prepare(
    model: Classifier,
    x: Inputs,
    y: Labels,
    ball: Ball,
    options: Options,
    *,
    look: bool = True,
) -> Images:
    """The images of an attack, once everything about them is known to be right.

    look: one forward pass for the clean logits, which targets are chosen by; without it `logits` is empty.
    """
    ball.require_inside_box(x)
    start, radius = options.start, options.radius
    if start is not None and start.shape != x.shape:
        raise InputError(f"a start of shape {tuple(x.shape)}", tuple(start.shape), "give one start for each row of x")
    radius = ball.radii(x) if radius is None else ball.require_radii(radius, x)
    with torch.no_grad():
        logits = model(x) if len(x) and look else x.new_zeros(len(x), 0)
    if len(x) and look:
        require_logits(logits, y)
    return Images(model, x, y, radius, example_streams(options.generator, x, y), logits, start)


def require_logits(logits: object, y: Labels) -> None:
    """Refuse what a model returned unless it is a row of finite numbers an image, with one for each label."""
    shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(y) or logits.shape[1] < 2:
        expected = f"logits of shape ({len(y)}, classes) with at least 2 classes"
        raise InputError(expected, shape, "return one row of logits an example from the model")
    if len(y) and not 0 <= int(y.min()) <= int(y.max()) < logits.shape[1]:
        found, hint = f"{int(y.min())} to {int(y.max())}", "give the data that the network was made for"
        raise InputError(f"labels from 0 to {logits.shape[1] - 1}, as the network has logits", found, hint)
    if not bool(torch.isfinite(logits).all()):
        raise InputError("finite logits", "NaN or infinity", "look for NaN or overflow inside the network")


def fooled(logits: Logits, y: Labels) -> Tensor:
    """Whether another class leads, by more than rounding: a batch of another size must see the same."""
    slack = min(64 * torch.finfo(logits.dtype).eps, 1e-2)
    return margin_loss(logits, y) > slack * logits.abs().amax(1)


def climbed(walk: Walk, images: Images, point: Inputs) -> tuple[PerExample, Tensor, Logits]:
    """The walk's value at the point, its gradient there, and the logits, from one forward and one backward pass."""

    def look(inputs: Tensor) -> tuple[PerExample, Logits]:
        logits = images.look(inputs)
        return walk.value(images, inputs, logits), logits

    return value_gradient_and_aux(look, point)
