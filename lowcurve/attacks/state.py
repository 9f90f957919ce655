"""The data of a running attack: the batch that is attacked, the state of each image, and the contract of a run."""

import logging
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, TypeVar
from weakref import WeakSet

import torch
from torch import Tensor

from lowcurve.analysis.calculus import value_gradient_and_aux
from lowcurve.analysis.norms import Ball
from lowcurve.attacks.base import Options
from lowcurve.errors import InputError
from lowcurve.losses import margin_loss
from lowcurve.network_calls import ONE_ROW, call, rounding_of
from lowcurve.randomness import Streams, example_streams
from lowcurve.types import Classifier, Inputs, Labels, Logits, PerExample

log = logging.getLogger("lowcurve")
NO_GRADIENT = (
    "The attack leaves the pixels whose derivative is NaN where they are, so images may seem robust for want of a gradient."
    " Look for a square root or a division at 0 inside the network."
)
_WARNED: WeakSet[torch.nn.Module] = WeakSet()  # one warning per network


@dataclass(frozen=True)
class AttackBatch:
    """The images that are attacked, with everything that a run may use.

    Attributes:
        model: Classifier in eval mode.
        x: Clean images, (batch, ...), pixel units.
        y: True labels, (batch,).
        radius: Radius for each image, (batch,).
        streams: One stream of random numbers for each image.
        clean_logits: Logits at the clean images, (batch, classes).
        start: Start of a run, of x's shape. None means the run's own start.
        targets: Class towards which each image is led, where the run has a target. None until it is known.
    """

    model: Classifier
    x: Inputs
    y: Labels
    radius: PerExample
    streams: Streams
    clean_logits: Logits
    start: Inputs | None = None
    targets: Labels | None = None

    def __len__(self) -> int:
        return len(self.x)

    def evaluate(self, point: Inputs) -> Logits:
        """Return the logits at a point, in the inputs' precision also under autocast."""
        return call(self.model, point).to(point.dtype)

    def with_streams(self, *path: object) -> "AttackBatch":
        """Return the same batch with the random streams of that name."""
        return replace(self, streams=self.streams.at(*path))

    def zeros(self) -> Tensor:
        """Return one whole number 0 for each image."""
        return torch.zeros(len(self), dtype=torch.long, device=self.x.device)


@dataclass(frozen=True)
class State:
    """The state of a run: one row for each image in every tensor. Runs that remember more extend it.

    Attributes:
        point: Where the network is evaluated next, of the images' shape.
        step: Number of steps made so far, (batch,).
    """

    point: Inputs
    step: Tensor


Rows = TypeVar("Rows", AttackBatch, State)


def select_rows(data: Rows, rows: Tensor, device: torch.device | None = None) -> Rows:
    """Return a batch or a state reduced to some of its images, on a device.

    Example:
        >>> select_rows(State(torch.tensor([[0.1], [0.2]]), torch.tensor([3, 4])), torch.tensor([1]))
        State(point=tensor([[0.2000]]), step=tensor([4]))
    """

    def select(value: Any) -> Any:
        if isinstance(value, Streams):
            return Streams(select(value.keys))
        return value[rows.to(value.device)].to(device or value.device) if isinstance(value, Tensor) else value

    return replace(data, **{field.name: select(getattr(data, field.name)) for field in fields(data)})


def join_rows(first: Rows, second: Rows) -> Rows:
    """Return a batch or a state with the images of both.

    Example:
        >>> join_rows(State(torch.zeros(1, 1), torch.tensor([3])), State(torch.ones(1, 1), torch.tensor([4]))).step
        tensor([3, 4])
    """

    def join(one: Any, other: Any) -> Any:
        if isinstance(one, Streams):
            return Streams(torch.cat([one.keys, other.keys]))
        return torch.cat([one, other]) if isinstance(one, Tensor) else one

    pairs = {field.name: (getattr(first, field.name), getattr(second, field.name)) for field in fields(first)}
    return replace(first, **{name: join(*pair) for name, pair in pairs.items()})


class AttackRun(Protocol):
    """One search from one start: `steps` evaluations with a move after each, and a last evaluation.

    An attack with several restarts or targets consists of as many runs. A run whose points may lie outside the ball has a
    method `is_inside(batch, point)`: which points count. A run may have a method `gives_up(batch, state)`: which images leave
    before their last step because it will not fool them. It may have a method `look_ahead(batch, state, most)`, called
    before each evaluation: the state at the next point that can change the search, found with at most `most` points in a
    forward pass.
    """

    @property
    def steps(self) -> int:
        """Number of moves."""
        ...

    def begin(self, batch: AttackBatch) -> State:
        """Return the state at the first point of each image, at step 0."""
        ...

    def step(self, batch: AttackBatch, state: Any) -> tuple[Logits, State]:
        """Evaluate the network at the state's point; return the logits there and the state with the next point."""
        ...

    def value(self, batch: AttackBatch, point: Inputs, logits: Logits) -> PerExample:
        """Return the value that the run maximizes; the answer is the point where it was highest."""
        ...


def prepare(
    model: Classifier, x: Inputs, y: Labels, ball: Ball, options: Options, *, clean_logits: bool = True
) -> AttackBatch:
    """Check the input of an attack and return it as a batch.

    Args:
        model: Classifier in eval mode.
        x: Clean images inside the ball's box.
        y: True labels.
        ball: Ball of the attack.
        options: What else the call gave.
        clean_logits: True for logits at the clean images. Attacks choose targets by them. Without them the batch has
            logits of width 0.

    Raises:
        InputError: If images, labels, logits, radius or start do not fit.

    Cost: one forward pass for the clean logits.
    """
    ball.require_inside_box(x)
    start = options.start
    if start is not None and start.shape != x.shape:
        raise InputError(f"a start of shape {tuple(x.shape)}", tuple(start.shape), "give one start for each row of x")
    radius = ball.radii(x) if options.radius is None else ball.require_radii(options.radius, x)
    with torch.no_grad():
        logits = call(model, x) if len(x) and clean_logits else x.new_zeros(len(x), 0)
    if len(x) and clean_logits:
        require_logits(logits, y)
    return AttackBatch(model, x, y, radius, example_streams(options.generator, x, y), logits, start)


def require_logits(logits: object, y: Labels, *, finite: bool = True) -> None:
    """Check that a model returned one row of finite logits for each image, with a column for each label.

    Args:
        logits: What the model returned.
        y: The labels.
        finite: Refuse NaN and infinity too.

    Raises:
        InputError: If it did not.
    """
    shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(y) or logits.shape[1] < 2:
        expected = f"logits of shape ({len(y)}, classes) with at least 2 classes"
        raise InputError(expected, shape, ONE_ROW)
    low, high = map(int, y.aminmax()) if len(y) else (0, 0)
    if not 0 <= low <= high < logits.shape[1]:
        found, hint = f"{low} to {high}", "give the data that the network was made for"
        raise InputError(f"labels from 0 to {logits.shape[1] - 1}, as the network has logits", found, hint)
    if finite:
        require_finite_logits(~torch.isfinite(logits).all(1))


def require_finite_logits(undefined: Tensor) -> None:
    """Check that the network gave finite logits for every image.

    Args:
        undefined: For each image, whether a logit was NaN or infinite.

    Raises:
        InputError: If some were not.
    """
    if bool(undefined.any()):
        received = f"NaN or infinity at {int(undefined.sum())} of {len(undefined)} images"
        raise InputError("finite logits", received, "look for NaN or overflow inside the network")


def usable_gradient(model: Classifier, gradient: Tensor) -> Tensor:
    """Return a gradient with 0 in place of NaN, and say once for each network that there was NaN or infinity.

    A pixel whose derivative is not known stays where it is, and the others are attacked. Otherwise one such pixel would end
    the attack on the image, which would then count as robust.

    Args:
        model: The network, to say it once.
        gradient: Gradient in the image.

    Example:
        >>> usable_gradient(torch.nn.ReLU(), torch.tensor([[1.0, 2.0]]))
        tensor([[1., 2.]])
    """
    finite = torch.isfinite(gradient)
    if bool(finite.all()):
        return gradient
    if isinstance(model, torch.nn.Module) and model not in _WARNED:
        _WARNED.add(model)
        count = int((~finite).flatten(1).any(1).sum())
        log.warning("%s", f"The gradient is NaN or infinite at {count} of {len(gradient)} images. {NO_GRADIENT}")
    return gradient.nan_to_num(nan=0.0)


def is_fooled(model: Classifier, logits: Logits, y: Labels) -> Tensor:
    """Return for each image whether another class leads by more than rounding errors of the model.

    The tolerance makes the answer independent of the batch size.
    """
    slack = min(64 * rounding_of(model, logits), 1e-2)
    return margin_loss(logits, y) > slack * logits.abs().amax(1)


def evaluate_with_gradient(run: AttackRun, batch: AttackBatch, point: Inputs) -> tuple[PerExample, Tensor, Logits]:
    """Return a run's value at a point, its gradient and the logits, from one forward and one backward pass."""

    def evaluate(inputs: Tensor) -> tuple[PerExample, Logits]:
        logits = batch.evaluate(inputs)
        return run.value(batch, inputs, logits), logits

    value, gradient, logits = value_gradient_and_aux(evaluate, point)
    return value, usable_gradient(batch.model, gradient), logits
