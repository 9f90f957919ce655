"""Tests 4, 5, 17 and 18, which look at the loss around each example: a few gradients, some forward passes."""

import numpy as np
import torch
from torch import Tensor

from lowcurve.analysis.calculus import gradient
from lowcurve.analysis.norms import L2, dot
from lowcurve.errors import InputError
from lowcurve.evaluation.audit.subject import AuditState
from lowcurve.evaluation.audit.verdict import Check, Finding
from lowcurve.losses import cross_entropy, log_odds, loss_field, margin_loss
from lowcurve.types import Loss

ZERO = 0.01
"""Test 5: above it is a fail, above 0 a flag (Pintor et al. 2022, I1); the share was checked on the networks of D.2."""
UNSTABLE = 0.1
"""Test 17. Pintor et al. 2022, I2."""
ALIGNED, OVERFITTED = 0.5, 0.2
"""Test 18: checked on the networks of D.2, after Andriushchenko and Flammarion 2020."""

GRAPH = Check(
    4,
    "graph intact",
    "an example's loss has no gradient with respect to the pixels, or one that is not finite",
    "The way back from the loss to the pixels is cut (detach, numpy, a loss of precision): no attack by gradients can run, and"
    " whatever stands stands because nobody could attack it.",
    "Take detach, numpy and .data out of the network, or attack a differentiable copy of it and show it the results.",
)
ZERO_GRADIENT = Check(
    5,
    "zero gradient",
    "the gradient of cross-entropy or of the margin is exactly 0 for an example, at it or at a random start; fails if for more"
    f" than {ZERO:.0%}",
    "Attacks that follow this gradient stand still. Of the margin: the network is flat between jumps (quantized, rounded)."
    " Of cross-entropy alone: its logits are so far apart that the loss underflows, and any attack by cross-entropy, that of"
    " other libraries included, reports a robustness that is not there; this library's default attacks do not follow it.",
    "Flat: attack a smooth copy and without gradients. Underflow: attack by log_odds or margin_loss, or divide the logits.",
    differentiable=True,
)
LANDSCAPE = Check(
    17,
    "unstable landscape",
    f"within half the radius the loss changes by more than {UNSTABLE:.0%} of itself, in the mean over random points",
    "The loss is rugged or random at the scale of a step, so a gradient says little about what a step will do.",
    "Attack the mean over random points around the input, with more steps and restarts, and without gradients.",
)
ALIGNMENT = Check(
    18,
    "gradient alignment",
    f"the mean cosine between the gradient at an example and at a random point of its ball is below {ALIGNED}; fails below"
    f" {OVERFITTED}",
    "The gradient at the example points elsewhere than that nearby: one step from it leads nowhere. Below"
    f" {OVERFITTED} as in networks that overfitted to a one-step attack in training, whose one-step accuracy is false.",
    "Judge by attacks of many steps and restarts only; if the network was trained with FGSM, train with PGD or GradAlign.",
    differentiable=True,
)


def graph_intact(subject: AuditState) -> Finding:
    """Test 4. Reference: Pintor et al. 2022, I1 (unavailable gradients)."""
    try:
        slopes = _slopes(subject, log_odds, subject.x)
        missing = int((~torch.isfinite(slopes).flatten(1).all(1)).sum())
        said = f"{len(subject) - missing} of {len(subject)} examples have a finite gradient"
    except InputError as error:
        missing, said = len(subject), f"none of {len(subject)} examples has a gradient: {error.received}"
    except RuntimeError as error:  # torch's own, where numpy is asked to carry a graph
        missing, said = len(subject), f"the network cannot be differentiated: {str(error).splitlines()[0]}"
    subject.differentiable = missing == 0
    return GRAPH.judged(missing / len(subject), said, fail=0.0)


def zero_gradient(subject: AuditState) -> Finding:
    """Test 5. Reference: Pintor et al. 2022, I1; AutoAttack, checks.py, check_zero_gradients."""
    start = subject.ball.sample(subject.x, subject.streams("audit", "start"))
    shares = {}
    for name, loss in (("cross-entropy", cross_entropy), ("the margin", margin_loss)):
        for where, x in (("at the examples", subject.x), ("at random starts", start)):
            zero = _slopes(subject, loss, x).flatten(1).abs().amax(1) == 0
            shares[f"{name} {where}"] = float(zero.double().mean())
    said = f"of {len(subject)} examples the gradient is 0 for " + ", ".join(f"{v:.1%} ({k})" for k, v in shares.items())
    return ZERO_GRADIENT.judged(max(shares.values()), said, fail=ZERO, flag=0.0)


def unstable_landscape(subject: AuditState) -> Finding:
    """Test 17, for the loss that the attacks here climb. Reference: Pintor et al. 2022, I2."""
    rows = subject.queried[: subject.budget.walked]
    there, draws = torch.from_numpy(rows), subject.budget.neighbors
    x, y, streams = subject.x[there], subject.y[there], subject.streams("audit", "neighbors", rows=rows)
    here = log_odds(subject.logits[there], y)
    total = torch.zeros_like(here)
    for draw in range(draws):
        near = subject.ball.sample(x, streams.at(draw), subject.ball.radii(x) / 2)
        change = (log_odds(subject.seen(near, y), y) - here).abs() / here.abs()
        total += torch.minimum(change.nan_to_num(nan=0.0), torch.ones_like(change))  # 0 / 0 is no change
    share = float(total.mean()) / draws
    said = f"at {draws} points within half the radius of {len(rows)} examples each, the log-odds change by {share:.1%}"
    return LANDSCAPE.judged(share, said, flag=UNSTABLE)


def gradient_alignment(subject: AuditState) -> Finding:
    """Test 18, by cross-entropy's direction without its underflow. Reference: Andriushchenko and Flammarion 2020, Eq. (3)."""
    near = subject.ball.sample(subject.x, subject.streams("audit", "alignment"))
    slopes = [L2.unit(_slopes(subject, log_odds, x)) for x in (subject.x, near)]
    cosine = float(np.mean(dot(*slopes).numpy()))
    said = f"over {len(subject)} examples the mean cosine is {cosine:.2f}"
    outcome = Finding(ALIGNMENT, "fail", cosine, OVERFITTED, said)
    if cosine < OVERFITTED:
        return outcome
    return Finding(ALIGNMENT, "flag" if cosine < ALIGNED else "passed", cosine, OVERFITTED, said)


def _slopes(subject: AuditState, loss: Loss, x: Tensor) -> Tensor:
    return subject.each(lambda a, b: gradient(loss_field(subject.model, b, loss), a), x)
