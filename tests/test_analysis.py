"""Derivatives and ascent against closed forms on quadratics and linear fields."""

import math

import pytest
import torch
from scipy.stats import kstest
from torch import nn
from torch.testing import assert_close

from lowcurve import randomness
from lowcurve.analysis.ascent import ascent_step
from lowcurve.analysis.calculus import Jet, gradient, jacobian, value_and_gradient
from lowcurve.analysis.hessians import hessian
from lowcurve.analysis.norms import L1, L2, LINF, Ball
from lowcurve.analysis.secants import secant_hessian
from lowcurve.errors import InputError
from lowcurve.losses import cross_entropy, loss_field, margin
from lowcurve.randomness import stream


def symmetric(batch: int, size: int) -> torch.Tensor:
    a = torch.randn(batch, size, size, dtype=torch.float64, generator=stream(3, "matrix"))
    return (a + a.transpose(1, 2)) / 2


class Quadratic:
    """l_i(x) = <b_i, x> + x^T H_i x / 2."""

    def __init__(self, h: torch.Tensor, b: torch.Tensor) -> None:
        self.h, self.b = h, b

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.flatten(1)
        return (self.b * flat).sum(1) + torch.einsum("bi,bij,bj->b", flat, self.h, flat) / 2


H = symmetric(4, 12)
B = torch.randn(4, 12, dtype=torch.float64, generator=stream(3, "slope"))
X = torch.rand(4, 3, 2, 2, dtype=torch.float64, generator=stream(3, "point"))
V = torch.randn(4, 3, 2, 2, dtype=torch.float64, generator=stream(3, "vector"))
QUADRATIC = Quadratic(H, B)
HV = torch.einsum("bij,bj->bi", H, V.flatten(1)).reshape(V.shape)


def test_gradient_of_a_quadratic():
    expected = (B + torch.einsum("bij,bj->bi", H, X.flatten(1))).reshape(X.shape)
    assert_close(gradient(QUADRATIC, X), expected)
    values, found = value_and_gradient(QUADRATIC, X)
    assert_close(values, QUADRATIC(X))
    assert not values.requires_grad
    assert not found.requires_grad
    assert_close(Jet(QUADRATIC, X).gradient.detach(), expected)


def test_a_jet_keeps_the_logits_of_its_one_pass_and_gives_jets_of_other_losses_of_them():
    with randomness.temporary_seed(0, "jet"):
        model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    seen, y = [], torch.arange(4) % 3
    handle = model.register_forward_pre_hook(lambda *_: seen.append(1))
    jet = Jet(loss_field(model, y), X)
    other = jet.with_field(loss_field(model, y, margin))
    found = (jet.values, jet.gradient, other.values, other.gradient, other.detached_gradient, other.logits)
    assert len(seen) == 1
    handle.remove()
    alone = [Jet(loss_field(model, y, loss), X) for loss in (cross_entropy, margin)]
    assert_close(
        found, (*(part for one in alone for part in (one.values, one.gradient)), alone[1].detached_gradient, model(X))
    )
    total, parts = (sum(one.gradient.square().sum() for one in jets) for jets in ((jet, other), alone))
    weights = tuple(model.parameters())[:-1]
    assert_close(torch.autograd.grad(total, weights), torch.autograd.grad(parts, weights))


def test_a_jet_of_a_field_without_logits_has_no_logits():
    with pytest.raises(
        InputError, match=r"a field that shows its logits, got Quadratic\. Write loss_field\(model, y\)"
    ):
        _ = Jet(QUADRATIC, X).logits


def test_products_with_the_hessian_of_a_quadratic():
    assert_close(hessian(QUADRATIC, X)(V), HV)
    for h in (1e-3, 0.1, 3.0):
        assert_close(secant_hessian(QUADRATIC, X, h)(V), HV)


def test_an_affine_field_has_no_curvature():
    field = Quadratic(torch.zeros_like(H), B)
    assert_close(hessian(lambda x: (B * x.flatten(1)).sum(1), X)(V), torch.zeros_like(V))
    assert_close(secant_hessian(field, X, 0.1)(V), torch.zeros_like(V))


def test_jacobian_against_torch():
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Tanh()).double()
    expected = torch.func.vmap(torch.func.jacrev(lambda x: net(x[None])[0]))(X)
    assert_close(jacobian(net, X), expected.detach())


def test_the_gradient_of_a_relu_network_does_not_touch_its_parameters():
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).double()
    gradient(loss_field(net, torch.tensor([0, 1, 2, 0])), X)
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize("h", [0, -1.0, float("nan")])
def test_a_scale_that_is_none(h):
    with pytest.raises(InputError, match="a scale h > 0 in pixel units"):
        secant_hessian(QUADRATIC, X, h)


def test_a_field_without_a_graph():
    with pytest.raises(InputError, match=r"Remove detach\(\), rounding, quantization or numpy"):
        gradient(lambda x: x.detach().flatten(1).sum(1), X)


@pytest.mark.parametrize("norm", [L1, L2, LINF])
def test_ascent_climbs_to_the_optimum_of_a_linear_field(norm):
    center = torch.full((4, 12), 0.5, dtype=torch.float64)
    ball = Ball(norm, 0.1)
    point = ball.sample(center, randomness.example_streams(stream(0, "start"), center, torch.arange(4)))
    for _ in range(20):
        point = ascent_step(point, B, center, ball, size=torch.full((4,), 0.025))
    gained = (B * (point - center)).sum(1)
    assert bool((gained >= 0.99 * 0.1 * norm.dual.length(B)).all())
    short = ascent_step(center, B, center, ball, size=torch.full((4,), 1.0), radius=torch.linspace(0, 0.1, 4))
    assert_close(norm.length(short - center), torch.linspace(0, 0.1, 4, dtype=torch.float64))


def test_ascent_stays_where_the_gradient_is_zero():
    center = torch.full((1, 2), 0.5)
    assert_close(ascent_step(center, torch.zeros(1, 2), center, Ball(LINF, 0.2), size=torch.ones(1)), center)


X_STREAMS = torch.rand(300, 40, generator=stream(0, "examples"))


def streams(rows=slice(None)):
    return randomness.example_streams(stream(3), X_STREAMS[rows], torch.arange(300)[rows] % 3)


def test_a_stream_an_example_follows_the_example_wherever_it_stands():
    order = randomness.permutation(300, generator=stream(0))
    for draw in ("uniform", "normal", "signs"):
        more = (0, 1) if draw == "uniform" else ()
        found = getattr(streams().at("here"), draw)(X_STREAMS, *more)
        assert_close(getattr(streams(order).at("here"), draw)(X_STREAMS, *more), found[order], rtol=0, atol=0)
        assert_close(getattr(streams().take(order).at("here"), draw)(X_STREAMS, *more), found[order], rtol=0, atol=0)
        for other in (streams().at("there"), streams().at_each(torch.ones(300)), streams()):
            assert float((getattr(other, draw)(X_STREAMS, *more) == found).double().mean()) < 0.6
    each = torch.arange(300) % 4
    steps = streams().at_each(each).uniform(X_STREAMS, 0, 1)
    assert_close(steps[each == 2], streams().at_each(torch.full((300,), 2)).uniform(X_STREAMS, 0, 1)[each == 2])


def test_a_stream_an_example_has_the_law_that_it_promises():
    """Kolmogorov-Smirnov against the laws, and no correlation between neighbours, examples or names."""
    uniform = streams().uniform(X_STREAMS.double(), 2, 5).flatten()
    normal = streams().at("n").normal(X_STREAMS.double()).flatten()
    assert kstest((uniform.numpy() - 2) / 3, "uniform").pvalue > 0.01
    assert kstest(normal.numpy(), "norm").pvalue > 0.01
    unit = ((uniform - 3.5) / (0.75**0.5)).view(300, 40)
    bound = 4 / math.sqrt(300 * 39)
    assert abs(float((unit[:, 1:] * unit[:, :-1]).mean())) < bound
    assert abs(float((unit[1:] * unit[:-1]).mean())) < bound
    assert abs(float(streams().signs(X_STREAMS.double()).mean())) < bound
    assert len(torch.unique(streams().keys)) == 300
    known = randomness.Streams(torch.tensor([0])).uniform(torch.zeros(1, 2, dtype=torch.float64), 0, 1)
    # SplitMix64 from the state 0 gives 0xE220A8397B1DCDAF first, and third 0x06C45D188009454F.
    assert_close(known, torch.tensor([[0xE220A8397B1DCDAF >> 11, 0x06C45D188009454F >> 11]]).double() * 2.0**-53)


def test_streams_do_not_touch_the_global_state_and_differ_by_name():
    before = torch.get_rng_state()
    a = randomness.normal(X, generator=stream(0, "a"))
    with randomness.temporary_seed(0, "weights"):
        first = nn.Linear(2, 2).weight.detach().clone()
    with randomness.temporary_seed(0, "weights"):
        assert_close(nn.Linear(2, 2).weight.detach(), first)
    assert_close(torch.get_rng_state(), before)
    assert_close(a, randomness.normal(X, generator=stream(0, "a")))
    assert float((a - randomness.normal(X, generator=stream(0, "b"))).abs().max()) > 0.1
    assert set(randomness.integers((50,), 0, 3, generator=stream(0, "c")).tolist()) == {0, 1, 2}
    assert sorted(randomness.permutation(5, generator=stream(0, "d")).tolist()) == [0, 1, 2, 3, 4]
