"""Fast minimum-norm attack: ascent inside a ball that shrinks while the network is fooled and grows while it is not."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lowcurve.analysis.calculus import value_gradient_and_aux
from lowcurve.analysis.norms import L1, L2, Ball, Norm, as_norm, per_example
from lowcurve.attacks.active_set import Outcome, carry_out
from lowcurve.attacks.base import Attack, Options, require_whole_numbers
from lowcurve.attacks.deepfool import DeepFool, project_to_box, shorten
from lowcurve.attacks.far_starts import far_start
from lowcurve.attacks.scaled_ascent import nearness
from lowcurve.attacks.sparse_ascent import SPARSER, changed, largest
from lowcurve.attacks.state import (
    AttackBatch,
    State,
    is_fooled,
    prepare,
    require_finite_logits,
    select_rows,
    usable_gradient,
)
from lowcurve.errors import InputError
from lowcurve.losses import margin_loss
from lowcurve.models.modes import frozen
from lowcurve.types import Classifier, Inputs, Labels, Logits, PerExample

FIRST_STEP, LAST_STEP = 0.3, 3e-4
"""Length of the first and the last step as fractions of the first perturbation."""
FIRST_CHANGE, LAST_CHANGE = 0.05, 1e-4
"""Fraction by which the radius shrinks or grows, in the first and the last step."""
BEYOND = 1e-3
"""Fraction by which the first radius exceeds the distance of the linear model's boundary: on it nothing is fooled."""
PATIENCE = 0.4
"""No run is given up before this share of its steps."""
HOPE = 1.8
"""A further run is given up where its nearest point is farther away than HOPE minus the share of its steps, in distances of
the nearest point that is known."""
RETRIES = 3
"""Number of noise starts for an image that is not fooled from DeepFool's answer."""
TRIES, GAIN = 2, 0.03
"""An image gets more than TRIES further runs only where one of them came nearer by more than this fraction."""


@dataclass(frozen=True)
class MinimalNormState(State):
    """The state of a `MinimalNorm` run.

    Attributes:
        radius: Current radius of the ball, infinite until it is known.
        nearest: Distance of the nearest point that fooled the network.
        scale: Length of the first perturbation, which scales the steps.
        fooled: True if the network was fooled at the last point.
    """

    radius: PerExample
    nearest: PerExample
    scale: PerExample
    fooled: Tensor

    def stays_beyond(self, distance: PerExample, steps: int, hope: float) -> Tensor:
        """Return for each image whether a run will hardly come nearer than a distance.

        That is so after 40 percent of its steps, where the nearest point that fooled the network is farther away than the
        distance times hope minus the share of the steps. A run that still comes nearer with every step is never given up.

        Args:
            distance: Distance that would be a success, (batch,).
            steps: Number of steps of the run.
            hope: Factor of the distance at the start.
        """
        share = self.step.to(distance) / steps
        far = torch.isfinite(self.nearest) & (self.nearest > (hope - share) * distance)
        return far & ~self.fooled & (share >= PATIENCE)


@dataclass(frozen=True)
class MinimalNorm(Attack):
    """Fast minimum-norm attack: the nearest point to x that fooled the network on a projected ascent of the margin loss.

    The ball's radius is a little less than the distance after each success and a little more after each failure. The
    search begins at the answer of `DeepFool`, so it is never farther away. For an affine network nothing is left to gain.
    On public convolutional networks the median distance was 11 to 24 per cent less, and 59 per cent less in l_2 for an
    adversarially trained one. The distance is an upper bound of that to the boundary.

    The perturbation has no largest radius. The answer is x itself where x is misclassified already, and the point of
    highest margin loss where the network was never fooled. Parameters receive no gradient. A start in the call takes the
    place of DeepFool's answer.

    More runs start from noise of the smallest scale that fools the network. An image that is not fooled from DeepFool's
    answer, for example because the gradient is 0 around it, gets three of them; other images as many as `restarts` says.
    But an image gets a third only where one came nearer by three per cent, and a run ends early where it stays far beyond the
    nearest point that is known. On eight networks in l_2 the mean distance was at most two per cent longer than that of eight
    full runs, for 36 to 72 per cent of their steps.
    In l_1 they start from the answer of a `ScaledAscent`, and every image gets one of them: DeepFool changes whole
    pixels there, and its answer is far away.
    After training at a large l_inf radius gradients near the image mislead an attack in l_2: for a public network on MNIST
    the mean distance was 1.99 from DeepFool's answer, 1.23 with three more runs and 1.17 with eight. In l_inf eight runs
    gained one per cent. Where the gradient is 0 on the way, the point moves outwards until the network is fooled.

    Args:
        norm: Norm of the perturbation or its name, "l2", "linf" or "l1".
        box: Lowest and highest pixel value.
        steps: Number of ascent steps. Their length and the change of the radius decrease by a cosine. The first
            step has 0.3 of the length of DeepFool's perturbation.
        bisections: Number of bisections between x and the answer.
        restarts: Largest number of further runs from noise.

    Raises:
        InputError: If a setting is out of range.

    Cost: DeepFool's, and at most one input gradient a step of each run. In l_1 that is 100 gradients and at most 250 for
        each further run.

    Example:
        >>> model = torch.nn.Linear(2, 2, bias=False)
        >>> _ = model.weight.data.copy_(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        >>> x = torch.tensor([[0.3, 0.4]])
        >>> found = MinimalNorm("l2", box=(-1.0, 1.0), bisections=20)(model, x, torch.tensor([0]))
        >>> L2.length(found - x).round(decimals=3)  # from (0.3, 0.4) to the line 3a + 4b = 0
        tensor([0.5000])

    Reference: Pintor et al. 2021, Algorithm 1. The starts, and the sparse steps in l_1, are of this package.
    """

    takes_start = True
    norm: Norm | str = L2
    box: tuple[float, float] = (0.0, 1.0)
    steps: int = 100
    bisections: int = 10
    restarts: int = 0

    def __post_init__(self) -> None:
        require_whole_numbers(self)
        if self.steps < 1 or min(self.bisections, self.restarts) < 0:
            found = (self.steps, self.bisections, self.restarts)
            raise InputError("a step and no fewer than 0 bisections and runs", found, "write MinimalNorm(steps=100)")
        object.__setattr__(self, "norm", self.box_ball.norm)

    @property
    def box_ball(self) -> Ball:
        """The norm and the pixel box as a ball whose radius is given with each projection."""
        return Ball(as_norm(self.norm), 0.0, self.box)

    def perturb(self, model: Classifier, x: Inputs, y: Labels, options: Options) -> Inputs:
        """Return the adversarial images x', of x's shape."""
        answer = x.clone()
        with frozen(model):
            batch = prepare(model, x, y, self.box_ball, options)
            correct = torch.nonzero(~is_fooled(batch.model, batch.clean_logits, y)).flatten() if len(x) else y
            if len(correct):
                few = select_rows(replace(batch, radius=torch.full_like(batch.radius, torch.inf)), correct)
                outcome = carry_out(self, few, stop=False)
                require_finite_logits(outcome.undefined)
                gained = torch.zeros_like(outcome.fooled)
                for number in range(max(RETRIES, self.restarts) if batch.start is None else 0):
                    every = number < self.restarts or (number == 0 and self.box_ball.norm == L1)
                    chosen = ~outcome.fooled | (gained | (number < TRIES)) & every
                    gained |= self._run_from_afar(few.with_streams("minimal norm", number), outcome, chosen)
                answer[correct] = shorten(few, outcome.point, outcome.fooled, self.box_ball, self.bisections)
        return answer.detach()

    def _run_from_afar(self, batch: AttackBatch, outcome: Outcome, chosen: Tensor) -> Tensor:
        """Repeat the search from afar for some images and keep the nearer points; return where they are much nearer."""
        rows, gained = torch.nonzero(chosen).flatten(), torch.zeros_like(chosen)
        if not len(rows):
            return gained
        few, before = select_rows(batch, rows), outcome.value[rows]
        known = torch.where(outcome.fooled[rows], 1 / before, torch.inf)
        few = replace(few, start=far_start(few, self.box_ball, self.steps), radius=known)
        again = carry_out(self, few, stop=False)
        require_finite_logits(again.undefined)
        nearer = again.fooled & (again.value * known > 1)
        gained[rows] = again.fooled & (again.value * known * (1 - GAIN) > 1)
        rows = rows[nearer]
        outcome.point[rows], outcome.fooled[rows] = again.point[nearer], True
        outcome.value[rows] = again.value[nearer]
        return gained

    def begin(self, batch: AttackBatch) -> MinimalNormState:
        """Return DeepFool's answer, or the given start; the ball's radius is not known yet."""
        if batch.start is None:
            point = DeepFool(self.norm, self.box).solve(batch)
        else:
            point = project_to_box(self.box_ball, batch.start, batch.x)
        unknown = torch.full_like(batch.radius, torch.inf)
        return MinimalNormState(point, batch.zeros(), unknown, unknown, unknown, batch.zeros().bool())

    def step(self, batch: AttackBatch, state: MinimalNormState) -> tuple[Logits, MinimalNormState]:
        """Make one step of ascent of the margin loss, into the ball of the new radius and into the box."""
        norm, point, moved = self.box_ball.norm, state.point, state.point - batch.x

        def evaluate(inputs: Tensor) -> tuple[PerExample, Logits]:
            logits = batch.evaluate(inputs)
            return margin_loss(logits, batch.y), logits

        value, gradient, logits = value_gradient_and_aux(evaluate, point)
        gradient = usable_gradient(batch.model, gradient)
        length, steepness = norm.length(moved), norm.dual.length(gradient)
        rise = value.abs() / torch.where(steepness > 0, steepness, 1)
        # Without a gradient the boundary is taken to be twice as far away as the point.
        gap = torch.where((steepness > 0) & torch.isfinite(rise), rise, length)
        boundary = (length + gap) * (1 + BEYOND)
        phase = (1 + torch.cos(math.pi * state.step.to(value) / self.steps)) / 2
        fooled = is_fooled(batch.model, logits, batch.y)
        radius, nearest = self._radius(state, fooled, length, boundary, phase)
        scale = torch.where(state.step == 0, torch.where(fooled, length, boundary), state.scale)
        if norm == L1:  # DeepFool's answer is far away there
            scale = torch.minimum(scale, nearest)
        # Pixels that would only leave the box take no part in the step.
        at_edge = ((gradient > 0) & (point >= self.box[1])) | ((gradient < 0) & (point <= self.box[0]))
        size = (LAST_STEP + (FIRST_STEP - LAST_STEP) * phase) * scale
        direction = _direction(norm, torch.where(at_edge, 0, gradient), moved)
        # Without a gradient the way is outwards; a fooled point is drawn inwards by the smaller radius.
        flat = (steepness == 0) & ~fooled
        if bool(flat.any()):
            direction = torch.where(per_example(flat, point), norm.unit(moved), direction)
        moved = moved + per_example(size, point) * direction
        if norm == L1:
            point = self.box_ball.project(batch.x + moved, batch.x, radius)
        else:
            point = project_to_box(self.box_ball, batch.x + norm.project(moved, radius), batch.x)
        return logits, MinimalNormState(point, state.step, radius, nearest, scale, fooled)

    def gives_up(self, batch: AttackBatch, state: MinimalNormState) -> Tensor:
        """Return for each image whether the run stays farther away than the nearest point of the runs before it."""
        return state.stays_beyond(batch.radius, self.steps, HOPE)

    def value(self, batch: AttackBatch, point: Inputs, logits: Logits) -> PerExample:
        """Return 1 / distance where the network is fooled, and the margin loss, at most 0, where it is not."""
        return nearness(self.box_ball, batch, point, logits)

    def _radius(
        self, state: MinimalNormState, fooled: Tensor, length: PerExample, boundary: PerExample, phase: PerExample
    ) -> tuple[PerExample, PerExample]:
        """Return the ball's next radius, and the distance of the nearest point that fooled the network.

        As long as there is no such point, the radius reaches to the boundary of the linear model.
        """
        change = LAST_CHANGE + (FIRST_CHANGE - LAST_CHANGE) * phase
        nearest = torch.where(fooled, torch.minimum(length, state.nearest), state.nearest)
        smaller = torch.minimum(state.radius, nearest) * (1 - change)
        # The radius stays below the nearest distance, so that a new success is nearer by more than rounding errors.
        larger = torch.minimum(state.radius * (1 + change), nearest * (1 - LAST_CHANGE))
        larger = torch.where(torch.isfinite(nearest), larger, boundary)
        return torch.where(fooled, smaller, larger), nearest


def _direction(norm: Norm, gradient: Tensor, moved: Tensor) -> Tensor:
    """Return the direction of a step, of length 1; in l_1 it changes fewer pixels than the perturbation does."""
    if norm != L1:
        return norm.steepest(gradient)
    return L1.unit(largest(gradient, changed(moved) / SPARSER, gradient != 0))
