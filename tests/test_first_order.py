"""The ways to a penalty's derivative: differences of losses against double backward, what is held, and what is refused."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from lowcurve import randomness
from lowcurve.analysis.calculus import Jet, gradient
from lowcurve.analysis.norms import L1, L2, LINF, Ball
from lowcurve.errors import InputError
from lowcurve.losses import cross_entropy, loss_field, margin
from lowcurve.models import ConvertedNetwork, LCNNConversion, Network
from lowcurve.penalties import CURE, ELLE, LLR, GradAlign, InputGradientNorm
from lowcurve.penalties.differentiation import choose_step, directional_difference, graph_operations
from lowcurve.randomness import stream
from lowcurve.training import Objective, Term

X = torch.rand(8, 3, 12, 12, generator=stream(0, "pixels"))
Y = torch.arange(8) % 5


class Own(nn.Module):
    """Convolutions, a nonlinearity and a pooling, each as a function."""

    def __init__(self, bend, pool) -> None:
        super().__init__()
        self.bend, self.pool = bend, pool
        self.first, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 8, 3, padding=1)
        self.last = nn.Linear(8 * 36, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.bend(self.first(x)), 2)
        return self.last(self.bend(self.second(x)).flatten(1))


def softplus(x: torch.Tensor) -> torch.Tensor:
    return F.softplus(x, 10)


def network(dtype=torch.float64, bend=softplus, pool=F.avg_pool2d, gain: float = 2.0) -> nn.Module:
    """The same weights in either precision; `gain` is their size beside the usual one."""
    with randomness.temporary_seed(0, "first order"):
        net = Own(bend, pool)
    with torch.no_grad():
        for weights in (net.first.weight, net.second.weight, net.last.weight):
            weights.mul_(gain)
    return net.to(dtype).eval()


def value(penalty, model: nn.Module, loss=cross_entropy) -> torch.Tensor:
    x = X.to(next(model.parameters()).dtype)
    return penalty(Jet(loss_field(model, Y, loss), x), generator=stream(0, "draws"))


def slope(penalty, model: nn.Module, loss=cross_entropy) -> torch.Tensor:
    """The gradient of the mean with respect to the parameters, as one vector in float64."""
    total = value(penalty, model, loss).mean()
    found = torch.autograd.grad(total, tuple(model.parameters()), allow_unused=True, materialize_grads=True)
    return torch.cat([g.flatten() for g in found]).double()


def error(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


# name: penalty in a given way
KINDS = {
    "CURE, h 0.1": lambda way: CURE(0.1, differentiation=way),
    "CURE, h 1": lambda way: CURE(1.0, differentiation=way),
    "CURE, not squared": lambda way: CURE(1.0, squared=False, differentiation=way),
    "CURE to scale": lambda way: CURE(3.0, scale=(0.2, 0.3, 0.2), differentiation=way),
    "l_2": lambda way: InputGradientNorm(differentiation=way),
    "l_1": lambda way: InputGradientNorm(L1, False, differentiation=way),
    "l_inf": lambda way: InputGradientNorm(LINF, False, differentiation=way),
    "l_1 of the margin": lambda way: InputGradientNorm(L1, False, of=margin, differentiation=way),
    "GradAlign": lambda way: GradAlign(0.2, way),
    "LLR": lambda way: LLR(Ball(LINF, 0.1), steps=2, differentiation=way),
}
kinds = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


@kinds
@pytest.mark.parametrize("gain", [1.0, 2.0, 6.0])
def test_differences_of_losses_give_the_gradient_of_double_backward(kind, gain):
    double, single = network(gain=gain), network(torch.float32, gain=gain)
    exact = slope(kind("exact"), double)
    assert error(slope(kind("first_order"), double), exact) < 1e-8
    assert error(slope(kind("first_order"), single), exact) < 3e-3


@kinds
def test_the_value_is_that_of_the_exact_way(kind):
    model = network()
    assert_close(value(kind("first_order"), model), value(kind("exact"), model), rtol=1e-12, atol=0)


@pytest.mark.parametrize("level", [1e-2, 1e-5, 1e-8])
def test_confident_examples(level):
    """However small the loss, the step follows: logits that are ever farther apart, in float32."""
    models = [network(torch.float64), network(torch.float32)]
    with torch.no_grad():
        z = models[0](X.double())
    away = F.one_hot(Y, 5) * (z.logsumexp(1, keepdim=True) - z.gather(1, Y[:, None]) - math.log(level))
    for model in models:
        model.register_buffer("away", away.to(next(model.parameters()).dtype))
        model.register_forward_hook(lambda module, _, z: z + module.away)
    for penalty in (CURE(0.5), InputGradientNorm(L1, False)):
        first = type(penalty)(**{**vars(penalty), "differentiation": "first_order"})
        assert error(slope(first, models[1]), slope(penalty, models[0])) < 5e-3


def test_no_fixed_step_does_for_a_flat_and_for_a_steep_network():
    """Why the step follows the field: each of these is right on one of the networks and wrong on the other."""
    for gain in (1.0, 30.0):
        exact = slope(CURE(0.1), network(gain=gain))
        single = network(torch.float32, gain=gain)
        fixed = [error(slope(CURE(0.1, differentiation="secant", step=t), single), exact) for t in (1e-4, 1e-1)]
        assert max(fixed) > 0.1
        assert error(slope(CURE(0.1, differentiation="first_order"), single), exact) < 1e-2


@pytest.mark.parametrize("penalty", [CURE(0.3), GradAlign(0.3)])
def test_detached_is_differentiated_at_the_moved_point_alone(penalty):
    """Against the formula by hand, with the clean gradient held."""
    model, x = network(), X.double()
    field = loss_field(model, Y)
    clean = gradient(field, x)
    if isinstance(penalty, CURE):
        there = gradient(field, x + 0.3 * clean.sign() / math.sqrt(x[0].numel()), create_graph=True)
        mean = (there - clean).square().flatten(1).sum(1).mean()
    else:
        streams = randomness.example_streams(stream(0, "draws"), x, torch.zeros(8, dtype=torch.long))
        there = gradient(field, x + streams.uniform(x, -0.3, 0.3), create_graph=True)
        mean = (1 - F.cosine_similarity(there.flatten(1), clean.flatten(1))).mean()
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(mean, tuple(model.parameters())[:-1])])
    held = type(penalty)(**{**vars(penalty), "differentiation": "detached"})
    assert_close(value(held, model).mean(), mean)
    assert_close(slope(held, model)[: len(expected)], expected)
    assert error(slope(held, model), slope(penalty, model)) > 0.1


@pytest.mark.parametrize("name", ["CURE, h 0.1", "CURE, h 1", "CURE, not squared", "CURE to scale", "GradAlign"])
@pytest.mark.parametrize("gain", [1.0, 6.0])
def test_differences_with_the_clean_gradient_held_give_the_gradient_of_detached(name, gain):
    kind, double, single = KINDS[name], network(gain=gain), network(torch.float32, gain=gain)
    exact = slope(kind("detached"), double)
    assert error(slope(kind("first_order_detached"), double), exact) < 1e-8
    assert error(slope(kind("first_order_detached"), single), exact) < 3e-3
    assert_close(value(kind("first_order_detached"), double), value(kind("exact"), double), rtol=1e-12, atol=0)


@pytest.mark.parametrize("way", ["exact", "detached", "first_order", "first_order_detached", "secant"])
def test_what_differentiates_twice(way):
    """Where a gradient is differentiated the backward pass comes to x; where losses are, it has no way there."""
    penalty = CURE(0.3, differentiation=way, step=0.1 if way == "secant" else None)
    jet = Jet(loss_field(network(), Y), X.double())
    assert penalty.differentiates_twice == (way in ("exact", "detached"))
    penalty(jet, generator=stream(0)).sum().backward()
    assert ("gradient" in vars(jet)) == (jet.x.grad is not None) == (way == "exact")


def test_every_penalty_says_whether_it_differentiates_twice():
    for kind in KINDS.values():
        assert [kind(way).differentiates_twice for way in ("exact", "first_order")] == [True, False]
    assert not ELLE().differentiates_twice


@pytest.mark.parametrize("way", ["exact", "detached", "first_order", "first_order_detached"])
def test_how_often_the_network_is_asked(way):
    """Passes forward: the shared one, the moved one, and two for each gradient where losses are taken."""
    model, seen = network(), []
    model.register_forward_pre_hook(lambda *_: seen.append(1))
    value(CURE(0.3, differentiation=way), model)
    assert len(seen) == {"exact": 2, "detached": 2, "first_order": 6, "first_order_detached": 4}[way]


KINKS = {
    "relu": (torch.relu, F.avg_pool2d, "Relu"),
    "its module": (nn.ReLU(), F.avg_pool2d, "Relu"),
    "leaky relu": (F.leaky_relu, F.avg_pool2d, "LeakyRelu"),
    "hardswish": (F.hardswish, F.avg_pool2d, "Hardswish"),
    "clamping": (lambda x: x.clamp(min=0), F.avg_pool2d, "Clamp"),
    "a size": (torch.abs, F.avg_pool2d, "Abs"),
    "max-pooling": (F.silu, F.max_pool2d, "MaxPool2DWithIndices"),
    "adaptive max-pooling": (F.silu, lambda x, _: F.adaptive_max_pool2d(x, 6), "AdaptiveMaxPool2D"),
}


@pytest.mark.parametrize(("bend", "pool", "name"), KINKS.values(), ids=KINKS)
def test_kinks_are_refused_unless_a_secant_is_asked_for(bend, pool, name):
    model = network(bend=bend, pool=pool)
    for penalty in (CURE(0.3, differentiation="first_order"), InputGradientNorm(differentiation="first_order")):
        message = f"a smooth field for first_order differences, got one made with {name}. .*secant"
        with pytest.raises(InputError, match=message):
            value(penalty, model)
    numbers = value(CURE(0.3, differentiation="secant", step=0.05), model)
    assert_close(numbers, value(CURE(0.3), model))


@pytest.mark.parametrize("bend", [softplus, F.silu, F.gelu, F.elu, torch.tanh, torch.sigmoid])
def test_what_is_smooth_is_not_refused(bend):
    for loss in (cross_entropy, margin):
        value(CURE(0.3, differentiation="first_order"), network(bend=bend), loss)


def test_beside_kinks_the_differences_are_another_objective():
    """Why they are refused: ReLU, and max-pooling behind something smooth."""
    for bend, pool in ((torch.relu, F.avg_pool2d), (softplus, F.max_pool2d)):
        model = network(bend=bend, pool=pool)
        for t in (1e-2, 1e-1):
            found, exact = slope(CURE(0.1, differentiation="secant", step=t), model), slope(CURE(0.1), model)
            assert float(found @ exact / (found.norm() * exact.norm())) < 0.6


def test_a_secant_follows_the_differences_of_losses_at_its_step():
    model, x, t = network(bend=torch.relu), X.double(), 0.05
    field = loss_field(model, Y)
    g = gradient(field, x)
    u = t * L2.unit(g)
    mean = ((field(x + u) - field(x - u)) / (2 * t)).mean()
    expected = torch.cat([p.flatten() for p in torch.autograd.grad(mean, tuple(model.parameters()))])
    assert_close(slope(InputGradientNorm(squared=False, differentiation="secant", step=t), model), expected)


def test_what_bounds_the_layers_of_a_low_curvature_network_is_no_kink():
    """gamma = exp(|log_gamma|) bends in the parameters, not in the input."""
    spec = Network("resnet18", (3, 8, 8), 3, (0.5,) * 3, (0.25,) * 3, "softplus", 2)
    model, x = ConvertedNetwork(spec, LCNNConversion(), spec.shape).build(seed=0).eval(), torch.rand(2, 3, 8, 8)
    term = Term(InputGradientNorm(differentiation="first_order"), 1.0)
    Objective(penalties={"gradient": term}, statistics="frozen").check_network(model, x, torch.tensor([0, 1]))


def test_layers_that_act_on_the_batch_or_by_chance_are_refused():
    for layer in (nn.BatchNorm2d(3), nn.Dropout(0.1)):
        model = nn.Sequential(layer, network()).double().train()
        field = loss_field(model, Y, batch_statistics=True)
        for way, step in (("first_order", None), ("secant", 0.1)):
            with pytest.raises(InputError, match=r"a model in eval mode.*in training mode"):
                CURE(0.3, differentiation=way, step=step)(Jet(field, X.double()), generator=stream(0))


def test_the_step_is_a_share_of_the_length_over_which_the_loss_changes():
    """t = eps^(1/3) min(|l|, 1) / ||g||, at least 16 eps sqrt(d) and at most eps^(1/3) sqrt(d)."""
    eps = torch.finfo(torch.float64).eps
    values = torch.tensor([2.0, -0.5, 1e-9, 0.0, 1.0, 7.0], dtype=torch.float64)
    slopes = torch.zeros(6, 1, 4, 4, dtype=torch.float64)
    slopes[:, 0, 0, 0] = torch.tensor([4.0, 4.0, 4e-9, 3.0, 0.0, 1.0])
    lengths = torch.tensor([0.25, 0.125, 0.25, 16 * eps ** (2 / 3) * 4, 4.0, 1.0], dtype=torch.float64)
    assert_close(choose_step(values, slopes), eps ** (1 / 3) * lengths)


def test_along_is_exact_on_quadratics_and_second_order_beyond():
    x, v = torch.rand(3, 2, 2, dtype=torch.float64, generator=stream(0)), torch.ones(3, 2, 2, dtype=torch.float64)
    steps = torch.tensor([0.1, 0.2, 0.4], dtype=torch.float64)
    found = directional_difference(lambda x: x.pow(3).flatten(1).sum(1), x, v, steps)
    assert_close(found, 3 * x.square().flatten(1).sum(1) + 4 * (steps / 2) ** 2)  # each pixel moves by t / 2
    assert_close(directional_difference(lambda x: x.square().flatten(1).sum(1), x, v, steps), 2 * x.flatten(1).sum(1))
    assert_close(
        directional_difference(lambda x: x.square().flatten(1).sum(1), x, 0 * v, steps),
        torch.zeros(3, dtype=torch.float64),
    )


def test_operations_are_seen_once_each_on_every_path():
    leaf = torch.ones(2, requires_grad=True)
    twice = leaf.exp()
    found = sorted(graph_operations(twice.sin() + twice.cos()))
    assert found == ["AccumulateGrad", "Add", "Cos", "Exp", "Sin"]
    assert list(graph_operations(torch.ones(2))) == []


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CURE(0.1, differentiation="fast"), "exact, detached, first_order, first_order_detached, secant, .*'fast'"),
        (lambda: InputGradientNorm(differentiation="detached"), "a differentiation among exact, first_order, secant"),
        (lambda: LLR(differentiation="detached"), "a differentiation among exact, first_order, secant"),
        (lambda: CURE(0.1, differentiation="secant"), "the step of a secant, an l_2 length in pixel units, got None"),
        (lambda: CURE(0.1, step=0.1), 'no step with differentiation "exact" or "detached", got 0.1'),
        (lambda: GradAlign(differentiation="first_order", step=0.0), "a step > 0 of central differences, got 0.0"),
        (lambda: GradAlign(differentiation="secant", step=math.inf), "a step > 0 of central differences, got inf"),
    ],
)  # fmt: skip
def test_errors_name_the_mend(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_of_another_loss():
    """The Jacobian penalty of the margin is the gradient norm of the margin's field; it needs the model and the labels."""
    model = network()
    for norm in (L1, L2, LINF):
        ours = value(InputGradientNorm(norm, of=margin), model)
        assert_close(ours, value(InputGradientNorm(norm), model, margin))
    with pytest.raises(InputError, match=r"a field that shows its model and labels, got function\. .*loss_field"):
        InputGradientNorm(of=margin)(Jet(lambda x: x.sum((1, 2, 3)), X), generator=stream(0))
