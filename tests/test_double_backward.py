"""Layers that are differentiated twice in few passes: the same functions as torch's, and fewer passes."""

from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from lowcurve import randomness
from lowcurve.analysis.calculus import Jet
from lowcurve.analysis.double_backward import TwiceDifferentiable
from lowcurve.errors import InputError
from lowcurve.losses import loss_field
from lowcurve.models.layers import centered_softplus
from lowcurve.penalties import CURE, GradAlign, InputGradientNorm, Penalty
from lowcurve.randomness import stream
from lowcurve.training import Objective, Term
from lowcurve.training import objective as objectives

X = randomness.uniform(torch.zeros(4, 3, 2, 2, dtype=torch.float64), -9, 9, generator=stream(0, "x"))
CALLS = {
    "softplus": lambda x, _: F.softplus(x),
    "softplus, sharp": lambda x, _: F.softplus(x, 10, threshold=15),
    "softplus, by name": lambda x, _: F.softplus(input=x, beta=3),
    "softplus, a layer": lambda x, _: nn.Softplus(beta=2)(x),
    "centered softplus": lambda x, b: centered_softplus(x, b),
    "centered softplus, held": lambda x, b: centered_softplus(x, b.detach()),
    "silu": lambda x, _: F.silu(x),
    "silu, in place": lambda x, _: nn.SiLU(inplace=True)(x + 0),
    "gelu": lambda x, _: F.gelu(x),
    "gelu, by tanh": lambda x, _: nn.GELU("tanh")(x),
    "tanh": lambda x, _: torch.tanh(x),
    "batch_norm": lambda x, b: F.batch_norm(x, *STATISTICS, b.expand(3), b.expand(3)),
    "batch_norm, live": lambda x, b: F.batch_norm(x.sin(), None, None, b.expand(3), b.expand(3), training=True).tanh(),
    "batch_norm, live without weights": lambda x, b: (
        b * F.batch_norm(x.sin(), None, None, training=True, eps=0.1).tanh()
    ),
    "conv2d and batch_norm, live": lambda x, b: F.batch_norm(
        F.conv2d(x, WEIGHT[:3] * b, padding=1).sin(), None, None, b.expand(3) + X[0, :, 0, 0], training=True
    ).tanh(),
    "conv2d": lambda x, b: F.conv2d(x, WEIGHT * b, b.expand(4)),
    "conv2d, strided": lambda x, b: F.conv2d(x, WEIGHT * b, None, 2, (1, 2), dilation=1),
    "conv2d, dilated": lambda x, b: F.conv2d(x, WEIGHT * b, bias=b.expand(4), padding=3, dilation=[2, 3]),
    "conv2d, in groups": lambda x, b: F.conv2d(x, WEIGHT[:3, :1] * b, padding=1, groups=3),
    "conv2d, padded by a word": lambda x, b: F.conv2d(x, WEIGHT * b, padding="valid"),
    "conv2d, one image": lambda x, b: F.conv2d(x[0], WEIGHT * b)[None],
    "conv1d": lambda x, b: F.conv1d(x.flatten(2), WEIGHT.flatten(2) * b, padding=1),
    "conv3d": lambda x, b: F.conv3d(x[:, :, None], WEIGHT[:, :, None] * b, padding=(0, 1, 1)),
    "a weight that hangs on the input": lambda x, b: F.conv2d(x, WEIGHT * x.mean() * b),
    "conv2d and batch_norm": lambda x, b: normalized(F.conv2d(x, WEIGHT[:3] * b, b.expand(3), padding=1), b),
    "conv2d, written over": lambda x, b: F.conv2d(x, WEIGHT[:3] * b, padding=1).mul_(b).sin(),
    "conv2d, written over and batch_norm": lambda x, b: normalized(F.conv2d(x, WEIGHT[:3] * b, padding=1).mul_(3.0), b),
    "conv2d and batch_norm, both looked at": lambda x, b: looked_at(F.conv2d(x, WEIGHT[:3] * b, padding=1), b),
}
STATISTICS = X[0, :, 0, 0], X[1, :, 0, 0].abs()
WEIGHT = randomness.uniform(torch.zeros(4, 3, 2, 2, dtype=torch.float64), -1, 1, generator=stream(0, "weight"))


def normalized(x: Tensor, b: Tensor) -> Tensor:
    return F.batch_norm(x, *STATISTICS, b.expand(3) + 1, None, eps=0.1)


def looked_at(x: Tensor, b: Tensor) -> Tensor:
    return normalized(x, b) * x.tanh()


def derivatives(function, *, held: bool = False) -> tuple[Tensor, ...]:
    """Value, gradient in x, and the gradients of a penalty on it in x and in the number b that some calls use."""
    x, b = X.clone().requires_grad_(), torch.tensor(1.7, dtype=torch.float64, requires_grad=not held)
    value = function(x, b).square().sum()
    (first,) = torch.autograd.grad(value, x, create_graph=True)
    inputs = [x] if held else [x, b]
    total = first.square().sum() + value
    return value, first, *torch.autograd.grad(total, inputs, allow_unused=True, materialize_grads=True)


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_the_functions_are_torchs_with_their_derivatives(call, held):
    expected = derivatives(call, held=held)
    with TwiceDifferentiable():
        found = derivatives(call, held=held)
    assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize("build", [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d])
@pytest.mark.parametrize("settings", [{}, {"affine": False}, {"eps": 0.1}, {"track_running_stats": False}])
def test_batch_normalization_frozen_and_live(build, settings, weights):
    axes = {nn.BatchNorm1d: (), nn.BatchNorm2d: (2, 3), nn.BatchNorm3d: (2, 1, 3)}[build]
    x = randomness.uniform(torch.zeros(5, 3, *axes, dtype=torch.float64), -1, 1, generator=stream(0, "x"))
    x.requires_grad_()
    for training in (False, True):
        layers = [build(3, **settings).double().train(training) for _ in range(2)]
        with TwiceDifferentiable(weights=weights):
            found = layers[0](x)
        expected = layers[1](x)
        assert_close(found, expected, rtol=1e-12, atol=1e-12)
        leaves = (x, *(layers[0].parameters() if weights else ()))
        others = (x, *(layers[1].parameters() if weights else ()))
        both_gradients = [torch.autograd.grad(y.sin().sum(), at) for y, at in ((found, leaves), (expected, others))]
        assert_close(*both_gradients, rtol=1e-12, atol=1e-12)
        assert_close(layers[0].state_dict(), layers[1].state_dict())  # the running statistics move as they do
        uses_batch = training or "track_running_stats" in settings
        assert (found.grad_fn.name() == expected.grad_fn.name()) == (uses_batch and not weights)


@pytest.mark.parametrize("call", ["softplus", "centered softplus", "batch_norm, live"])
def test_third_derivatives_are_refused(call):
    x, b = X.clone().requires_grad_(), torch.tensor(1.7, dtype=torch.float64, requires_grad=True)
    with TwiceDifferentiable():
        value = CALLS[call](x, b).square().sum()
    (first,) = torch.autograd.grad(value, x, create_graph=True)
    message = (
        "at most two derivatives of a (nonlinearity|normalization by the batch), got a third. Write the derivatives"
    )
    with pytest.raises(InputError, match=message):
        torch.autograd.grad(first.sum(), x, create_graph=True)


@pytest.mark.parametrize("call", ["batch_norm", "conv2d", "conv2d, in groups", "conv2d and batch_norm"])
def test_third_derivatives_of_linear_maps_are_torchs(call):
    def third() -> tuple[Tensor, ...]:
        x, b = X.clone().requires_grad_(), torch.tensor(1.7, dtype=torch.float64, requires_grad=True)
        value = CALLS[call](x, b).tanh().sum()
        (first,) = torch.autograd.grad(value, x, create_graph=True)
        (second,) = torch.autograd.grad((first.square() * X).sum(), x, create_graph=True)
        return torch.autograd.grad(second.square().sum(), (x, b))

    expected = third()
    with TwiceDifferentiable():
        assert_close(third(), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_second_derivatives_by_way_of_a_parameter_are_torchs(call):
    def mixed() -> tuple[Tensor, ...]:
        x, b = X.clone().requires_grad_(), torch.tensor(1.7, dtype=torch.float64, requires_grad=True)
        value = call(x, b).square().sum() + b
        (first,) = torch.autograd.grad(value, b, create_graph=True)
        return torch.autograd.grad(first + x.sum(), x)

    expected = mixed()
    with TwiceDifferentiable():
        assert_close(mixed(), expected, rtol=1e-11, atol=1e-11)


class Passes(TorchDispatchMode):
    """Counts the operations whose result is as large as the input and not merely another view of it."""

    count = 0
    VIEWS = ("detach", "view", "expand", "alias")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        results = found if isinstance(found, tuple) else (found,)
        large = any(isinstance(r, Tensor) and r.numel() >= X.numel() for r in results)
        self.count += large and func._overloadpacket.__name__ not in self.VIEWS
        return found


@pytest.mark.parametrize("call", ["batch_norm", "conv2d and batch_norm", "batch_norm, live without weights"])
def test_second_derivatives_take_fewer_passes_than_torchs(call):
    def passes(*, own: bool) -> int:
        x, b = X.clone().requires_grad_(), torch.tensor(1.7, dtype=torch.float64, requires_grad=True)
        with TwiceDifferentiable() if own else nullcontext():
            value = CALLS[call](x, b).sum()
        (first,) = torch.autograd.grad(value, x, create_graph=True)
        with Passes() as counted:
            (first.square().sum() + value).backward()
        return counted.count

    assert passes(own=True) <= 0.75 * passes(own=False)


def network(act: nn.Module) -> nn.Sequential:
    with randomness.temporary_seed(0, "twice"):
        net = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            act,
            nn.Conv2d(4, 4, 3),
            act,
            nn.Flatten(),
            nn.Linear(16, 3),
        ).double()
    net[1].running_mean.fill_(0.1)
    net[1].running_var.fill_(0.7)
    return net


IMAGES = randomness.uniform(torch.zeros(5, 1, 4, 4, dtype=torch.float64), 0.2, 0.8, generator=stream(0, "images"))
LABELS = torch.arange(5) % 3
ACTS = {"softplus": nn.Softplus(beta=5), "gelu": nn.GELU(), "silu": nn.SiLU(), "relu": nn.ReLU()}


def step_gradients(objective: Objective, model: nn.Module) -> tuple[Tensor, ...]:
    found = objective.terms(model, IMAGES, LABELS, generator=stream(0, "step"))
    return *found.values(), *torch.autograd.grad(sum(found.values()), tuple(model.parameters()))


@pytest.mark.parametrize("statistics", ["frozen", "batch"])
@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
@pytest.mark.parametrize(
    "penalty", [InputGradientNorm(), CURE(0.3), CURE(0.3, differentiation="detached"), GradAlign()], ids=repr
)
def test_an_objective_is_what_torchs_layers_make_it(penalty, act, statistics, monkeypatch):
    model = network(act)
    objective = Objective(penalties={"it": Term(penalty, 2.0)}, statistics=statistics)
    found = step_gradients(objective, model)
    monkeypatch.setattr(objectives, "TwiceDifferentiable", nullcontext)
    assert_close(found, step_gradients(objective, model), rtol=1e-10, atol=1e-12)


DETACHED = {
    "CURE": CURE(0.3, differentiation="detached"),
    "CURE, first order": CURE(0.3, differentiation="first_order"),
    "CURE, first order, detached": CURE(0.3, differentiation="first_order_detached"),
    "GradAlign": GradAlign(differentiation="detached"),
    "gradient norm": InputGradientNorm(differentiation="first_order"),
}


def slopes_of_penalty(act: nn.Module, dtype: torch.dtype, live: bool, own: bool) -> Tensor:
    """Gradient of the gradient norm in the parameters: in double precision, or under autocast."""
    net = network(act).to(dtype).train(live)
    layers = TwiceDifferentiable() if own else nullcontext()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype != torch.float64), layers:
        jet = Jet(loss_field(net, LABELS, batch_statistics=live), IMAGES.to(dtype))
        InputGradientNorm("l1", squared=False)(jet).mean().backward()
    return torch.cat([p.grad.flatten().double() for p in net.parameters() if p.grad is not None])


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
def test_they_round_under_autocast_no_more_than_torchs(act, live):
    exact = slopes_of_penalty(act, torch.float64, live, own=False)
    rounded = {own: slopes_of_penalty(act, torch.float32, live, own=own) for own in (True, False)}
    errors = {own: (found - exact).norm() / exact.norm() for own, found in rounded.items()}
    assert 1e-4 < errors[True] < max(1.5 * errors[False], 0.02)


@dataclass(frozen=True)
class Weights(Penalty):
    """A penalty that looks at the network alone."""

    data_free = True
    differentiates_twice = False

    def evaluate(self, jet: Jet, generator: torch.Generator) -> Tensor:  # noqa: ARG002 (the signature of Penalty)
        return 0 * jet.field.model[0].weight.square().sum()


@pytest.mark.parametrize("beside", [{}, {"weights": Term(Weights(), 1.0)}], ids=["alone", "beside a data-free one"])
@pytest.mark.parametrize("penalty", DETACHED.values(), ids=DETACHED)
def test_the_loss_is_derived_with_the_gradient_that_a_penalty_holds(penalty, beside):
    """One backward pass for both, and the same derivatives as apart."""
    model = network(nn.Softplus(beta=5))
    alone = step_gradients(Objective(statistics="frozen"), model)
    only = step_gradients(Objective(penalties={"it": Term(penalty, 2.0)}, statistics="frozen", loss_weight=0.0), model)
    seen: list[int] = []
    handle = model[0].register_forward_hook(partial(watched, seen))
    both = step_gradients(
        Objective(penalties={"it": Term(penalty, 2.0)} | beside, statistics="frozen", loss_weight=0.5), model
    )
    handle.remove()
    assert seen.count(0) == 1  # the clean pass comes first, and is gone through backwards once
    expected = [0.5 * a + b for a, b in zip(alone[1:], only[2:], strict=True)]
    assert_close(list(both[-len(expected) :]), expected, rtol=1e-9, atol=1e-10)


def watched(seen: list[int], module: nn.Module, _: tuple[Tensor, ...], result: Tensor) -> None:
    """Notes each time that a gradient comes back to this forward pass, by the number of the pass."""
    number = module.__dict__.setdefault("passes", 0)
    module.__dict__["passes"] += 1
    if result.requires_grad:
        result.register_hook(lambda _: seen.append(number))


def test_a_penalty_that_follows_the_clean_gradient_keeps_the_graph():
    model = network(nn.Softplus(beta=5))
    terms = {"held": Term(CURE(0.3, differentiation="detached"), 1.0), "followed": Term(InputGradientNorm(), 1.0)}
    both = step_gradients(Objective(penalties=terms, statistics="frozen"), model)
    apart = [
        step_gradients(Objective(penalties={k: t}, statistics="frozen", loss_weight=0.5), model)[2:]
        for k, t in terms.items()
    ]
    assert_close(list(both[3:]), [a + b for a, b in zip(*apart, strict=True)], rtol=1e-10, atol=1e-12)


def test_the_field_of_a_loss_is_left_as_it_was():
    field = loss_field(network(nn.Softplus(beta=5)).eval(), LABELS)
    x = IMAGES.clone().requires_grad_()
    with TwiceDifferentiable():
        inside = field(x)
    assert inside.requires_grad
    assert_close(inside, field(x), rtol=1e-14, atol=0)
