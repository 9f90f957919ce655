"""The laws of penalties. A new penalty joins PENALTIES in one line and is held to all of them."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.testing import assert_close

from lowcurve import randomness
from lowcurve.analysis.calculus import Jet
from lowcurve.analysis.norms import L1, L2, LINF, Ball, pixels
from lowcurve.errors import InputError
from lowcurve.losses import loss_field, margin, true_logit
from lowcurve.models import Normalize
from lowcurve.penalties import CURE, ELLE, LLR, TRADES, Distillation, GradAlign, InputGradientNorm
from lowcurve.penalties.cure import published, released
from lowcurve.randomness import stream
from lowcurve.study.method_options import Cure
from lowcurve.study.methods import objective_of
from lowcurve.study.settings import Study
from lowcurve.training import Objective, Term

DEVIATIONS = (0.2, 0.3)
NEAR = Ball(LINF, 0.2)


def teacher(x: torch.Tensor) -> torch.Tensor:
    """Logits for three classes, large enough to be sure at temperature 5."""
    return 30 * x.flatten(1)[:, :3].sin()


# name: (penalty, whether an affine field has none of it; None where it depends on the draw)
PENALTIES = {
    "CURE": (CURE(h=0.3), True),
    "CURE as published": (published(), True),
    "CURE as released": (released(DEVIATIONS), True),
    "CURE along the gradient": (CURE(h=0.3, direction="gradient"), True),
    "CURE to scale": (CURE(h=0.3, scale=DEVIATIONS), True),
    "CURE, detached": (CURE(h=0.3, differentiation="detached"), True),
    "CURE, first order": (CURE(h=0.3, differentiation="first_order"), True),
    "CURE as released, first order": (replace(released(DEVIATIONS), differentiation="first_order"), True),
    "CURE, secant": (CURE(h=0.3, differentiation="secant", step=1e-4), True),
    "l_2 gradient norm": (InputGradientNorm(), False),
    "l_2 gradient norm, not squared": (InputGradientNorm(squared=False), False),
    "l_1 gradient norm": (InputGradientNorm(L1), False),
    "l_1 gradient norm, not squared": (InputGradientNorm(L1, squared=False), False),
    "l_inf gradient norm": (InputGradientNorm(LINF), False),
    "l_1 gradient norm of the margin": (InputGradientNorm(L1, squared=False, of=margin), False),
    "l_2 gradient norm, first order": (InputGradientNorm(differentiation="first_order"), False),
    "l_1 gradient norm, first order": (InputGradientNorm(L1, False, differentiation="first_order"), False),
    "l_inf gradient norm, first order": (InputGradientNorm(LINF, False, differentiation="first_order"), False),
    "l_2 gradient norm of the margin, first order": (
        InputGradientNorm(of=margin, differentiation="first_order"),
        False,
    ),
    "LLR": (LLR(NEAR, steps=3), None),
    "LLR, first order": (LLR(NEAR, steps=3, differentiation="first_order"), None),
    "LLR without tilt": (LLR(NEAR, steps=3, tilt=0.0), True),
    "GradAlign": (GradAlign(0.3), True),
    "GradAlign, detached": (GradAlign(0.3, "detached"), True),
    "GradAlign, first order": (GradAlign(0.3, "first_order"), True),
    "ELLE": (ELLE(0.3), True),
    "TRADES": (TRADES(NEAR, steps=3), None),
}
# In the place of a loss, and like a loss not 0 where the field is constant.
LOSSES = {"distillation": (Distillation(teacher, 5.0), None)}
ALL = PENALTIES | LOSSES


def each(*words: str, among: dict[str, tuple] = ALL) -> pytest.MarkDecorator:
    """Every row of a table of penalties, with these of its columns."""
    columns = [("penalty", "flat").index(word) for word in words]
    rows = [[row[k] for k in columns] for row in among.values()]
    return pytest.mark.parametrize(words, rows, ids=among)


SHAPE = (2, 2, 2)
X = randomness.uniform(torch.zeros(5, *SHAPE, dtype=torch.float64), 0, 1, generator=stream(0, "penalized"))
Y = torch.arange(5) % 3


def network() -> nn.Module:
    """A tiny smooth network in float64."""
    with randomness.temporary_seed(0, "penalized network"):
        return nn.Sequential(nn.Flatten(), nn.Linear(8, 6), nn.Softplus(beta=3), nn.Linear(6, 3)).double()


def value(penalty, field, x=X) -> torch.Tensor:
    return penalty(Jet(field, x), generator=stream(0, "penalty"))


def slopes(total: torch.Tensor, model: nn.Module) -> tuple[torch.Tensor, ...]:
    """The gradient of a number with respect to the parameters."""
    return torch.autograd.grad(total, tuple(model.parameters()), allow_unused=True, materialize_grads=True)


def quadratic(h: torch.Tensor, b: torch.Tensor):
    """l_i(x) = <b_i, x> + x^T H_i x / 2."""
    return lambda x: (b * x.flatten(1)).sum(1) + torch.einsum("bi,bij,bj->b", x.flatten(1), h, x.flatten(1)) / 2


@each("penalty")
def test_one_number_an_example_and_none_below_zero(penalty):
    numbers = value(penalty, loss_field(network(), Y))
    assert numbers.shape == (5,)
    assert float(numbers.detach().min()) > 0


@each("penalty", "flat", among=PENALTIES)
def test_what_an_affine_field_costs(penalty, flat):
    weights = torch.linspace(-1, 2, 40, dtype=torch.float64).reshape(5, 8)
    first = torch.tensor([1.0, 0.0], dtype=torch.float64)
    field = loss_field(lambda x: (weights * x.flatten(1)).sum(1)[:, None] * first, Y * 0, true_logit)
    numbers = value(penalty, field)
    if flat is None:
        assert float(numbers.detach().min()) > 0
    elif flat:
        assert_close(numbers, torch.zeros(5, dtype=torch.float64), rtol=0, atol=1e-14)
    else:
        assert_close(numbers, penalty.norm.length(weights) ** (2 if penalty.squared else 1))


@each("penalty")
def test_the_gradient_reaches_every_layer(penalty):
    model = network()
    found = slopes(value(penalty, loss_field(model, Y)).mean(), model)
    linear = getattr(penalty, "of", None) is margin  # in the logits, so that the last bias drops out of its gradient
    for slope in found[:-1] if linear else found:
        assert float(slope.abs().max()) > 1e-8


@each("penalty")
def test_the_gradient_is_that_of_finite_differences(penalty):
    """CURE holds z constant; along the sign that is no restriction, since signs do not move with the parameters."""
    if getattr(penalty, "direction", "sign") == "gradient":
        penalty = CURE(h=0.3)  # its gradient with z held is checked against `by_hand` below
    if getattr(penalty, "differentiation", "exact") == "detached":
        penalty = replace(
            penalty, differentiation="exact"
        )  # and that with the clean gradient held in test_first_order.py
    model = network()
    names = [name for name, _ in model.named_parameters()]

    def mean(*weights: torch.Tensor) -> torch.Tensor:
        def logits(x: torch.Tensor) -> torch.Tensor:
            return functional_call(model, dict(zip(names, weights, strict=True)), x)

        return (
            1e3 * value(penalty, loss_field(logits, Y)).mean()
        )  # published CURE is as small as the error that gradcheck allows

    assert torch.autograd.gradcheck(mean, tuple(p.detach().requires_grad_() for p in model.parameters()))


@each("penalty")
def test_duplicating_the_batch_changes_nothing(penalty):
    model = network()
    objective = Objective(penalties={"it": Term(penalty, weight=0.7)})
    once, twice = (
        objective.terms(model, X.repeat(n, 1, 1, 1), Y.repeat(n), generator=stream(0, "penalty")) for n in (1, 2)
    )
    assert_close(once["it"], 0.7 * value(penalty, loss_field(model, Y)).mean())
    assert_close(once, twice)
    assert_close(slopes(once["it"], model), slopes(twice["it"], model))


@each("penalty", among=PENALTIES)
def test_where_the_field_is_constant_nothing_is_paid_and_nothing_is_nan(penalty):
    model = network()
    nn.init.zeros_(model[3].weight)
    numbers = value(penalty, loss_field(model, Y))
    assert_close(numbers, torch.zeros(5, dtype=torch.float64))
    for slope in slopes(numbers.mean(), model):
        assert_close(slope, torch.zeros_like(slope))


@each("penalty")
def test_one_constant_example_leaves_the_others_alone(penalty):
    """The logits of the first example are 0 everywhere; its neighbors must not notice."""
    model = network()
    awake = torch.tensor([0.0, 1.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    numbers = value(penalty, loss_field(lambda x: awake[:, None] * model(x), Y))
    assert_close(numbers[1:], value(penalty, loss_field(model, Y))[1:])
    rest = value(penalty, loss_field(model, Y[1:]), X[1:])
    assert_close(slopes(numbers.sum(), model), slopes(rest.sum(), model))


@each("penalty")
def test_the_world_is_left_as_it_was(penalty):
    model, state, x = network(), torch.get_rng_state(), X.clone()
    value(penalty, loss_field(model, Y), x)
    assert_close(torch.get_rng_state(), state)
    assert_close(x, X, rtol=0, atol=0)
    assert not x.requires_grad
    assert [p.grad for p in model.parameters()] == [None] * 4


@pytest.mark.parametrize("shape", [(1,), (2,), (7,), (1, 4, 4), (3, 2, 3)])
@pytest.mark.parametrize("h", [1e-3, 0.5, 20.0])
def test_cure_on_a_quadratic_is_h_squared_hz_squared(shape, h):
    size = math.prod(shape)
    matrix = torch.randn(4, size, size, dtype=torch.float64, generator=stream(0, "H", size))
    matrix = matrix + matrix.transpose(1, 2)
    b = torch.randn(4, size, dtype=torch.float64, generator=stream(0, "b", size))
    x = torch.rand(4, *shape, dtype=torch.float64, generator=stream(0, "x", size))
    g = b + torch.einsum("bij,bj->bi", matrix, x.flatten(1))
    along = {"sign": g.sign(), "gradient": g}
    for direction, v in along.items():
        z = v / torch.linalg.vector_norm(v, dim=1, keepdim=True)
        expected = h**2 * torch.einsum("bij,bj->bi", matrix, z).square().sum(1)
        field = quadratic(matrix, b)
        assert_close(value(CURE(h, direction=direction), field, x), expected)
        assert_close(value(CURE(h, squared=False, direction=direction), field, x), expected.sqrt())


def test_cure_to_scale_is_cure_in_the_coordinates_divided_by_it():
    matrix = torch.randn(5, 8, 8, dtype=torch.float64, generator=stream(1, "H"))
    matrix = matrix + matrix.transpose(1, 2)
    b = torch.randn(5, 8, dtype=torch.float64, generator=stream(1, "b"))
    s = torch.tensor([0.2, 0.2, 0.2, 0.2, 0.3, 0.3, 0.3, 0.3], dtype=torch.float64)
    scaled = quadratic(s[:, None] * matrix * s, s * b)  # the same field of u = x / s
    for direction in ("sign", "gradient"):
        ours = value(CURE(0.4, scale=DEVIATIONS, direction=direction), quadratic(matrix, b))
        assert_close(ours, value(CURE(0.4, direction=direction), scaled, X.flatten(1) / s))


def by_hand(body: nn.Module, u: torch.Tensor, y: torch.Tensor, h: float, direction: str = "sign") -> torch.Tensor:
    """||grad l(u + z) - grad l(u)||_2, written without the package."""

    def gradient(at: torch.Tensor) -> torch.Tensor:
        at = at.detach().requires_grad_()
        return torch.autograd.grad(F.cross_entropy(body(at), y, reduction="sum"), at, create_graph=True)[0]

    clean = gradient(u)
    v = clean.detach().sign() if direction == "sign" else clean.detach()
    z = h * v / torch.linalg.vector_norm(v.flatten(1), dim=1).reshape(-1, 1, 1, 1)
    return torch.linalg.vector_norm((gradient(u + z) - clean).flatten(1), dim=1)


@pytest.mark.parametrize("direction", ["sign", "gradient"])
def test_value_and_gradient_of_cure_by_hand(direction):
    model = network()
    ours, other = value(CURE(0.3, direction=direction), loss_field(model, Y)), by_hand(model, X, Y, 0.3, direction)
    assert_close(ours, other.square())
    assert_close(slopes(ours.mean(), model), slopes(other.square().mean(), model))


@pytest.mark.parametrize("h", [0.1, 3.0])
def test_the_released_form_is_what_the_released_code_computes(h):
    """4 * mean_i ||grad l_i(u_i + z_i) - grad l_i(u_i)||_2 with u = (x - mean) / std."""
    body = network()
    mean, std = (0.5, 0.4), DEVIATIONS
    model = nn.Sequential(Normalize(mean, std), body).double()
    term = Objective(penalties={"it": Term(released(std, h), weight=4.0)}).terms(model, X, Y, generator=stream(0))["it"]
    u = (X - torch.tensor(mean).reshape(1, 2, 1, 1)) / torch.tensor(std).reshape(1, 2, 1, 1)
    theirs = 4 * by_hand(body, u, Y, h).mean()
    assert_close(term, theirs, rtol=1e-6, atol=0)  # the package keeps mean and std in float32
    assert_close(slopes(term, body), slopes(theirs, body), rtol=1e-5, atol=1e-7)


class TwoPrograms:
    """A training step of the authors' two programs, written without the package. Only the modes differ."""

    def __init__(self, body: nn.Module, branch: str) -> None:
        self.body, self.branch = body, branch

    def gradient(self, u: torch.Tensor, y: torch.Tensor, graph: bool) -> torch.Tensor:
        u = u.detach().requires_grad_()
        losses = F.cross_entropy(self.body(u), y, reduction="none")
        return torch.autograd.grad(losses, u, torch.ones(len(y), dtype=u.dtype), create_graph=graph)[0]

    def term(self, u: torch.Tensor, y: torch.Tensor, h: float) -> torch.Tensor:
        self.body.train()
        self.body(u)  # the loss, which moves the running statistics
        self.body.eval()
        v = self.gradient(u, y, graph=False).sign() + 1e-7
        z = h * v / (v.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1) + 1e-7)
        self.body.train(self.branch == "quick_fix")
        change = self.gradient(u + z, y, graph=True) - self.gradient(u, y, graph=True)
        return 4 * change.flatten(1).norm(dim=1).mean()


@pytest.mark.parametrize(("eval_mode", "branch"), [("all", "master"), ("direction", "quick_fix")])
def test_the_two_programs_of_cures_authors(eval_mode, branch):
    """They differ in BatchNorm's modes, from each other and from the default, in value and in the weights' gradient."""
    with randomness.temporary_seed(0, "net"):
        body = nn.Sequential(
            nn.Conv2d(2, 4, 2), nn.BatchNorm2d(4), nn.Softplus(5), nn.Flatten(), nn.LazyLinear(3)
        ).double()
        body(X)
    theirs = TwoPrograms(copy.deepcopy(body), branch)
    std = torch.tensor(DEVIATIONS, dtype=torch.float64).reshape(1, 2, 1, 1)
    expected = theirs.term(X / std, Y, 3.0)
    model = nn.Sequential(Normalize((0.0, 0.0), DEVIATIONS), body).double().train()

    def term(mode: str) -> torch.Tensor:
        objective = Objective(penalties={"it": Term(released(DEVIATIONS, 3.0, mode), weight=4.0)})
        return objective.terms(copy.deepcopy(model), X, Y, generator=stream(0))["it"]

    ours = Objective(penalties={"it": Term(released(DEVIATIONS, 3.0, eval_mode), weight=4.0)}).terms(
        model, X, Y, generator=stream(0)
    )["it"]
    assert_close(ours, expected, rtol=1e-6, atol=0)
    assert_close(slopes(ours, body), slopes(expected, theirs.body), rtol=1e-5, atol=1e-7)
    assert model.training
    assert all(part.training for part in model.modules())
    others = [float(term(mode).detach()) for mode in ("none", "direction", "all")]
    assert len({round(value, 3) for value in others}) == 3
    assert int(body[1].num_batches_tracked) == {"all": 2, "direction": 3}[eval_mode]


def test_the_mode_of_the_passes_of_cure():
    """In eval mode, and for fields without a network, it changes nothing. Differences of losses are refused."""
    model = network()
    for field in (loss_field(model, Y), lambda x: x.flatten(1).sin().sum(1)):
        values = [value(CURE(0.3, eval_mode=mode), field) for mode in ("none", "direction", "all")]
        assert_close(values[1:], [values[0]] * 2)
    with pytest.raises(InputError, match='an eval_mode "none", "direction" or "all", got \'train\''):
        CURE(0.3, eval_mode="train")
    with pytest.raises(InputError, match='the differentiation "exact" or "detached" with eval_mode, got first_order'):
        CURE(0.3, differentiation="first_order", eval_mode="all")


def test_the_forms_of_a_study_are_the_named_ones():
    for form, mode in (("released", "none"), ("released-master", "all"), ("released-quick-fix", "direction")):
        penalty = objective_of("CURE", Study(cure=Cure(h=2.0, form=form)), DEVIATIONS).penalties["curvature"].penalty
        assert penalty == released(DEVIATIONS, 2.0, mode)


def test_the_named_forms_are_what_their_docstrings_say():
    assert published() == CURE(h=1.5 / 255, squared=True, direction="sign", scale=None)
    assert published(pixels(3)) == CURE(h=3 / 255)
    assert released((0.2,)) == CURE(h=3.0, squared=False, direction="sign", scale=(0.2,))


def test_the_l_1_gradient_norm_is_the_loss_increase_of_a_small_l_inf_step():
    field = loss_field(network(), Y)
    g = Jet(field, X).gradient.detach()
    rise = (field(X + 1e-6 * LINF.steepest(g)) - field(X)).detach() / 1e-6
    assert_close(value(InputGradientNorm(L1, squared=False), field).detach(), rise, rtol=1e-4, atol=0)
    assert_close(value(InputGradientNorm(L2), field), g.flatten(1).square().sum(1))


@pytest.mark.parametrize("h", [0.0, -1.0, math.nan, math.inf])
def test_a_scale_that_is_none(h):
    with pytest.raises(InputError, match=r"a scale h > 0 in pixel units \(an l_2 length\), got .*CURE\(h=0.5\)"):
        CURE(h=h)


def test_a_direction_that_is_none():
    with pytest.raises(InputError, match='a direction "sign" or "gradient", got \'random\''):
        CURE(h=0.1, direction="random")


def test_a_scale_for_other_channels():
    with pytest.raises(InputError, match=r"a positive scale for each channel, got \(0.2, 0.0\)"):
        CURE(h=0.1, scale=(0.2, 0.0))
    with pytest.raises(InputError, match=r"a scale for each of 2 channels, got \(0.2, 0.2, 0.2\)"):
        value(CURE(h=0.1, scale=(0.2, 0.2, 0.2)), loss_field(network(), Y))


def test_a_penalty_called_with_a_network_and_images():
    model, x, y = torch.nn.Flatten(), torch.rand(2, 3), torch.tensor([0, 1])
    for call in (lambda: CURE(h=1.0)(model, x, y), lambda: CURE(h=1.0)(x)):
        with pytest.raises(InputError, match=r"the loss and its gradient at the images.*Write lc\.regularized\(model"):
            call()
