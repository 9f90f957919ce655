"""Attacks made for what the failed tests found: through random, flat, cut and purifying stages, and with more queries."""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from lowcurve import randomness
from lowcurve.analysis.calculus import gradient
from lowcurve.analysis.norms import L2
from lowcurve.attacks import PGD, Square
from lowcurve.errors import InputError
from lowcurve.evaluation.audit.attacks import BY_DIVIDED, BY_ENTROPY
from lowcurve.evaluation.audit.state import AuditState
from lowcurve.evaluation.audit.students import distill
from lowcurve.evaluation.audit.twins import (
    Averaged,
    PassedThrough,
    Smooth,
    StraightThrough,
    classifier_inside,
    layers_that_mislead,
)
from lowcurve.evaluation.audit.verdict import Remedy
from lowcurve.evaluation.sharing import broadcast
from lowcurve.losses import loss_field, margin_loss
from lowcurve.network_calls import call

SCALE = 6
"""Number of the test of the logits' scale."""
HIDDEN = frozenset((1, 3, 4, 5, 6, 8, 12, 13, 14, 15, 16, 22))
"""Numbers of the tests that fail where a network's own gradients do not lead to adversarial images."""
DRAWS = 16
"""Passes over which a random network's logits are averaged."""
SEARCHED = frozenset((3, 4, 5, 12, 13, 14, 15, 16, 22))
"""Numbers of the tests that fail where a search without gradients may find more."""
MORE_QUERIES = 3
"""Queries of the last attack, in multiples of test 13's."""
SAME = 1e-3
"""Distance of two gradients of length 1 up to which two twins give the same attack."""

Attack = Callable[[np.ndarray], Tensor]
"""From the numbers of correct images to attacked images."""


def attack_again(state: AuditState, failed: set[int]) -> tuple[Remedy, ...]:
    """Attack again what gradient attacks leave robust, in the ways that the failed tests call for.

    Every answer is judged by the network itself, a random one by its mean logits. The attacks run one after the other, each
    on the images that gradient attacks and the earlier ones left robust. What they fool counts in the worst case. A twin with
    the gradient of what was attacked before is left out, and so is what the judged suite has tried with as many queries.

    Args:
        state: The state after all tests.
        failed: Numbers of the tests that failed.

    Returns:
        One entry for each attack that could be made.

    Cost: for each attack PGD with `Budget.long_steps` steps on the images that are still robust, or three times the queries
    of test 13; `DRAWS` times as much where the output of what is attacked is random.
    """
    if not (failed & HIDDEN or state.random) or not len(state):
        return ()
    found = [_rescaled(state)] if SCALE in failed and not state.random else []
    # A random network was attacked on single draws so far, which decide nothing.
    tried = np.arange(len(state)) if state.random else state.queried
    fooled = state.fooled_by_gradients()
    for name, attack in _attacks(state, failed):
        before = fooled
        rows = np.setdiff1d(tried, np.flatnonzero(fooled))
        if not len(rows):
            break
        try:
            answers = attack(rows)
        except InputError:  # this twin has no gradient either
            continue
        by_this = np.zeros(len(state), dtype=bool)
        by_this[rows] = state.fooled_at_points(answers, rows)
        state.record(name, by_this, gradients=False, partial=True)
        fooled = before | state.fooled[name]  # the first process's, also where the network is random
        left = [int((~which).sum()) for which in (before, fooled)]
        found.append(Remedy(name, left[0], left[1], len(state.examples)))
    return tuple(found)


def _rescaled(state: AuditState) -> Remedy:
    """Return what test 6 found: the attack on cross-entropy, and the same one on divided logits."""
    before, after = (int((~state.fooled[name]).sum()) for name in (BY_ENTROPY, BY_DIVIDED))
    return Remedy("PGD on cross-entropy of rescaled logits", before, min(before, after), len(state.examples))


def _twins(state: AuditState, failed: set[int]) -> Iterator[tuple[str, nn.Module]]:
    """Yield twins of the network that may have a better gradient, with the attack's name, the cheapest first."""
    if state.random:
        yield "PGD", state.model
    if not failed & HIDDEN:
        return
    x = state.x[:2].to(state.like)
    inside = classifier_inside(state.model, x)
    if inside is not None:
        yield f"transfer from {inside!r} alone", state.model.get_submodule(inside)
        through = StraightThrough(state.model, inside)
        if through.hides(x):
            yield f"BPDA through {through.stages(x)} before {inside!r}", through
        if len(through.points(x)) > 1:
            every = StraightThrough(state.model, inside, every=True)
            yield f"BPDA through every intermediate image before {inside!r}", every
    smooth = Smooth(state.model)
    if met := _passed_through(smooth, x):
        yield f"BPDA through {', '.join(sorted(met))}", smooth
    if layers := layers_that_mislead(state.model, x):
        kinds = sorted({type(state.model.get_submodule(name)).__name__ for name in layers})
        yield f"BPDA through {', '.join(kinds)}", PassedThrough(state.model, layers)
    yield "transfer from a distilled student", distill(state)


def _attacks(state: AuditState, failed: set[int]) -> Iterator[tuple[str, Attack]]:
    attack = PGD(state.ball, steps=state.budget.long_steps, loss=margin_loss)
    seen = [] if state.random else [_direction(state, state.model)]
    for name, one in _twins(state, failed):
        direction = _direction(state, one)
        if broadcast(state.fabric, any(_are_same(direction, other) for other in seen)):
            continue
        seen.append(direction)
        random = state.random and broadcast(state.fabric, _is_random(state, one))
        twin = Averaged(one, torch.zeros(DRAWS, 1)) if random else one
        called = f"{name} on the mean of {DRAWS} draws (EOT)" if random else name
        yield called, partial(state.attack_fully, called, attack, twin)
    if failed & SEARCHED:
        square = Square(state.ball, queries=MORE_QUERIES * state.budget.queries)
        yield f"Square with {square.queries} queries", partial(_by_queries, state, square)


def _direction(state: AuditState, model: nn.Module) -> Tensor | None:
    """Return the unit gradient of the margin at a random point of each image's ball; None if there is no gradient."""
    points = state.ball.sample(state.x, state.streams("audit", "twins"))
    try:
        with randomness.temporary_seed(state.seed, "audit", "twins"):
            slopes = state.in_batches(lambda x, y: gradient(loss_field(model, y, margin_loss), x), points)
    except (InputError, RuntimeError):  # the attack meets the same error and is left out
        return None
    return L2.unit(slopes)


def _are_same(one: Tensor | None, other: Tensor | None) -> bool:
    return one is not None and other is not None and bool(((one - other).flatten(1).norm(dim=1) <= SAME).all())


def _is_random(state: AuditState, model: nn.Module) -> bool:
    x = state.x[: state.batch_size].to(state.like)
    with torch.no_grad(), randomness.temporary_seed(state.seed, "audit", "twins"):
        first, *others = (call(model, x) for _ in range(DRAWS))
    return not all(torch.equal(first, other) for other in others)


def _by_queries(state: AuditState, square: Square, rows: np.ndarray) -> Tensor:
    """Return the answers of Square, those of the judged suite where it has tried as many queries."""
    answers = state.x[torch.from_numpy(rows)].clone()
    left = np.ones(len(rows), dtype=bool)
    if state.known is not None and (suite := state.searches_of_suite(square)) is not None:
        left, found = suite.left[rows], torch.from_numpy(suite.fooled[rows])
        of_suite = state.known.inputs[torch.from_numpy(state.correct)]
        answers[found] = of_suite[torch.from_numpy(rows)][found].to(answers)
    if left.any():
        answers[torch.from_numpy(left)] = state.attack(square, rows[left]).inputs.to(answers)
    return answers


def _passed_through(smooth: Smooth, x: Tensor) -> set[str]:
    try:
        smooth(x.clone().requires_grad_())
    except InputError:  # such as numpy, which refuses what has a gradient
        return set()
    return smooth.met
