"""Tests 6, 7 and 9 to 12, which compare gradient attacks. Cost: about eight runs of PGD, shorter where it succeeds."""

from dataclasses import replace

import numpy as np
from torch import Tensor, nn

from lowcurve.attacks import Suite
from lowcurve.evaluation.audit.screening import nearest_first, told
from lowcurve.evaluation.audit.state import AuditState
from lowcurve.evaluation.audit.verdict import Check, Finding
from lowcurve.losses import cross_entropy, margin_loss
from lowcurve.network_calls import call

POINT = 0.01
"""A point of accuracy: tests 6 (divided logits), 7, 9 to 12. Checked in tests/test_audit.py."""
WEAKER = 0.02
"""Test 6: cross-entropy against the margin."""
BY_ENTROPY, BY_DIVIDED = "PGD, cross-entropy", "PGD, cross-entropy of divided logits"
"""Test 6: names of two of its attacks."""
SHARES = (0.25, 0.5, 1.0, 2.0)
"""Test 11: the radii, as shares of the audited one."""

SCALE = Check(
    6,
    "loss saturation and logit scale",
    f"PGD on cross-entropy fools fewer images than PGD on the margin, by more than {WEAKER:.0%} of all. It fails if the median"
    f" margin is above 1 and dividing the logits by it lets cross-entropy fool more than {POINT:.0%} more",
    "The scale of the logits hides the gradient of cross-entropy, as distillation does, and robust accuracies under attacks on"
    " cross-entropy are too high. This library's default attacks raise the log-odds or the margin and are not affected.",
    "Trust no robust accuracy under cross-entropy. Attack log_odds or margin_loss, or divide the logits before the attack.",
    differentiable=True,
)
ONE_STEP = Check(
    7,
    "one step against many",
    f"one step fools images that no attack of many steps fools, more than {POINT:.0%} of those tried. It is a flag if one step"
    " fools so many that PGD alone misses",
    "Small steps should find whatever one large step finds. If they do not, the gradients near the image mislead: they are"
    " masked or random.",
    "Attack without gradients and from smooth copies, and find the layer that breaks the gradient.",
    differentiable=True,
)
RESTARTS = Check(
    9,
    "restarts",
    "more random starts of PGD fool images that the default suite's gradient attacks leave, more than"
    f" {POINT:.0%} of those tried",
    "The attack's result depends on its starting point: the loss is rugged, or the network is random.",
    "Add restarts until nothing changes, and report the worst case of each image.",
    differentiable=True,
)
SILENT = Check(
    10,
    "silent success",
    f"PGD fools the network on an image during its search, but not with its answer. It fails for more than {POINT:.0%} of the"
    " images",
    "The network gives different outputs for the same input, or the attack loses what it has found. Either way, images count"
    " as robust that are not.",
    "Judge a random network by its mean output. Return the best point of a search, not the last one.",
    differentiable=True,
)
MONOTONE = Check(
    11,
    "monotone in the radius",
    "an image is fooled at a smaller radius and robust at a larger one. It fails for more than"
    f" {POINT:.0%} of the images",
    "A larger ball contains the smaller one, so the attack misses adversarial images that it could reach.",
    "Attack with more steps and restarts, start from what was found at smaller radii, and attack without gradients.",
    differentiable=True,
)
UNBOUNDED = Check(
    12,
    "unbounded attack",
    "with half the pixel range as radius, more images are robust than guessing would leave, or with the whole range, more"
    f" than {POINT:.0%}",
    "With such a radius every image can become any other, so none is robust; the gradients do not lead there.",
    "Find what hides the gradient (tests 3 to 6) and attack around it.",
    differentiable=True,
)


ENTROPY = (
    "PGD on cross-entropy is the weaker attack here, and dividing the logits does not mend it. Robust accuracies under attacks"
    " on cross-entropy alone are too high; this library's default attacks raise the log-odds or the margin."
)
"""Meaning of test 6 where the scale of the logits is not the reason."""


WEAK_PGD = (
    "Small steps should find whatever one large step finds. PGD with few steps does not here; the longer attacks do, so the"
    " robust accuracy does not suffer."
)
"""Meaning of test 7 where longer attacks find what PGD misses."""


class Divided(nn.Module):
    """A network with its logits divided: the same classification with a loss that does not saturate.

    Args:
        model: The network.
        scale: What its logits are divided by.
    """

    def __init__(self, model: nn.Module, scale: float) -> None:
        super().__init__()
        self.model, self.scale = model, scale

    def forward(self, x: Tensor) -> Tensor:
        """Return the divided logits."""
        return call(self.model, x) / self.scale


def logit_scale(state: AuditState) -> Finding:
    """Run test 6: compare PGD on cross-entropy with PGD on the margin, and on z / s with s = median |m|.

    Only a gain by division counts. It is tried for s > 1 where the margin finds more. Logits that are closer saturate nothing;
    there the margin finds more because cross-entropy raises all classes at once.

    Reference: Carlini and Wagner 2017, section 3 (distillation).
    """
    scale = float(np.median(np.abs(state.margins))) or 1.0
    by_entropy = state.fooled_by(BY_ENTROPY, state.pgd(cross_entropy))
    by_margin = state.fooled_by("PGD, margin", state.pgd(margin_loss))
    behind = state.accuracy_points(by_margin) - state.accuracy_points(by_entropy)
    evidence, gained = f"PGD on cross-entropy fools {_of(by_entropy)} images, on the margin {int(by_margin.sum())}", 0
    if behind > 0 and scale > 1:
        divided = state.fooled_by(BY_DIVIDED, state.pgd(cross_entropy), model=Divided(state.model, scale))
        gained = max(0, int(divided.sum()) - int(by_entropy.sum()))
        evidence += f", on cross-entropy of logits divided by {scale:.3g}: {int(divided.sum())}"
    found = SCALE.judge_count(gained, len(state), evidence, allowed=POINT)
    return replace(found, outcome="flag", meaning=ENTROPY) if behind > WEAKER and found.outcome == "passed" else found


def one_step(state: AuditState) -> Finding:
    """Run test 7 against all attacks of many steps, since PGD alone misses one or two images of many honest networks.

    Reference: Athalye et al. 2018, section 3; Carlini et al. 2019.
    """
    one, many, rows = state.fooled_by_one_step(), state.fooled_by_pgd(), state.queried
    alone, beyond = one & ~many, (one & ~state.fooled_by_many_steps())[rows]
    evidence = (
        f"one step fools {_of(one)} images, {state.budget.steps} steps {int(many.sum())}; {int(alone.sum())} are fooled by one"
        f" step and not by these, of {len(rows)} images {int(beyond.sum())} by no attack of many steps"
    )
    found = ONE_STEP.judge_count(int(beyond.sum()), len(rows), evidence, allowed=POINT)
    weak = ONE_STEP.judge_count(int(alone.sum()), len(state), evidence, allowed=POINT)
    return (
        replace(weak, outcome="flag", meaning=WEAK_PGD)
        if (found.outcome, weak.outcome) == ("passed", "fail")
        else found
    )


def restarts(state: AuditState) -> Finding:
    """Run test 9 on the images that PGD and the default suite's gradient attacks leave robust.

    Reference: Carlini et al. 2019.
    """
    starts = state.budget.restarts
    # Under another name than "PGD" the starts are new ones.
    method = Suite((("PGD, more starts", state.pgd(restarts=starts)),))
    again, rows = nearest_first(
        state, lambda ending, rows: state.fooled_by("PGD, more starts" + ending, method, rows=rows)
    )
    count, of = int(again.sum()), len(state.queried)
    evidence = f"{told(state, rows)}; {starts} more starts fool {count}"
    return RESTARTS.judge_count(count, of, evidence, allowed=POINT)


def silent_success(state: AuditState) -> Finding:
    """Run test 10. Reference: Pintor et al. 2022, I3."""
    state.fooled_by_pgd()
    assert state.lost is not None
    count = int(state.lost.sum())
    evidence = f"{count} of {len(state)} images are fooled during the search and not by the answer"
    return SILENT.judge_count(count, len(state), evidence, allowed=POINT, flag_above=0.0)


def monotone(state: AuditState) -> Finding:
    """Run test 11 with a separate attack at each radius.

    Reference: Athalye et al. 2018, section 3; Carlini et al. 2019.
    """
    radii = sorted({min(share * state.ball.radius, state.largest_radius()) for share in SHARES})
    fooled = [state.fooled_at(radius) for radius in radii]
    back = np.zeros(len(state), dtype=bool)
    for number, larger in enumerate(fooled):
        for smaller in fooled[:number]:
            back |= smaller & ~larger
    curve = ", ".join(f"{int(found.sum())} at {radius:.3g}" for radius, found in zip(radii, fooled, strict=True))
    evidence = f"of {len(state)} images PGD fools {curve}; {int(back.sum())} of these are robust at a larger radius"
    # Few images may be due to the random start, which differs at each radius.
    return MONOTONE.judge_count(int(back.sum()), len(state), evidence, allowed=POINT, flag_above=0.0)


def unbounded(state: AuditState) -> Finding:
    """Run test 12. Reference: Carlini et al. 2019; Athalye et al. 2018, section 3; Pintor et al. 2022, I6."""
    chance = 1 / state.logits.shape[1]
    half, whole = (state.fooled_at(share * state.largest_radius()) for share in (0.5, 1.0))
    left, count = [int((~fooled).sum()) for fooled in (half, whole)], len(state.correct)
    evidence = f"of {count} images {left[0]} are robust at a radius of half the pixel range, {left[1]} at the whole"
    findings = [
        UNBOUNDED.judge_count(number, count, evidence, allowed=allowed)
        for number, allowed in zip(left, (chance, POINT), strict=True)
    ]
    return max(findings, key=lambda found: ("passed", "flag", "fail").index(found.outcome))


def _of(fooled: np.ndarray) -> str:
    return f"{int(fooled.sum())} of {len(fooled)}"
