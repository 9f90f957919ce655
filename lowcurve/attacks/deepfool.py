"""DeepFool: repeated steps to the nearest boundary of the linearized network until that boundary is crossed."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lowcurve.analysis import l1
from lowcurve.analysis.calculus import jacobian
from lowcurve.analysis.norms import L1, L2, Ball, Norm, as_norm, dot, per_example
from lowcurve.attacks.active_set import carry_out
from lowcurve.attacks.base import Attack, Options, require_whole_numbers
from lowcurve.attacks.state import (
    AttackBatch,
    State,
    is_fooled,
    prepare,
    require_finite_logits,
    select_rows,
    usable_gradient,
)
from lowcurve.attacks.targets import Target, require_target, target_class
from lowcurve.errors import InputError
from lowcurve.losses import margin_loss
from lowcurve.models.modes import frozen
from lowcurve.network_calls import rounding_of
from lowcurve.types import Classifier, Inputs, Labels, Logits, PerExample


@dataclass(frozen=True)
class DeepFoolState(State):
    """The state of a `DeepFool` run.

    Attributes:
        moved: Perturbation so far, without the overshoot.
    """

    moved: Tensor


@dataclass(frozen=True)
class DeepFool(Attack):
    """DeepFool: x' = x + (1 + overshoot) (r_1 + r_2 + ...), with r_i the shortest step to a linearized class boundary.

    Bisection then shortens the perturbation as far as it still fools the network, which gives a point just across a nearby
    boundary. For an affine network it is the nearest boundary, at min_k (z_y - z_k) / ||w_y - w_k||_dual. For any other
    network the distance is an upper bound.

    The perturbation has no largest radius. The answer is x itself where x is misclassified already, and the point of
    highest margin loss where no boundary was crossed. Values outside the pixel box are clipped. In the second half of the
    steps, pixels at the edge of the box take no part in a step, because some images would never cross a boundary
    otherwise. Nothing is random, and parameters receive no gradient. A start in the call takes the place of x as the first
    point.

    Args:
        norm: "l2", "linf", "l1" or a norm.
        box: Lowest and highest pixel value.
        steps: Largest number of steps.
        overshoot: The whole perturbation is multiplied by 1 + overshoot, as in the paper. Each step also aims beyond
            the boundary by more than rounding errors. So results do not depend on the batch size.
        candidates: Number of likeliest other classes considered in each step.
        target: Only class whose boundary is considered, as in `PGD`. None considers all candidates.
        bisections: Number of bisections between x and the crossing. They reduce the overshoot to a fraction of
            2^-bisections. 0 gives the paper's answer.

    Raises:
        InputError: If a setting is out of range.

    Cost: two forward passes and one input gradient a candidate for each step, one forward pass for each bisection. Most
    images need 3 steps, and more where many pixels are at the edge of the box.

    Example:
        >>> model = torch.nn.Linear(2, 2, bias=False)
        >>> _ = model.weight.data.copy_(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        >>> x = torch.tensor([[0.3, 0.4]])
        >>> found = DeepFool("l2", box=(-1.0, 1.0), bisections=20)(model, x, torch.tensor([0]))
        >>> L2.length(found - x).round(decimals=3)  # from (0.3, 0.4) to the line 3a + 4b = 0
        tensor([0.5000])

    Reference: Moosavi-Dezfooli et al. 2016, Algorithm 2 and section 3.3.
    """

    takes_start = True
    norm: Norm | str = L2
    box: tuple[float, float] = (0.0, 1.0)
    steps: int = 50
    overshoot: float = 0.02
    candidates: int = 10
    target: Target = None
    bisections: int = 10

    def __post_init__(self) -> None:
        require_whole_numbers(self)
        if self.steps < 1 or self.candidates < 1 or self.bisections < 0:
            found = (self.steps, self.candidates, self.bisections)
            raise InputError("a step, a candidate and no fewer than 0 bisections", found, "write DeepFool(steps=50)")
        if not 0 <= self.overshoot < 1:
            raise InputError("an overshoot from 0 to 1", self.overshoot, "write overshoot=0.02 for two per cent")
        require_target(self.target)
        object.__setattr__(self, "norm", self.box_ball.norm)

    @property
    def box_ball(self) -> Ball:
        """The norm and the pixel box as a ball whose radius is given with each projection."""
        return Ball(as_norm(self.norm), 0.0, self.box)

    def perturb(self, model: Classifier, x: Inputs, y: Labels, options: Options) -> Inputs:
        """Return the adversarial images x', of x's shape."""
        with frozen(model):
            return self.solve(prepare(model, x, y, self.box_ball, options)).detach()

    def solve(self, batch: AttackBatch) -> Inputs:
        """Return x' for a batch that has been checked, of a model in eval mode."""
        outcome = carry_out(self, batch, stop=True)
        require_finite_logits(outcome.undefined)
        return shorten(batch, outcome.point, outcome.fooled, self.box_ball, self.bisections)

    def begin(self, batch: AttackBatch) -> DeepFoolState:
        """Return x itself, or the given start."""
        moved = torch.zeros_like(batch.x)
        if batch.start is not None:
            moved = (project_to_box(self.box_ball, batch.start, batch.x) - batch.x) / (1 + self.overshoot)
        point = project_to_box(self.box_ball, batch.x + (1 + self.overshoot) * moved, batch.x)
        return DeepFoolState(point, batch.zeros(), moved)

    def step(self, batch: AttackBatch, state: DeepFoolState) -> tuple[Logits, DeepFoolState]:
        """Make the shortest step to a boundary of the linear model; fooled images need no gradient."""
        point, moved = state.point, state.moved.clone()
        with torch.no_grad():
            logits = batch.evaluate(point)
        left = torch.nonzero(~is_fooled(batch.model, logits, batch.y)).flatten()
        if len(left):
            late = state.step[left] >= self.steps // 2
            moved[left] += self._shortest_step(select_rows(batch, left), point[left], logits[left], late)
        point = project_to_box(self.box_ball, batch.x + (1 + self.overshoot) * moved, batch.x)
        return logits, replace(state, point=point, moved=(point - batch.x) / (1 + self.overshoot))

    def value(self, batch: AttackBatch, point: Inputs, logits: Logits) -> PerExample:  # noqa: ARG002 (AttackRun's signature)
        """Return the margin loss, which rises above 0 at the boundary."""
        return margin_loss(logits, batch.y)

    def _shortest_step(self, batch: AttackBatch, point: Inputs, logits: Logits, late: Tensor) -> Tensor:
        """Return the step to the nearest of the candidates' boundaries."""
        norm = self.box_ball.norm
        classes, y = self._candidate_classes(batch, logits), batch.y[:, None]

        def differences(inputs: Tensor) -> Tensor:
            there = batch.evaluate(inputs)
            return there.gather(1, classes) - there.gather(1, y)

        gradients = usable_gradient(batch.model, jacobian(differences, point))
        here = point[:, None]
        at_edge = ((gradients > 0) & (here >= self.box[1])) | ((gradients < 0) & (here <= self.box[0]))
        gradients = torch.where(at_edge & per_example(late, gradients), 0, gradients)
        # Four times the tolerance of `is_fooled`.
        beyond = min(256 * rounding_of(batch.model, logits), 4e-2) * logits.abs().amax(1, keepdim=True)
        gaps = beyond + logits.gather(1, y) - logits.gather(1, classes)
        if norm == L1:
            return self._shortest_l1_step(gradients, gaps, here)
        steepness = norm.dual.length(gradients.flatten(0, 1)).view_as(gaps)
        lengths = torch.where(steepness > 0, gaps / torch.where(steepness > 0, steepness, 1), torch.inf)
        length, nearest = lengths.min(1)
        direction = norm.steepest(gradients[torch.arange(len(point), device=point.device), nearest])
        return per_example(torch.where(torch.isfinite(length), length, 0), point) * direction

    def _shortest_l1_step(self, gradients: Tensor, gaps: Tensor, here: Inputs) -> Tensor:
        """Return the shortest l_1 step in the box to a boundary; the box stops a step along one pixel alone.

        A boundary that the linear model does not reach in the box counts only if there is no other.
        """
        flat, point = gradients.flatten(0, 1), here.expand_as(gradients).flatten(0, 1)
        steps = l1.shortest_crossing(flat, l1.room_along(point, flat, self.box), gaps.flatten())
        reached = (dot(steps, flat) >= 0.999 * gaps.flatten()).view_as(gaps)
        lengths = L1.length(steps).view_as(gaps) + torch.where(reached, 0.0, L1.of_ones(here[0].numel()))
        return steps.view_as(gradients)[torch.arange(len(here), device=here.device), lengths.argmin(1)]

    def _candidate_classes(self, batch: AttackBatch, logits: Logits) -> Tensor:
        """Return the classes whose boundaries are considered, (batch, candidates)."""
        if self.target is not None:
            return target_class(self.target, batch.clean_logits, batch.y)[:, None]
        others = logits.scatter(1, batch.y[:, None], -torch.inf)
        return others.topk(min(self.candidates, logits.shape[1] - 1), dim=1).indices


def RunnerUp(norm: Norm | str = L2) -> DeepFool:
    """Return the attack that crosses the boundary to the second likeliest class k, by ascent of z_k - z_y from x.

    Each step goes as far as the linear model of the network says and a little beyond, so there is no step size; the report
    states none. A misclassified image is returned as it is.

    Args:
        norm: Norm of the steps or its name.

    Returns:
        A `DeepFool` with a target and without bisection.

    Cost: two forward passes and one input gradient a step.

    Example:
        >>> RunnerUp().target, RunnerUp().bisections
        (1, 0)

    Reference: bardusco_report, section 2.1.1 (the adversarial set).
    """
    return DeepFool(norm, target=1, bisections=0)


def project_to_box(box_ball: Ball, point: Inputs, x: Inputs) -> Inputs:
    """Return the point moved into the pixel box, at any distance from x."""
    return box_ball.project(point, x, torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device))


def shorten(batch: AttackBatch, point: Inputs, fooled: Tensor, box_ball: Ball, bisections: int) -> Inputs:
    """Return the point moved towards x by bisection, as far as it still fools the network; other points unchanged.

    Args:
        batch: The images.
        point: Adversarial images, of x's shape.
        fooled: Which of them fool the network.
        box_ball: The pixel box, see `DeepFool.box_ball`.
        bisections: Number of bisections.

    Cost: one forward pass for each bisection.
    """
    rows = torch.nonzero(fooled & (L2.length(point - batch.x) > 0)).flatten()
    if not len(rows) or not bisections:
        return point
    few, perturbation = select_rows(batch, rows), point[rows] - batch.x[rows]
    robust, crossed = torch.zeros_like(few.radius), torch.ones_like(few.radius)

    def at(share: PerExample) -> Inputs:
        return project_to_box(box_ball, few.x + per_example(share, perturbation) * perturbation, few.x)

    for _ in range(bisections):
        middle = (robust + crossed) / 2
        with torch.no_grad():
            across = is_fooled(few.model, few.evaluate(at(middle)), few.y)
        robust, crossed = torch.where(across, robust, middle), torch.where(across, middle, crossed)
    nearest = point.clone()
    nearest[rows] = torch.where(per_example(crossed < 1, perturbation), at(crossed), point[rows])
    return nearest
