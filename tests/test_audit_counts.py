"""Findings that count images: few of them never fail a test, and no sentence contradicts its figures."""

import re
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lowcurve import evaluation
from lowcurve.analysis.norms import LINF, Ball
from lowcurve.attacks import Effort, Suite, strong
from lowcurve.data import Examples
from lowcurve.evaluation.attack_result import AttackResult
from lowcurve.evaluation.audit import Audit, Budget, Check, audit, convergence, screening
from lowcurve.evaluation.audit import attacks as attack_tests
from lowcurve.evaluation.audit import gradients as gradient_tests
from lowcurve.evaluation.audit.state import AuditState
from lowcurve.evaluation.audit.verdict import Finding, chance_of
from lowcurve.randomness import stream

CHECK = Check(7, "a test", "it is raised", "masking", "look")
SHARES = st.sampled_from([0.01, 0.05, 0.1])
TINY = Budget(
    steps=3, restarts=1, images=20, landscape_images=5, neighbors=2, apgd_steps=3, queries=10, noise_draws=10, noise_images=2,
    spsa_steps=2, spsa_draws=2, spsa_images=3, long_steps=3,
)  # fmt: skip


@given(st.integers(1, 400).flatmap(lambda of: st.tuples(st.integers(0, of), st.just(of))), SHARES)
def test_a_count_fails_only_where_chance_does_not_explain_it(counted, allowed):
    count, of = counted
    found = CHECK.judge_count(count, of, "figures", allowed=allowed)
    assert found.measured == count / of
    if found.outcome == "fail":
        assert count >= 3
        assert count / of > allowed
        assert chance_of(count, of, allowed) < 0.01
        assert found.means == "masking"
    if found.outcome == "flag":
        assert count / of > allowed
        assert f"{count} of {of} images are too few" in found.means
    if count:
        assert f"{count} of {of}" in found.evidence
        assert f"allowed are {allowed:.1%}" in found.evidence
    else:
        assert found.outcome == "passed"


@pytest.mark.parametrize(("count", "of"), [(1, 75), (2, 117), (1, 10), (1, 35), (3, 117)])
def test_few_images_of_an_honest_network_are_no_failure(count, of):
    assert CHECK.judge_count(count, of, "figures", allowed=0.01).outcome != "fail"


@pytest.mark.parametrize(("count", "of"), [(9, 175), (6, 40), (30, 100), (3, 10)])
def test_many_are_one(count, of):
    assert CHECK.judge_count(count, of, "figures", allowed=0.01).outcome == "fail"


def test_no_image_at_all_is_not_passed():
    assert CHECK.judge_count(0, 0, "none", allowed=0.01).outcome == "not run"


@given(st.integers(1, 2000), st.floats(0.001, 0.5))
def test_the_chance_of_a_count_falls_with_it(of, share):
    chances = [chance_of(count, of, share) for count in range(min(of, 20) + 1)]
    assert chances[0] == 1
    assert all(0 <= later <= earlier + 1e-12 for earlier, later in pairwise(chances))


class Made:
    """A state with given findings of the attacks."""

    ball, budget = Ball(LINF, 0.1), TINY

    def __init__(self, once: np.ndarray, twice: np.ndarray, one: np.ndarray) -> None:
        self.columns = {"PGD, twice the steps": twice, "PGD, more starts": twice & ~once}
        self.once, self.one, self.lost = once, one, one & ~once
        self.correct = np.ones(len(once), dtype=bool)
        self.queried, self.best_value = np.arange(len(once)), np.zeros(len(once))
        self.logits = torch.zeros(len(once), 10)

    def __len__(self) -> int:
        return len(self.once)

    def fooled_by_pgd(self) -> np.ndarray:
        return self.once

    def fooled_by_one_step(self) -> np.ndarray:
        return self.one

    def fooled_by_many_steps(self) -> np.ndarray:
        return self.once

    def fooled_by(self, name: str, *_: object, **__: object) -> np.ndarray:
        return self.columns[name.removesuffix(", others")]

    def still_robust(self) -> np.ndarray:
        return np.flatnonzero(~self.once)

    def pgd(self, **_: object) -> None:
        return None

    def largest_radius(self) -> float:
        return 1.0

    def fooled_at(self, radius: float) -> np.ndarray:
        return self.once if radius <= 0.1 else self.columns["PGD, twice the steps"]


COLUMNS = st.integers(1, 60).flatmap(
    lambda n: st.tuples(*(st.lists(st.booleans(), min_size=n, max_size=n).map(np.array) for _ in range(3)))
)


def numbers(text: str) -> list[int]:
    """The whole numbers of a text."""
    return [int(number) for number in re.findall(r"(?<![\d.])\d+(?![\d.%])", text)]


@settings(max_examples=60)
@given(COLUMNS)
def test_the_sentences_fit_their_figures(columns):
    once, twice, one = columns
    state = Made(once, twice, one)
    by_steps = attack_tests.one_step(state)
    assert numbers(by_steps.evidence)[:2] == [int(one.sum()), len(once)]
    assert by_steps.measured == (one & ~once).sum() / len(once)
    gained = max(0, int(twice.sum()) - int(once.sum()))
    found = {
        "steps": (attack_tests.ONE_STEP, by_steps, int((one & ~once).sum())),
        "silent": (attack_tests.SILENT, attack_tests.silent_success(state), int((one & ~once).sum())),
        "monotone": (attack_tests.MONOTONE, attack_tests.monotone(state), int((once & ~twice).sum())),
        "unbounded": (attack_tests.UNBOUNDED, attack_tests.unbounded(state), int((~twice).sum())),
    }
    for check, finding, count in found.values():
        assert finding.check is check
        assert (count == 0) <= (finding.outcome == "passed")
        assert (finding.outcome == "fail") <= (count >= 3)
    # A meaning is told only where the figures have raised the test.
    converged = convergence.CONVERGENCE.judge_count(gained, len(once), "figures", allowed=0.01)
    assert bool(converged.means) == bool(converged.hint) == (converged.outcome != "passed") == (gained > 0)
    if len(state.still_robust()):
        again = attack_tests.restarts(state)
        assert (again.outcome == "fail") <= (int((twice & ~once).sum()) >= 3)


# --- levels


def level(*outcomes: str, too_weak: str = "") -> Audit:
    findings = tuple(Finding(CHECK, outcome, 0.5, 0.1, "figures") for outcome in outcomes)
    return Audit(findings, 10, {}, np.array([], dtype=int), {}, too_weak)


def test_the_levels_of_a_verdict():
    assert level("passed", "not run").level == "reliable as far as tested"
    assert level("passed", "not run").verdict == "no masking found by these tests"
    assert level("passed", "flag").level == "warnings"
    assert level("passed", "flag").verdict == "no masking found by these tests; warnings: a test"
    assert level("flag", "fail", too_weak="x").level == "too weak to judge"
    assert level("fail").verdict == "upper bound, evaluation unreliable: a test (figures)"
    assert level("fail").summary == "upper bound, evaluation unreliable: a test"
    assert level("flag", too_weak="5 of 50 are right").verdict == "too weak to judge: 5 of 50 are right"
    assert level("fail").to_dict()["level"] == "unreliable"


# --- whole audits of linear networks


def linear(scale: float = 1.0) -> tuple[nn.Module, Examples]:
    """A network that is right on all of its 60 images."""
    x = torch.rand(60, 1, 4, 4, generator=stream(0, "images"))
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 4))
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(4, 16, generator=stream(1, "weights"))).mul_(scale)
        model[1].bias.zero_()
        model[1].bias.sub_(model(x).mean(0))
        y = model(x).argmax(1)
    return model.eval(), Examples(x, y, tuple("abcd"))


def finding(found: Audit, number: int) -> Finding:
    return next(one for one in found.findings if one.number == number)


@pytest.mark.parametrize(("square", "outcome"), [(0, "passed"), (1, "flag"), (6, "fail")])
def test_what_the_suite_itself_found_without_gradients_counts(square, outcome):
    model, few = linear()
    by = np.array(
        ["APGD-CE"] * 10 + ["Square"] * square + ["relay"] * (square // 2) + [""] * (90 - square - square // 2)
    )
    attacked = AttackResult(by == "", np.zeros(100), torch.zeros(100, 1), by, np.ones(100, dtype=int))
    said = finding(audit(model, few, "linf", 0.01, budget=TINY, attacked=attacked), 13)
    assert said.outcome == outcome
    assert ("the suite attacked" in said.evidence) == (square > 0)


def test_where_nothing_is_robust_no_robustness_is_doubted():
    model, few = linear()
    found = audit(model, few, "linf", 0.5, budget=TINY)
    assert found.robust["worst case"].sum() == 0
    assert all(finding(found, number).outcome == "not run" for number in (7, 8, 9, 13, 14, 15, 16))
    assert all("no robustness can be false" in finding(found, number).evidence for number in (7, 8, 9, 13, 14, 15, 16))
    assert found.reliable


def test_a_network_that_guesses_is_not_judged():
    model, few = linear()
    guessed = Examples(few.x, torch.arange(60) % 4, few.classes)
    found = audit(model, guessed, "linf", 0.01, budget=TINY)
    assert found.level == "too weak to judge"
    assert re.search(
        r"too weak to judge: \d+ of 60 images are classified correctly, and guessing among 4", found.verdict
    )
    assert finding(found, 7).outcome == "not run"


def test_cross_entropy_that_underflows_is_a_warning_of_the_gradient():
    model, few = linear(1e4)
    said = finding(audit(model, few, "linf", 0.01, budget=TINY), 5)
    assert said.outcome == "flag"
    assert "not affected" in " ".join(said.means.split())


def test_a_gradient_of_0_inside_a_certified_ball_hides_nothing():
    class Steps(nn.Module):
        """Constant to the left and right of the middle."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            side = (x.flatten(1).mean(1) - 0.5).sign() + 0 * x.flatten(1).sum(1)
            return torch.stack((side, -side), 1)

    x = torch.cat([torch.full((10, 4), 0.2), torch.full((10, 4), 0.8)])
    few = Examples(x, (x[:, 0] < 0.5).long(), ("a", "b"))
    without = audit(Steps(), few, "linf", 0.1, budget=TINY)
    certified = audit(Steps(), few, "linf", 0.1, budget=TINY, certified=np.full(20, 0.29))
    assert finding(without, 5).outcome == "fail"
    assert finding(certified, 5).outcome == "not run"
    half = np.where(np.arange(20) < 12, 0.29, 0.0)
    said = finding(audit(Steps(), few, "linf", 0.1, budget=TINY, certified=half), 5)
    assert said.outcome == "fail"
    assert "of 8 images that are not certified at the radius, of 20" in said.evidence


@pytest.mark.parametrize("near", [None, 0.15])
def test_what_the_suite_has_tried_is_not_tried_again(monkeypatch, near):
    """Only on the same images, and only with at least as much effort, also if the suite chose them by their margins."""
    model, few = linear()
    ball = Ball(LINF, 0.05)
    attacked = evaluation.attack(
        model, few, strong(ball, effort=Effort(TINY.apgd_steps, 4, 20, 0, near=near)), progress=False
    )
    assert 5 < attacked.robust.sum() < 55
    attack, tried = AuditState.attack, set()

    def noted(self, method, rows, network=None):
        members = method.members if isinstance(method, Suite) else [("", method)]
        tried.update(type(member).__name__ for _, member in members if len(rows))
        return attack(self, method, rows, network)

    monkeypatch.setattr(AuditState, "attack", noted)

    def audited(images=few, **more):
        tried.clear()
        return audit(model, images, ball, **{"budget": TINY, "attacked": attacked} | more)

    alone = audited(attacked=None)
    assert {"APGD", "Square"} <= tried
    found = audited()
    assert not {"APGD", "Square"} & tried
    left_out = [25, *(one.number for one in found.findings if "images are not searched" in one.evidence)]
    shared = [[one.outcome for one in each.findings if one.number not in left_out] for each in (found, alone)]
    assert shared[0] == shared[1]
    assert finding(found, 25).outcome == "passed"
    queries = "20" if near is None else "2 to 20"
    assert f"Square ({queries} queries) fools 0 of 20" in finding(found, 13).evidence
    # Images beyond the budget's 20 count as fooled, too, where the suite fooled them.
    assert found.robust["worst case"].tolist() == attacked.robust.tolist()
    audited(few.take(torch.arange(59, -1, -1)))
    assert {"APGD", "Square"} <= tried
    audited(budget=replace(TINY, apgd_steps=4, queries=21))
    assert {"APGD", "Square"} <= tried
    assert audited(few.take(slice(30))).examples == 30
    assert not {"APGD", "Square"} & tried


@pytest.mark.parametrize("share", [0.9, 1.1])
def test_searches_leave_out_images_where_the_suite_searched_far_behind_its_gradients(share):
    model, few = linear()
    ball, effort = Ball(LINF, 0.05), Effort(TINY.apgd_steps, 4, 20, 0)
    attacked = evaluation.attack(model, few, strong(ball, effort=effort), progress=False)
    square = 1 + [name for name, _ in attacked.members].index("Square")
    margins = attacked.margins.copy()
    margins[:, square] = margins[:, 0] - share * (margins[:, 0] - np.nanmin(margins[:, 1:square], axis=1))
    told = replace(attacked, margins=margins)
    usual, thorough = (
        audit(model, few, ball, budget=replace(TINY, everything=everything), attacked=told)
        for everything in (False, True)
    )
    for number in (15, 16):
        assert ("robust images are not searched: the suite's first" in finding(usual, number).evidence) == (share < 1)
        assert finding(thorough, number).evidence.startswith(("of the ", "on "))
        assert "not searched" not in finding(thorough, number).evidence
    assert finding(usual, 15).outcome == ("not run" if share < 1 else finding(thorough, 15).outcome)


@pytest.mark.parametrize("falls", [None, 3, 55])
@pytest.mark.parametrize("everything", [False, True])
def test_longer_attacks_try_the_nearest_images_first(falls, everything):
    """The others follow once one of the first 20 falls, here image 55."""
    state = Made(*[np.zeros(60, dtype=bool)] * 3)
    state.budget, state.best_value, calls = replace(TINY, everything=everything), np.arange(60.0), []
    state.still_robust = lambda: np.arange(5, 60)

    def search(ending: str, rows: np.ndarray) -> np.ndarray:
        calls.append((ending, rows.tolist()))
        return np.isin(np.arange(60), rows) & (np.arange(60) == falls)

    fooled, tried = screening.nearest_first(state, search)
    nearest, others = list(range(40, 60)), list(range(5, 40))
    if everything:
        assert calls == [("", others + nearest)]
    else:
        assert calls == [("", nearest), (", others", others)][: 1 + (falls == 55)]
    assert np.flatnonzero(fooled).tolist() == [55] * (falls == 55)
    assert tried.tolist() == (others if everything or falls == 55 else []) + nearest
    said = "; of these the 20 of highest loss under PGD are tried" * (len(tried) == 20)
    assert screening.told(state, tried) == "gradient attacks leave 55 of 60 images robust" + said


# --- meanings


@settings(max_examples=60)
@given(COLUMNS, st.floats(0.1, 10))
def test_the_meaning_of_the_logits_scale_follows_its_figures(columns, scale):
    entropy, margin, divided = columns
    state = Made(entropy, margin, divided)
    names = ("PGD, cross-entropy", "PGD, margin", "PGD, cross-entropy of divided logits")
    state.columns = dict(zip(names, columns, strict=True))
    state.model, state.margins = nn.Identity(), np.full(len(entropy), scale)
    state.pgd, state.accuracy_points = (lambda *_: None), (lambda rows: rows.sum() / len(rows))
    found = attack_tests.logit_scale(state)
    hides, behind = "scale of the logits hides" in found.means, "dividing the logits does not mend it" in found.means
    assert (hides or behind) == found.raised
    if hides:
        assert divided.sum() > entropy.sum()
        assert scale > 1
    if behind:
        assert margin.sum() > entropy.sum()
        assert not (scale > 1 and found.measured > 0 and divided.sum() <= entropy.sum())


@pytest.mark.parametrize(
    ("cosine", "one", "many", "outcome", "words"),
    [
        (0.9, 0, 20, "passed", ""),
        (0.4, 0, 20, "flag", "attacks of one step are weak"),
        (0.1, 18, 20, "flag", "one step fools nearly as many images as PGD"),
        (0.1, 2, 20, "fail", "one step leaves many images robust that PGD fools"),
    ],
)
def test_the_meaning_of_the_alignment_follows_its_figures(monkeypatch, cosine, one, many, outcome, words):
    state = Made(*(np.arange(40) < count for count in (many, many, one)))
    state.x, state.ball = torch.rand(40, 2), SimpleNamespace(sample=lambda x, _: x)
    state.y = torch.zeros(40, dtype=torch.long)
    state.streams = lambda *_, **__: None
    monkeypatch.setattr(gradient_tests, "_gradients", lambda _state, _loss, x, _y: x)
    monkeypatch.setattr(gradient_tests, "dot", lambda *_: torch.full((40,), cosine))
    found = gradient_tests.gradient_alignment(state)
    assert (found.outcome, words in found.means, bool(found.means)) == (outcome, True, outcome != "passed")


@pytest.mark.parametrize(
    ("lost", "words"), [(0, ""), (1, "of a few images"), (3, "of some images"), (40, "no gradient attack can run")]
)
def test_the_meaning_of_missing_gradients_follows_their_number(monkeypatch, lost, words):
    state = Made(*(np.ones(40, dtype=bool) for _ in range(3)))
    state.x, state.random = torch.rand(40, 2), True  # of a random network no gradient is compared with differences
    broken = torch.where(torch.arange(40)[:, None] < lost, torch.nan, torch.ones(40, 2))
    monkeypatch.setattr(gradient_tests, "_gradients", lambda *_: broken)
    found = gradient_tests.graph_intact(state)
    assert state.differentiable == (lost < 3)
    assert found.outcome == ("passed" if not lost else "flag" if lost < 3 else "fail")
    assert (found.raised, words in found.means, bool(found.means)) == (lost > 0, True, lost > 0)
