"""The audit: the 21 tests in order of cost, on one network and one ball."""

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import nn

from lowcurve.analysis.norms import Ball
from lowcurve.data.batches import Examples
from lowcurve.errors import InputError
from lowcurve.evaluation.audit import attacks, gradients, outputs, queries, records
from lowcurve.evaluation.audit.budget import Budget
from lowcurve.evaluation.audit.lending import clean_logits, given_back
from lowcurve.evaluation.audit.subject import AuditState
from lowcurve.evaluation.audit.verdict import Audit, Check, Finding
from lowcurve.evaluation.sharing import agreed
from lowcurve.models.modes import frozen
from lowcurve.randomness import temporary_seed
from lowcurve.types import Progress, silent

STAGES: tuple[tuple[Check, Callable[[AuditState], Finding]], ...] = (
    (outputs.LOGITS, outputs.logits_not_probabilities),
    (outputs.DETERMINISM, outputs.determinism),
    (outputs.OPTIMIZATION, outputs.no_optimization),
    (gradients.GRAPH, gradients.graph_intact),
    (gradients.ZERO_GRADIENT, gradients.zero_gradient),
    (gradients.ALIGNMENT, gradients.gradient_alignment),
    (gradients.LANDSCAPE, gradients.unstable_landscape),
    (attacks.SCALE, attacks.logit_scale),
    (attacks.ONE_STEP, attacks.one_step),
    (attacks.CONVERGENCE, attacks.convergence),
    (attacks.RESTARTS, attacks.restarts),
    (attacks.SILENT, attacks.silent_success),
    (attacks.MONOTONE, attacks.monotone),
    (attacks.UNBOUNDED, attacks.unbounded),
    (queries.TRANSFER, queries.transfer),
    (queries.NOISE, queries.noise),
    (queries.SPSA_SCATTER, queries.spsa_scatter),
    (queries.BLACK_BOX, queries.black_box),
    (records.AUTOATTACK, records.autoattack),
    (records.CERTIFIED, records.certified),
    (records.REPORT, records.report),
)
"""The tests in order of cost: a few passes, PGD, queries; then those that only read what the others have found."""
OF_NOBODY = (1, 2, 3, 19, 20, 21)
"""They say something even where no example is classified rightly."""
CHECKS = tuple(check for check, _ in STAGES)
"""Every test in words, for whoever writes them down."""


def audit(
    model: nn.Module,
    examples: Examples,
    ball: Ball,
    *,
    seed: int = 0,
    batch_size: int = 256,
    substitute: nn.Module | None = None,
    certified: np.ndarray | None = None,
    reference: np.ndarray | None = None,
    budget: Budget | None = None,
    progress: Progress[int] = silent,
    heading: str = "auditing",
    fabric: Any = None,
) -> Audit:
    """21 tests for gradient masking, in order of cost, and one verdict: 'no masking found by these tests', or 'upper bound,
    evaluation unreliable: ...' with every test that failed and its figures.

    A network that passes is not robust by that, and its robust accuracy stays an upper bound; fixed attacks are not
    adaptive ones. A flag is worth knowing and leaves the verdict as it is.

    substitute: a network for the transfer test, best the same one without what was added to defend it. certified: for
    each example the radius that a verifier has proved, or whether it has proved the ball's. reference: who stands under
    AutoAttack, if somebody has run it. budget: how much the tests may cost (`Budget`). fabric: the attacks are shared out
    over its processes, and each of them returns the whole audit.

    Everything is decided by the seed, also where the network draws random numbers; the global random state is untouched.
    The network is looked at in eval mode, and once as it was given, and is given back as it came.

    Cost: of 100 images of a small network a minute on one core; a network that falls early costs less than one that stands.
    Errors: InputError for weights or logits that are not finite, labels that the network does not have, inputs outside
    the pixel box, an empty data set, columns of the wrong length.

    Example:
        >>> import torch
        >>> from lowcurve.analysis.norms import LINF
        >>> points = Examples(torch.tensor([[0.8, 0.3], [0.1, 0.9]]), torch.tensor([0, 1]), ("a", "b"))
        >>> audit(nn.Identity(), points, Ball(LINF, 0.1), budget=Budget(queries=20, noise_draws=20)).verdict
        'no masking found by these tests'

    Reference: Carlini et al. 2019; Athalye et al. 2018, section 3; Pintor et al. 2022.
    """
    if not ball.radius > 0:
        raise InputError("a radius above 0 to audit", ball.radius, "write pixels(8)")
    _require_columns(len(examples), certified, reference)
    with temporary_seed(seed, "audit"), given_back(model):
        as_given = None
        if any(module.training for module in model.modules()):
            as_given = outputs.passes(model, examples, batch_size)
        with frozen(model):
            logits = clean_logits(model, examples, batch_size)
            ball.require_inside_box(examples.pixels(slice(None)))
            right = agreed(fabric, (logits.argmax(1) == examples.y).numpy())
            subject = AuditState(model, examples, right, ball, budget or Budget(), seed, batch_size, logits)
            subject.substitute, subject.certified, subject.reference = substitute, certified, reference
            subject.as_given, subject.fabric = as_given, fabric
            return _audited(subject, progress, heading)


def _audited(subject: AuditState, progress: Progress[int], heading: str) -> Audit:
    findings = tuple(_run(*STAGES[place], subject) for place in progress(range(len(STAGES)), heading))
    robust = {**subject.columns(), "worst case": subject.robust()}
    places = np.flatnonzero(subject.right)[subject.beyond()]
    return Audit(findings, len(subject.all), robust, places, records.conditions(subject))


def _run(check: Check, test: Callable[[AuditState], Finding], subject: AuditState) -> Finding:
    if not len(subject) and check.number not in OF_NOBODY:
        return check.not_run("no example is classified rightly, and nothing can stand that no attack had to fell")
    if check.differentiable and not subject.differentiable:
        return check.not_run("the network has no gradients to follow, as test 4 found")
    return test(subject)


def _require_columns(count: int, certified: np.ndarray | None, reference: np.ndarray | None) -> None:
    if certified is not None and (certified.shape != (count,) or certified.dtype.kind not in "bf"):
        found = f"{certified.dtype} {certified.shape}"
        raise InputError(f"certified radii or booleans of shape ({count},)", found, "give one for each example")
    if reference is not None and (reference.shape != (count,) or reference.dtype.kind != "b"):
        found = f"{reference.dtype} {reference.shape}"
        raise InputError(f"booleans of shape ({count},) for who stands", found, "give one for each example")
