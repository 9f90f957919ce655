"""The laws of attacks. A new attack joins ATTACKS in one line and is held to all of them."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from lowcurve import randomness
from lowcurve.analysis.norms import L1, L2, LINF, Ball
from lowcurve.attacks import APGD, BIM, FGSM, NFGSM, PGD, RSFGSM, SORA, NearlyFooled, OneStep, Relay, Square, Suite
from lowcurve.attacks.targets import target_class
from lowcurve.errors import InputError
from lowcurve.losses import cross_entropy, log_odds, margin, margin_loss
from lowcurve.randomness import stream
from lowcurve.types import AttackFunction

SMALL, ROUND, FEW = Ball(LINF, 0.05), Ball(L2, 0.3), Ball(L1, 0.3)

# name: (attack, its ball, whether it draws a random start)
ATTACKS = {
    "PGD l_inf": (PGD(SMALL), SMALL, True),
    "PGD l_2": (PGD(ROUND), ROUND, True),
    "PGD l_1": (PGD(FEW), FEW, True),
    "PGD on the margin": (PGD(SMALL, loss=margin_loss), SMALL, True),
    "PGD with restarts": (PGD(ROUND, steps=10, restarts=3), ROUND, True),
    "PGD from the center": (PGD(SMALL, start="center"), SMALL, False),
    "PGD towards the least likely class": (PGD(SMALL, target="least-likely"), SMALL, True),
    "BIM": (BIM(SMALL), SMALL, False),
    "APGD l_inf": (APGD(SMALL, steps=30), SMALL, True),
    "APGD l_2": (APGD(ROUND, steps=50), ROUND, True),
    "APGD l_1": (APGD(FEW, steps=50), FEW, True),
    "APGD towards targets": (APGD(SMALL, steps=10, loss=margin_loss, targets=2), SMALL, True),
    "Square l_inf": (Square(SMALL, queries=100), SMALL, True),
    "Square l_2": (Square(ROUND, queries=100), ROUND, True),
    "Square l_1": (Square(FEW, queries=100), FEW, True),
    "FGSM": (FGSM(SMALL), SMALL, False),
    "nearly fooled": (NearlyFooled(APGD(SMALL, steps=30)), SMALL, True),
    "relay": (Relay((Square(SMALL, queries=40), APGD(SMALL, steps=30, loss=margin_loss))), SMALL, True),
}
# To train with: no search, so what a search finds is not asked of them. N-FGSM may go three radii far.
ONE_STEP = {
    "one step": (OneStep(SMALL), SMALL, False),
    "one step in l_2": (OneStep(ROUND), ROUND, False),
    "RS-FGSM": (RSFGSM(SMALL), SMALL, True),
    "N-FGSM": (NFGSM(SMALL), Ball(LINF, 0.15), True),
    "N-FGSM in l_2": (NFGSM(ROUND), Ball(L2, 0.9), True),
    "SORA": (SORA(SMALL), Ball(LINF, 0.15), True),
    "SORA in l_2": (SORA(ROUND), Ball(L2, 0.9), True),
}
ALL = ATTACKS | ONE_STEP

# What a search by queries alone reaches of the optimum in 30 dimensions; where the gradient is followed it is 99 %.
REACHED = {"Square l_inf": 0.95, "Square l_2": 0.5, "Square l_1": 0.4}


def each(*words: str, among: dict[str, tuple] = ALL) -> pytest.MarkDecorator:
    """Every row of a table of attacks, with these of its columns."""
    columns = [("attack", "ball", "draws").index(word) for word in words]
    rows = [[row[k] for k in columns] for row in among.values()]
    return pytest.mark.parametrize(words, rows, ids=among)


def network(shape: tuple[int, ...], classes: int = 3) -> nn.Module:
    """A small smooth network, with BatchNorm so that its mode matters."""
    with randomness.temporary_seed(0, "attacked network", shape, classes):
        layers = (nn.Linear(math.prod(shape), 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, classes))
        return nn.Sequential(nn.Flatten(), *layers).eval()


def examples(count: int, shape: tuple[int, ...] = (2, 4, 4), classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs with many pixels at or near the edges of the box, and labels."""
    like = torch.zeros(count, *shape)
    x = randomness.uniform(like, -0.3, 1.3, generator=stream(1, "inputs", count)).clamp(0, 1)
    return x, torch.arange(count) % classes


MODEL = network((2, 4, 4))
X, Y = examples(9)


@each("attack", "ball")
def test_in_the_ball_and_in_the_pixel_box(attack, ball):
    found = attack(MODEL, X, Y, generator=stream(0))
    assert float(ball.norm.length(found - X).max()) <= ball.radius * (1 + 1e-5)
    assert float(ball.norm.length(found - X).min()) > 0
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1
    assert found.shape == X.shape
    assert found.dtype == X.dtype
    assert not found.requires_grad


@each("attack", among=ATTACKS)
def test_the_loss_does_not_fall(attack):
    found = attack(MODEL, X, Y, generator=stream(0))
    before, after = (cross_entropy(MODEL(inputs), Y).detach() for inputs in (X, found))
    assert float((after - before).min()) > 0


@each("attack")
def test_the_world_is_left_as_it_was(attack):
    model, x, y = copy.deepcopy(MODEL), X.clone(), Y.clone()
    model[1].weight.requires_grad_(False)
    model[3].train()  # a nonlinearity may be in training mode: nothing about it depends on the batch
    modes = [module.training for module in model.modules()]
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    attack(model, x, y, generator=stream(0))
    assert_close(torch.get_rng_state(), state)
    assert_close((x, y), (X, Y), rtol=0, atol=0)
    assert_close(dict(model.state_dict()), weights, rtol=0, atol=0)
    assert [module.training for module in model.modules()] == modes
    assert [p.grad for p in model.parameters()] == [None] * 6
    assert [p.requires_grad for p in model.parameters()] == [False, True, True, True, True, True]


@each("attack", "draws")
def test_the_same_stream_gives_the_same_answer_and_another_stream_another(attack, draws):
    first, again = (attack(MODEL, X, Y, generator=stream(0)) for _ in range(2))
    assert_close(first, again, rtol=0, atol=0)
    flat = network((2, 4, 4))
    nn.init.zeros_(flat[4].weight)  # without a slope to follow each example stays at its start
    here, there = (attack(flat, X, Y, generator=stream(seed)) for seed in (0, 1))
    if draws:
        assert float((here - there).abs().amax((1, 2, 3)).min()) > 0.01
    else:
        assert_close(here, X, rtol=0, atol=0)
        assert_close(there, X, rtol=0, atol=0)


@each("attack", "draws")
def test_examples_are_independent(attack, draws):
    """What stands in the other rows does not matter: the draws depend on the shape of the batch alone."""
    x, y = X.double(), Y
    model = copy.deepcopy(MODEL).double()
    kept = torch.tensor([0, 3, 4, 8])
    others = torch.tensor([1, 2, 5, 6, 7])
    found = attack(model, x, y, generator=stream(0))
    changed_x, changed_y = x.clone(), y.clone()
    changed_x[others], changed_y[others] = 1 - x[others], (y[others] + 1) % 3
    elsewhere = attack(model, changed_x, changed_y, generator=stream(0))
    assert_close(elsewhere[kept], found[kept], rtol=1e-9, atol=1e-9)
    assert float((elsewhere[others] - found[others]).abs().amax((1, 2, 3)).min()) > 0.01
    if not draws:
        assert_close(attack(model, x[kept], y[kept], generator=stream(0)), found[kept], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("size", [2, 30])
def test_the_optimum_of_a_linear_model(name, size):
    """In the interior of the box the margin can fall by radius * dual norm of the difference of the weights."""
    attack, ball, _ = ATTACKS[name]
    attack = replace(attack, queries=300) if name in REACHED else attack
    with randomness.temporary_seed(0, "linear", size):
        model = nn.Linear(size, 2)
    with torch.no_grad():
        model.weight.mul_(torch.logspace(-2, 0, size))  # unequal weights
    x = randomness.uniform(torch.zeros(16, size), 0.35, 0.65, generator=stream(0, "interior"))
    y = torch.arange(16) % 2
    found = attack(model, x, y, generator=stream(0))
    gain = (margin_loss(model(found), y) - margin_loss(model(x), y)).detach()
    best = ball.radius * ball.norm.dual.length(model.weight[:1] - model.weight[1:]).detach()
    assert float(gain.min() / best) >= (REACHED.get(name, 0.99) if size > 2 else 0.99)
    assert float(gain.max() / best) <= 1 + 1e-4


def linear_optimum(weights: torch.Tensor, x: torch.Tensor, ball: Ball) -> torch.Tensor:
    """The largest <w, r> with x + r in ball and box: in l_2 r = clip(m w), with m by bisection; in l_1 a greedy choice."""
    radius = ball.radius
    if ball.norm == L1:
        best = torch.zeros(len(x)).double()
        for row in range(len(x)):
            left = radius
            for pixel in weights[row].abs().argsort(descending=True).tolist():
                room = float(1 - x[row, pixel] if weights[row, pixel] > 0 else x[row, pixel])
                best[row] += min(room, left) * weights[row, pixel].abs()
                left -= min(room, left)
        return best
    x, low, high = x.double(), torch.full((len(x),), -40.0).double(), torch.full((len(x),), 40.0).double()
    for _ in range(100):
        middle = (low + high) / 2
        far = ((x + middle.exp()[:, None] * weights).clamp(0, 1) - x).norm(dim=1) > radius
        low, high = torch.where(far, low, middle), torch.where(far, middle, high)
    return (((x + low.exp()[:, None] * weights).clamp(0, 1) - x) * weights).sum(1)


@pytest.mark.parametrize("ball", [Ball(L2, 0.1), Ball(L2, 1.0), Ball(L1, 0.2), Ball(L1, 3.0)], ids=repr)
@pytest.mark.parametrize("size", [5, 30, 200])
@pytest.mark.parametrize(
    "make",
    [
        lambda ball: PGD(ball),
        lambda ball: PGD(ball, start="center"),
        lambda ball: PGD(ball, steps=10, restarts=3),
        lambda ball: APGD(ball, steps=50),
        lambda ball: APGD(ball, steps=50, loss=margin_loss),
    ],
)
def test_the_optimum_of_a_linear_model_where_the_box_is_active(make, size, ball):
    """Most pixels are at an edge of the box, and the weights are of unequal size: what leads out of the box counts nothing."""
    with randomness.temporary_seed(0, "linear", size):
        model = nn.Linear(size, 2)
    with torch.no_grad():
        model.weight.mul_(torch.logspace(-2, 0, size))
    x = randomness.uniform(torch.zeros(16, size), -0.3, 1.3, generator=stream(0, "edges")).clamp(0, 1)
    y = torch.arange(16) % 2
    way = (model.weight[1] - model.weight[0]).detach().double()
    weights = torch.where((y == 0)[:, None], way, -way)
    attack = make(ball)
    found = attack(model, x, y, generator=stream(0))
    assert float(ball.norm.length(found - x).max()) <= ball.radius * (1 + 1e-5)
    best = linear_optimum(weights, x, ball)
    # The l_1 steps of Auto-PGD are of equal size in several pixels, and only 20 of the 50 are in the ball itself.
    least = 0.93 if isinstance(attack, APGD) and ball.norm == L1 else 0.99
    assert float((((found - x).double() * weights).sum(1) / best).min()) >= least


@each("attack")
def test_a_model_in_training_mode_is_attacked_in_eval_mode_and_given_back_as_it_came(attack):
    model = copy.deepcopy(MODEL).train()
    model[3].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = attack(model, X, Y, generator=stream(0))
    assert_close(found, attack(MODEL, X, Y, generator=stream(0)), rtol=0, atol=0)
    assert [m.training for m in model] == [True, True, True, False, True]
    assert_close(dict(model.state_dict()), before, rtol=0, atol=0)


@each("attack")
def test_neither_the_size_of_the_batch_nor_its_order_matters(attack):
    """In double precision, since a batch of another size rounds differently and a sign may turn.

    Near an optimum the loss is flat, so rounding decides between points that are 1e-8 apart.
    """
    model, x = copy.deepcopy(MODEL).double(), X.double()
    found = attack(model, x, Y, generator=stream(0))
    order = torch.tensor([7, 2, 8, 0, 3, 5, 1, 6, 4])
    turned = attack(model, x[order], Y[order], generator=stream(0))
    parts = [attack(model, x[k : k + 2], Y[k : k + 2], generator=stream(0)) for k in range(0, 9, 2)]
    assert_close(turned, found[order], rtol=1e-9, atol=1e-8)
    assert_close(torch.cat(parts), found, rtol=1e-9, atol=1e-8)


@each("attack", "ball")
def test_a_radius_an_image(attack, ball):
    shares = torch.linspace(0, 2, len(X))
    found = attack(MODEL, X, Y, generator=stream(0), radius=attack.ball.radius * shares)
    lengths = ball.norm.length(found - X)
    assert float((lengths - ball.radius * shares * (1 + 1e-5)).max()) <= 0
    assert float(lengths[0]) == 0
    assert float(lengths[1:].min()) > 0


@each("attack", "ball")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("classes", [2, 5])
def test_points_of_the_plane_in_either_precision_with_any_number_of_classes(attack, ball, dtype, classes):
    x, y = examples(7, (2,), classes)
    x = x.to(dtype)
    found = attack(network((2,), classes).to(dtype), x, y, generator=stream(0))
    assert found.dtype == dtype
    assert float(ball.norm.length(found - x).max()) <= ball.radius * (1 + 1e-5)
    assert float(ball.norm.length(found - x).max()) > 0


@each("attack")
def test_an_empty_batch_stays_empty_and_a_caller_without_gradients_is_served(attack):
    assert attack(MODEL, X[:0], Y[:0], generator=stream(0)).shape == (0, 2, 4, 4)
    with torch.no_grad():
        found = attack(MODEL, X, Y, generator=stream(0))
    assert_close(found, attack(MODEL, X, Y, generator=stream(0)), rtol=0, atol=0)


@each("attack")
def test_it_satisfies_the_protocol(attack):
    assert isinstance(attack, AttackFunction)


class Scaled(nn.Module):
    """Logits (scale * score, 0) with a smooth score: confident wherever the score is not 0 once the scale is large."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = 10 * scale
        with randomness.temporary_seed(0, "scaled"):
            self.body = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        score = self.scale * (self.body(x) - self.body(torch.full_like(x, 0.5)))
        return torch.cat((score, torch.zeros_like(score)), dim=1)


def usual_cross_entropy(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits, y, reduction="none")


def robust(scale: float, loss, *, random_start: bool = False) -> tuple[list[bool], torch.Tensor]:
    """Which examples, all of them confident and right, still are right under PGD; and their losses before."""
    model = Scaled(scale)
    x = randomness.uniform(torch.zeros(400, 6), 0.2, 0.8, generator=stream(0, "confident"))
    y = Scaled(1.0)(x).argmax(1)
    gap = margin(Scaled(1.0)(x), y)
    x, y = x[(gap > 0.2) & (gap < 0.8)], y[(gap > 0.2) & (gap < 0.8)]
    attack = PGD(Ball(LINF, 0.08), steps=20, start="uniform" if random_start else "center", loss=loss)
    found = attack(model, x, y, generator=stream(0))
    return (model(found).argmax(1) == y).tolist(), cross_entropy(model(x), y).detach()


@pytest.mark.parametrize(
    ("loss", "scale"),
    [(log_odds, 100.0), (log_odds, 1e4), (margin_loss, 100.0), (margin_loss, 1e4), (cross_entropy, 100.0)],
)
@pytest.mark.parametrize("random_start", [False, True])
def test_scaling_the_logits_leaves_robust_accuracy_unchanged(loss, scale, random_start):
    """Each loss rises with the margin's fall, so the path is the same however confident the network is made."""
    plain, _ = robust(1.0, loss, random_start=random_start)
    scaled, losses = robust(scale, loss, random_start=random_start)
    assert scaled == plain
    assert 0.2 < sum(plain) / len(plain) < 0.8
    assert float(losses.max()) < 1e-8


def test_the_usual_cross_entropy_would_have_been_led_astray():
    """Its rounding loses the true class's part of the gradient, and examples seem to stand that do not."""
    misled, _ = robust(100.0, usual_cross_entropy)
    honest, _ = robust(100.0, cross_entropy)
    assert sum(misled) > sum(honest) + 30


def test_cross_entropy_itself_underflows_where_its_log_odds_do_not():
    """Why PGD ascends the log-odds: at ten thousand times the confidence the gradient of cross-entropy is exactly 0."""
    misled, _ = robust(1e4, cross_entropy)
    honest, _ = robust(1e4, log_odds)
    assert all(misled)
    assert 0.2 < sum(honest) / len(honest) < 0.8


def test_restarts_only_help():
    model = network((2, 4, 4))
    losses = [
        cross_entropy(model(PGD(ROUND, steps=2, restarts=n)(model, X, Y, generator=stream(0))), Y).detach()
        for n in (1, 2, 6)
    ]
    assert float((losses[1] - losses[0]).min()) >= -1e-6
    assert float((losses[2] - losses[1]).min()) >= -1e-6
    assert float((losses[2] - losses[0]).max()) > 0


@pytest.mark.parametrize("target", [1, 2, 7, "least-likely"])
@pytest.mark.parametrize("make", [PGD, APGD])
def test_a_targeted_attack_reaches_its_target(make, target):
    """Of three classes the 7th likeliest other one is the second, and so is the least likely."""
    ball = Ball(LINF, 1.0)
    found = make(ball, steps=60, target=target)(MODEL, X, Y, generator=stream(0))
    expected = target_class(target, MODEL(X), Y)
    if target != 1:
        assert_close(expected, target_class(2, MODEL(X), Y))
    assert bool((expected != Y).all())
    assert float((MODEL(found).argmax(1) == expected).double().mean()) > 0.8
    nearer = log_odds(MODEL(X), expected) - log_odds(MODEL(found), expected)
    assert float(nearer.detach().min()) > 0


def test_walks_towards_classes_that_there_are_not_are_left_out():
    nine = APGD(SMALL, steps=2, loss=margin_loss, targets=9)
    assert [number for number, _ in nine.usable_runs(3)] == [0, 1]
    assert [number for number, _ in nine.usable_runs(10)] == list(range(9))
    assert len(PGD(SMALL, target=5).usable_runs(3)) == 1


def test_a_radius_of_zero_returns_the_inputs():
    for attack in (PGD(Ball(LINF, 0.0)), PGD(Ball(L2, 0.0)), FGSM(Ball(LINF, 0.0))):
        assert_close(attack(MODEL, X, Y, generator=stream(0)), X, rtol=0, atol=0)


@pytest.mark.parametrize("norm", [LINF, L2])
@pytest.mark.parametrize("make", [PGD, lambda ball: PGD(ball, step_size=0.05), FGSM, BIM, APGD, OneStep, Square])
def test_a_ball_of_radius_zero_takes_the_radii_of_the_call(make, norm):
    """The size of a step is a share of each image's own radius, so radius 0 of the ball does not matter."""
    radius = torch.full((len(X),), 0.1)
    found = make(Ball(norm, 0.0))(MODEL, X, Y, generator=stream(0), radius=radius)
    assert float(norm.length(found - X).min()) > 0.05
    if make in (FGSM, BIM, PGD, APGD, OneStep):
        assert_close(found, make(Ball(norm, 0.1))(MODEL, X, Y, generator=stream(0), radius=radius))


def test_the_default_steps_are_those_of_the_docstring():
    """A linear field from the center: after one of 20 steps PGD has moved by 2.5 (l_inf) or 5 (l_2) radii / 20."""
    model = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    x, y = torch.full((1, 2), 0.5), torch.tensor([1])
    for norm, share in ((LINF, 2.5), (L2, 5.0)):
        ball = Ball(norm, 0.1)
        size = share * 0.1 / 20
        one = PGD(ball, steps=1, step_size=size, start="center")(model, x, y, generator=stream(0))
        assert_close(norm.length(one - x), torch.tensor([size]))
        by_default, by_hand = (PGD(ball, step_size=chosen)(model, x, y, generator=stream(0)) for chosen in (None, size))
        assert_close(by_default, by_hand, rtol=0, atol=0)
    assert_close(FGSM(Ball(L2, 0.1))(model, x, y, generator=stream(0)), torch.tensor([[0.56, 0.58]]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: PGD(SMALL, steps=0),
            r"at least one step and one start, got \(0, 1\)\. Write steps=20",
        ),
        (lambda: PGD(SMALL, step_size=-0.1), "a finite step size of at least 0, got -0.1"),
        (lambda: PGD(SMALL, step_size=math.nan), "a finite step size of at least 0, got nan"),
        (lambda: PGD(SMALL)(MODEL, X * 255, Y, generator=stream(0)), r"inputs inside the pixel box \(0.0, 1.0\)"),
        (lambda: PGD(SMALL, restarts=0), r"at least one step and one start, got \(20, 0\)"),
        (lambda: PGD(SMALL, restarts=2, start="center"), "random starts, got restarts from the same point"),
        (lambda: PGD(Ball(L2, 9.0))(MODEL, X, Y, generator=stream(0)), "a radius within the pixel range"),
        (
            lambda: PGD(SMALL)(MODEL, X, Y + 1, generator=stream(0)),
            "labels from 0 to 2, got 3. Give labels that count the classes from 0",
        ),
        (lambda: PGD(SMALL, start="edge"), 'a start "uniform" or "center", got \'edge\''),
        (lambda: PGD(SMALL, target=0), 'a target None, "least-likely" or 1, 2, ..., got 0'),
        (
            lambda: at_radii(torch.ones(3) * 0.1),
            r"radii of shape \(9,\), got \(3,\)\. Give one radius for each row",
        ),
        (lambda: at_radii(torch.full((9,), math.nan)), "finite radii of at least 0, got negative or infinite ones"),
        (lambda: at_radii(torch.full((9,), 8.0)), r"a radius within the pixel range, at most 1, got 8.0"),
        (
            lambda: PGD(SMALL)(MODEL, X, Y, generator=stream(0), start=X[:2]),
            r"a start of shape \(9, 2, 4, 4\), got \(2, 2, 4, 4\)\. Give one start for each row of x",
        ),
        (lambda: PGD(SMALL)(Broken(), X, Y, generator=stream(0)), "finite logits, got NaN or infinity"),
        (lambda: PGD(SMALL)(nn.Flatten(0), X, Y, generator=stream(0)), "logits of shape"),
        (lambda: PGD(SMALL)(Rounding(), X, Y, generator=stream(0)), "a field that is differentiable in its input"),
    ],
)
def test_errors_name_the_mend(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_the_last_point_of_a_path_is_had_without_a_look_at_it():
    model, seen = copy.deepcopy(MODEL), []
    model.register_forward_pre_hook(lambda *_: seen.append(1))
    known = PGD(SMALL, steps=5, start="center")
    highest = known(model, X, Y, generator=stream(0))
    assert len(seen) == 6
    last = replace(known, answer="last")(model, X, Y, generator=stream(0))
    assert len(seen) == 11
    best = log_odds(model(highest), Y) >= log_odds(model(last), Y) - 1e-6
    assert bool(best.all())
    # Small steps on a smooth network rise to the end.
    small = PGD(SMALL, steps=5, step_size=0.004, start="center")
    assert_close(
        replace(small, answer="last")(model, X, Y, generator=stream(0)), small(model, X, Y, generator=stream(0))
    )


def test_square_and_suites_refuse_what_they_cannot_do():
    with pytest.raises(InputError, match=r"the \"highest\" point, or the \"last\" of one path, got 'last' of 2"):
        PGD(SMALL, restarts=2, answer="last")
    with pytest.raises(InputError, match=r"at least two queries and one start, got \(1, 1\)\. Write queries=5000"):
        Square(SMALL, queries=1)
    with pytest.raises(InputError, match="a share of the image above 0, at most 1, got 0"):
        Square(SMALL, share=0)
    with pytest.raises(InputError, match=r"attacks with different names, got \['PGD', 'PGD'\]"):
        Suite((("PGD", PGD(SMALL)), ("PGD", PGD(SMALL))))
    with pytest.raises(InputError, match="a number of targets, or one target, got targets=2, target=1"):
        APGD(SMALL, targets=2, target=1)
    with pytest.raises(InputError, match=r"at least one step and one start, got \(0, 1\)\. Write steps=100"):
        APGD(SMALL, steps=0)


def at_radii(radius: torch.Tensor) -> torch.Tensor:
    return PGD(SMALL)(MODEL, X, Y, generator=stream(0), radius=radius)


class Broken(nn.Module):
    """Finite logits at the clean inputs, NaN anywhere else."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        clean = (x[:, None] == X[None]).flatten(2).all(2).any(1)
        return torch.where(clean[:, None], MODEL(x), math.nan)


class Rounding(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return MODEL(x).detach()
