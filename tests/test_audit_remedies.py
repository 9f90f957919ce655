"""Attacks that the audit makes for what its tests found: a mask taken away leaves the network behind it."""

import faulty_networks as faulty
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lowcurve.analysis.norms import LINF, Ball
from lowcurve.attacks import PGD, Square, Suite
from lowcurve.data import Examples, digits
from lowcurve.evaluation import AttackResult, attack
from lowcurve.evaluation.audit import Audit, Budget, audit
from lowcurve.evaluation.audit.known import first_rows
from lowcurve.evaluation.audit.remedies import _attacks, _by_queries, _twins
from lowcurve.evaluation.audit.restore import clean_logits
from lowcurve.evaluation.audit.state import AuditState
from lowcurve.evaluation.audit.students import distill
from lowcurve.evaluation.audit.twins import (
    Averaged,
    PassedThrough,
    Smooth,
    StraightThrough,
    classifier_inside,
    layers_that_mislead,
    misleads,
)
from lowcurve.losses import margin_loss
from lowcurve.randomness import stream, temporary_seed

BALL = Ball(LINF, 0.1)
BUDGET = Budget(
    steps=10, restarts=2, landscape_images=5, neighbors=5, apgd_steps=10, queries=50, noise_draws=50, noise_images=3,
    spsa_steps=3, spsa_draws=4, spsa_images=4, long_steps=30,
)  # fmt: skip


@pytest.fixture(scope="module")
def few() -> Examples:
    return digits().test.take(slice(30))


@pytest.fixture(scope="module")
def standard() -> nn.Module:
    return faulty.standard()


@pytest.fixture(scope="module")
def honest(few, standard) -> Audit:
    return audit(standard, few, BALL, budget=BUDGET, progress=False)


def test_an_honest_network_needs_no_remedy(honest):
    assert honest.remedies == ()
    assert "attacks made for it" not in honest.verdict


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mask", "by"),
    [
        (faulty.Detached, "'inner'"),
        (faulty.ByNumpy, "'inner'"),
        (faulty.Rooted, "'inner'"),
        (faulty.Purified, "'inner'"),
        (faulty.Squashed, "'inner'"),
    ],
)
def test_a_mask_hides_nothing_from_the_remedies(few, standard, honest, mask, by):
    """All of these give the honest network's classes, so they have its robust accuracy."""
    found = audit(mask(standard).eval(), few, BALL, budget=BUDGET, progress=False)
    assert found.level == "unreliable"
    true, left = int(honest.robust["worst case"].sum()), int(found.robust["worst case"].sum())
    assert left <= true + 1
    first = found.remedies[0]
    assert by in first.attack
    assert (first.before - first.after) / len(few) > 0.1
    assert f"{first!s}" in found.verdict
    assert [a.after for a in found.remedies[:-1]] == [b.before for b in found.remedies[1:]]
    assert left <= found.remedies[-1].after
    assert found.to_dict()["remedies"][0]["before"] == first.before


class Flat(nn.Module):
    """A network in one forward method, which rounds its input and cuts a part of its gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(3, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.floor(16 * x) / 16 + 0 * x.detach()
        x.register_hook(torch.zeros_like)
        return x.half().float() @ self.weight.T


def test_a_smooth_twin_has_the_values_and_the_slope_behind_rounding_hooks_and_half_precision():
    model, x = Flat(), torch.tensor([[0.1, 0.5, 0.3, 0.9]], requires_grad=True)
    smooth = Smooth(model)
    logits = smooth(x)
    torch.testing.assert_close(logits, model(x), atol=1e-3, rtol=0)
    (slope,) = torch.autograd.grad(logits[0, 1], x)
    assert slope.tolist() == [[0.0, 1.0, 0.0, 0.0]]
    assert smooth.met == {"floor", "detach", "register_hook", "half precision"}
    assert torch.autograd.grad(model(x)[0, 1], x)[0].abs().max() == 0


def test_a_hook_on_a_layers_backward_pass_is_taken_away_inside_the_twin_only():
    model, x = nn.Sequential(nn.Linear(4, 3, bias=False)), torch.ones(1, 4, requires_grad=True)
    model[0].register_full_backward_hook(lambda _layer, before, _after: (0 * before[0],))
    (slope,) = torch.autograd.grad(Smooth(model)(x)[0, 0], x)
    assert torch.equal(slope[0], model[0].weight[0])
    assert torch.autograd.grad(model(x)[0, 0], x)[0].abs().max() == 0


def test_the_stages_before_the_classifier_inside_are_passed_straight_through(standard, few):
    model = faulty.Quantized(standard)
    x = few.pixels(slice(3)).requires_grad_()
    assert classifier_inside(model, x) == "inner"
    assert StraightThrough(model, "inner").stages(x) == "what stands"
    named = nn.Sequential(nn.Sequential(nn.Hardtanh(), nn.Identity(), standard))
    assert StraightThrough(named, "0.2").stages(x) == "Hardtanh, Identity"
    assert classifier_inside(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), x) is None
    twin = StraightThrough(model, "inner")
    torch.testing.assert_close(twin(x), model(x))
    (slope,) = torch.autograd.grad(twin(x).square().sum(), x)
    rounded = (4 * x).round().div(4).detach().requires_grad_()
    torch.testing.assert_close(slope, torch.autograd.grad(standard(rounded).square().sum(), rounded)[0])


def test_a_layer_of_the_users_own_type_can_be_passed_through():
    model = nn.Sequential(faulty.KWinners(), nn.ReLU())
    x = torch.arange(1.0, 21)[None].requires_grad_()
    assert layers_that_mislead(model, torch.randn(4, 100)) == ("0",)
    twin = PassedThrough(model, ("0",))
    assert torch.equal(twin(x), model(x))
    assert (torch.autograd.grad(twin(x)[:, -2:].sum(), x)[0] == torch.tensor([0.0] * 18 + [1.0] * 2)).all()


def test_every_intermediate_image_of_a_purification_is_passed_through(standard, few):
    model, x = faulty.Purified(standard), few.pixels(slice(2))
    points = StraightThrough(model, "inner").points(x)
    assert len(points) > 1
    twin = StraightThrough(model, "inner", every=True)
    with torch.no_grad():
        torch.testing.assert_close(twin(x), torch.stack([standard(point) for point in points]).mean(0))
    (slope,) = torch.autograd.grad(twin(x.requires_grad_()).square().sum(), x)
    assert slope.abs().max() > 0


class Levels(nn.Module):
    """A rounding with a weight of its own, which no list of kinds knows."""

    def __init__(self) -> None:
        super().__init__()
        self.step = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        return torch.bucketize(x.detach(), torch.linspace(0, 1, 5)) * self.step.detach() + 0 * x


def test_a_layer_is_found_by_its_gradient_of_0_whatever_it_is_called():
    model = nn.Sequential(nn.Linear(6, 6), nn.Sequential(Levels(), nn.Softplus()), nn.LayerNorm(6), nn.Softmax(1))
    assert layers_that_mislead(model, torch.rand(3, 6)) == ("1.0",)
    assert layers_that_mislead(nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2)), torch.rand(3, 6)) == ()


class WrongSign(torch.autograd.Function):
    """ReLU with the gradient of another function."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.relu()

    @staticmethod
    def backward(ctx, upper: Tensor) -> Tensor:
        return -upper * (ctx.saved_tensors[0] > 0)


STAGES = {
    "rounding": (lambda x: (4 * x).round() / 4, True),
    "steps on a slope": (lambda x: x + (2 * x).floor(), True),
    "detached": (lambda x: x.detach().sin(), True),
    "wrong gradient": (WrongSign.apply, True),
    "k winners": (faulty.KWinners(), True),
    "sinus": (lambda x: x + 0.3 * (60 * x).sin(), True),
    "NaN": (lambda x: (0 * x).sqrt() + x, True),
    "ReLU": (nn.ReLU(), False),
    "clipping": (lambda x: x.clamp(-1, 1), False),
    "normalization": (lambda x: (x - 0.3) / 0.2, False),
    "softmax": (nn.Softmax(1), False),
    "noise": (lambda x: x + torch.randn_like(x), False),
    "dropout": (nn.Dropout(), False),
}


@pytest.mark.parametrize("name", STAGES)
def test_only_a_stage_whose_gradient_misleads_is_passed_through(name):
    stage, hides = STAGES[name]
    before = torch.get_rng_state()
    assert misleads(stage, torch.randn(4, 100, generator=stream(0, "points"))) == hides
    assert torch.equal(torch.get_rng_state(), before)


def test_bpda_runs_only_where_a_stage_hides_something(standard, few):
    """The user's own layers and the stage before the classifier are honest here, so no time goes into passing them."""

    class Shifted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 1.02 * x

    def names(first: nn.Module) -> list[str]:
        model = nn.Sequential(first, standard).eval()
        logits = clean_logits(model, few, 64)
        right = (logits.argmax(1) == few.y).numpy()
        state = AuditState(model, few, right, BALL, BUDGET, 0, 64, logits)
        return [name for name, _ in _twins(state, {12})]

    assert names(Shifted()) == ["transfer from '1' alone", "transfer from a distilled student"]
    both = [name for name in names(Levels()) if name.startswith("BPDA")]
    assert both == ["BPDA through Levels before '1'", "BPDA through detach", "BPDA through Levels"]


def _state(model: nn.Module, few: Examples) -> AuditState:
    logits = clean_logits(model, few, 64)
    return AuditState(model, few, (logits.argmax(1) == few.y).numpy(), BALL, BUDGET, 0, 64, logits)


def test_twins_with_the_gradient_of_another_are_left_out(standard, few):
    """The layer, the operation in it and the stage before the classifier are one twin; logits x 300 hide nothing."""

    class Rounded(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (4 * x).round() / 4

    names = [name for name, _ in _attacks(_state(nn.Sequential(Rounded(), standard).eval(), few), {12})]
    assert names[:2] == ["transfer from '1' alone", "BPDA through Rounded before '1'"]
    assert names[2:] == ["transfer from a distilled student", "Square with 150 queries"]
    names = [name for name, _ in _attacks(_state(faulty.Scaled(standard, 300.0), few), {6})]
    assert names == ["transfer from a distilled student"]


def test_only_twins_whose_output_is_random_are_averaged(standard, few):
    model = nn.Sequential(faulty.Noisy(nn.Identity()), standard).eval()
    state = _state(model, few)
    state.random = True
    names = [name for name, _ in _attacks(state, {10, 12})]
    assert names[0] == "PGD on the mean of 16 draws (EOT)"
    assert names[1:3] == ["transfer from '1' alone", "transfer from a distilled student"]


def test_what_the_suites_square_has_tried_is_not_tried_again(standard, few, monkeypatch):
    square, state = Square(Ball(LINF, 0.15), queries=60), _state(standard, few)
    suite = Suite((("Square", Square(Ball(LINF, 0.15), queries=80)),))
    attacked = attack(standard, few, suite, progress=False)
    state.known = first_rows(attacked, few)
    monkeypatch.setattr(AuditState, "attack", None)
    rows = np.arange(len(state))
    fooled = (state.margins_at(_by_queries(state, square, rows), rows) < 0).numpy()
    assert 0 < fooled.sum() < len(rows)
    assert (fooled == ~attacked.robust[state.correct]).all()


def test_a_student_imitates_the_network_in_the_balls_and_has_a_gradient(standard, few):
    model = faulty.Quantized(standard)
    with torch.no_grad():
        right = model(few.pixels(slice(None))).argmax(1) == few.y
    state = AuditState(model, few, right.numpy(), BALL, BUDGET, 0, 64, clean_logits(model, few, 64))
    student = distill(state)
    assert (student(state.x).argmax(1) == state.y).double().mean() > 0.9
    point = PGD(BALL, steps=20, loss=margin_loss)(student, state.x, state.y, generator=stream(0, "attack"))
    with torch.no_grad():
        assert (student(point).argmax(1) == state.y).double().mean() < 0.3


def test_rescaled_logits_are_a_remedy_with_its_figures(standard, few):
    found = audit(faulty.Scaled(standard, 1e4), few, Ball(LINF, 0.05), budget=BUDGET, progress=False)
    assert 6 in {one.number for one in found.failed}
    first = found.remedies[0]
    assert first.attack == "PGD on cross-entropy of rescaled logits"
    assert first.before - first.after >= 3


def test_the_mean_of_draws_is_the_mean(standard, few):
    x = few.pixels(slice(4))
    with temporary_seed(0, "draws"):
        draws = torch.stack([faulty.Noisy(standard)(x) for _ in range(3)])
    with temporary_seed(0, "draws"):
        assert torch.equal(Averaged(faulty.Noisy(standard), torch.zeros(3, 1))(x), draws.mean(0))


class Unlucky(nn.Module):
    """A network that is wrong in a tenth of its passes on an image, which says nothing of its mean."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        z = self.inner(x)
        return torch.where(torch.rand(len(x), 1) < 0.1, z.roll(1, 1), z)


@pytest.fixture(scope="module")
def unlucky(few, standard) -> tuple[AttackResult, Audit]:
    model = Unlucky(standard).eval()
    suite = Suite(tuple((f"PGD {k}", PGD(BALL, steps=10, restarts=2)) for k in range(6)))
    with temporary_seed(0, "draws"):
        attacked = attack(model, few, suite, progress=False)
        return attacked, audit(model, few, BALL, attacked=attacked, budget=BUDGET, progress=False)


def test_an_unlucky_draw_of_a_random_network_does_not_count_against_it(unlucky, honest):
    """Its mean has the honest network's classes, so it has its robust accuracy; single draws leave less."""
    attacked, found = unlucky
    true, left = int(honest.robust["worst case"].sum()), int(found.robust["worst case"].sum())
    assert int(attacked.robust.sum()) <= true - 5
    assert abs(left - true) <= 2
    assert found.clean.sum() == honest.clean.sum()
    assert found.remedies[0].attack == "PGD on the mean of 16 draws (EOT)"
    assert (found.worst_case_with(attacked.robust) == found.robust["worst case"]).all()


def test_how_a_random_network_is_judged_is_said(unlucky, honest):
    _, found = unlucky
    assert "the output is random, so each image is judged by its mean logits over 32 draws" in found.verdict
    assert found.summary in repr(found)
    assert found.to_dict()["draws"] == 32
    assert found.conditions["judged by"] == "mean logits over 32 draws, as the output is random"
    assert honest.to_dict()["draws"] == 1
    assert "random" not in honest.verdict


def test_a_random_network_whose_draws_leave_nothing_still_gets_the_accuracy_of_its_mean(few, standard):
    """The suite's accuracy is 0 by luck, so it is not too high; the mean over draws is attacked all the same."""
    model = Unlucky(standard).eval()
    attacked = AttackResult(
        np.zeros(30, dtype=bool), np.zeros(30), few.pixels(slice(None)), np.full(30, "PGD"), np.ones(30, dtype=int),
        "l_inf", (("PGD", PGD(BALL)),),
    )  # fmt: skip
    found = audit(model, few, BALL, attacked=attacked, budget=BUDGET, progress=False)
    assert found.level == "warnings"
    assert found.robust["worst case"].any()
    assert found.remedies
