"""Tests 22 and 24: whether the audit's attack finds what is known to be there. They judge the attack, not the network."""

import numpy as np
import torch
from torch import Tensor, nn

from lowcurve import randomness
from lowcurve.analysis.norms import L1, per_example
from lowcurve.attacks.active_set import carry_out
from lowcurve.attacks.state import AttackBatch
from lowcurve.evaluation.audit.state import AuditState
from lowcurve.evaluation.audit.verdict import Check, Finding
from lowcurve.losses import log_odds
from lowcurve.network_calls import call

MISSED = 0.05
"""Tests 22 and 24: share of the images on which an attack that works may fail. Checked in tests/test_audit_planted.py."""
INNER, OUTER = 32, 8
"""Test 22: points within half the radius around each image, and points at the radius of which the most distinct is planted."""
DISTINCT = 0.2
"""Test 22: share of the way to the planted point that no inner point may reach."""
RIDGE = 1e-3
"""Test 22: part of the mean variance that is added to each."""
SCALE = 10
"""Test 24: margin of the network at the image, in units in which cross-entropy follows the lower of two margins."""
SHARE = 0.9
"""Test 24: distance of the planted boundary in radii."""

PLANTED = Check(
    22,
    "planted adversarial image",
    f"PGD misses an adversarial image that was planted into a classifier on the network's logits, for more than {MISSED:.0%} of"
    " the images",
    "The attack does not find what is there, so what it leaves says nothing about robustness. If it finds all, a network that"
    " stays robust is not robust because the attack is blind.",
    "Do not report a robust accuracy under this attack. Find what hides the gradient (tests 3 to 6) and attack around it.",
    differentiable=True,
)
BOUNDARY = Check(
    24,
    "planted boundary at a known distance",
    f"PGD misses a flat boundary that was added at {SHARE} of the radius, for more than {MISSED:.0%} of the images",
    "The attack cannot cross the ball: its steps are too few or too short, or the network's own gradient is so rugged or so"
    " large that it leads astray.",
    "Raise steps or step size until planted boundaries are found, and attack the mean of several draws where the output is"
    " random.",
    differentiable=True,
)


class Marked(nn.Module):
    """Two classes on a network's logits: a planted point and its neighborhood against everything else.

    Args:
        model: The network.
        center: Mean logits of the points that are not adversarial, shape (classes,).
        direction: Direction of the planted point in the space of the logits.
        threshold: Least score of class 1. The planted point has 1.
    """

    def __init__(self, model: nn.Module, center: Tensor, direction: Tensor, threshold: float) -> None:
        super().__init__()
        self.model, self.center, self.direction, self.threshold = model, center, direction, threshold

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, shape (batch, 2)."""
        z = call(self.model, x)
        score = (z - self.center.to(z)) @ self.direction.to(z) - self.threshold
        return torch.stack((-score, score), 1)


class Bordered(nn.Module):
    """A network with a half-space around one image in which it is wrong.

    The margins of network and half-space become logits of three classes: right, wrong by the network, wrong by the plane.

    Args:
        model: The network.
        image: The image, shape (1, ...).
        label: Its class.
        normal: Direction of the half-space, shape (1, ...).
        offset: The half-space holds the points x with <normal, x - image> > offset.
        margin: Margin of the network at the image. In units of a tenth of it, the plane's margin there is half as large,
            so that the loss follows the plane first.
    """

    def __init__(
        self, model: nn.Module, image: Tensor, label: int, normal: Tensor, offset: float, margin: float
    ) -> None:
        super().__init__()
        self.model, self.image, self.label, self.normal = model, image, label, normal
        self.offset, self.margin = offset, margin

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, shape (batch, 3)."""
        z = call(self.model, x)
        others = torch.cat((z[:, : self.label], z[:, self.label + 1 :]), 1)
        right = z[:, self.label] - others.amax(1)
        plane = 1 - ((x - self.image) * self.normal).flatten(1).sum(1) / self.offset
        return torch.stack((torch.zeros_like(right), -SCALE * right / self.margin, -SCALE * plane / 2), 1)


def planted_images(state: AuditState) -> Finding:
    """Run test 22: binarize the network around each image and plant an adversarial image.

    Points within half the radius become class 0, one point at the radius class 1. A linear classifier on the logits separates
    them (Fisher's direction). So an adversarial image is in the ball, and an attack that works finds it or another one. Images
    around which no linear classifier separates the points are left out.

    Reference: Zimmermann et al. 2022, section 3.
    """
    rows = _chosen(state)
    heads = [_head(state, row) for row in rows]
    tried = [(row, head) for row, head in zip(rows, heads, strict=True) if head is not None]
    missed = sum(not _found(state, head, int(row), 0) for row, head in tried)
    evidence = (
        f"PGD with {state.budget.steps} steps finds the planted image for {len(tried) - missed} of {len(tried)} images;"
        f" {len(rows) - len(tried)} more have none that is distinct"
    )
    return PLANTED.judge_count(missed, len(tried), evidence, allowed=MISSED)


def planted_boundaries(state: AuditState) -> Finding:
    """Run test 24: add a plane at a known distance to the network and attack both together."""
    rows = _chosen(state)
    missed = sum(not _found(state, _bordered(state, int(row)), int(row), 0) for row in rows)
    evidence = (
        f"PGD with {state.budget.steps} steps crosses a boundary at {SHARE} of the radius for {len(rows) - missed} of"
        f" {len(rows)} images"
    )
    return BOUNDARY.judge_count(missed, len(rows), evidence, allowed=MISSED)


def _chosen(state: AuditState) -> np.ndarray:
    """Return the images on which the attack is judged: robust ones first, since it is their robustness that it claims."""
    robust = state.still_robust()
    rest = np.setdiff1d(state.queried, robust)
    return np.concatenate((robust, rest))[: state.budget.planted_images]


def _head(state: AuditState, row: int) -> Marked | None:
    """Return the classifier with a planted image around one image, or None if no point at the radius is distinct."""
    x, y, streams = _one(state, row)
    half = state.ball.radii(x) / 2
    inner = [x, *(state.ball.sample(x, streams.at("inner", draw), half) for draw in range(INNER))]
    radius = per_example(state.ball.radii(x), x)
    outer = [x + radius * state.ball.norm.steepest(streams.at("outer", draw).normal(x)) for draw in range(OUTER)]
    points = torch.cat([*inner, *(state.ball.project(point, x) for point in outer)])
    z = state.logits_at(points, y.expand(len(points))).double()
    inside, outside = z[: len(inner)], z[len(inner) :]
    center = inside.mean(0)
    spread = torch.cov((inside - center).T, correction=0).reshape(z.shape[1], z.shape[1])
    ridge = RIDGE * spread.diagonal().mean()
    if not ridge > 0:
        return None
    directions = torch.linalg.solve(spread + ridge * torch.eye(len(spread), dtype=spread.dtype), (outside - center).T)
    planted = ((outside - center) * directions.T).sum(1)
    reached = ((inside - center) @ directions).amax(0) / planted
    best = int(torch.where(planted > 0, reached, torch.inf).argmin())
    if not (planted[best] > 0 and reached[best] < 1 - DISTINCT):
        return None
    return Marked(state.model, center, directions[:, best] / planted[best], float(1 + reached[best]) / 2)


def _bordered(state: AuditState, row: int) -> Bordered:
    """Return the network with a boundary at `SHARE` of the radius of one image, in a direction that leads into the box."""
    x, y, streams = _one(state, row)
    ball = state.ball
    middle = sum(ball.box) / 2
    draw = streams.at("normal").normal(x).abs() * torch.where(x < middle, 1.0, -1.0)
    # One pixel, l_1's steepest direction, may have less room in the box than the radius.
    normal = draw.sign() / draw.numel() if ball.norm == L1 else ball.norm.steepest(draw)
    reached = ball.project(x + SHARE * per_example(ball.radii(x), x) * normal, x)
    offset = float(((reached - x) * normal).sum())
    margin = max(float(state.margins[row]), 1e-6)
    like = state.like
    return Bordered(state.model, x.to(like), int(y), normal.to(like), offset, margin)


def _one(state: AuditState, row: int) -> tuple[Tensor, Tensor, randomness.Streams]:
    there = np.array([row])
    return state.x[there], state.y[there], state.streams("audit", "planted", rows=there)


def _found(state: AuditState, model: nn.Module, row: int, label: int) -> bool:
    """Return whether PGD fools a classifier at one image that has this label there."""
    x, _, streams = _one(state, row)
    y, device = torch.tensor([label]), state.like.device
    with torch.no_grad():
        logits = call(model, x.to(state.like)).cpu()
    batch = AttackBatch(model, x, y, state.ball.radii(x), streams, logits)
    attack = state.pgd(log_odds)
    return bool(carry_out(attack, batch.with_streams(0), stop=True, limit=1, device=device).fooled)
