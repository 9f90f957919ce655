"""Tests 8 and 23: whether the attacks had converged on the images that they left robust."""

import numpy as np
import torch
from torch import Tensor

from lowcurve.analysis.calculus import gradient
from lowcurve.analysis.norms import L2, LINF, Ball, per_example
from lowcurve.evaluation.audit.screening import nearest_first, told
from lowcurve.evaluation.audit.state import AuditState
from lowcurve.evaluation.audit.verdict import Check, Finding
from lowcurve.losses import log_odds, loss_field
from lowcurve.types import PerExample

LEFT = 0.01
"""Test 8: share of the images that a longer attack may find. Checked in tests/test_audit.py."""
LONGER = 2
"""Test 8: steps, in multiples of the suite's. Pintor et al. 2022, I4."""
UNSETTLED = 0.25
"""Test 23: relative FOSC of an image. 0 is a maximum of the linear model in the ball, 0.5 its middle."""
MANY = 0.5
"""Test 23: share of the images."""

CONVERGENCE = Check(
    8,
    "convergence",
    f"PGD with {LONGER} times the steps of the suite's attacks fools images that these leave, more than {LEFT:.0%} of those"
    " tried",
    "The attacks had not converged when they stopped: more steps fool images that they left.",
    "Double the steps until nothing changes.",
    differentiable=True,
)
STATIONARITY = Check(
    23,
    "first-order stationarity (FOSC), image by image",
    f"at the end of the longest attack, more than {MANY:.0%} of the robust images are further than {UNSETTLED} from a"
    " stationary point, on a scale where 0 is the linear model's maximum in the ball and 1 its minimum. It cannot fail",
    "The loss could still rise to first order where the attack stopped, so it is rugged, or the steps were too few or too"
    " large.",
    "Attack these images with more and smaller steps, and with attacks that choose their step size.",
    differentiable=True,
)


def convergence(state: AuditState) -> Finding:
    """Run test 8 on the images that the suite's gradient attacks leave robust.

    An earlier form compared PGD with twice its own steps on all images. It warned of most honest networks, because 20 steps
    are few, and said nothing of the suite, which has more.

    Reference: Carlini et al. 2019; Pintor et al. 2022, I4 (incomplete optimization).
    """
    steps, fooled = LONGER * state.budget.apgd_steps, longer(state)
    count, of = int(fooled.sum()), len(state.queried)
    evidence = f"{told(state, state.longest_rows)}; PGD with {steps} steps fools {count}"
    return CONVERGENCE.judge_count(count, of, evidence, allowed=LEFT)


def longer(state: AuditState) -> np.ndarray:
    """Return which correct images the longest PGD fools. Its points are kept for test 23.

    Args:
        state: The state of the audit.
    """
    name, attack = "PGD, long", state.pgd(steps=LONGER * state.budget.apgd_steps)
    points = state.x.clone()

    def search(ending: str, rows: np.ndarray) -> np.ndarray:
        fooled = np.zeros(len(state), dtype=bool)
        points[rows] = state.attack_fully(name + ending, attack, state.model, rows)
        fooled[rows] = (state.margins_at(points[rows], rows) < 0).numpy()
        return fooled

    if name not in state.fooled:
        found, state.longest_rows = nearest_first(state, search)
        state.longest = points[state.longest_rows]
        state.record(name, found, gradients=True, partial=True)
    return state.fooled[name]


def stationarity(state: AuditState) -> Finding:
    """Run test 23 where the longest attack left the image robust.

    Reference: Wang et al. 2019, section 3 (first-order stationary condition).
    """
    if state.ball.norm not in (LINF, L2):
        return STATIONARITY.not_run("it is defined here for l_inf and l_2")
    fooled = longer(state)
    kept = torch.from_numpy(~fooled[state.longest_rows])
    rows = torch.from_numpy(state.longest_rows)[kept]
    if not len(rows):
        return STATIONARITY.not_run("the longest attack fools every image that was left")
    x, points, y = state.x[rows], state.longest[kept], state.y[rows]
    slopes = state.in_batches(lambda a, b: gradient(loss_field(state.model, b, log_odds), a), points, y)
    distance = relative_fosc(slopes, points, x, state.ball)
    known = distance[torch.isfinite(distance)]
    if not len(known):
        return STATIONARITY.not_run("the gradient is 0 or not finite at the end of the attack, see test 5")
    above = float((known > UNSETTLED).double().mean())
    low, middle, high = (float(known.quantile(q)) for q in (0.1, 0.5, 0.9))
    evidence = (
        f"on {len(known)} robust images the relative FOSC is {middle:.2f} (10 to 90 %: {low:.2f} to {high:.2f}), above"
        f" {UNSETTLED} on {int((known > UNSETTLED).sum())}"
    )
    return STATIONARITY.judge(above, evidence, flag=MANY)


def relative_fosc(slopes: Tensor, points: Tensor, x: Tensor, ball: Ball) -> PerExample:
    """Return how far points are from maximizing the linear model of the loss in the ball and the box.

    Computes (max <z - x', g>) / (max <z, g> - min <z, g>) over points z of ball and box, for the gradient g at x'. In l_2 the
    box only removes the pixels at its faces that g pushes outward.

    Args:
        slopes: Gradients at the points, shape (batch, ...).
        points: The points x', shape (batch, ...).
        x: The images, shape (batch, ...).
        ball: Norm, radius and box.

    Returns:
        A number in [0, 1] for each image; NaN where the gradient is 0.

    Example:
        >>> x, g = torch.full((1, 2), 0.5), torch.tensor([[1.0, -1.0]])
        >>> relative_fosc(g, x + 0.1 * g, x, Ball("linf", 0.1)).item(), relative_fosc(g, x, x, Ball("linf", 0.1)).item()
        (0.0, 0.5)

    Reference: Wang et al. 2019, Eq. (5).
    """
    low, high = ball.box
    radius = per_example(ball.radii(x), x)
    if ball.norm == L2:
        outward = ((points <= low) & (slopes < 0)) | ((points >= high) & (slopes > 0))
        free = torch.where(outward, 0, slopes).flatten(1)
        length = ball.radii(x) * free.norm(dim=1)
        gap, width = length - ((points - x).flatten(1) * free).sum(1), 2 * length
    else:
        upper, lower = ball.project(x + radius, x), ball.project(x - radius, x)
        most, least = torch.where(slopes > 0, upper, lower), torch.where(slopes > 0, lower, upper)
        gap = (slopes * (most - points)).flatten(1).sum(1)
        width = (slopes * (most - least)).flatten(1).sum(1)
    return torch.where(width > 0, gap / width, torch.nan)
