"""TRADES: its divergence in closed form and in single precision, the ascent, and the modes in which the network is asked."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from lowcurve import randomness
from lowcurve.analysis.calculus import Jet, gradient
from lowcurve.analysis.derivative_watch import watch_derivatives
from lowcurve.analysis.norms import L2, LINF, Ball
from lowcurve.errors import InputError
from lowcurve.losses import loss_field
from lowcurve.models.conversion import fold_batchnorm
from lowcurve.penalties import LLR, TRADES
from lowcurve.penalties.trades import divergence
from lowcurve.randomness import stream
from lowcurve.results import describe
from lowcurve.training import Objective, Term

WIDE = (-9.0, 9.0)


def logits(*shape: int, name: str, scale: float = 3.0) -> torch.Tensor:
    return scale * randomness.normal(torch.zeros(shape, dtype=torch.float64), generator=stream(0, "logits", name))


def usual(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """sum_k p_k (log p_k - log q_k)."""
    return (a.softmax(1) * (a.log_softmax(1) - b.log_softmax(1))).sum(1)


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
def test_it_is_the_kullback_leibler_divergence(classes, scale):
    a, b = (logits(20, classes, name=name, scale=scale) for name in "ab")
    assert_close(
        divergence(a, b), F.kl_div(b.log_softmax(1), a.log_softmax(1), reduction="none", log_target=True).sum(1)
    )
    assert torch.autograd.gradcheck(divergence, (a[:4].requires_grad_(), b[:4].requires_grad_()))


def test_its_slopes_are_those_of_the_formula():
    """q - p in b, and p (log p - log q - KL) in a."""
    a, b = (logits(6, 4, name=name) for name in "ab")
    p, q = a.softmax(1), b.softmax(1)
    assert_close(gradient(lambda at: divergence(a, at), b), q - p)
    assert_close(gradient(lambda at: divergence(at, b), a), p * (p.log() - q.log() - divergence(a, b)[:, None]))


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0, 100.0, 1e4])
def test_single_precision_finds_no_divergence_below_zero_and_none_between_equals(scale):
    a = logits(500, 10, name="a").float() * scale
    near = a + 1e-4 * logits(500, 10, name="b").float()
    far = logits(500, 10, name="c").float() * scale
    for b in (near, far, a):
        leaf = b.clone().requires_grad_()
        values = divergence(a, leaf)
        values.sum().backward()
        assert float(values.detach().min()) >= 0
        assert bool(torch.isfinite(values).all() & torch.isfinite(leaf.grad).all())
    assert_close(divergence(a, a), torch.zeros(500), rtol=0, atol=0)


@pytest.mark.parametrize("confidence", [5.0, 12.0, 20.0])
def test_its_slope_in_single_precision_is_right_for_confident_examples(confidence):
    """Where both predictions are nearly 1 the usual form loses the true class's part, and with it the direction."""
    a = logits(50, 5, name="confident", scale=1.0)
    a[:, 0] += confidence
    b = a + 1e-2 * logits(50, 5, name="moved", scale=1.0)
    exact = b.softmax(1) - a.softmax(1)

    def wrong(function) -> float:
        slope = gradient(lambda at: function(a.float(), at), b.float()).double()
        return float((L2.length(slope - exact) / L2.length(exact)).median())

    assert wrong(divergence) < 1e-3
    if confidence == 20:
        assert wrong(usual) > 0.1


# --- on networks


@pytest.mark.parametrize("radius", [0.05, 1.0])
def test_a_linear_model_of_two_classes(radius):
    """Logits (s, 0), s = <w, x> + c: KL from sigmoid(s) to sigmoid(s +- radius ||w||_1), at a corner of the ball."""
    with randomness.temporary_seed(0, "linear"):
        model = nn.Linear(8, 1).double()
    field = loss_field(lambda x: torch.cat([model(x), 0 * model(x)], 1), torch.zeros(40, dtype=torch.long))
    x = logits(40, 8, name="x", scale=1.0)
    found = TRADES(Ball(LINF, radius, WIDE))(Jet(field, x), generator=stream(0)).detach()
    s, reach = model(x).detach(), radius * model.weight.detach().abs().sum()
    ends = [divergence(F.pad(s, (0, 1)), F.pad(s + side * reach, (0, 1))) for side in (-1, 1)]
    nearest = torch.stack([(found - end).abs() for end in ends]).amin(0)
    assert_close(nearest, torch.zeros_like(nearest))
    assert (
        float((torch.maximum(*ends) - found).max()) > 0
    )  # from where it starts the ascent does not see the other side


def network() -> nn.Module:
    with randomness.temporary_seed(0, "trades"):
        layers = (nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 3))
        net = nn.Sequential(nn.Flatten(), *layers).double()
    net[2].running_mean.fill_(0.1)
    with fold_batchnorm(net, X):
        pass  # which asks a network that it has not seen yet
    return net


X = randomness.uniform(torch.zeros(6, 2, 4, dtype=torch.float64), 0, 1, generator=stream(0, "trades"))
Y = torch.arange(6) % 3


@pytest.mark.parametrize("ball", [Ball(LINF, 0.2), Ball(L2, 0.5)], ids=["l_inf", "l_2"])
def test_its_points_stay_in_ball_and_box_and_more_steps_find_no_less(ball):
    model, seen = network().eval(), []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    values = [TRADES(ball, steps)(Jet(loss_field(model, Y), X), generator=stream(0)).mean() for steps in (1, 3, 20)]
    assert values[0] < values[1] < values[2]
    for point in seen:
        assert float(ball.norm.length(point - X).max()) <= ball.radius + 1e-12
        assert 0 <= float(point.min()) <= float(point.max()) <= 1


def test_a_step_of_the_ascent():
    """From x + 0.001 n, of the given size, along the sign of the slope of the divergence."""
    model, points = network().eval(), []
    field = loss_field(model, Y)
    model.register_forward_pre_hook(lambda _, inputs: points.append(inputs[0].detach()))
    TRADES(Ball(LINF, 0.2, WIDE), steps=1, step_size=0.05)(Jet(field, X), generator=stream(0))
    clean, start, shared, end = points
    assert_close((clean, shared), (X, X), rtol=0, atol=0)
    assert_close((start - X).std().item(), 1e-3, rtol=0.5, atol=0)
    slope = gradient(lambda at: usual(model(X).detach(), model(at)), start)
    assert_close(end, start + 0.05 * slope.sign())


def test_the_search_is_in_eval_mode_and_its_end_in_the_mode_of_the_step():
    model, modes = network(), []
    model.register_forward_pre_hook(lambda module, _: modes.append({m.training for m in module.modules()}))
    objective = Objective(penalties={"trades": Term(TRADES(Ball(LINF, 0.1), steps=3), 6.0)})
    total = sum(objective.terms(model, X, Y, generator=stream(0)).values())
    assert modes == [{True}, *[{False}] * 4, {True}]
    assert int(model[2].num_batches_tracked) == 2
    assert all(p.requires_grad for p in model.parameters())
    total.backward()
    assert all(float(p.grad.abs().max()) > 0 for p in (model[1].weight, model[2].weight, model[4].weight))


def test_both_predictions_are_differentiated_and_the_point_is_not():
    model, points = network().eval(), []
    handle = model.register_forward_pre_hook(lambda _, inputs: points.append(inputs[0].detach()))
    found = TRADES(Ball(LINF, 0.1), steps=3)(Jet(loss_field(model, Y), X), generator=stream(0)).mean()
    handle.remove()
    expected = usual(model(X), model(points[-1])).mean()
    weights = tuple(model.parameters())
    assert_close(found, expected)
    assert_close(torch.autograd.grad(found, weights), torch.autograd.grad(expected, weights))


def test_what_it_asks_of_automatic_differentiation():
    """An input gradient a step, and none of it with a graph: whatever bears an ordinary backward pass bears this."""
    with watch_derivatives() as asked:
        TRADES(Ball(LINF, 0.1), steps=4)(Jet(loss_field(network().eval(), Y), X), generator=stream(0))
    assert asked == ["grad"] * 4
    assert not TRADES().differentiates_twice


def test_labels_play_no_part():
    model = network().eval()
    one, other = (TRADES(Ball(LINF, 0.1))(Jet(loss_field(model, y), X), generator=stream(0)) for y in (Y, (Y + 1) % 3))
    assert_close(one, other, rtol=0, atol=0)


def test_the_search_is_that_of_llr_and_of_the_released_length():
    """2.5 radius / steps in l_inf: 0.00775 at 0.031 in ten steps, where the released code has 0.007."""
    assert TRADES() == TRADES(Ball(LINF, 8 / 255), steps=10, step_size=None)
    assert describe(TRADES()).startswith("TRADES(ball=Ball(")
    model = network().eval()
    by_default, by_hand = (
        TRADES(Ball(LINF, 0.1), step_size=size)(Jet(loss_field(model, Y), X), generator=stream(0))
        for size in (None, 0.025)
    )
    assert_close(by_default, by_hand)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TRADES(steps=0), "at least one step towards the farthest point, got 0"),
        (lambda: LLR(steps=0), "at least one step towards the farthest point, got 0"),
        (lambda: TRADES(step_size=0.0), "a step size above 0 of the search, got 0.0. Leave it out"),
        (lambda: TRADES(step_size=math.nan), "a step size above 0 of the search, got nan"),
        (
            lambda: TRADES()(Jet(lambda x: x.sum((1, 2)), X), generator=stream(0)),
            r"a field that shows its model and labels, got function\. .*loss_field",
        ),
    ],
)
def test_errors_name_the_mend(make, message):
    with pytest.raises(InputError, match=message):
        make()
