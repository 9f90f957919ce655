"""Tests 22 to 25 of the audit: what is planted is found by an attack that works, and missed by one that does not."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lowcurve import evaluation
from lowcurve.analysis.norms import L1, L2, LINF, Ball
from lowcurve.attacks import PGD, Effort, Square, Suite, strong
from lowcurve.data import Examples
from lowcurve.evaluation.audit import Audit, Budget, Check, audit
from lowcurve.evaluation.audit.convergence import convergence, relative_fosc
from lowcurve.evaluation.audit.planted import planted_boundaries
from lowcurve.evaluation.audit.run import NOTHING_CLAIMED, OF_CLAIMS, SEARCHES, _harmless
from lowcurve.evaluation.audit.state import AuditState
from lowcurve.evaluation.audit.verdict import Finding
from lowcurve.randomness import stream

TINY = Budget(
    steps=10, restarts=1, images=20, landscape_images=5, neighbors=2, apgd_steps=5, queries=10, noise_draws=10, noise_images=2,
    spsa_steps=2, spsa_draws=2, spsa_images=3, planted_images=6, long_steps=3,
)  # fmt: skip
X = torch.rand(40, 1, 4, 4, generator=stream(0, "images"))


class Linear(nn.Module):
    """Five classes by inner products with fixed directions."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 16, generator=stream(1, "weights")))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x.flatten(1) - 0.5) @ self.weight.T


class Rounded(Linear):
    """The same behind a coarse quantization, which has no gradient."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward((3 * x).round() / 3)


class Rugged(nn.Module):
    """Always right, with a margin whose gradient is large and points nowhere."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wave = 5 + 4.9 * torch.sin(3000 * x.flatten(1).sum(1))
        return torch.stack((wave, -wave), 1)


def audited(model: nn.Module, radius: float, **budget: object) -> Audit:
    with torch.no_grad():
        y = model(X).argmax(1)
    few = Examples(X, y, tuple("abcde"[: model(X[:1]).shape[1]]))
    return audit(model, few, "linf", radius, budget=Budget(**{**TINY.__dict__, **budget}), progress=False)


def finding(found: Audit, number: int) -> Finding:
    return next(one for one in found.findings if one.number == number)


@pytest.fixture(scope="module")
def honest() -> Audit:
    return audited(Linear(), 0.05)


def test_an_attack_that_works_finds_what_is_planted(honest):
    for number in (22, 24):
        assert finding(honest, number).outcome == "passed"
        assert finding(honest, number).counted == (0, 6)
    assert honest.reliable


def test_a_gradient_of_0_misses_the_planted_image():
    found = audited(Rounded(), 0.3, everything=True)
    assert finding(found, 22).outcome == "fail"
    missed, planted = finding(found, 22).counted
    assert 4 <= missed <= planted  # a random start may lie at the planted point


def test_a_rugged_loss_hides_a_planted_boundary():
    said = finding(audited(Rugged(), 0.1, everything=True), 24)
    assert said.outcome == "fail"
    assert "crosses a boundary at 0.9 of the radius for" in said.evidence


def test_a_boundary_is_planted_where_the_box_has_room():
    """In l_1 a radius is larger than a pixel's range, so one pixel cannot go there."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    with torch.no_grad():
        model[1].weight.mul_(0.1)
        model[1].bias.copy_(torch.tensor([5.0, -5.0]))
        logits = model(X)
    few = Examples(X, logits.argmax(1), ("a", "b"))
    state = AuditState(model, few, np.ones(len(X), dtype=bool), Ball(L1, 2.0), TINY, 0, 64, logits)
    assert planted_boundaries(state).outcome == "passed"


def test_a_constant_output_has_no_image_to_plant():
    class Constant(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tensor([1.0, 0.0]).expand(len(x), 2) + 0 * x.flatten(1).sum(1, keepdim=True)

    said = finding(audited(Constant(), 0.1, everything=True), 22)
    assert said.outcome == "not run"
    assert "6 more have none that is distinct" in said.evidence


# --- convergence


def test_an_attack_that_has_not_converged_is_noticed(monkeypatch):
    model, ball = Linear(), Ball(LINF, 0.08)
    short = PGD(ball, steps=1, step_size=1e-4, start="center")
    monkeypatch.setattr(AuditState, "fooled_by_pgd", lambda self: np.zeros(len(self), dtype=bool))
    monkeypatch.setattr(AuditState, "gradient_suite", lambda _: Suite((("PGD", short),)))
    with torch.no_grad():
        z = model(X)
    few = Examples(X, z.argmax(1), tuple("abcde"))
    said = convergence(AuditState(model, few, np.ones(40, dtype=bool), ball, TINY, 0, 64, z))
    assert said.outcome == "fail"
    assert "more steps fool images that they left" in said.means


# --- stationarity


@given(st.integers(0, 10**6), st.sampled_from([LINF, L2]), st.floats(0.01, 0.2))
def test_the_linear_maximum_is_stationary_the_middle_is_half_way_and_the_minimum_is_far(seed, norm, radius):
    x = 0.3 + 0.4 * torch.rand(3, 8, generator=stream(seed, "x"), dtype=torch.float64)
    slope = torch.randn(3, 8, generator=stream(seed, "slope"), dtype=torch.float64)
    ball, step = Ball(norm, radius), radius * norm.steepest(slope)
    for point, expected in ((x + step, 0.0), (x, 0.5), (x - step, 1.0)):
        there = relative_fosc(slope, point, x, ball)
        torch.testing.assert_close(there, torch.full_like(there, expected), atol=1e-9, rtol=0)


def test_a_face_of_the_box_is_no_distance_to_go():
    x, slope = torch.zeros(1, 3), torch.tensor([[-1.0, -2.0, 0.0]])
    assert relative_fosc(slope, x, x, Ball(LINF, 0.1)).item() == 0
    assert relative_fosc(slope, x, x, Ball(L2, 0.1)).isnan().all()
    assert relative_fosc(0 * slope, x, x, Ball(LINF, 0.1)).isnan().all()


def test_a_linear_loss_has_converged_and_a_rugged_one_has_not(honest):
    assert finding(honest, 23).measured == 0
    assert finding(audited(Rugged(), 0.1, everything=True), 23).outcome == "flag"


# --- the suite that is judged


def test_a_suite_that_is_too_weak_fails_its_own_test():
    with torch.no_grad():
        y = Linear()(X).argmax(1)
    few, ball = Examples(X, y, tuple("abcde")), Ball(LINF, 0.08)
    weak = evaluation.attack(Linear(), few, PGD(ball, steps=1, step_size=0.001), progress=False)
    found = audit(Linear(), few, ball, budget=TINY, attacked=weak, progress=False)
    said = finding(found, 25)
    assert said.outcome == "fail"
    assert int(weak.robust.sum()) - int(found.robust["worst case"].sum()) == said.counted[0] >= 3
    assert "the judged attacks" in found.verdict
    enough = evaluation.attack(Linear(), few, strong(ball, effort=Effort(50, 4, 50, 0, near=None)), progress=False)
    assert finding(audit(Linear(), few, ball, budget=TINY, attacked=enough, progress=False), 25).outcome == "passed"


def test_the_worst_case_is_never_better_than_what_is_judged():
    """Here only the suite's search without gradients fools many images, since the network gives none."""

    class WithoutGraph(Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x).detach()

    with torch.no_grad():
        y = Linear()(X).argmax(1)
    few, ball = Examples(X, y, tuple("abcde")), Ball(LINF, 0.08)
    judged = evaluation.attack(WithoutGraph(), few, Square(ball, queries=100), progress=False)
    found = audit(WithoutGraph(), few, ball, budget=TINY, attacked=judged, progress=False)
    assert 5 < judged.robust.sum() < 35
    assert (found.robust["worst case"] <= judged.robust).all()


# --- what the verdict does not need


def test_searches_stop_once_a_test_has_failed_and_a_thorough_audit_goes_on():
    usual, thorough = (audited(Rounded(), 0.3, everything=everything) for everything in (False, True))
    decided = [one for one in usual.findings if one.number in SEARCHES]
    assert {one.outcome for one in decided} == {"not run"}
    assert all("test 5 has failed, which decides the verdict" in one.evidence for one in decided)
    assert usual.level == thorough.level == "unreliable"
    assert {one.number for one in thorough.findings if one.outcome == "not run"} <= {19, 20, 23, 25}


def test_where_nothing_is_robust_no_test_is_needed_and_none_fails():
    usual, thorough = (audited(Linear(), 0.6, everything=everything) for everything in (False, True))
    assert all(finding(usual, number).outcome == "not run" for number in OF_CLAIMS)
    assert "the robust accuracy that is judged is 0" in finding(usual, 17).evidence
    assert finding(thorough, 17).outcome != "not run"
    assert not usual.failed
    assert not thorough.failed


def test_a_failure_is_a_warning_where_no_robustness_is_claimed():
    failed = Finding(Check(18, "a test", "it is raised", "masking", "look"), "fail", 1.0, 0.1, "figures")
    assert _harmless(failed).outcome == "flag"
    assert _harmless(failed).means == NOTHING_CLAIMED + "masking"
    assert _harmless(Finding(Check(20, "a", "b", "c", "d"), "fail", 1.0, 0.1, "figures")).outcome == "fail"


def test_a_smoothed_network_that_is_undefined_outside_the_box_transfers_nothing():
    class Root(Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + 0 * (x.flatten(1) + 1e-6).sqrt().sum(1, keepdim=True)

    said = finding(audited(Root(), 0.05), 14)
    assert said.outcome == "not run"
    assert "the network smoothed over half the radius cannot be attacked: Expected finite logits" in said.evidence
