"""Tests 1 to 3, which look at what the network returns and at how it comes by it: a few forward passes."""

from itertools import combinations

import torch
from torch import Tensor, nn

from lowcurve.analysis.calculus import watch_derivatives
from lowcurve.data.batches import Examples
from lowcurve.evaluation.audit.lending import clean_logits, given_back
from lowcurve.evaluation.audit.subject import AuditState
from lowcurve.evaluation.audit.verdict import Check, Finding
from lowcurve.evaluation.measuring import are_probabilities
from lowcurve.models.modes import frozen

ROUNDING = 1e-5
"""Test 1. AutoAttack, check_range_output."""
PASSES = 5
CHANGE = 1e-4
"""Test 2: of logits at length 1. AutoAttack, check_randomized."""

LOGITS = Check(
    1,
    "logits, not probabilities",
    f"every row of the output lies in [0, 1] and sums to 1, all within {ROUNDING:g}",
    "The network ends in a softmax. Where it is confident its output is rounded to 0 and 1 and gradients vanish; a loss"
    " that expects logits applies the softmax twice.",
    "Return the layer before the softmax; the classification is the same.",
)
DETERMINISM = Check(
    2,
    "determinism",
    f"of {PASSES} passes over the same examples, one in reverse order, two differ in accuracy or by more than {CHANGE:g} in a"
    " row of logits at length 1",
    "The answer depends on chance or on the rest of the batch: a random defense, or a model left in training mode. An"
    " attack follows one draw and is judged by another, so what stands may have been lucky.",
    "Write model.eval(); if chance is meant, attack the mean over at least 20 draws (expectation over transformation).",
)
OPTIMIZATION = Check(
    3,
    "no optimization inside forward",
    "any derivative is asked for while the network answers",
    "The network changes its input by descent before it looks at it. Gradients through that loop are wrong or missing, and"
    " attacks that are not made for it overstate its robustness.",
    "Attack the whole loop with an adaptive attack (unrolled, or its result taken for the identity backwards).",
)


def logits_not_probabilities(subject: AuditState) -> Finding:
    """Test 1. Reference: AutoAttack, checks.py, check_range_output."""
    z = subject.all_logits.double()
    away = float(torch.stack([-z.min(), z.max() - 1, (z.sum(1) - 1).abs().max()]).max())
    said = f"the outputs of {len(z)} examples lie from {float(z.min()):.3g} to {float(z.max()):.3g}"
    if not are_probabilities(subject.all_logits):
        return Finding(LOGITS, "passed", away, ROUNDING, f"{said} and are no probabilities")
    # A fail and not a flag: nothing else catches this one, and a network whose softmax saturates is masked by it.
    return Finding(LOGITS, "fail", away, ROUNDING, f"{said} and each row sums to 1")


def determinism(subject: AuditState) -> Finding:
    """Test 2, once as the model was given and once in eval mode. Reference: AutoAttack, checks.py, check_randomized."""
    worst, differ, said = 0.0, False, []
    with frozen(subject.model):
        found = {"in eval mode": passes(subject.model, subject.all, subject.batch_size)}
    if subject.as_given is not None:
        found["as the model was given, in training mode"] = subject.as_given
    for where, logits in found.items():
        change = _change(logits)
        right = [int((z.argmax(1) == subject.all.y).sum()) for z in logits]
        few, many = min(right), max(right)
        worst, differ = max(worst, change), differ or few < many
        said.append(
            f"{where} {PASSES} passes over {len(subject.all)} examples differ by {change:.2g}, {few} to {many} right"
        )
    if differ:
        return Finding(DETERMINISM, "fail", worst, CHANGE, "; ".join(said))
    return DETERMINISM.judged(worst, "; ".join(said), fail=CHANGE)


def passes(model: nn.Module, examples: Examples, batch_size: int) -> list[Tensor]:
    """The logits of all examples, several times; the last time the examples come in reverse order."""
    with given_back(model):
        found = [clean_logits(model, examples, batch_size) for _ in range(PASSES - 1)]
        backwards = examples.take(torch.arange(len(examples)).flip(0))
        return [*found, clean_logits(model, backwards, batch_size).flip(0)]


def _change(logits: list[Tensor]) -> float:
    # Of double precision, so that the length of large logits is a number; unit length, so that their scale is none.
    units = [z.double() / z.double().norm(dim=1, keepdim=True) for z in logits]
    # Logits that are all 0 have no direction and no change.
    return max(float((a - b).nan_to_num().norm(dim=1).max()) for a, b in combinations(units, 2))


def no_optimization(subject: AuditState) -> Finding:
    """Test 3, on one batch with the graph recorded and without. Reference: AutoAttack, checks.py, check_dynamic;
    RobustBench, third restriction."""
    x = subject.all.pixels(slice(subject.batch_size)).to(subject.like)
    with watch_derivatives() as asked, torch.enable_grad():
        subject.model(x)
    with watch_derivatives() as also, torch.no_grad():
        subject.model(x)
    calls = [*asked, *also]
    named = ", ".join(sorted(set(calls)))
    said = f"{len(calls)} derivatives were asked for in 2 forward passes of {len(x)} examples" + (
        f" ({named})" * bool(calls)
    )
    return OPTIMIZATION.judged(len(calls), said, fail=0)
