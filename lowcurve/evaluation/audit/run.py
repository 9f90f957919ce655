"""The audit: 25 tests in order of cost, for one network and one ball."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lowcurve.analysis.norms import Ball, Norm, as_ball
from lowcurve.data.coercion import Data, are_labels, as_source
from lowcurve.data.examples import Examples
from lowcurve.data.labels import Labels
from lowcurve.data.streams import spread_of
from lowcurve.errors import InputError
from lowcurve.evaluation.arguments import require_attack, require_batch_size
from lowcurve.evaluation.attack_result import AttackResult
from lowcurve.evaluation.attacking import attack
from lowcurve.evaluation.audit import attacks, convergence, gradients, outputs, planted, queries, records, remedies
from lowcurve.evaluation.audit.budget import Budget
from lowcurve.evaluation.audit.known import first_rows
from lowcurve.evaluation.audit.restore import clean_logits, restored
from lowcurve.evaluation.audit.shards import SharedColumns
from lowcurve.evaluation.audit.state import JUDGED_DRAWS, AuditState
from lowcurve.evaluation.audit.verdict import ASK_FOR_ALL, Audit, Check, Finding
from lowcurve.evaluation.parts import Ledger, Shard, Share, open_ledger
from lowcurve.evaluation.sharing import broadcast
from lowcurve.models.modes import frozen
from lowcurve.network_calls import gradients_enabled, require_module
from lowcurve.progress import choose_progress
from lowcurve.randomness import temporary_seed
from lowcurve.types import AttackFunction, Progress

TESTS: tuple[tuple[Check, Callable[[AuditState], Finding]], ...] = (
    (outputs.LOGITS, outputs.logits_not_probabilities),
    (outputs.DETERMINISM, outputs.determinism),
    (outputs.OPTIMIZATION, outputs.no_optimization),
    (gradients.GRAPH, gradients.graph_intact),
    (gradients.ZERO_GRADIENT, gradients.zero_gradient),
    (gradients.ALIGNMENT, gradients.gradient_alignment),
    (gradients.LANDSCAPE, gradients.unstable_landscape),
    (attacks.SCALE, attacks.logit_scale),
    (attacks.ONE_STEP, attacks.one_step),
    (convergence.CONVERGENCE, convergence.convergence),
    (convergence.STATIONARITY, convergence.stationarity),
    (attacks.RESTARTS, attacks.restarts),
    (attacks.SILENT, attacks.silent_success),
    (attacks.MONOTONE, attacks.monotone),
    (attacks.UNBOUNDED, attacks.unbounded),
    (planted.PLANTED, planted.planted_images),
    (planted.BOUNDARY, planted.planted_boundaries),
    (queries.TRANSFER, queries.transfer),
    (queries.NOISE, queries.noise),
    (queries.SPSA_SCATTER, queries.spsa_scatter),
    (queries.BLACK_BOX, queries.black_box),
    (records.SUITE, records.suite),
    (records.AUTOATTACK, records.autoattack),
    (records.CERTIFIED, records.certified),
    (records.REPORT, records.report),
)
"""The tests in order of cost: a few passes, PGD, queries; then those that need no further attack."""
WITHOUT_CORRECT_IMAGES = (1, 2, 3, 19, 20)
"""Numbers of the tests that run even if the network is hardly better than guessing."""
OF_ROBUST_IMAGES = (7, 8, 9, 14, 15, 16, 22, 23, 24)
"""Numbers of the tests that need images which gradient attacks leave robust."""
OF_CLAIMS = (5, 6, 10, 11, 12, 17, 18)
"""Numbers of further tests that the verdict does not need if the robust accuracy that is judged is 0."""
SEARCHES = (8, 9, 14, 15, 16, 22, 23, 24)
"""Numbers of the costly tests, which the verdict does not need once another one has failed."""
CONTRADICTION = 20
"""Number of the test that also fails where no robustness is claimed: a certificate claims some."""
NOTHING_CLAIMED = "No robustness is claimed here, so none is false. Otherwise: "
"""Begins the meaning of what would be a failure if some robustness were claimed."""
LEARNED = 0.1
"""Part of the way from guessing to perfection that the accuracy has to go. Below it nothing is claimed."""
CHECKS = tuple(check for check, _ in TESTS)
"""All tests, described."""


@gradients_enabled()
def audit(
    model: nn.Module,
    images: Data,
    labels: Labels | Norm | str | Ball | None = None,
    norm: Norm | str | Ball | float | None = None,
    radius: float | None = None,
    *,
    seed: int = 0,
    batch_size: int = 256,
    substitute: nn.Module | None = None,
    certified: np.ndarray | None = None,
    reference: np.ndarray | AttackFunction | None = None,
    attacked: AttackResult | None = None,
    budget: Budget | None = None,
    progress: Progress[int] | bool | None = None,
    heading: str = "auditing",
    ledger: Ledger | str | Path | None = None,
    shard: Shard | None = None,
    fabric: Any = None,
) -> Audit:
    """Test whether a network's robust accuracy can be believed: 25 tests for gradient masking and one verdict.

    Called as audit(model, images, labels, "linf", 8/255) or audit(model, data, "linf", 8/255); a `Ball` takes the place of
    norm and radius. Where a test fails, the audit attacks again in the way that the failure calls for (`Audit.remedies`), and
    the lower number counts. If the output is random, these attacks run in any case, and an image counts by the class of its
    mean logits over 32 draws. Passing the tests does not make a network robust: its robust accuracy stays an upper bound, and
    fixed attacks are not adaptive ones. A flag is worth knowing and does not change the verdict.

    Args:
        model: Network from pixels in [0, 1] to logits. It is tested in eval mode, and once in its own mode if that is
            another. Its state is restored afterwards.
        images: Images, with or without labels. See `as_examples`. All images in memory are audited. Of others it is
            `budget.streamed_images`: evenly spaced ones of a data set, the first ones of what can only be iterated.
        labels: True labels, unless `images` has them.
        norm: "linf", "l2", "l1", a norm, or a `Ball`.
        radius: Radius in pixel units, the literature's epsilon. Leave it out with a `Ball`.
        seed: Seed of all random numbers, those that the network draws included.
        batch_size: Images in a batch.
        substitute: Network for the transfer test (14). Best is the same network without its defense.
        certified: Radius that a verifier has proved for each image (20). Or True where it has proved the audited
            radius.
        reference: True for each image that is robust under AutoAttack (19). Or an attack that is tried here in its place,
            such as one of another library (`attacks.foreign`) or a suite; what it fools is not robust in the worst case,
            unless the output is random.
        attacked: Result of the suite whose robust accuracy is judged, on these images or on more. What its members
            without gradients found beyond the others counts in test 13. If these are its first images, what it has tried
            with at least the budget's effort is not tried again.
        budget: Cost of the tests. `Budget()` runs what the verdict needs: no searches once a test has failed, and few tests
            where no robustness is claimed. `THOROUGH` of `lowcurve.evaluation.audit` runs all, with larger searches.
        progress: None shows a progress bar in a terminal or a notebook. False shows none.
        heading: Text of the progress bar.
        ledger: Folder or mapping that stores finished attacks for an interrupted call or for the shards of one audit.
        shard: (number, shards) attacks every so many-th correct image only. It needs a ledger. A call without shard
            then takes the attacks from there and judges; before, an audit has no findings.
        fabric: Lightning Fabric whose processes share the attacks. Each process returns the whole audit.

    Returns:
        An `Audit`: the verdict is 'no masking found by these tests', with the names of warnings where there are any, or
        'upper bound, evaluation unreliable: ...' with every test that failed and its figures. Of a network that is hardly
        better than guessing it is 'too weak to judge: ...'.

    Raises:
        InputError: If weights or logits are not finite, or if the network lacks a label. Also if there are no images, if
            images lie outside the pixel box, or if certificates or reference have the wrong length.

    Cost: about a minute on one core for 100 images and a small network; less where images are fooled early.

    Example:
        >>> import torch
        >>> x = torch.tensor([[0.8, 0.3], [0.1, 0.9]])
        >>> audit(nn.Identity(), x, [0, 1], "linf", 0.1, budget=Budget(queries=20, noise_draws=20)).verdict
        'no masking found by these tests'

    Reference: Carlini et al. 2019; Athalye et al. 2018, section 3; Pintor et al. 2022.
    """
    require_batch_size(batch_size)
    require_module(model)
    if not are_labels(labels) and labels is not None:  # called without labels: the other arguments move up
        labels, norm, radius = None, labels, norm if radius is None else radius
    if norm is None:
        raise InputError(
            "a norm and a radius, or a Ball", "none", 'write lc.audit(model, images, labels, "linf", 8/255)'
        )
    ball = as_ball(norm, radius)  # type: ignore[arg-type]
    budget = budget or Budget()
    examples = spread_of(as_source(images, labels), budget.streamed_images)  # type: ignore[arg-type]
    if not ball.radius > 0:
        raise InputError("a radius above 0 to audit", ball.radius, "write 8/255")
    judge = None
    if reference is not None and not isinstance(reference, np.ndarray):
        judge, reference = require_attack(reference), None
    _require_columns(len(examples), certified, reference)
    if shard is not None and ledger is None:
        raise InputError(
            "a ledger through which the shards of an audit share their attacks", "none", "write ledger='folder'"
        )
    Share(None, shard)  # refuses a shard that cannot be
    store = open_ledger(ledger, model, examples, "audit", ball, budget, seed, batch_size)
    with temporary_seed(seed, "audit"), restored(model):
        in_training = any(module.training for module in model.modules())
        as_given = outputs.passes(model, examples, batch_size) if in_training else None
        with frozen(model):
            passes = outputs.passes(model, examples, batch_size)
            random = broadcast(fabric, outputs.is_random(passes, examples))
            logits = _mean_logits(model, examples, batch_size) if random else passes[0]
            ball.require_inside_box(examples.pixels(slice(None)))
            right = broadcast(fabric, (logits.argmax(1) == examples.y).numpy())
            given = substitute, certified, reference, attacked
            state = AuditState(model, examples, right, ball, budget, seed, batch_size, logits, *given)
            state.passes, state.random, state.known = passes, random, first_rows(attacked, examples)
            state.logits_as_given, state.fabric, state.shared = as_given, fabric, SharedColumns(store, shard, fabric)
            own: dict[str, Any] = {"seed": seed, "batch_size": batch_size, "fabric": fabric, "keep_inputs": False}
            if judge is not None and shard is None:
                state.reference = attack(model, examples, judge, progress=progress, heading="reference", **own).robust
            return _run_tests(state, choose_progress(progress, fabric), heading, by_reference=judge is not None)


def _mean_logits(model: nn.Module, examples: Examples, batch_size: int) -> torch.Tensor:
    return torch.stack([clean_logits(model, examples, batch_size) for _ in range(JUDGED_DRAWS)]).mean(0)


def _run_tests(state: AuditState, progress: Progress[int], heading: str, *, by_reference: bool) -> Audit:
    findings: list[Finding] = []
    for place in progress(range(len(TESTS)), heading):
        # All processes go on with the findings of the first, since these decide which attacks they share next.
        findings.append(broadcast(state.fabric, _run_test(*TESTS[place], state, _failed(findings))))
    if state.shared.missing:
        number, shards = state.shared.shard or (0, 1)
        reason = f"shard {number} of {shards} is finished, and others are not; a call without shard judges in the end"
        return Audit((), len(state.examples), {}, np.zeros(0, dtype=int), {}, reason)
    failed = {*_failed(findings)}
    if _too_weak(state) or state.nothing_is_claimed():
        findings = [_harmless(finding) for finding in findings]
    if state.random:
        state.forget_single_draws()
    else:
        failed = {*_failed(findings)}
    places = np.flatnonzero(state.correct)[state.fooled_beyond_gradients()]
    tried = () if _too_weak(state) else remedies.attack_again(state, failed)
    if state.known is not None and not state.random:  # the worst case is never better than what is audited
        state.record("judged attacks", state.known.fooled[state.correct], gradients=False, partial=True)
    if by_reference and state.reference is not None and not state.random:
        state.record("reference", ~state.reference[state.correct], gradients=False, partial=True)
    robust = {**state.robust_columns(), "worst case": state.robust()}
    conditions = records.conditions(state)
    draws = JUDGED_DRAWS if state.random else 1
    return Audit(
        (*findings,), len(state.examples), robust, places, conditions, _too_weak(state), tried, state.correct, draws
    )


def _run_test(check: Check, test: Callable[[AuditState], Finding], state: AuditState, failed: Sequence[int]) -> Finding:
    """Run a test, unless it does not apply or the verdict does not need it."""
    number, everything = check.number, state.budget.everything
    if number not in WITHOUT_CORRECT_IMAGES and _too_weak(state):
        return check.not_run(f"{_too_weak(state)}, so there is nothing to attack")
    if check.differentiable and not state.differentiable:
        return check.not_run("the network has no gradients, as test 4 found")
    if number in OF_ROBUST_IMAGES and state.differentiable and not len(state.worth_searching()):
        return check.not_run(state.why_not_searched())
    if number in OF_CLAIMS and not everything and state.nothing_is_claimed():
        return check.not_run(f"the robust accuracy that is judged is 0, so it cannot be too high; {ASK_FOR_ALL}")
    if number in SEARCHES and not everything and failed:
        return check.not_run(f"test {failed[0]} has failed, which decides the verdict; {ASK_FOR_ALL}")
    return test(state)


def _failed(findings: Sequence[Finding]) -> list[int]:
    return [finding.number for finding in findings if finding.outcome == "fail"]


def _harmless(finding: Finding) -> Finding:
    """Return a failure as a warning, because no robust image is claimed that could be a false one."""
    if finding.outcome != "fail" or finding.number == CONTRADICTION:
        return finding
    return replace(finding, outcome="flag", meaning=NOTHING_CLAIMED + finding.means)


def _too_weak(state: AuditState) -> str:
    """Return why the network cannot be judged: its accuracy is near that of guessing. Empty if it can."""
    count, right, classes = len(state.correct), len(state), state.all_logits.shape[1]
    if not right:
        return "no image is classified correctly"
    if right / count < 1 / classes + LEARNED * (1 - 1 / classes):
        found = f"{right} of {count} images are classified correctly"
        return f"{found}, and guessing among {classes} classes gives {1 / classes:.0%}"
    return ""


def _require_columns(count: int, certified: np.ndarray | None, reference: np.ndarray | None) -> None:
    if certified is not None and (certified.shape != (count,) or certified.dtype.kind not in "bf"):
        found = f"{certified.dtype} {certified.shape}"
        raise InputError(f"certified radii or booleans of shape ({count},)", found, "give one for each image")
    if reference is not None and (reference.shape != (count,) or reference.dtype.kind != "b"):
        found = f"{reference.dtype} {reference.shape}"
        raise InputError(
            f"a reference of booleans of shape ({count},)", found, "give one for each image: is it robust?"
        )
