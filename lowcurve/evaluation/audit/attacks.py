"""Tests 6 to 12, which hold attacks by gradients against each other: about eight runs of PGD, shorter where it succeeds."""

import numpy as np
import torch
from torch import Tensor, nn

from lowcurve.attacks import FGSM, Suite
from lowcurve.attacks.state import State
from lowcurve.evaluation.audit.subject import AuditState
from lowcurve.evaluation.audit.verdict import Check, Finding
from lowcurve.losses import cross_entropy, margin_loss
from lowcurve.types import PerExample

POINT = 0.01
"""A point of accuracy: tests 6 (rerun), 7, 8, 9. Checked on the networks of D.2."""
WEAKER = 0.02
"""Test 6: cross-entropy against the margin."""
HALF = 0.005
"""Half a point: test 8 (flag) and 11."""
MOVED, LAST = 0.05, 10
"""Test 8. Pintor et al. 2022, I4."""
SHARES = (0.25, 0.5, 1.0, 2.0)
"""Test 11: of the radius."""

SCALE = Check(
    6,
    "loss saturation and logit scale",
    f"more than {WEAKER:.0%} of the examples stand under PGD by cross-entropy than by the margin; fails if the median margin is"
    f" above 1 and dividing the logits by it lets cross-entropy fool more than {POINT:.0%} more",
    "The scale of the logits hides the way up from cross-entropy, as distillation does: an accuracy by such an attack is"
    " false. This library's default attacks ascend the log-odds or the margin and are not deceived; others are.",
    "Believe no accuracy by cross-entropy; attack by log_odds or margin_loss, or divide the logits before the attack.",
    differentiable=True,
)
ONE_STEP = Check(
    7,
    "one step against many",
    f"one step fools more than {POINT:.0%} of the examples that PGD does not, or more examples than PGD altogether",
    "Small steps should find whatever one large step finds. If not, gradients mislead on the way: masked or random.",
    "Attack without gradients and from smooth copies, and find the layer that shatters the gradient.",
    differentiable=True,
)
CONVERGENCE = Check(
    8,
    "convergence",
    f"twice the steps on a path of the same length lower the accuracy by more than {HALF:.1%} (fails: {POINT:.0%}) or the mean"
    f" margin by more than 1 % of its fall, or the loss of those who stand still rose by {MOVED} of its range in the last"
    f" {LAST} steps",
    "The attack was stopped before it arrived; more steps fool more.",
    "Double the steps until nothing changes.",
    differentiable=True,
)
RESTARTS = Check(
    9,
    "restarts",
    "more random starts of PGD lower the accuracy that the default suite's attacks by gradients have left by more than"
    f" {POINT:.0%}",
    "Where an attack ends depends on where it begins: a rugged landscape, or a random network.",
    "Add restarts until nothing changes, and report the worst of them for each example.",
    differentiable=True,
)
SILENT = Check(
    10,
    "silent success",
    "an example is fooled on the way and not by the attack's answer",
    "The network says one thing and then another of the same point, or the attack loses what it has found; either way"
    " examples count as standing that have fallen.",
    "Judge a random network by its mean; keep the best point of a path, not its last.",
    differentiable=True,
)
MONOTONE = Check(
    11,
    "monotone in the radius",
    "an example falls at a smaller radius and stands at a larger one; fails if more than one does and they are more than"
    f" {HALF:.1%}",
    "A larger ball holds the smaller one, so an attack that fails in it misses what it could reach.",
    "Attack with more steps and restarts, and start from what fooled at smaller radii; then without gradients.",
    differentiable=True,
)
UNBOUNDED = Check(
    12,
    "unbounded attack",
    "with half the pixel range as radius more stand than guessing would leave, or any with the whole range",
    "Every image can be turned into every other, so nothing can stand; the gradients do not lead there.",
    "Find what hides the gradient (tests 3 to 6) and attack around it.",
    differentiable=True,
)


class Divided(nn.Module):
    """The network with its logits divided: the same classification, and a loss that is not saturated."""

    def __init__(self, model: nn.Module, scale: float) -> None:
        super().__init__()
        self.model, self.scale = model, scale

    def forward(self, x: Tensor) -> Tensor:
        """z / s."""
        return torch.as_tensor(self.model(x) / self.scale)


def logit_scale(subject: AuditState) -> Finding:
    """Test 6: R_CE - R_margin, and R_CE - R_CE(z / s) with s = median |m|. What the division makes worse is no masking; nor
    is what it makes better where s < 1, since logits that are close saturate nothing: there cross-entropy is weak because
    it pulls at all classes at once, and so the margin finds more.

    Reference: Carlini and Wagner 2017, section 3 (distillation).
    """
    scale = float(np.median(np.abs(subject.margins))) or 1.0
    by_entropy = subject.fell("PGD, cross-entropy", subject.pgd(cross_entropy))
    by_margin = subject.fell("PGD, margin", subject.pgd(margin_loss))
    divided = subject.fell(
        "PGD, cross-entropy of divided logits", subject.pgd(cross_entropy), model=Divided(subject.model, scale)
    )
    behind = subject.points(by_margin) - subject.points(by_entropy)
    gained = subject.points(divided) - subject.points(by_entropy)
    said = (
        f"PGD by cross-entropy fools {_of(by_entropy)}, by the margin {int(by_margin.sum())}, by cross-entropy of logits"
        f" divided by {scale:.3g} {int(divided.sum())}"
    )
    return SCALE.judged(gained if scale > 1 else 0.0, said, fail=POINT, warned=behind > WEAKER)


def one_step(subject: AuditState) -> Finding:
    """Test 7. Reference: Athalye et al. 2018, section 3; Carlini et al. 2019."""
    many, one = subject.plain(), subject.fell("FGSM", FGSM(subject.ball))
    only = one & ~many
    said = f"one step fools {_of(one)}, {subject.budget.steps} steps {int(many.sum())}; {int(only.sum())} only one step"
    if one.sum() > many.sum():
        return Finding(ONE_STEP, "fail", subject.share(only), POINT, said)
    return ONE_STEP.judged(subject.share(only), said, fail=POINT)


def convergence(subject: AuditState) -> Finding:
    """Test 8. Reference: Carlini et al. 2019; Pintor et al. 2022, I4 (incomplete optimization)."""
    steps = subject.budget.steps
    once, twice = subject.plain(), subject.fell("PGD, twice the steps", subject.pgd(steps=2 * steps))
    lowered = subject.points(twice) - subject.points(once)
    rows = subject.queried[: subject.budget.walked]
    short, moved = _to_the_end(subject, steps, rows)
    long, _ = _to_the_end(subject, 2 * steps, rows)
    clean = float(subject.margins[rows].mean())
    further = (short - long) / (clean - short) if clean > short else float(long < short)
    said = (
        f"{2 * steps} steps fool {_of(twice)}, {steps} {int(once.sum())}; on {len(rows)} examples the mean margin falls from"
        f" {clean:.3g} to {short:.3g} and to {long:.3g}; of those who stand the loss rose by {moved:.3f} of its range in the"
        f" last {min(LAST, steps)} steps"
    )
    return CONVERGENCE.judged(lowered, said, fail=POINT, warned=lowered > HALF or further > 0.01 or moved > MOVED)


def _to_the_end(subject: AuditState, steps: int, rows: np.ndarray) -> tuple[float, float]:
    """The mean margin that PGD reaches, and by how much of its range the loss rose last, for those who stand."""
    history = torch.zeros(len(rows), steps + 1)

    def watch(numbers: Tensor, state: State, values: PerExample, _logits: Tensor) -> None:
        history[numbers.cpu(), state.step.cpu()] = values.detach().float().cpu()

    there = torch.from_numpy(rows)
    found = subject.walked(subject.pgd(steps=steps), rows, stop=False, watch=watch)
    margins = -margin_loss(subject.seen(found.point, subject.y[there]), subject.y[there])
    stands = ~found.fooled
    best = history.cummax(1).values
    range_ = best[:, -1] - best[:, 0]
    last = (best[:, -1] - best[:, -1 - min(LAST, steps)]) / torch.where(range_ > 0, range_, 1)
    return float(margins.double().mean()), float(last[stands].mean()) if bool(stands.any()) else 0.0


def restarts(subject: AuditState) -> Finding:
    """Test 9, after PGD once and the default suite's attacks by gradients: what is judged is what they leave.

    Reference: Carlini et al. 2019.
    """
    starts, rows = subject.budget.restarts, subject.survivors()
    method = Suite(
        (("PGD, more starts", subject.pgd(restarts=starts)),)
    )  # a name of its own: none of them is the first
    again = subject.fell("PGD, more starts", method, rows=rows)
    said = f"of {len(rows)} examples that stood of {len(subject.queried)}, {starts} more starts fool {int(again.sum())}"
    return RESTARTS.judged(subject.points(again) * len(subject) / len(subject.queried), said, fail=POINT)


def silent_success(subject: AuditState) -> Finding:
    """Test 10. Reference: Pintor et al. 2022, I3."""
    subject.plain()
    assert subject.silent is not None
    count = int(subject.silent.sum())
    said = f"{count} of {len(subject)} examples were fooled on the way and are not by the answer"
    return SILENT.judged(count, said, fail=0)


def monotone(subject: AuditState) -> Finding:
    """Test 11, each radius attacked by itself. Reference: Athalye et al. 2018, section 3; Carlini et al. 2019."""
    radii = sorted({min(share * subject.ball.radius, subject.widest()) for share in SHARES})
    fallen = [subject.fell_at(radius) for radius in radii]
    back = np.zeros(len(subject), dtype=bool)
    for place, larger in enumerate(fallen):
        for smaller in fallen[:place]:
            back |= smaller & ~larger
    curve = ", ".join(f"{int(fell.sum())} at {radius:.3g}" for radius, fell in zip(radii, fallen, strict=True))
    said = (
        f"of {len(subject)} examples fall {curve}; {int(back.sum())} fall at a smaller radius and stand at a larger one"
    )
    # One by itself may be the luck of a random start, whose draw is another at each radius.
    return MONOTONE.judged(subject.points(back) if back.sum() > 1 else 0.0, said, fail=HALF, warned=bool(back.any()))


def unbounded(subject: AuditState) -> Finding:
    """Test 12. Reference: Carlini et al. 2019; Athalye et al. 2018, section 3; Pintor et al. 2022, I6."""
    chance = 1 / subject.logits.shape[1]
    half, whole = (subject.fell_at(share * subject.widest()) for share in (0.5, 1.0))
    left = [subject.points(~fallen) for fallen in (half, whole)]
    count = len(subject.right)
    said = f"with half the pixel range as radius {left[0]:.1%} of {count} examples stand, with the whole {left[1]:.1%}"
    failed = left[0] > chance or left[1] > 0
    return Finding(UNBOUNDED, "fail" if failed else "passed", left[0], chance, said)


def _of(fallen: np.ndarray) -> str:
    return f"{int(fallen.sum())} of {len(fallen)}"
