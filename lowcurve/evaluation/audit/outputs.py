"""Tests 1 to 3 of the network's output and its forward pass. Cost: a few forward passes."""

from itertools import combinations

import torch
from torch import Tensor, nn

from lowcurve.analysis.derivative_watch import watch_derivatives
from lowcurve.analysis.norms import L2
from lowcurve.data.examples import Examples
from lowcurve.evaluation.audit.restore import clean_logits, restored
from lowcurve.evaluation.audit.state import AuditState
from lowcurve.evaluation.audit.verdict import Check, Finding
from lowcurve.evaluation.measuring import are_probabilities
from lowcurve.network_calls import call

ROUNDING = 1e-5
"""Test 1. AutoAttack, check_range_output."""
PASSES = 5
CHANGE = 1e-4
"""Test 2: of logits scaled to length 1. AutoAttack, check_randomized."""

LOGITS = Check(
    1,
    "logits, not probabilities",
    f"every row of the output lies in [0, 1] and sums to 1, all within {ROUNDING:g}",
    "The network ends in a softmax. Where it is confident, its output is rounded to 0 and 1 and gradients vanish; a loss"
    " that expects logits applies the softmax twice.",
    "Return the layer before the softmax; the classification is the same.",
)
DETERMINISM = Check(
    2,
    "determinism",
    f"of {PASSES} passes over the same images, one in reverse order, two differ in accuracy or by more than {CHANGE:g} in a"
    " row of logits scaled to length 1",
    "The output is random or depends on the rest of the batch: a random defense, or a model in training mode. An attack"
    " follows one draw and is judged by another, so images may be robust by luck.",
    "Write model.eval(). If the randomness is meant, attack the mean over at least 20 draws (expectation over transformation).",
)
OPTIMIZATION = Check(
    3,
    "no optimization inside forward",
    "the forward pass computes a derivative",
    "The network changes its input by gradient descent before it classifies it. Gradients through that loop are wrong or"
    " missing, and attacks that were not made for it overestimate the robustness.",
    "Attack the whole loop with an adaptive attack: unroll it, or replace it by the identity in the backward pass.",
)


def logits_not_probabilities(state: AuditState) -> Finding:
    """Run test 1. Reference: AutoAttack, checks.py, check_range_output."""
    z = state.all_logits.double()
    away = float(torch.stack([-z.min(), z.max() - 1, (z.sum(1) - 1).abs().max()]).max())
    evidence = f"the outputs for {len(z)} images lie between {float(z.min()):.3g} and {float(z.max()):.3g}"
    if not are_probabilities(state.all_logits):
        return Finding(LOGITS, "passed", away, ROUNDING, f"{evidence} and are no probabilities")
    # A fail, not a flag: a saturated softmax masks gradients, and no other test finds it.
    return Finding(LOGITS, "fail", away, ROUNDING, f"{evidence} and each row sums to 1")


def determinism(state: AuditState) -> Finding:
    """Run test 2 in eval mode and, if that is another one, in the model's own mode.

    Reference: AutoAttack, checks.py, check_randomized.
    """
    worst, differ, evidence = 0.0, False, []
    found = {"in eval mode": state.passes}
    if state.logits_as_given is not None:
        found["as the model was given, in training mode"] = state.logits_as_given
    for where, logits in found.items():
        change, few, many = _spread(logits, state.examples)
        worst, differ = max(worst, change), differ or few < many
        evidence.append(
            f"{where} {PASSES} passes over {len(state.examples)} images differ by {change:.2g}, {few} to {many} are correct"
        )
    if differ:
        return Finding(DETERMINISM, "fail", worst, CHANGE, "; ".join(evidence))
    return DETERMINISM.judge(worst, "; ".join(evidence), fail=CHANGE)


def passes(model: nn.Module, examples: Examples, batch_size: int) -> list[Tensor]:
    """Return the logits of all examples from several passes, the last one in reverse order and in smaller batches."""
    with restored(model):
        found = [clean_logits(model, examples, batch_size) for _ in range(PASSES - 1)]
        backwards = examples.take(torch.arange(len(examples)).flip(0))
        smaller = max(1, min(batch_size, len(examples)) // 2)
        return [*found, clean_logits(model, backwards, smaller).flip(0)]


def is_random(logits: list[Tensor], examples: Examples) -> bool:
    """Return whether equal passes differ; the last one, with other batches, tells nothing of that.

    Args:
        logits: What `passes` returns in eval mode.
        examples: All images.
    """
    change, few, many = _spread(logits[:-1], examples)
    return change > CHANGE or few < many


def _spread(logits: list[Tensor], examples: Examples) -> tuple[float, int, int]:
    """Return the largest difference of two passes in a row of logits, and the fewest and most correct images.

    Rows are scaled to length 1, so that their scale drops out.
    """
    units = [L2.unit(z.double()) for z in logits]
    right = [int((z.argmax(1) == examples.y).sum()) for z in logits]
    return max(float((a - b).norm(dim=1).max()) for a, b in combinations(units, 2)), min(right), max(right)


def no_optimization(state: AuditState) -> Finding:
    """Run test 3 on one batch, with gradients enabled and without.

    Reference: AutoAttack, checks.py, check_dynamic; RobustBench, third restriction.
    """
    x = state.examples.pixels(slice(state.batch_size)).to(state.like)
    with watch_derivatives() as enabled, torch.enable_grad():
        call(state.model, x)
    with watch_derivatives() as disabled, torch.no_grad():
        call(state.model, x)
    calls = [*enabled, *disabled]
    named = ", ".join(sorted(set(calls)))
    evidence = f"2 forward passes over {len(x)} images compute {len(calls)} derivatives" + f" ({named})" * bool(calls)
    return OPTIMIZATION.judge(len(calls), evidence, fail=0)
