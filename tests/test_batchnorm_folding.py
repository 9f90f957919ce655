"""Temporary folding of BatchNorm: the same logits inside, and the same network afterwards."""

from contextlib import contextmanager

import pytest
import torch
from conversion_networks import LIPSCHITZ, NETWORKS, network
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.testing import assert_close

import lowcurve as lc
from lowcurve.analysis.norms import LINF, Ball
from lowcurve.attacks import NFGSM, PGD
from lowcurve.models import LCNNConversion, LipschitzConversion, Network
from lowcurve.models.conversion import fold_batchnorm
from lowcurve.penalties import TRADES
from lowcurve.randomness import stream
from lowcurve.training import Hardware, Objective, Term, make_fabric


class Norms(TorchFunctionMode):
    """Count the calls of BatchNorm."""

    count = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.count += getattr(func, "__name__", "") == "batch_norm"
        return func(*args, **(kwargs or {}))


def norms_of(model, x):
    with Norms() as seen, torch.no_grad():
        model(x)
    return seen.count


def seen_in(model, x):
    """Return logits and the gradient of their sum of squares."""
    leaf = x.clone().requires_grad_()
    logits = model(leaf)
    (slope,) = torch.autograd.grad(logits.square().sum(), leaf)
    return logits.detach(), slope


@contextmanager
def unchanged(model, x):
    """Check that weights, buffers, attributes and results stay the same bit by bit."""
    state = {name: value.clone() for name, value in model.state_dict().items()}
    own, before = [sorted(vars(part)) for part in model.modules()], seen_in(model, x)
    yield
    assert [sorted(vars(part)) for part in model.modules()] == own
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name])
    assert all(map(torch.equal, seen_in(model, x), before))


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_and_gradients_are_the_same_and_so_is_the_network_afterwards(name):
    model, x = network(name, torch.float64)
    with unchanged(model, x):
        before = seen_in(model, x)
        with fold_batchnorm(model, x):
            assert norms_of(model, x) == (3 if name == "densenet" else 0)  # whose BatchNorm comes before its layers
            assert_close(seen_in(model, x), before, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", LIPSCHITZ)
@pytest.mark.parametrize("conversion", [LCNNConversion(), LipschitzConversion(beta=3.0, learn=False)])
def test_bounded_layers(name, conversion):
    """BatchNorm stays after a layer with its own bound."""
    model, x = network(name, torch.float64)
    only = (lambda name, _: "pool" not in name) if isinstance(conversion, LipschitzConversion) else None
    model = lc.convert(model, conversion, example=x, only=only)
    with unchanged(model, x):
        before, plain = seen_in(model, x), norms_of(model, x)
        with fold_batchnorm(model, x):
            assert norms_of(model, x) in (0, plain)
            assert_close(seen_in(model, x), before, rtol=1e-10, atol=1e-12)


def test_the_papers_own_network_has_none_left():
    model = (
        Network("lcnn-resnet18", (3, 16, 16), 10, (0.5,) * 3, (0.25,) * 3, "centered-softplus", 4).build(seed=0).eval()
    )
    x = torch.rand(4, 3, 16, 16)
    with fold_batchnorm(model, x):
        assert norms_of(model, x) == 0


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "64-true"])
def test_a_network_that_fabric_has_wrapped_is_folded_too(precision):
    model, x = network("resnet", torch.float64 if precision == "64-true" else torch.float32)
    wrapped = make_fabric(Hardware(accelerator="cpu", precision=precision)).setup(model)
    with unchanged(model, x):
        before = wrapped(x)
        with fold_batchnorm(wrapped, x):
            assert norms_of(wrapped, x) == 0
            rtol = 0.1 if precision == "bf16-mixed" else 1e-4
            assert_close(wrapped(x), before, rtol=rtol, atol=rtol)


def test_weights_are_those_of_the_moment():
    model, x = network("vgg", torch.float64)
    with fold_batchnorm(model, x):
        pass
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    before = seen_in(model, x)
    with fold_batchnorm(model, x):
        assert_close(seen_in(model, x), before, rtol=1e-10, atol=1e-12)


def test_an_interruption_leaves_no_trace():
    model, x = network("resnet")
    with unchanged(model, x), pytest.raises(KeyboardInterrupt), fold_batchnorm(model, x):
        raise KeyboardInterrupt


def test_one_inside_the_other():
    model, x = network("resnet", torch.float64)
    with unchanged(model, x):
        before = seen_in(model, x)
        with fold_batchnorm(model, x):
            with fold_batchnorm(model, x):
                assert_close(seen_in(model, x), before, rtol=1e-10, atol=1e-12)
            assert_close(seen_in(model, x), before, rtol=1e-10, atol=1e-12)


def test_other_layers_are_seen_anew():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten()).eval()
    x = torch.rand(2, 3, 5, 5)
    with fold_batchnorm(model, x):
        assert norms_of(model, x) == 0
    model[1] = nn.Sequential(nn.ReLU(), nn.BatchNorm2d(4)).eval()
    before = seen_in(model, x)
    with fold_batchnorm(model, x):
        assert norms_of(model, x) == 1
        assert all(map(torch.equal, seen_in(model, x), before))


class Doubled(torch.autograd.Function):
    """A use of the result that no torch function shows."""

    @staticmethod
    def forward(ctx, x):  # noqa: ARG004
        return 2 * x

    @staticmethod
    def backward(ctx, g):  # noqa: ARG004
        return 2 * g


class Forked(nn.Module):
    """The result of the convolution is used elsewhere without a torch function."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        x = self.conv(x)
        return (self.norm(x) + Doubled.apply(x)).flatten(1)


def hooked(which):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten())
    model[which].register_forward_hook(lambda *_: None)
    return model


def compiled():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten())
    model.compile(backend="eager")
    return model


def training():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten()).eval()
    model[1].train()
    return model


def wrapped(model):
    return torch.compile(model, backend="eager")


def compiled_inside():
    """A network compiled as by `Hardware(compile=True)`."""
    model = make_fabric(Hardware(accelerator="cpu")).setup(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten())
    )
    model._forward_module = wrapped(model._forward_module)
    return model


LEFT = {
    "compiled in a wrapper": lambda: compiled_inside().eval(),
    "forked": lambda: Forked().eval(),
    "a hook on the layer": lambda: hooked(0).eval(),
    "a hook on the norm": lambda: hooked(1).eval(),
    "compiled in place": lambda: compiled().eval(),
    "compiled": lambda: wrapped(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten()).eval()),
    "in training mode": training,
    "without running statistics": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Flatten()
    ).eval(),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_is_left_as_it_is(name):
    """At initialization BatchNorm is the identity, so only other statistics reveal that its input is used elsewhere."""
    model, x = LEFT[name](), torch.rand(2, 3, 5, 5)
    keys = [sorted(vars(part)) for part in model.modules()]
    with fold_batchnorm(model, x):
        assert [sorted(vars(part)) for part in model.modules()] == keys


def test_a_function_and_an_empty_batch_pass():
    x = torch.rand(2, 3, 5, 5)
    with fold_batchnorm(lambda x: x.flatten(1), x):
        pass
    model, x = network("vgg")
    for part, left in ((x[:0], 3), (x, 0)):
        with fold_batchnorm(model, part):
            assert norms_of(model, x) == left


BALL = Ball(LINF, 0.03)


@pytest.mark.parametrize("attack", [NFGSM(BALL), PGD(BALL, steps=3, answer="last")])
def test_attacks_of_a_training_step_see_no_norm_and_find_the_same(attack):
    model, x = network("vgg", torch.float64)
    y = torch.arange(len(x))
    model.train()
    expected = attack(model.eval(), x, y, generator=stream(0))
    model.train()
    with Norms() as seen:
        terms = Objective(attack=attack, statistics="frozen").terms(model, x, y, generator=stream(0))
        terms["loss"].backward()
    with torch.no_grad():
        loss = nn.functional.cross_entropy(model.eval()(expected), y)
    assert_close(terms["loss"].detach(), loss, rtol=1e-9, atol=0)
    assert all(p.grad is not None for p in model.parameters())
    with Norms() as once, torch.no_grad():
        Objective(statistics="frozen").terms(model, x, y, generator=stream(0))
    with Norms() as again:
        Objective(attack=attack, statistics="frozen").terms(model, x, y, generator=stream(0))
    assert again.count == once.count == 3
    assert seen.count > again.count  # the first time includes the search for pairs


def test_trades_looks_for_its_point_without_norms():
    model, x = network("vgg", torch.float64)
    objective = Objective(penalties={"trades": Term(TRADES(BALL, steps=3), 1.0)}, statistics="frozen")
    for _ in range(2):
        with Norms() as seen:
            objective.terms(model, x, torch.arange(len(x)), generator=stream(0))
    assert seen.count == 6  # 3 at the clean point and 3 at the attacked one
