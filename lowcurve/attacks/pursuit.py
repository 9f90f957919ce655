"""The loop behind every attack: an image that has fallen leaves the batch at once, and a waiting one takes its place.

What an attack knows of each image is a row of every tensor in `Rows`, so images at different steps share a batch, and what
happens to one depends on it alone: not on the size of the batch, its order or its other images.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from lowcurve.analysis.calculus import value_gradient_and_rest
from lowcurve.analysis.norms import Ball, per_example
from lowcurve.errors import InputError
from lowcurve.losses import margin_loss
from lowcurve.models.modes import attacked
from lowcurve.randomness import Streams, of_examples
from lowcurve.types import Classifier, Inputs, Labels, Logits, PerExample

Rows = dict[str, Tensor]
"""What a walk knows: tensors with a row an image. "point" is where it will look next, "step" how often it has looked."""
Watch = Callable[[Tensor, Rows, PerExample, Logits], None]
"""Sees every look: the images' numbers, their rows, the values that the walk ascends, the logits."""


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
    def walks(self) -> tuple[Walk, ...]: ...


@dataclass
class Found:
    """An answer an image: the point of highest value, that value, whether it fooled the network, after how many looks
    (over all walks; the count of looks where it never did)."""

    point: Inputs
    value: PerExample
    fallen: Tensor
    looks: Tensor


def prepare(
    model: Classifier,
    x: Inputs,
    y: Labels,
    ball: Ball,
    *,
    generator: torch.Generator,
    radius: PerExample | None = None,
    start: Inputs | None = None,
) -> Images:
    """The images of an attack, once everything about them is known to be right. One forward pass."""
    ball.require_inside_box(x)
    if start is not None and start.shape != x.shape:
        raise InputError(f"a start of shape {tuple(x.shape)}", tuple(start.shape), "give one start for each row of x")
    radius = ball.radii(x) if radius is None else ball.require_radii(radius, x)
    with torch.no_grad():
        logits = model(x) if len(x) else x.new_zeros(0, 2)
    require_logits(logits, y)
    return Images(model, x, y, radius, of_examples(generator, x, y), logits, start)


def require_logits(logits: object, y: Labels) -> None:
    """Refuse what a model returned unless it is a row of finite numbers an image, with one for each label."""
    shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(y) or logits.shape[1] < 2:
        expected = f"logits of shape ({len(y)}, classes) with at least 2 classes"
        raise InputError(expected, shape, "return one row of logits an example from the model")
    if len(y) and not 0 <= int(y.min()) <= int(y.max()) < logits.shape[1]:
        found, mend = f"{int(y.min())} to {int(y.max())}", "give the data that the network was made for"
        raise InputError(f"labels from 0 to {logits.shape[1] - 1}, as the network has logits", found, mend)
    if not bool(torch.isfinite(logits).all()):
        raise InputError("finite logits", "NaN or infinity", "look for NaN or overflow inside the network")


def fooled(logits: Logits, y: Labels) -> Tensor:
    """Whether another class leads, by more than rounding: a batch of another size must see the same."""
    slack = min(64 * torch.finfo(logits.dtype).eps, 1e-2)
    return margin_loss(logits, y) > slack * logits.abs().amax(1)


def climbed(walk: Walk, images: Images, point: Inputs) -> tuple[PerExample, Tensor, Logits]:
    """The walk's value at the point, its gradient there, and the logits, from one forward and one backward pass."""

    def look(inputs: Tensor) -> tuple[PerExample, Logits]:
        logits = images.model(inputs)
        return walk.value(images, inputs, logits), logits

    return value_gradient_and_rest(look, point)


def strongest(
    attack: Staged,
    model: Classifier,
    x: Inputs,
    y: Labels,
    ball: Ball,
    *,
    generator: torch.Generator,
    radius: PerExample | None = None,
    start: Inputs | None = None,
) -> Inputs:
    """The whole attack on one batch, every walk to its end: for each image the point of highest value.

    Nothing leaves early, since a training step or a loss wants the highest loss, not the first success. Walks that raise
    different things (towards different targets, say) are compared by the margin at their points.
    """
    walks = attack.walks
    alike = all(walk == walks[0] for walk in walks)
    with attacked(model):
        images = prepare(model, x, y, ball, generator=generator, radius=radius, start=start)
        best, highest = images.x, torch.full_like(images.radius, -torch.inf)
        for number, walk in enumerate(walks):
            found = pursue(walk, images.named(number), stop=False)
            value = found.value
            if not alike:
                with torch.no_grad():
                    value = margin_loss(model(found.point), y) if len(x) else value
            higher = value > highest
            best, highest = torch.where(per_example(higher, best), found.point, best), torch.maximum(value, highest)
            images = replace(images, start=None)  # a given start is where the first walk begins
    return best.detach()


def pursue(
    walk: Walk,
    images: Images,
    *,
    stop: bool,
    limit: int | None = None,
    device: torch.device | None = None,
    watch: Watch | None = None,
    done: Callable[[int], None] = lambda _: None,
) -> Found:
    """One walk over all the images, at most `limit` in a batch.

    stop: an image leaves as soon as it is fooled, and waiting ones take the free places; otherwise each walks to its end.
    device: where the model is; the images may lie elsewhere. watch: sees every look. done: is told of work that is over,
    in looks. The model must be in eval mode already (`attacked`).

    Cost: one `step` of the walk for each image and step until it falls, one forward pass at the end. Whoever interrupts it
    (Ctrl-C) loses this walk only.
    """
    count, device = len(images), device or images.x.device
    found = Found(
        images.x.clone(),
        torch.full_like(images.radius, -torch.inf),
        torch.zeros(count, dtype=torch.bool, device=images.x.device),
        torch.full((count,), walk.steps + 1, device=images.x.device),
    )
    limit = limit or max(count, 1)
    waiting, active = 0, _Active.none()
    while waiting < count or len(active.numbers):
        free = limit - len(active.numbers)
        if waiting < count and free >= max(1, limit // 4):
            numbers = torch.arange(waiting, min(waiting + free, count))
            active = active.joined(_Active.begun(walk, images.take(numbers, device), numbers.to(device)))
            waiting += len(numbers)
        active = _advance(walk, active, found, stop, watch, done)
    return found


@dataclass
class _Active:
    """The images in the batch: their numbers among all, themselves, their rows."""

    numbers: Tensor
    images: Images | None
    rows: Rows

    @classmethod
    def none(cls) -> "_Active":
        return cls(torch.empty(0, dtype=torch.long), None, {})

    @classmethod
    def begun(cls, walk: Walk, images: Images, numbers: Tensor) -> "_Active":
        return cls(numbers, images, {**walk.begin(images), "step": torch.zeros_like(numbers)})

    def joined(self, other: "_Active") -> "_Active":
        if self.images is None or other.images is None or not len(self.numbers):
            return other
        a, b = self.images, other.images
        start = None if a.start is None or b.start is None else torch.cat([a.start, b.start])
        images = Images(
            a.model,
            torch.cat([a.x, b.x]),
            torch.cat([a.y, b.y]),
            torch.cat([a.radius, b.radius]),
            Streams(torch.cat([a.streams.keys, b.streams.keys])),
            torch.cat([a.logits, b.logits]),
            start,
        )
        rows = {name: torch.cat([values, other.rows[name]]) for name, values in self.rows.items()}
        return _Active(torch.cat([self.numbers, other.numbers]), images, rows)

    def kept(self, keep: Tensor) -> "_Active":
        assert self.images is not None
        kept = torch.nonzero(keep).flatten()
        rows = {name: values[kept] for name, values in self.rows.items()}
        return _Active(self.numbers[kept], self.images.take(kept), rows)


def _advance(
    walk: Walk, active: _Active, found: Found, stop: bool, watch: Watch | None, done: Callable[[int], None]
) -> _Active:
    """One look and one move of everybody in the batch, and the last look of those who have arrived."""
    assert active.images is not None
    arrived = active.rows["step"] >= walk.steps
    # Who has arrived needs no gradient any more. Whoever began together arrives together, so this is rarely a small batch.
    if bool(arrived.any()):
        last = active.kept(arrived)
        assert last.images is not None
        with torch.no_grad():
            logits = last.images.model(last.rows["point"])
        _record(walk, last, logits, found, stop, watch)
        done(len(last.numbers))
        return active.kept(~arrived)
    before = active.rows
    logits, after = walk.step(active.images, before)
    fallen = _record(walk, active, logits, found, stop, watch)
    active = _Active(active.numbers, active.images, {**after, "step": before["step"] + 1})
    done(len(active.numbers))
    if not stop or not bool(fallen.any()):
        return active
    done(int((walk.steps - before["step"])[fallen].sum()))
    return active.kept(~fallen)


def _record(walk: Walk, active: _Active, logits: Logits, found: Found, stop: bool, watch: Watch | None) -> Tensor:
    """Keep the highest point of each image; return who is fooled where it stands."""
    images, point = active.images, active.rows["point"]
    assert images is not None
    with torch.no_grad():
        values, fallen = walk.value(images, point, logits), fooled(logits, images.y)
    if bool(torch.isnan(logits).any()):
        raise InputError("finite logits", "NaN or infinity", "look for NaN or overflow inside the network")
    if watch is not None:
        watch(active.numbers, active.rows, values, logits)
    home = found.point.device
    numbers, fallen_there, values = active.numbers.to(home), fallen.to(home), values.to(home)
    first = fallen_there & ~found.fallen[numbers]
    found.looks[numbers[first]] = active.rows["step"].to(home)[first] + 1
    found.fallen[numbers[first]] = True
    better = values > found.value[numbers]
    if stop:  # the point that fools is the answer, even where an earlier one was higher
        better |= first
    rows = torch.nonzero(better).flatten()
    found.point[numbers[rows]] = point[rows.to(point.device)].to(home)
    found.value[numbers[rows]] = values[rows]
    return fallen
