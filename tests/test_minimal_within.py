"""Minimum-norm attacks where the gradient at the image is 0: from noise, without a radius and inside a ball."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from lowcurve import evaluation
from lowcurve.analysis.norms import L2, LINF, Ball
from lowcurve.attacks import APGD, DeepFool, Effort, MinimalNorm, MinimalNormWithin, Suite, strong
from lowcurve.data import Examples
from lowcurve.errors import InputError
from lowcurve.losses import margin_loss
from lowcurve.randomness import stream, temporary_seed


class Plateau(nn.Module):
    """Margin 1 up to a distance of 0.2 along the diagonal, 0 at 0.3: flat around the image."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.flatten(1)
        along = (flat - 0.5).sum(1) / flat.shape[1] ** 0.5
        first = 1 - 10 * (along - 0.2).clamp_min(0)
        return torch.stack((first, torch.zeros_like(first)), 1)


X, Y = torch.full((3, 1, 2, 2), 0.5) + torch.tensor([0.0, 0.01, 0.02])[:, None, None, None], torch.zeros(3).long()
DISTANCE = torch.tensor([0.3, 0.28, 0.26])
BALL = Ball(L2, 0.29)


def test_minimal_norm_does_not_give_up_where_the_gradient_is_0():
    model = Plateau()
    assert torch.equal(DeepFool("l2")(model, X, Y), X)
    found = MinimalNorm("l2")(model, X, Y)
    assert (model(found).argmax(1) != Y).all()
    assert_close(L2.length(found - X), DISTANCE, rtol=0.02, atol=0)


def test_a_flat_start_moves_outwards_until_the_network_is_fooled():
    start = X + 0.05
    found = MinimalNorm("l2", steps=200)(Plateau(), X, Y, start=start)
    assert (Plateau()(found).argmax(1) != Y).all()


def test_a_constant_network_leaves_the_images_where_they_are():
    constant = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    nn.init.zeros_(constant[1].weight)
    y = constant(X).argmax(1)
    assert torch.equal(MinimalNorm("l2")(constant, X, y), X)
    assert torch.equal(MinimalNormWithin(BALL)(constant, X, y), X)


@pytest.mark.parametrize("size", [1, 3])
def test_the_attack_from_noise_finds_what_ascent_in_the_ball_does_not(size):
    examples = Examples(X, Y, ("a", "b"))
    inside = evaluation.attack(Plateau(), examples, APGD(BALL, loss=margin_loss), batch_size=size)
    outside = evaluation.attack(Plateau(), examples, MinimalNormWithin(BALL), batch_size=size)
    assert inside.robust.all()
    assert outside.robust.tolist() == [True, False, False]
    assert (outside.distance <= BALL.radius).all()
    assert (outside.distance[1:] > 0.25).all()


def test_strong_has_it_in_l2_only():
    members = dict(strong(BALL).members)
    assert len(members["MinimalNorm"].runs) == 8
    assert "MinimalNorm" not in " ".join(dict(strong(BALL, effort=Effort(boundary=0)).members))
    assert "MinimalNorm" not in dict(strong(Ball(LINF, 0.1)).members)
    quick = strong(BALL, effort=Effort(60, 1, 20, 0))
    assert evaluation.attack(Plateau(), Examples(X, Y, ("a", "b")), quick).robust.tolist() == [True, False, False]


def test_a_radius_for_each_image_and_a_start():
    attack = MinimalNormWithin(BALL)
    found = attack(Plateau(), X, Y, radius=torch.tensor([0.31, 0.27, 0.31]))
    assert (Plateau()(found).argmax(1) != Y).tolist() == [True, False, True]
    assert (L2.length(found - X) <= torch.tensor([0.31, 0.27, 0.31])).all()
    away = MinimalNormWithin(BALL, restarts=1)(Plateau(), X, Y, start=X + 0.2)
    assert (Plateau()(away).argmax(1) != Y).tolist() == [False, True, True]
    assert (L2.length(away - X) <= BALL.radius).all()


def test_neither_batch_nor_order_matters():
    attack, order = Suite((("MinimalNorm", MinimalNormWithin(BALL)),)), torch.tensor([2, 0, 1])
    found = attack(Plateau().double(), X.double(), Y, generator=stream(0))
    turned = attack(Plateau().double(), X.double()[order], Y[order], generator=stream(0))
    assert_close(turned, found[order], rtol=1e-9, atol=1e-9)


def test_other_pixel_boxes_have_noise_of_their_own_scale():
    class Moved(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return Plateau()(x / 255)

    found = MinimalNorm("l2", box=(0.0, 255.0))(Moved(), 255 * X, Y)
    assert_close(L2.length(found - 255 * X), 255 * DISTANCE, rtol=0.02, atol=0)
    free = MinimalNorm("l2", box=(-torch.inf, torch.inf))(Plateau(), X, Y)
    assert_close(L2.length(free - X), DISTANCE, rtol=0.02, atol=0)


@pytest.mark.parametrize("settings", [{"steps": 0}, {"restarts": 0}])
def test_at_least_one_step_and_start(settings):
    with pytest.raises(InputError, match=r"at least one step and one start.*Write restarts=8"):
        MinimalNormWithin(BALL, **settings)


@pytest.mark.parametrize("size", [1, 3])
def test_a_run_gives_up_where_the_boundary_stays_far_away_and_its_passes_are_counted(size):
    examples = Examples(X, Y, ("a", "b"))
    near, far = (
        evaluation.attack(Plateau(), examples, MinimalNormWithin(L2, radius, restarts=2), batch_size=size)
        for radius in (0.29, 0.15)
    )
    assert near.robust.tolist() == [True, False, False]
    assert far.robust.all()
    assert near.forward_passes[0] > 1 + 2 * 80  # 1.03 radii are near
    assert (far.forward_passes < 1 + 2 * 45).all()
    called = MinimalNormWithin(L2, 0.29, restarts=2)(Plateau(), X, Y)
    assert (Plateau()(called).argmax(1) != Y).tolist() == [False, True, True]


def test_a_search_without_radius_repeats_only_where_that_brings_it_nearer():
    rows = []

    class Straight(nn.Module):
        def forward(self, x):
            rows.append(len(x))
            first = x.flatten(1).sum(1) - 1.5
            return torch.stack((first, torch.zeros_like(first)), 1)

    def cost(restarts):
        rows.clear()
        found = MinimalNorm("l2", restarts=restarts)(Straight(), X, Y)
        assert_close(L2.length(found - X), (X.flatten(1).sum(1) - 1.5) / 2, rtol=2e-3, atol=0)
        return sum(rows)

    assert cost(8) == cost(2) < cost(0) + 2 * len(X) * 115


class Curved(nn.Module):
    """Four classes with a smooth margin; from some images a gradient leads to one class and the boundary lies elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        with temporary_seed(0, "curved"):
            self.layers = nn.Sequential(nn.Flatten(), nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 4)).eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 3 * self.layers(x)


@pytest.mark.parametrize(
    "attack",
    [MinimalNormWithin("l2", 0.2, steps=20, restarts=4), APGD("linf", 0.1, steps=10, loss=margin_loss, targets=3)],
    ids=["starts", "targets"],
)
def test_runs_together_find_what_runs_one_after_another_find(monkeypatch, attack):
    model = Curved()
    x = torch.rand(12, 1, 2, 2, generator=stream(0))
    found, calls = [], []
    counting = model.register_forward_hook(lambda *_: calls.append(1))
    for rows in (1, 64):
        monkeypatch.setattr("lowcurve.attacks.active_set.ROWS", rows)
        calls.append(0)
        found.append(evaluation.attack(model, x, model(x).argmax(1), attack, progress=False))
    counting.remove()
    first, second = found
    assert 0 < first.robust.sum() < len(x)
    assert first.fooled_by.tolist() == second.fooled_by.tolist()
    assert first.forward_passes.tolist() == second.forward_passes.tolist()
    assert_close(torch.as_tensor(first.inputs), torch.as_tensor(second.inputs))
    turn = calls.index(0, 1)
    assert len(calls) - turn < 0.6 * turn
