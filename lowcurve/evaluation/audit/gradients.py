"""Tests 4, 5, 17 and 18 of the loss around each image. Cost: a few gradients and forward passes."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from lowcurve.analysis.calculus import gradient
from lowcurve.analysis.norms import L2, dot
from lowcurve.errors import InputError
from lowcurve.evaluation.audit.differences import disagreement
from lowcurve.evaluation.audit.state import AuditState
from lowcurve.evaluation.audit.verdict import Check, Finding, Outcome
from lowcurve.losses import cross_entropy, log_odds, loss_field, margin_loss
from lowcurve.types import Loss

ZERO = 0.01
"""Test 5: a flag above 0 (Pintor et al. 2022, I1), a fail above this share, which tests/test_audit.py checks."""
LOST = 0.01
"""Test 4: a flag above 0. Checked in tests/test_audit_counts.py."""
ANGLE, CUT = 0.3, 0.05
"""Test 4: sine of the angle between a gradient and differences, and share of the images with more.

On the tuning half of the panel it is at most 0.18 for 683 images of honest networks, and above 0.46 for all 89 images of
three networks whose gradient is not theirs.
"""
UNSTABLE = 0.1
"""Test 17. Pintor et al. 2022, I2."""
ALIGNED, OVERFITTED, GAP = 0.5, 0.2, 0.2
"""Test 18: checked in tests/test_audit.py, after Andriushchenko and Flammarion 2020."""

GRAPH = Check(
    4,
    "graph intact",
    "the loss of an image has no gradient with respect to the pixels, or one that is not finite. It fails for more than"
    f" {LOST:.0%} of the images, and if no image has one. It also fails if the differences of the loss along random directions"
    f" have an angle to its gradient with a sine above {ANGLE}, for more than {CUT:.0%} of the images near which it is smooth",
    "Gradients do not reach the pixels (detach, numpy, NaN): no gradient attack can run, and images are robust only because"
    " nothing attacked them.",
    "Remove detach, numpy and .data from the network, or attack a differentiable copy and test its adversarial images here.",
)
ZERO_GRADIENT = Check(
    5,
    "zero gradient",
    "the gradient of cross-entropy or of the margin is exactly 0 at an image or at a random start. It fails if the margin's"
    f" is 0 for more than {ZERO:.0%} of the images that are not certified at the radius",
    "Where the margin's gradient is 0 the network is constant (quantized, rounded), and attacks that follow the gradient do not"
    " move.",
    "Where the margin's gradient is 0, attack a smooth copy, and attack without gradients. Where only cross-entropy's is 0,"
    " attack log_odds or margin_loss, or divide the logits.",
    differentiable=True,
)
UNDERFLOW = (
    "The logits are so far apart that cross-entropy underflows. This library's attacks follow log-odds and margins and are not"
    " affected; attacks on cross-entropy, also those of other libraries, report a robustness that is not there."
)
LANDSCAPE = Check(
    17,
    "unstable landscape",
    f"at random points within half the radius, the loss differs from that at the image by more than {UNSTABLE:.0%} on average",
    "At the scale of an attack's step the loss is steep for its value, rugged or random. If it is rugged or random, a gradient"
    " says little about the effect of a step.",
    "Attack the mean over random points around the input, with more steps and restarts, and attack without gradients.",
)
ALIGNMENT = Check(
    18,
    "gradient alignment",
    f"the mean cosine between the gradients at an image and at a random point of its ball is below {ALIGNED}. It fails below"
    f" {OVERFITTED} if one step also leaves more images robust than PGD, by more than {GAP:.0%} of them",
    "The gradient changes direction within the ball, so attacks of one step are weak.",
    "Trust attacks of many steps and restarts only. If the network was trained with FGSM, train with PGD or GradAlign.",
    differentiable=True,
)


FEW = (
    "Gradients do not reach the pixels of a few images, or are not finite there. Gradient attacks cannot move these, so they"
    " may be robust only because nothing attacked them."
)
PARTLY = (
    "Gradients do not reach the pixels of some images, or are not finite there. Gradient attacks cannot move these, so the"
    " tests with gradients do not run."
)
APART = (
    "The loss changes otherwise than its gradient says. A part of the network is detached, or has a wrong gradient that was"
    " written by hand. Gradient attacks are led by the rest, so images may be robust only because nothing attacked that part."
)
UNLIKE = (
    f"The gradient changes direction within the ball. Values below {OVERFITTED} are typical of networks that overfitted to an"
    " attack of one step, but here one step fools nearly as many images as PGD."
)
OVERFIT = (
    "The gradient changes direction within the ball, and one step leaves many images robust that PGD fools: the network"
    " overfitted to an attack of one step, and its accuracy under such an attack is too high."
)


def graph_intact(state: AuditState) -> Finding:
    """Run test 4. Reference: Pintor et al. 2022, I1 (unavailable gradients)."""
    try:
        gradients = _gradients(state, log_odds, state.x)
        missing = int((~torch.isfinite(gradients).flatten(1).all(1)).sum())
        evidence = f"{len(state) - missing} of {len(state)} images have a finite gradient"
    except InputError as error:
        missing, evidence = len(state), f"none of {len(state)} images has a gradient: {error.received}"
    except RuntimeError as error:  # torch's own, where numpy is called on a tensor with a graph
        missing, evidence = len(state), f"the network cannot be differentiated: {str(error).splitlines()[0]}"
    found = GRAPH.judge_count(missing, len(state), evidence, allowed=LOST, flag_above=0.0)
    state.differentiable = missing < len(state) and found.outcome != "fail"
    if found.outcome == "flag" and state.differentiable:
        return replace(found, meaning=FEW)
    if missing:
        return replace(found, outcome="fail", meaning=PARTLY if missing < len(state) else "")
    return found if state.random or state.nothing_is_claimed() else _agreement(state, found)


def _agreement(state: AuditState, intact: Finding) -> Finding:
    """Return test 4 where every image has a gradient: whether it is the network's own."""
    sines = disagreement(state, state.queried[: state.budget.landscape_images])
    judged = sines[~np.isnan(sines)]
    apart = int((judged > ANGLE).sum())
    evidence = (
        f"{intact.evidence}; the network is smooth near {len(judged)} of {len(sines)} images, and near {apart} of these its"
        " gradient is not that of the differences"
    )
    found = GRAPH.judge_count(apart, len(judged), evidence, allowed=CUT)
    if found.outcome == "not run":
        return replace(intact, evidence=evidence)
    return replace(found, meaning=APART if found.raised else "")


def zero_gradient(state: AuditState) -> Finding:
    """Run test 5. Reference: Pintor et al. 2022, I1; AutoAttack, checks.py, check_zero_gradients."""
    start = state.ball.sample(state.x, state.streams("audit", "start"))
    open_ = ~state.certified_here()  # inside a certified ball a gradient of 0 hides nothing
    counts = {}
    for name, loss in (("cross-entropy", cross_entropy), ("the margin", margin_loss)):
        for where, x in (("at the images", state.x), ("at random starts", start)):
            zero = _gradients(state, loss, x).flatten(1).abs().amax(1) == 0
            counts[name, where] = int((zero.numpy() & open_).sum())
    listed = ", ".join(f"{count} ({name} {where})" for (name, where), count in counts.items())
    beside = f" that are not certified at the radius, of {len(state)}" * bool((~open_).any())
    evidence = f"of {int(open_.sum())} images{beside}, so many have a gradient of 0: {listed}"
    flat, underflown = (max(counts[name, at] for at in ("at the images", "at random starts"))
                        for name in ("the margin", "cross-entropy"))  # fmt: skip
    found = ZERO_GRADIENT.judge_count(flat, int(open_.sum()), evidence, allowed=ZERO, flag_above=0.0)
    if underflown and not flat:
        # The attacks here follow log-odds and margins, so their robust accuracy does not suffer.
        return Finding(ZERO_GRADIENT, "flag", underflown / int(open_.sum()), ZERO, evidence, UNDERFLOW)
    return found


def unstable_landscape(state: AuditState) -> Finding:
    """Run test 17 on the log-odds, the loss of the attacks here. Reference: Pintor et al. 2022, I2."""
    rows = state.queried[: state.budget.landscape_images]
    there, draws = torch.from_numpy(rows), state.budget.neighbors
    x, y, streams = state.x[there], state.y[there], state.streams("audit", "neighbors", rows=rows)
    here = log_odds(state.logits[there], y)
    total = torch.zeros_like(here)
    for draw in range(draws):
        near = state.ball.sample(x, streams.at(draw), state.ball.radii(x) / 2)
        moved = (log_odds(state.logits_at(near, y), y) - here).abs()
        change = torch.where(moved == 0, 0, moved / here.abs())
        total += torch.minimum(change, torch.ones_like(change))
    share = float(total.mean()) / draws
    evidence = (
        f"at {draws} points within half the radius of each of {len(rows)} images, the log-odds change by {share:.1%}"
    )
    return LANDSCAPE.judge(share, evidence, flag=UNSTABLE)


def gradient_alignment(state: AuditState) -> Finding:
    """Run test 18 on the log-odds' gradient, which has the direction of cross-entropy's and does not underflow.

    Reference: Andriushchenko and Flammarion 2020, Eq. (3).
    """
    rows = state.queried[: state.budget.landscape_images]
    there = torch.from_numpy(rows)
    x, y = state.x[there], state.y[there]
    near = state.ball.sample(x, state.streams("audit", "alignment", rows=rows))
    directions = [L2.unit(_gradients(state, log_odds, point, y)) for point in (x, near)]
    cosine = float(np.mean(dot(*directions).numpy()))
    evidence = f"over {len(rows)} images the mean cosine is {cosine:.2f}"
    if not np.isfinite(cosine):
        return ALIGNMENT.not_run("the gradient at a random point of the ball is NaN")
    if cosine >= OVERFITTED:
        return Finding(ALIGNMENT, "flag" if cosine < ALIGNED else "passed", cosine, OVERFITTED, evidence)
    one, many = state.fooled_by_one_step(), state.fooled_by_pgd()
    evidence += f"; one step leaves {int((~one).sum())} images robust, PGD {int((~many).sum())}"
    overfitted = int(many.sum()) - int(one.sum()) > GAP * len(state)
    outcome: Outcome = "fail" if overfitted else "flag"
    return Finding(ALIGNMENT, outcome, cosine, OVERFITTED, evidence, OVERFIT if overfitted else UNLIKE)


def _gradients(state: AuditState, loss: Loss, x: Tensor, y: Tensor | None = None) -> Tensor:
    return state.in_batches(lambda a, b: gradient(loss_field(state.model, b, loss), a), x, y)
