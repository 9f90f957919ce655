"""The loop behind every attack: an image that has fallen leaves the batch at once, and a waiting one takes its place.

What an attack knows of each image is a row of every tensor in `Rows`, so images at different steps share a batch, and what
happens to one depends on it alone: not on the size of the batch, its order or its other images.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lowcurve.analysis.norms import per_example
from lowcurve.attacks.base import Options
from lowcurve.attacks.state import (
    Images,
    Rows,
    Staged,
    Walk,
    fooled,
    prepare,
    require_logits,
    targets_of,
    usable_walks,
)
from lowcurve.losses import margin_loss
from lowcurve.models.modes import frozen
from lowcurve.randomness import Streams
from lowcurve.types import Classifier, Inputs, Labels, Logits, PerExample

Watch = Callable[[Tensor, Rows, PerExample, Logits], None]
"""Sees every look: the images' numbers, their rows, the values that the walk ascends, the logits."""


@dataclass
class Found:
    """An answer an image: the point of highest value, that value, whether it fooled the network, after how many looks
    (over all walks; the count of looks where it never did)."""

    point: Inputs
    value: PerExample
    fallen: Tensor
    forward_passes: Tensor


def strongest(
    attack: Staged,
    model: Classifier,
    x: Inputs,
    y: Labels,
    options: Options,
) -> Inputs:
    """The adversarial inputs x': the whole attack on one batch, every walk to its end, for each image the point of highest
    value. It is the call of every attack that is a sequence of walks.

    Nothing leaves early, since a training step or a loss wants the highest loss, not the first success; a walk whose answer is
    the "last" point is believed without a look there. Walks that raise
    different things (towards different targets, say) are compared by the margin at their points.
    """
    with frozen(model):
        targeted = any(targets_of(walk) is not None for walk in attack.walks)
        images = prepare(model, x, y, attack.ball, options, look=targeted)
        walks = usable_walks(attack, images.logits.shape[1]) if targeted else tuple(enumerate(attack.walks))
        alike = all(walk == walks[0][1] for _, walk in walks)
        best, highest = images.x, torch.full_like(images.radius, -torch.inf)
        for number, walk in walks:
            last_look = getattr(walk, "answer", "highest") == "highest"
            found = pursue(walk, images.named(number), stop=False, last_look=last_look)
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
    last_look: bool = True,
    limit: int | None = None,
    device: torch.device | None = None,
    watch: Watch | None = None,
    done: Callable[[int], None] = lambda _: None,
) -> Found:
    """One walk over all the images, at most `limit` in a batch.

    stop: an image leaves as soon as it is fooled, and waiting ones take the free places; otherwise each walks to its end.
    last_look: look at where the walk ended; without it that point is the answer of whoever has not been fooled, and the
    caller looks. device: where the model is; the images may lie elsewhere. watch: sees every look. done: is told of work
    that is over, in looks. The model must be in eval mode already (`frozen`).

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
        active = _advance(walk, active, found, stop, last_look, watch, done)
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
    walk: Walk,
    active: _Active,
    found: Found,
    stop: bool,
    last_look: bool,
    watch: Watch | None,
    done: Callable[[int], None],
) -> _Active:
    """One look and one move of everybody in the batch, and the last look of those who have arrived."""
    assert active.images is not None
    arrived = active.rows["step"] >= walk.steps
    # Who has arrived needs no gradient any more. Whoever began together arrives together, so this is rarely a small batch.
    if bool(arrived.any()):
        last = active.kept(arrived)
        assert last.images is not None
        if last_look:
            with torch.no_grad():
                logits = last.images.look(last.rows["point"])
            _record(walk, last, logits, found, stop, watch)
        else:
            found.point[last.numbers.to(found.point.device)] = last.rows["point"].to(found.point.device)
        done(len(last.numbers))
        return active.kept(~arrived)
    before = active.rows
    logits, after = walk.step(active.images, before)
    require_logits(logits, active.images.y)
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
    if watch is not None:
        watch(active.numbers, active.rows, values, logits)
    home = found.point.device
    numbers, fallen_there, values = active.numbers.to(home), fallen.to(home), values.to(home)
    first = fallen_there & ~found.fallen[numbers]
    if bool(first.any()):
        found.forward_passes[numbers[first]] = active.rows["step"].to(home)[first] + 1
        found.fallen[numbers[first]] = True
    better = values > found.value[numbers]
    if stop:  # the point that fools is the answer, even where an earlier one was higher
        better |= first
    rows = torch.nonzero(better).flatten()
    if len(rows):
        found.point[numbers[rows]] = point[rows.to(point.device)].to(home)
        found.value[numbers[rows]] = values[rows]
    return fallen
