"""Tests 13 to 16, which look for what gradients missed: transfer, brute force, SPSA, Square. Many forward passes, on few."""

import numpy as np
import torch
from torch import Tensor, nn

from lowcurve import randomness
from lowcurve.analysis.norms import L2
from lowcurve.attacks import PGD, Square
from lowcurve.attacks.noise import Distribution, Noise
from lowcurve.attacks.spsa import SPSA
from lowcurve.evaluation.audit.budget import Budget
from lowcurve.evaluation.audit.subject import AuditState
from lowcurve.evaluation.audit.verdict import Check, Finding
from lowcurve.losses import log_odds, margin_loss

BEYOND = 0.01
"""Tests 13 and 14: checked on the networks of D.2."""
SQUARE = 0.002
"""Test 13. AutoAttack, checks.py, check_square_sr."""
LOWER, SCATTERED, WEAK = 0.1, 0.01, 0.1
"""Test 16: in median margins; the share of examples; in accuracy. Checked on the networks of D.2."""
PATTERNS = 8
DELTAS = (0.01, 0.5)
"""Test 16 at two distances: in pixel units, as published, and in radii, beyond what quantization rounds away (D.2)."""

BLACK_BOX = Check(
    13,
    "black box against white box, image by image",
    f"Square lowers the accuracy that attacks by gradients have left by more than {SQUARE:.1%}; fails if more than {BEYOND:.0%}"
    " of the examples fall to any attack without gradients and to none with",
    "Who knows less about the network should not find more. Gradients are masked, or the attacks that follow them were too"
    " weak.",
    "Report the worst case over both kinds, image by image; attack with more steps, targets and restarts, and find the layer"
    " that hides the gradient.",
)
TRANSFER = Check(
    14,
    "transfer",
    "an example that no attack by gradients of this network fooled falls to what was made on a substitute; fails if for more"
    f" than {BEYOND:.0%}",
    "The weakness is there and the network's own gradients do not show it: quantization, noise, shattering.",
    "Attack the substitute (the undefended twin, a smoothed copy) and count its successes.",
)
NOISE = Check(
    15,
    "brute-force noise",
    "a random point of the ball fools the network where attacks by gradients did not",
    "The search by gradients is worse than none.",
    "Do not report a robust accuracy; find what hides the gradient (tests 3 to 6).",
)
SPSA_SCATTER = Check(
    16,
    "SPSA against PGD",
    f"SPSA ends more than {LOWER} median margins below PGD for more than {SCATTERED:.0%} of the examples; says nothing where"
    f" SPSA leaves {WEAK:.0%} more standing than PGD",
    "Differences over a distance find a way down that gradients at a point do not: the surface is shattered or flat.",
    "Attack without gradients, at several distances, and from a smoothed copy.",
    differentiable=True,
)


class Smoothed(nn.Module):
    """x -> the mean of the logits over fixed patterns added to x: a twin without the network's noise and shattering."""

    def __init__(self, model: nn.Module, patterns: Tensor) -> None:
        super().__init__()
        self.model, self.patterns = model, patterns

    def forward(self, x: Tensor) -> Tensor:
        """Not clipped to the pixel box, where clipping would cut gradients."""
        return torch.stack([self.model(x + pattern) for pattern in self.patterns.to(x)]).mean(0)


def transfer(subject: AuditState) -> Finding:
    """Test 14: PGD on the margin, to its end, on the substitute. Without one, on the network smoothed over half the radius,
    which heals noise and shattering and cannot heal a quantized network. Reference: Carlini et al. 2019."""
    twin, named = subject.substitute, "the substitute"
    if twin is None:
        if not subject.differentiable:
            return TRANSFER.not_run(
                "the network has no gradients to smooth; give substitute=, its undefended twin, to run this"
            )
        like = subject.x[:1].expand(PATTERNS, *subject.x.shape[1:])
        draws = randomness.uniform(like, -1, 1, generator=randomness.stream(subject.seed, "audit", "patterns"))
        scale = subject.ball.norm.steepest(draws) if subject.ball.norm.name == "l_2" else draws
        twin, named = (
            Smoothed(subject.model, scale * subject.ball.radius / 2),
            "the network smoothed over half the radius",
        )
    rows = subject.survivors()
    attack = PGD(subject.ball, steps=subject.budget.steps, loss=margin_loss)
    fallen = np.zeros(len(subject), dtype=bool)
    if len(rows):
        fallen[rows] = (subject.margins_at(subject.ends(attack, twin, rows), rows) < 0).numpy()
    subject.note("transfer", fallen, white=False, partly=True)
    share = float(fallen.sum()) / len(subject.queried)
    said = f"what fools {named} fools {int(fallen.sum())} of {len(rows)} examples that stood, of {len(subject.queried)} queried"
    return TRANSFER.judged(share, said, fail=BEYOND, flag=0.0)


def noise(subject: AuditState) -> Finding:
    """Test 15: uniform points and corners. Reference: Carlini et al. 2019; Athalye et al. 2018, section 3."""
    rows = subject.survivors()
    rows = np.sort(rows[np.argsort(-subject.highest[rows], kind="stable")][: subject.budget.noise_images])
    draws = -(-subject.budget.noise_draws // 2)
    if not len(rows):
        return NOISE.judged(0, "no example stood that random points could have fooled", fail=0)
    laws: tuple[Distribution, ...] = ("uniform", "corners")
    counts = {}
    for law in laws:
        method = Noise(
            subject.ball,
            draws=draws,
            distribution=law,
            draws_per_pass=min(draws, max(1, subject.batch_size // len(rows))),
        )
        counts[law] = int(subject.fell(f"noise, {law}", method, white=False, rows=rows).sum())
    said = (
        f"of the {len(rows)} survivors nearest to falling, {draws} random points each fool {counts['uniform']}, as many corners"
        f" {counts['corners']}"
    )
    return NOISE.judged(sum(counts.values()), said, fail=0)


def spsa_scatter(subject: AuditState) -> Finding:
    """Test 16, both to their end. Reference: moosavi2019cure, Figure 7; Uesato et al. 2018."""
    budget = subject.budget
    rows = subject.queried[: budget.spsa_images]
    by_gradients = [
        subject.margins_at(subject.walked(subject.pgd(loss, budget.long_steps), rows, stop=False).point, rows)
        for loss in (log_odds, margin_loss)
    ]
    best = torch.minimum(*by_gradients)
    by_queries = torch.minimum(
        *(_by_spsa(subject, rows, delta) for delta in (DELTAS[0], DELTAS[1] * subject.ball.radius))
    )
    fallen = np.zeros(len(subject), dtype=bool)
    fallen[rows] = (by_queries < 0).numpy()
    subject.note("SPSA", fallen, white=False, partly=True)
    median = float(np.median(np.abs(subject.margins[rows])))
    share = float((by_queries < best - LOWER * median).double().mean())
    stand = [float((m >= 0).double().mean()) for m in (best, by_queries)]
    said = (
        f"of {len(rows)} examples {share:.1%} end lower under SPSA ({spsa_queries(budget)} queries) than under"
        f" PGD-{budget.long_steps}; {stand[1]:.1%} and {stand[0]:.1%} stand"
    )
    if share <= SCATTERED and stand[1] > stand[0] + WEAK:
        return Finding(
            SPSA_SCATTER, "not run", share, SCATTERED, f"{said}: too weak to say anything, give it a larger budget"
        )
    return SPSA_SCATTER.judged(share, said, fail=SCATTERED)


def spsa_queries(budget: Budget) -> int:
    """For each example, over all distances."""
    return len(DELTAS) * (2 * budget.spsa_draws + 1) * budget.spsa_steps


def _by_spsa(subject: AuditState, rows: np.ndarray, delta: float) -> Tensor:
    """The margins that SPSA ends at; as PGD it could walk 2.5 radii."""
    ball, budget = subject.ball, subject.budget
    pixels = subject.x[0].numel() ** 0.5 if ball.norm == L2 else 1.0  # that many share an l_2 radius
    rate = 2.5 * ball.radius / budget.spsa_steps / pixels
    attack = SPSA(
        ball,
        steps=budget.spsa_steps,
        draws=budget.spsa_draws,
        delta=delta,
        learning_rate=rate,
        batch_size=subject.batch_size,
    )
    return subject.margins_at(subject.ends(attack, subject.model, rows), rows)


def black_box(subject: AuditState) -> Finding:
    """Test 13: Square on what stands, and all that fell to transfer, noise or SPSA alone.

    Reference: Carlini et al. 2019; Athalye et al. 2018, section 3; AutoAttack, checks.py, check_square_sr.
    """
    square = subject.fell(
        "Square", Square(subject.ball, queries=subject.budget.queries), white=False, rows=subject.survivors()
    )
    beyond = subject.beyond()
    count = len(subject.queried)
    places = np.flatnonzero(subject.right)[beyond]
    listed = f": {', '.join(map(str, places))}" * bool(len(places))
    said = (
        f"Square ({subject.budget.queries} queries) fools {int(square.sum())} and all attacks without gradients"
        f" {int(beyond.sum())} of {count} examples beyond those that fall to gradients{listed}"
    )
    return BLACK_BOX.judged(float(beyond.sum()) / count, said, fail=BEYOND, warned=float(square.sum()) / count > SQUARE)
