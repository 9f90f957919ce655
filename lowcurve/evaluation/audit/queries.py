"""Tests 13 to 16, which search for what gradients missed. Cost: many forward passes, on few images."""

import numpy as np
import torch
from torch import Tensor

from lowcurve import randomness
from lowcurve.analysis.norms import LINF
from lowcurve.attacks import PGD, Square
from lowcurve.attacks.noise import Distribution, Noise
from lowcurve.attacks.spsa import SPSA
from lowcurve.attacks.suites import MATCHED
from lowcurve.errors import InputError
from lowcurve.evaluation.audit.budget import Budget
from lowcurve.evaluation.audit.screening import nearest_first, told
from lowcurve.evaluation.audit.state import AuditState
from lowcurve.evaluation.audit.twins import Averaged
from lowcurve.evaluation.audit.verdict import ASK_FOR_ALL, Check, Finding
from lowcurve.losses import log_odds, margin_loss

BEYOND = 0.01
"""Tests 13 and 14. Checked in tests/test_audit.py."""
SQUARE = 0.002
"""Test 13. AutoAttack, checks.py, check_square_sr."""
QUERYING = ("Square", "long Square", "relay")
"""Test 13: members of a suite that find what no gradient attack before them found."""
LOWER, SCATTERED, SOME, WEAK = 0.1, 0.25, 0.1, 0.1
"""Test 16: in median margins; two shares of the images, to fail and to warn; in accuracy. Checked in tests/test_audit.py."""
RANK = ("not run", "passed", "flag", "fail")
PATTERNS = 8
"""Test 14: patterns over which a network is smoothed."""
DELTAS = (0.01, 0.5)
"""Test 16: two distances, the published one in pixel units and one in radii, which is larger than a quantization step."""

BLACK_BOX = Check(
    13,
    "black box against white box, image by image",
    f"attacks without gradients fool images that no gradient attack fools, more than {SQUARE:.1%} of those tried. It fails for"
    f" more than {BEYOND:.0%}, here or among all images that the suite attacked",
    "An attack that knows less about the network should not find more. Either gradients are masked, or the gradient attacks"
    " were too weak.",
    "Report the worst case over both kinds of attack, image by image. Attack with more steps, targets and restarts, and find"
    " the layer that hides the gradient.",
)
TRANSFER = Check(
    14,
    "transfer",
    "an adversarial image made on a substitute fools the network where none of its own gradient attacks did. It fails for more"
    f" than {BEYOND:.0%} of the images",
    "The network can be fooled there, and its own gradients do not show it: quantization, noise, shattered gradients.",
    "Attack the substitute (the undefended network, or a smoothed copy) and count its successes.",
)
NOISE = Check(
    15,
    "brute-force noise",
    "a random point of the ball fools the network where gradient attacks did not. It fails for several images",
    "The gradient attacks are worse than random search.",
    "Do not report a robust accuracy; find what hides the gradient (tests 3 to 6).",
)
SPSA_SCATTER = Check(
    16,
    "SPSA against PGD",
    f"SPSA reaches a margin more than {LOWER} median margins below PGD's on more than {SOME:.0%} of the images, which all"
    f" gradient attacks left robust. It fails for more than {SCATTERED:.0%} of them, or if SPSA fools more than {BEYOND:.0%}."
    f" It does not count if SPSA leaves {WEAK:.0%} more images robust than PGD",
    "Finite differences find a descent direction that gradients do not: the loss is rugged or piecewise constant.",
    "Attack without gradients, at several distances, and from a smoothed copy.",
    differentiable=True,
)


def transfer(state: AuditState) -> Finding:
    """Run test 14: PGD on the margin, without stopping early, on the substitute.

    Without one, the substitute is the network smoothed over half the radius, which removes noise and shattering but does not
    help against quantization.

    How many of the attacked images fool the substitute itself is told with it: if none do, nothing could transfer.

    Reference: Carlini et al. 2019; Pintor et al. 2022, I5 (transfer failure).
    """
    substitute, name = state.substitute, "the substitute"
    if substitute is None:
        if not state.differentiable:
            return TRANSFER.not_run("the network has no gradients to smooth; give substitute=, the undefended network")
        like = state.x[:1].expand(PATTERNS, *state.x.shape[1:])
        draws = randomness.uniform(like, -1, 1, generator=randomness.stream(state.seed, "audit", "patterns"))
        scale = draws if state.ball.norm == LINF else state.ball.norm.unit(draws)
        substitute = Averaged(state.model, scale * state.ball.radius / 2)
        name = "the network smoothed over half the radius"
    attack, answers = PGD(state.ball, steps=state.budget.steps, loss=margin_loss), state.x.clone()

    def search(ending: str, rows: np.ndarray) -> np.ndarray:
        fooled = np.zeros(len(state), dtype=bool)
        answers[rows] = state.attack_fully("transfer" + ending, attack, substitute, rows)
        fooled[rows] = (state.margins_at(answers[rows], rows) < 0).numpy()
        return fooled

    try:
        fooled, rows = nearest_first(state, search)
    except InputError as error:  # a smoothed network may leave the pixels for which it is defined
        return TRANSFER.not_run(f"{name} cannot be attacked: {error}")
    there, tried = int((state.margins_at(answers[rows], rows, substitute) < 0).sum()), told(state, rows)
    state.record("transfer", fooled, gradients=False, partial=True)
    count = int(fooled.sum())
    evidence = f"{tried}; attacks on {name} fool {count}, and {there} of the attacked images fool the substitute itself"
    return TRANSFER.judge_count(count, len(state.queried), evidence, allowed=BEYOND, flag_above=0.0)


def _searched(state: AuditState, rows: np.ndarray) -> tuple[np.ndarray, str]:
    """Return those of the images where the suite's first search without gradients came as far as its gradient attacks.

    Elsewhere a longer search has little to find, and the suite makes none there either. All are searched if the suite has not
    searched, and by a thorough audit. The number of those left out comes with it, in words.
    """
    suite = state.searches_of_suite(Square(state.ball, queries=state.budget.queries))
    near = rows if suite is None or state.budget.everything else rows[suite.share[rows] >= MATCHED]
    reason = "the suite's first search without gradients came less far there than its gradient attacks"
    count = len(rows) - len(near)
    return near, f"; {count} of {len(rows)} robust images are not searched: {reason}" * (count > 0)


def noise(state: AuditState) -> Finding:
    """Run test 15 with uniform points and corners of the ball.

    Reference: Carlini et al. 2019; Athalye et al. 2018, section 3.
    """
    rows = state.still_robust()
    rows = np.sort(rows[np.argsort(-state.best_value[rows], kind="stable")][: state.budget.noise_images])
    (near, left_out), draws = _searched(state, rows), -(-state.budget.noise_draws // 2)
    if not len(near):
        return NOISE.not_run(f"{left_out[2:]}; {ASK_FOR_ALL}")
    distributions: tuple[Distribution, ...] = ("uniform", "corners")
    fooled = {name: np.zeros(len(state), dtype=bool) for name in distributions}
    per_pass = min(draws, max(1, state.batch_size // len(near)))
    for distribution in distributions:
        method = Noise(state.ball, draws=draws, distribution=distribution, draws_per_pass=per_pass)
        fooled[distribution] = state.fooled_by(f"noise, {distribution}", method, gradients=False, rows=near)
    evidence = (
        f"of the {len(rows)} robust images with the highest loss under PGD, {draws} random points each fool"
        f" {int(fooled['uniform'].sum())}, as many corners {int(fooled['corners'].sum())}{left_out}"
    )
    together = int((fooled["uniform"] | fooled["corners"]).sum())
    return NOISE.judge_count(together, len(rows), evidence, allowed=BEYOND, flag_above=0.0)


def spsa_scatter(state: AuditState) -> Finding:
    """Run test 16 on images that gradient attacks left robust; neither attack stops early.

    A lower margin on a few images is a warning, since the margins of honest networks scatter too.

    Reference: moosavi2019cure, Figure 7; Uesato et al. 2018.
    """
    budget, rows = state.budget, state.still_robust()[: state.budget.spsa_images]
    near, left_out = _searched(state, rows)
    if not len(near):
        return SPSA_SCATTER.not_run(f"{left_out[2:]}; {ASK_FOR_ALL}")
    by_gradients = [
        state.margins_at(
            state.attack_fully(f"PGD for SPSA, {name}", state.pgd(loss, budget.long_steps), state.model, near), near
        )
        for name, loss in (("log-odds", log_odds), ("margin", margin_loss))
    ]
    best = torch.minimum(*by_gradients)
    by_queries = torch.minimum(
        *(_margins_of_spsa(state, near, delta) for delta in (DELTAS[0], DELTAS[1] * state.ball.radius))
    )
    fooled = np.zeros(len(state), dtype=bool)
    fooled[near] = (by_queries < 0).numpy()
    state.record("SPSA", fooled, gradients=False, partial=True)
    median = float(np.median(np.abs(state.margins[rows])))
    # Below 0 the image is fooled, and it says nothing how far.
    count = int(((by_queries < best - LOWER * median) & (best >= 0)).sum())
    robust = [float((m >= 0).double().mean()) for m in (best, by_queries)]
    evidence = (
        f"on {count} of {len(rows)} images SPSA ({spsa_queries(budget)} queries) reaches a lower margin than"
        f" PGD-{budget.long_steps}, which left them robust; they leave {robust[1]:.1%} and {robust[0]:.1%} robust{left_out}"
    )
    if not count and robust[1] > robust[0] + WEAK:
        return Finding(SPSA_SCATTER, "not run", 0.0, SCATTERED, f"{evidence}: SPSA needs a larger budget to count")
    beyond = SPSA_SCATTER.judge_count(
        int((fooled[near] & (best >= 0).numpy()).sum()), len(rows), evidence, allowed=BEYOND
    )
    lower = SPSA_SCATTER.judge_count(count, len(rows), evidence, allowed=SCATTERED, flag_above=SOME)
    return beyond if RANK.index(beyond.outcome) > RANK.index(lower.outcome) else lower


def spsa_queries(budget: Budget) -> int:
    """Return the queries of SPSA per image, over all distances."""
    return len(DELTAS) * (2 * budget.spsa_draws + 1) * budget.spsa_steps


def _margins_of_spsa(state: AuditState, rows: np.ndarray, delta: float) -> Tensor:
    """Return the margins that SPSA reaches; like PGD's, its steps can add up to 2.5 radii."""
    ball, budget = state.ball, state.budget
    pixels = ball.norm.of_ones(state.x[0].numel())  # an l_1 or l_2 radius divides among the pixels
    rate = 2.5 * ball.radius / budget.spsa_steps / pixels
    attack = SPSA(
        ball,
        steps=budget.spsa_steps,
        draws=budget.spsa_draws,
        delta=delta,
        learning_rate=rate,
        batch_size=state.batch_size,
    )
    return state.margins_at(state.attack_fully(f"SPSA {delta}", attack, state.model, rows), rows)


def black_box(state: AuditState) -> Finding:
    """Run test 13: Square on the images that are still robust; all attacks without gradients count.

    Reference: Carlini et al. 2019; Athalye et al. 2018, section 3; AutoAttack, checks.py, check_square_sr.
    """
    square, queries = _squares(state)
    beyond, count = np.intersect1d(np.flatnonzero(state.fooled_beyond_gradients()), state.queried), len(state.queried)
    numbers = np.flatnonzero(state.correct)[beyond]
    listed = f": {', '.join(map(str, numbers))}" * bool(len(numbers))
    evidence = (
        f"beyond the images that gradient attacks fool, Square ({queries} queries) fools {int(square[state.queried].sum())} of"
        f" {count}, and all attacks without gradients together {len(beyond)}{listed}"
    )
    here = BLACK_BOX.judge_count(len(beyond), count, evidence, allowed=BEYOND, flag_above=SQUARE)
    if not len(state.worth_searching()):
        here = BLACK_BOX.not_run(state.why_not_searched())
    suite = _black_box_of_the_suite(state)
    return here if suite is None or RANK.index(suite.outcome) <= RANK.index(here.outcome) else suite


def _squares(state: AuditState) -> tuple[np.ndarray, str]:
    """Return which images that gradient attacks left robust fall to Square, and its queries.

    What the suite has tried with as many queries is not tried again.
    """
    search, rows = Square(state.ball, queries=state.budget.queries), state.worth_searching()
    suite = state.searches_of_suite(search)
    if suite is None:
        return state.fooled_by("Square", search, gradients=False, rows=rows), str(search.queries)
    state.record("Square of the suite", suite.fooled, gradients=False, partial=True)
    left, _ = _searched(state, rows[suite.left[rows]])
    return suite.fooled | state.fooled_by("Square", search, gradients=False, rows=left), suite.queries


def _black_box_of_the_suite(state: AuditState) -> Finding | None:
    """Return test 13 on all images that the suite attacked, or None if it tried no attack without gradients."""
    if state.attacked is None:
        return None
    by, tried = state.attacked.fooled_by, int(state.attacked.clean.sum())
    counts = {name: int((by == name).sum()) for name in QUERYING if name in by}
    if not counts:
        return None
    listed = ", ".join(f"{name} {count}" for name, count in counts.items())
    evidence = (
        f"of {tried} correct images that the suite attacked, {sum(counts.values())} were fooled only after all its gradient"
        f" attacks had failed: {listed}"
    )
    return BLACK_BOX.judge_count(sum(counts.values()), tried, evidence, allowed=BEYOND, flag_above=SQUARE)
