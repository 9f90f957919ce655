"""Attacks that see logits only: the laws of attacks, an unbiased estimate, draws that are what they say."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from lowcurve import evaluation, randomness
from lowcurve.analysis.norms import L1, L2, LINF, Ball
from lowcurve.attacks import SPSA, Noise, Square
from lowcurve.attacks.active_set import IterativeAttack, carry_out
from lowcurve.attacks.base import Options
from lowcurve.attacks.state import State, prepare
from lowcurve.attacks.targets import target_class
from lowcurve.data import Examples
from lowcurve.errors import InputError
from lowcurve.losses import cross_entropy, margin_loss
from lowcurve.randomness import stream
from lowcurve.types import AttackFunction

SMALL, ROUND = Ball(LINF, 0.05), Ball(L2, 0.3)
ATTACKS = {
    "SPSA l_inf": (SPSA(SMALL, steps=10, draws=16), SMALL),
    "SPSA l_2": (SPSA(ROUND, steps=10, draws=16, learning_rate=0.03), ROUND),
    "SPSA towards a class": (SPSA(SMALL, steps=10, draws=16, loss=cross_entropy, target="least-likely"), SMALL),
    "noise": (Noise(SMALL, draws=50), SMALL),
    "noise l_2": (Noise(ROUND, draws=50), ROUND),
    "corners": (Noise(SMALL, draws=50, distribution="corners"), SMALL),
    "corners l_2": (Noise(ROUND, draws=50, distribution="corners"), ROUND),
    "Gaussian": (Noise(SMALL, draws=50, distribution="gaussian"), SMALL),
    "Gaussian l_2": (Noise(ROUND, draws=50, distribution="gaussian"), ROUND),
}
each = pytest.mark.parametrize(("attack", "ball"), ATTACKS.values(), ids=ATTACKS)
each_attack = pytest.mark.parametrize("attack", [attack for attack, _ in ATTACKS.values()], ids=ATTACKS)


def network(shape: tuple[int, ...], classes: int = 3) -> nn.Module:
    """A small smooth network, with BatchNorm so that its mode matters."""
    with randomness.temporary_seed(0, "queried network", shape, classes):
        layers = (nn.Linear(math.prod(shape), 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, classes))
        return nn.Sequential(nn.Flatten(), *layers).eval()


def examples(count: int, shape: tuple[int, ...] = (2, 4, 4), classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs with many pixels at the edges of the box, and labels."""
    x = randomness.uniform(torch.zeros(count, *shape), -0.3, 1.3, generator=stream(1, "inputs", count)).clamp(0, 1)
    return x, torch.arange(count) % classes


MODEL = network((2, 4, 4))
X, Y = examples(9)


def loss_of(found: torch.Tensor) -> torch.Tensor:
    return margin_loss(MODEL(found), Y).detach()


class Recorded(nn.Module):
    """A model that keeps what it was asked."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.asked = model, []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.asked.append(x.detach().clone())
        return self.model(x)


@each
def test_in_the_ball_and_in_the_pixel_box(attack, ball):
    found = attack(MODEL, X, Y, generator=stream(0))
    assert float(ball.norm.length(found - X).max()) <= ball.radius * (1 + 1e-5)
    assert float(ball.norm.length(found - X).min()) > 0
    assert (float(found.min()), float(found.max())) == (0, 1)
    assert (found.shape, found.dtype, found.requires_grad) == (X.shape, X.dtype, False)


@each_attack
def test_what_it_raises_rises(attack):
    target = target_class("least-likely", MODEL(X), Y)

    def raised(inputs):
        towards = getattr(attack, "target", None) is not None
        logits = MODEL(inputs).detach()
        return -cross_entropy(logits, target) if towards else margin_loss(logits, Y)

    found = attack(MODEL, X, Y, generator=stream(0))
    assert float((raised(found) - raised(X)).mean()) > 0


@each_attack
def test_the_world_is_left_as_it_was(attack):
    model, x, y = copy.deepcopy(MODEL).train(), X.clone(), Y.clone()
    model[1].weight.requires_grad_(False)
    model[3].eval()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    found = attack(model, x, y, generator=stream(0))
    assert_close(found, attack(MODEL, X, Y, generator=stream(0)), rtol=0, atol=0)
    assert_close(torch.get_rng_state(), state)
    assert_close((x, y), (X, Y), rtol=0, atol=0)
    assert_close(dict(model.state_dict()), weights, rtol=0, atol=0)
    assert [m.training for m in model] == [True, True, True, False, True]
    assert [p.grad for p in model.parameters()] == [None] * 6
    assert [p.requires_grad for p in model.parameters()] == [False, True, True, True, True, True]


@each_attack
def test_the_same_stream_gives_the_same_answer_and_another_stream_another(attack):
    first, again, other = (attack(MODEL, X, Y, generator=stream(seed)) for seed in (0, 0, 1))
    assert_close(first, again, rtol=0, atol=0)
    assert float((first - other).abs().amax((1, 2, 3)).min()) > 1e-4


@each_attack
def test_neither_the_size_of_the_batch_nor_its_order_matters(attack):
    model, x = copy.deepcopy(MODEL).double(), X.double()
    found = attack(model, x, Y, generator=stream(0))
    order = torch.tensor([7, 2, 8, 0, 3, 5, 1, 6, 4])
    turned = attack(model, x[order], Y[order], generator=stream(0))
    parts = [attack(model, x[k : k + 2], Y[k : k + 2], generator=stream(0)) for k in range(0, 9, 2)]
    assert_close(turned, found[order], rtol=1e-9, atol=1e-9)
    assert_close(torch.cat(parts), found, rtol=1e-9, atol=1e-9)


@each
def test_a_radius_an_image(attack, ball):
    radii = ball.radius * torch.linspace(0, 2, len(X))
    lengths = ball.norm.length(attack(MODEL, X, Y, generator=stream(0), radius=radii) - X)
    assert float((lengths - radii * (1 + 1e-5)).max()) <= 0
    assert float(lengths[0]) == 0
    assert float(lengths[1:].min()) > 0


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("classes", [2, 5])
def test_points_of_the_plane_in_either_precision_with_any_number_of_classes(attack, ball, dtype, classes):
    x, y = examples(7, (2,), classes)
    found = attack(network((2,), classes).to(dtype), x.to(dtype), y, generator=stream(0))
    assert found.dtype == dtype
    assert 0 < float(ball.norm.length(found - x).max()) <= ball.radius * (1 + 1e-5)


@each_attack
def test_an_empty_batch_stays_empty_and_a_caller_without_gradients_is_served(attack):
    assert attack(MODEL, X[:0], Y[:0], generator=stream(0)).shape == (0, 2, 4, 4)
    with torch.no_grad():
        found = attack(MODEL, X, Y, generator=stream(0))
    assert_close(found, attack(MODEL, X, Y, generator=stream(0)), rtol=0, atol=0)


@each_attack
def test_it_satisfies_the_protocols(attack):
    assert isinstance(attack, AttackFunction)
    assert isinstance(attack, IterativeAttack)


@each_attack
def test_no_gradient_is_asked_for(attack):
    """A network that hides its gradients is attacked like any other."""

    class Hidden(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return MODEL(x).detach()

    assert_close(attack(Hidden(), X, Y, generator=stream(0)), attack(MODEL, X, Y, generator=stream(0)), rtol=0, atol=0)


@each
def test_an_evaluation_gives_what_the_attack_gives(attack, ball):
    points = Examples(X, Y, ("a", "b", "c"))
    left = evaluation.attack(copy.deepcopy(MODEL), points, attack, batch_size=2)
    again = evaluation.attack(copy.deepcopy(MODEL), points, attack, batch_size=9)
    assert left.robust.tolist() == again.robust.tolist()
    assert float(left.distance.max()) <= ball.radius * (1 + 1e-5)


# --- SPSA


def linear(size: int, seed: int = 0) -> nn.Linear:
    with randomness.temporary_seed(seed, "linear", size):
        return nn.Linear(size, 2).double()


def test_the_estimate_is_unbiased_on_a_linear_model():
    """The mean of 2000 draws is within five standard errors of the gradient, at a point that is not the clean input."""
    model, draws = linear(30), 2000
    x = randomness.uniform(torch.zeros(4, 30, dtype=torch.float64), 0.3, 0.7, generator=stream(0))
    y = torch.tensor([0, 1, 0, 1])
    attack = SPSA(SMALL, draws=draws)
    images = prepare(model, x, y, SMALL, Options(stream(0)))
    found = attack.estimate_gradient(images, State(x + 0.02, torch.tensor([0, 0, 3, 3])))
    truth = (model.weight[1] - model.weight[0]).detach() * torch.tensor([1, -1, 1, -1])[:, None]
    # v_i <g, v> has mean g_i and variance |g|^2 - g_i^2.
    error = ((truth.square().sum(1, keepdim=True) - truth.square()) / draws).sqrt()
    assert float(((found - truth) / error).abs().max()) < 5
    assert 0.7 < float(((found - truth) / error).square().mean()) < 1.3


def test_the_queries_lie_around_the_point_itself():
    """Around x at first and around the present point later, each pixel delta away, also where that leaves the box."""
    model = Recorded(MODEL)
    attack = SPSA(SMALL, steps=2, draws=3, delta=0.02)
    found = attack(model, X, Y, generator=stream(0))
    first, queries, second, later, last = model.asked[-5:]
    assert_close(first, X, rtol=0, atol=0)
    for point, around in ((first, queries), (second, later)):
        offsets = around.view(2, 3, *X.shape) - point
        assert_close(offsets.abs(), torch.full_like(offsets, 0.02))
        assert_close(offsets[0], -offsets[1])
    assert float(queries.min()) == pytest.approx(-0.02)
    assert float((second - X).abs().amax()) > 0.005
    assert any(torch.equal(found[0], point[0]) for point in (first, second, last))


def test_the_directions_differ_from_draw_to_draw_from_step_to_step_and_from_image_to_image():
    model = Recorded(MODEL)
    SPSA(SMALL, steps=2, draws=3)(model, X, Y, generator=stream(0))
    signs = [
        (around.view(2, 3, *X.shape)[0] - point).sign().flatten(2).flatten(0, 1)
        for point, around in (model.asked[-5:-3], model.asked[-3:-1])
    ]
    assert len(torch.unique(torch.cat(signs), dim=0)) == 2 * 3 * len(X)


@pytest.mark.parametrize("rows", [1, 2, 10, 50])
def test_rows_bound_the_forward_pass_and_nothing_else(rows):
    whole = SPSA(SMALL, steps=3, draws=7)
    x, model = X.double(), Recorded(copy.deepcopy(MODEL).double())
    found = SPSA(SMALL, steps=3, draws=7, batch_size=rows)(model, x, Y, generator=stream(0))
    assert_close(found, whole(copy.deepcopy(MODEL).double(), x, Y, generator=stream(0)), rtol=1e-9, atol=1e-9)
    assert max(len(asked) for asked in model.asked) <= max(rows, len(x), 2)
    forward_passes = sum(len(asked) for asked in model.asked) // len(x)
    assert forward_passes - 3 * (2 * 7 + 1) in (
        1,
        2,
    )  # the last point, and the clean inputs where somebody wants to know them


@pytest.mark.parametrize(("ball", "share"), [(SMALL, 0.999), (Ball(L2, 0.1), 0.97)])
@pytest.mark.parametrize("size", [2, 30])
def test_how_near_it_comes_to_the_optimum_of_a_linear_model(ball, share, size):
    model = linear(size, seed=2)
    x = randomness.uniform(torch.zeros(8, size, dtype=torch.float64), 0.35, 0.65, generator=stream(0, "interior"))
    y = torch.arange(8) % 2
    gain = (margin_loss(model(SPSA(ball)(model, x, y, generator=stream(0))), y) - margin_loss(model(x), y)).detach()
    best = ball.radius * ball.norm.dual.length(model.weight[:1] - model.weight[1:]).detach()
    assert float(gain.max() / best) <= 1 + 1e-9
    assert float(gain.min() / best) >= (share if size == 2 else 0.85)


def test_scaling_the_logits_changes_nothing():
    class Scaled(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 1e6 * MODEL(x)

    attack = SPSA(SMALL, steps=5, draws=8)
    assert_close(attack(Scaled(), X, Y, generator=stream(0)), attack(MODEL, X, Y, generator=stream(0)))


def test_a_flat_network_leaves_the_inputs_where_they_are():
    flat = network((2, 4, 4))
    nn.init.zeros_(flat[4].weight)
    assert_close(SPSA(SMALL, steps=3, draws=4)(flat, X, Y, generator=stream(0)), X, rtol=0, atol=0)


def test_it_goes_on_from_a_start():
    attack = SPSA(SMALL, steps=10, draws=32)
    first = attack(MODEL, X, Y, generator=stream(0))
    second = attack(MODEL, X, Y, generator=stream(1), start=first)
    assert float((loss_of(second) - loss_of(first)).min()) >= -1e-6
    assert float((loss_of(second) - loss_of(first)).max()) > 0


# --- noise


@pytest.mark.parametrize("draws", [1, 7, 16, 50])
@pytest.mark.parametrize("law", ["uniform", "corners", "gaussian"])
def test_how_many_are_drawn_together_does_not_matter(draws, law):
    model, x = copy.deepcopy(MODEL).double(), X.double()
    found = [
        Noise(ROUND, draws=draws, distribution=law, draws_per_pass=together)(model, x, Y, generator=stream(0))
        for together in (1, 3, 8, 64)
    ]
    for other in found[1:]:
        assert_close(other, found[0], rtol=1e-12, atol=1e-12)


def test_more_draws_only_help_and_the_worst_of_them_is_the_answer():
    losses = [loss_of(Noise(SMALL, draws=draws)(MODEL, X, Y, generator=stream(0))) for draws in (1, 5, 40)]
    assert float((losses[1] - losses[0]).min()) >= 0
    assert float((losses[2] - losses[1]).min()) >= 0
    assert float((losses[2] - losses[0]).min()) > 0
    model = Recorded(MODEL)
    found = Noise(SMALL, draws=40, draws_per_pass=40)(model, X, Y, generator=stream(0))
    drawn = next(asked for asked in model.asked if len(asked) > len(X)).view(40, *X.shape)
    assert_close(loss_of(found), torch.stack([loss_of(points) for points in drawn]).amax(0))
    assert len(torch.unique(drawn.flatten(2).flatten(0, 1), dim=0)) == 40 * len(X)


@pytest.mark.parametrize("ball", [SMALL, ROUND])
def test_the_laws(ball):
    """Corners and Gaussian directions lie at the radius; in l_2 half of the uniform points of the plane within r / sqrt(2)."""
    x, y = torch.full((1, 2), 0.5, dtype=torch.float64), torch.zeros(1, dtype=torch.long)

    def drawn(law):
        model = Recorded(network((2,), 2).double())
        Noise(ball, draws=4000, distribution=law, draws_per_pass=4000)(model, x, y, generator=stream(0))
        return next(asked for asked in model.asked if len(asked) > 1) - x

    for law in ("corners", "gaussian"):
        assert_close(ball.norm.length(drawn(law)), torch.full((4000,), ball.radius, dtype=torch.float64))
    corners = torch.unique(drawn("corners").round(decimals=9), dim=0)
    assert len(corners) == 4
    share = (ball.norm.length(drawn("uniform")) < ball.radius / math.sqrt(2)).double().mean()
    assert abs(float(share) - 0.5) < 0.03
    assert float((drawn("gaussian")[:, 0] > 0).double().mean()) == pytest.approx(0.5, abs=0.03)
    assert float(corners.abs().max()) == pytest.approx(ball.radius * (1 if ball.norm == LINF else math.sqrt(0.5)))


def test_a_start_takes_the_place_of_the_first_draw():
    start = X + 0.01
    found = Noise(SMALL, draws=1)(MODEL, X, Y, generator=stream(0), start=start)
    assert_close(found, SMALL.project(start, X), rtol=0, atol=0)
    many = Noise(SMALL, draws=20)(MODEL, X, Y, generator=stream(0), start=start)
    assert float((loss_of(many) - loss_of(found)).min()) >= 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SPSA(SMALL, steps=0), r"at least one step, one draw and one input per pass, got \(0, 64, 1024\)"),
        (lambda: SPSA(SMALL, draws=0), r"at least one step, one draw and one input per pass, got \(20, 0, 1024\)"),
        (lambda: SPSA(SMALL, delta=0), "a finite delta above 0 in pixel units, got 0. Write delta=0.01"),
        (lambda: SPSA(SMALL, learning_rate=math.nan), "a finite learning_rate above 0 in pixel units, got nan"),
        (lambda: SPSA(SMALL, target=0), 'a target None, "least-likely" or 1, 2, ..., got 0'),
        (lambda: Noise(SMALL, draws=0), r"at least one draw, and one draw per pass, got \(0, 8\)"),
        (lambda: Noise(SMALL, distribution="snow"), 'a distribution "uniform", "corners" or "gaussian", got \'snow\''),
        (lambda: Noise(SMALL)(MODEL, X * 255, Y, generator=stream(0)), r"inputs inside the pixel box \(0.0, 1.0\)"),
    ],
)
def test_errors_name_the_mend(make, message):
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize("ball", [SMALL, ROUND, Ball(L1, 0.5)], ids=["l_inf", "l_2", "l_1"])
def test_square_looks_ahead_and_finds_what_single_queries_find(monkeypatch, ball):
    found, calls = [], []
    for most in (64, 1):
        monkeypatch.setattr("lowcurve.attacks.square.ROWS", most)
        model = Recorded(MODEL)
        batch = prepare(model, X, MODEL(X).argmax(1), ball, Options(stream(0)))
        found.append(carry_out(Square(ball, queries=300), batch, stop=True, limit=256))
        calls.append(len(model.asked))
    assert 0 < found[0].fooled.sum() < len(X)
    assert torch.equal(found[0].fooled, found[1].fooled)
    assert torch.equal(found[0].forward_passes, found[1].forward_passes)
    assert_close(found[0].point, found[1].point)
    assert_close(found[0].value, found[1].value)
    assert calls[0] < 0.6 * calls[1]


@pytest.mark.parametrize("limit", [1, 5, 20])
def test_square_looks_ahead_within_the_batch_size(limit):
    model = Recorded(MODEL)
    batch = prepare(model, X, Y, ROUND, Options(stream(0)))
    carry_out(Square(ROUND, queries=100), batch, stop=True, limit=limit)
    assert max(map(len, model.asked[1:])) <= limit
