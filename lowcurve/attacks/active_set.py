"""The loop of every iterative attack: images that are fooled leave the batch, and waiting images take their places.

Images at different steps share a batch. The result for an image depends neither on the other images nor on the batch size.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import reduce
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor

from lowcurve.analysis.norms import Ball, per_example
from lowcurve.attacks.base import Attack, Options
from lowcurve.attacks.state import (
    AttackBatch,
    AttackRun,
    State,
    is_fooled,
    join_rows,
    prepare,
    require_finite_logits,
    require_logits,
    select_rows,
)
from lowcurve.attacks.targets import target_class
from lowcurve.losses import margin_loss
from lowcurve.models.modes import frozen
from lowcurve.network_calls import call
from lowcurve.types import AttackFunction, Classifier, Inputs, Labels, Logits, PerExample

ROWS = 64
"""Most rows that an image's runs, or its next points, share in a batch. Beyond it a row hardly gets cheaper on a CPU."""
Observer = Callable[[Tensor, State, PerExample, Logits], None]
"""Called after each evaluation with the numbers of the images, their state, the values of the run and the logits."""


@dataclass
class Outcome:
    """The result of a run, one entry for each image.

    Attributes:
        point: The point of highest value. Where an image leaves once fooled, it is the point that fooled the network.
        value: Its value.
        fooled: True if the network was fooled.
        forward_passes: Evaluations until the network was first fooled. All count if it never was.
        undefined: True if the network gave NaN or infinite logits at a point that was evaluated. Such a point is never the
            answer.
    """

    point: Inputs
    value: PerExample
    fooled: Tensor
    forward_passes: Tensor
    undefined: Tensor


class IterativeAttack(Attack):
    """An attack that consists of runs; an evaluation tries each run only on the images that still withstand.

    A subclass gives the ball and the runs. A call carries out every run to its end.
    """

    takes_radius = takes_start = True

    @property
    @abstractmethod
    def ball(self) -> Ball:
        """The ball that holds the adversarial images."""

    @property
    @abstractmethod
    def runs(self) -> tuple[AttackRun, ...]:
        """The runs, in the order in which they are tried."""

    def usable_runs(self, classes: int) -> tuple[tuple[int, AttackRun], ...]:
        """Return the runs that differ for a network of this many classes, with their numbers.

        A target beyond the number of other classes means the last of them, so runs towards such targets coincide.
        """
        targets = [_target(run) for run in self.runs]
        usable = [not isinstance(target, int) or target < classes for target in targets]
        numbered = tuple(enumerate(self.runs))
        return tuple(pair for pair, use in zip(numbered, usable, strict=True) if use) or numbered[:1]

    def perturb(self, model: Classifier, x: Inputs, y: Labels, options: Options) -> Inputs:
        """Return for each image the point of highest value over all runs.

        No image leaves early, because training needs the highest loss and not the first success. A run
        whose answer is its last point is not evaluated there. Runs with different objectives, such as different targets,
        are compared by the margin at their points.
        """
        with frozen(model):
            targeted = any(_target(run) is not None for run in self.runs)
            batch = prepare(model, x, y, self.ball, options, clean_logits=targeted)
            runs = self.usable_runs(batch.clean_logits.shape[1]) if targeted else tuple(enumerate(self.runs))
            same_objective = all(run == runs[0][1] for _, run in runs)
            best, highest = batch.x, torch.full_like(batch.radius, -torch.inf)
            for number, run in runs:
                evaluate_last = getattr(run, "answer", "highest") == "highest"
                outcome = carry_out(run, batch.with_streams(number), stop=False, evaluate_last=evaluate_last)
                require_finite_logits(outcome.undefined)
                value = outcome.value
                if not same_objective:
                    with torch.no_grad():
                        value = margin_loss(call(model, outcome.point), y) if len(x) else value
                higher = value > highest
                best = torch.where(per_example(higher, best), outcome.point, best)
                highest = torch.fmax(value, highest)
                batch = replace(batch, start=None)  # only the first run begins at a given start
        return best.detach()


def count_forward_passes(attack: AttackFunction) -> int:
    """Return at how many points an attack evaluates an image that it never fools; 1 if the attack does not say."""
    return sum(run.steps + 1 for run in attack.runs) if isinstance(attack, IterativeAttack) else 1


def carry_out(
    run: AttackRun,
    batch: AttackBatch,
    *,
    stop: bool,
    evaluate_last: bool = True,
    limit: int | None = None,
    device: torch.device | None = None,
    together: int = 1,
    observe: Observer | None = None,
    report: Callable[[int], None] = lambda _: None,
) -> Outcome:
    """Carry out one run on all images of a batch.

    Args:
        run: The run.
        batch: The images. The model must be in eval mode; see `frozen`.
        stop: True replaces an image by a waiting one as soon as it is fooled.
        evaluate_last: Evaluate the last point of each image. If not, the last point is the answer for images that were
            not fooled.
        limit: Largest number of images in a forward pass. None means all.
        device: Device of the model. The batch may lie elsewhere.
        together: Number of runs in the batch; see `carry_out_together`.
        observe: Called after each evaluation.
        report: Called with the number of evaluations that are done.

    Returns:
        An `Outcome` on the batch's device.

    Cost: one `step` of the run for each image and step until the image is fooled, and one forward pass at the end.
    """
    count, device = len(batch), device or batch.x.device
    outcome = Outcome(
        batch.x.clone(),
        torch.full_like(batch.radius, -torch.inf),
        torch.zeros(count, dtype=torch.bool, device=batch.x.device),
        torch.full((count,), run.steps + 1, device=batch.x.device),
        torch.zeros(count, dtype=torch.bool, device=batch.x.device),
    )
    limit = limit or max(count, 1)
    batch = _towards(run, batch) if batch.targets is None else batch
    # The last point of a run that judges its own success may lie outside the ball.
    loop = _Loop(run, outcome, stop, evaluate_last or hasattr(run, "is_inside"), limit, together, observe, report)
    waiting, active = 0, None
    while waiting < count or active is not None:
        free = limit - (0 if active is None else len(active.numbers))
        if waiting < count and free >= max(1, limit // 4):
            numbers = torch.arange(waiting, min(waiting + free, count))
            few = select_rows(batch, numbers, device)
            added = _Active(numbers.to(device), few, run.begin(few))
            active = added if active is None else active.join(added)
            waiting += len(numbers)
        if active is not None:
            active = loop.advance(active)
            active = active if len(active.numbers) else None
    return outcome


def count_alike(runs: Sequence[tuple[int, AttackRun]], images: int, limit: int) -> int:
    """Return how many of the first runs can be carried out together.

    They differ in nothing but their targets, and all of their rows fit into a batch of 64.

    Args:
        runs: The runs with their numbers.
        images: Number of images.
        limit: Largest number of rows in a forward pass.
    """
    most, first = max(1, min(limit, ROWS) // max(images, 1)), _without_target(runs[0][1])
    return len(list(takewhile(lambda pair: _without_target(pair[1]) == first, runs[:most])))


def carry_out_together(runs: Sequence[tuple[int, AttackRun]], batch: AttackBatch, **options: Any) -> list[Outcome]:
    """Carry out runs that differ in their targets only in one batch, and return the outcome of each.

    An image leaves a run once it is fooled, there or by an earlier run. So its first success is that of runs one after another,
    and the later outcomes of such an image are unfinished.

    Args:
        runs: The runs with their numbers.
        batch: The images.
        **options: As in `carry_out`.
    """
    parts = [_towards(run, batch.with_streams(number)) for number, run in runs]
    found = carry_out(runs[0][1], reduce(join_rows, parts), stop=True, together=len(runs), **options)
    columns = [getattr(found, field.name).split(len(batch)) for field in fields(Outcome)]
    return [Outcome(*parts) for parts in zip(*columns, strict=True)]


@dataclass(frozen=True)
class _Active:
    """The images in the current batch: their numbers among all images, the images and their states."""

    numbers: Tensor
    batch: AttackBatch
    state: State

    def join(self, other: "_Active") -> "_Active":
        numbers = torch.cat([self.numbers, other.numbers])
        return _Active(numbers, join_rows(self.batch, other.batch), join_rows(self.state, other.state))

    def keep(self, mask: Tensor) -> "_Active":
        rows = torch.nonzero(mask).flatten()
        return _Active(self.numbers[rows], select_rows(self.batch, rows), select_rows(self.state, rows))


@dataclass(frozen=True)
class _Loop:
    """The settings of one call of `carry_out`, and the outcome that it fills."""

    run: AttackRun
    outcome: Outcome
    stop: bool
    evaluate_last: bool
    limit: int
    together: int
    observe: Observer | None
    report: Callable[[int], None]

    def advance(self, active: _Active) -> _Active:
        """Finish the images that have made all steps; if there are none, make one step with all images."""
        active = self.look_ahead(active)
        arrived = active.state.step >= self.run.steps
        # Images at their last point need no gradient. Images that begin together arrive together, so this batch is large.
        if bool(arrived.any()):
            last = active.keep(arrived)
            if self.evaluate_last:
                with torch.no_grad():
                    logits = last.batch.evaluate(last.state.point)
                self.record(last, logits)
            else:
                point = self.outcome.point
                point[last.numbers.to(point.device)] = last.state.point.to(point.device)
            self.report(len(last.numbers))
            return active.keep(~arrived)
        before = active.state
        logits, after = self.run.step(active.batch, before)
        require_logits(logits, active.batch.y, finite=False)
        fooled = self.record(active, logits)
        active = _Active(active.numbers, active.batch, replace(after, step=before.step + 1))
        self.report(len(active.numbers))
        leaves, gives_up = fooled & self.stop, getattr(self.run, "gives_up", None)
        if gives_up is not None:
            hopeless = gives_up(active.batch, active.state)
            self.count_passes(active, hopeless)
            leaves = leaves | hopeless
        if self.together > 1:
            leaves = leaves | self.comes_late(active.numbers)
        if not bool(leaves.any()):
            return active
        self.report(int((self.run.steps - before.step)[leaves].sum()))
        return active.keep(~leaves)

    def look_ahead(self, active: _Active) -> _Active:
        """Move images to the next point that can change the search, if the run looks for it."""
        look_ahead = getattr(self.run, "look_ahead", None)
        if look_ahead is None:
            return active
        state = look_ahead(active.batch, active.state, self.limit)
        self.report(int((state.step - active.state.step).sum()))
        return replace(active, state=state)

    def comes_late(self, numbers: Tensor) -> Tensor:
        """Return for each row of runs side by side whether an earlier run has fooled the image."""
        fooled = self.outcome.fooled.view(self.together, -1).long()
        return ((fooled.cumsum(0) - fooled) > 0).flatten()[numbers.to(fooled.device)].to(numbers.device)

    def count_passes(self, active: _Active, leaves: Tensor) -> None:
        """Enter the evaluations of images that leave before their last step and were never fooled."""
        outcome = self.outcome
        numbers, passes = (v[leaves].to(outcome.point.device) for v in (active.numbers, active.state.step))
        never = ~outcome.fooled[numbers]
        outcome.forward_passes[numbers[never]] = passes[never]

    def record(self, active: _Active, logits: Logits) -> Tensor:
        """Update the best point of each image; return for each image whether it is fooled at its current point.

        Only a finite point with finite logits counts, so NaN neither fools the network nor has a high value.
        """
        point, outcome = active.state.point, self.outcome
        with torch.no_grad():
            is_valid, is_defined = self._is_valid(active.batch, point), torch.isfinite(logits).all(1)
            counts = is_valid & is_defined
            values = self.run.value(active.batch, point, logits)
            fooled = is_fooled(active.batch.model, logits, active.batch.y) & counts
        if self.observe is not None:
            self.observe(active.numbers, active.state, values, logits)
        home = outcome.point.device
        numbers, newly, values = active.numbers.to(home), fooled.to(home), values.to(home)
        if not bool(is_defined.all()):
            outcome.undefined[numbers] |= (is_valid & ~is_defined).to(home)
        newly = newly & ~outcome.fooled[numbers]
        if bool(newly.any()):
            outcome.forward_passes[numbers[newly]] = active.state.step.to(home)[newly] + 1
            outcome.fooled[numbers[newly]] = True
        better = (values > outcome.value[numbers]) & counts.to(home)
        if self.stop:  # the point that fools is the answer, even where an earlier one had a higher value
            better |= newly
        rows = torch.nonzero(better).flatten()
        if len(rows):
            outcome.point[numbers[rows]] = point[rows.to(point.device)].to(home)
            outcome.value[numbers[rows]] = values[rows]
        return fooled

    def _is_valid(self, batch: AttackBatch, point: Inputs) -> Tensor:
        """Return for each image whether the point is finite, and inside the ball for a run that evaluates others too."""
        is_finite, is_inside = torch.isfinite(point).flatten(1).all(1), getattr(self.run, "is_inside", None)
        return is_finite if is_inside is None else is_finite & is_inside(batch, point)


def _target(run: AttackRun) -> Any:
    """Return the run's target, None if it leads away from the true label."""
    return getattr(run, "target", None)


def _without_target(run: Any) -> Any:
    return run if _target(run) is None else replace(run, target=None)


def _towards(run: AttackRun, batch: AttackBatch) -> AttackBatch:
    """Return the batch with the classes of the run's targets."""
    target = _target(run)
    if target is None or not len(batch):
        return batch
    return replace(batch, targets=target_class(target, batch.clean_logits, batch.y))
