"""Architectures: shapes, sizes, seeds, one module for each nonlinearity, and twice-differentiability."""

import copy
import math
import operator

import pytest
import torch
from torch import nn
from torch.fx import Tracer
from torch.nn import functional as F
from torch.testing import assert_close

import lowcurve as lc
from lowcurve import randomness
from lowcurve.analysis.calculus import Jet
from lowcurve.errors import InputError
from lowcurve.losses import loss_field
from lowcurve.models import ARCHITECTURES, NONLINEARITIES, Factory, Network, Normalize, nonlinearity
from lowcurve.penalties import CURE
from lowcurve.randomness import stream
from lowcurve.store import Run

CIFAR, MNIST, DIGITS, TINY, ODD, POINT = (3, 32, 32), (1, 28, 28), (1, 8, 8), (3, 64, 64), (2, 7, 9), (2,)
PHOTO = (3, 224, 224)

# A small width and the input shapes of each architecture.
SHAPES = {
    "mlp": (8, (POINT, DIGITS, MNIST)),
    "small-convnet": (4, (DIGITS, MNIST, CIFAR, TINY, ODD)),
    "yu2018-mnist": (2, (DIGITS, MNIST, CIFAR, TINY, ODD)),
    "yu2018-cifar": (4, (DIGITS, MNIST, CIFAR, TINY, ODD)),
    "resnet18": (4, (DIGITS, MNIST, CIFAR, TINY, ODD)),
    "resnet20": (4, (MNIST, CIFAR, TINY, ODD)),
    "wide-resnet28-10": (4, (MNIST, CIFAR, TINY, ODD)),
    "lcnn-resnet18": (4, (DIGITS, MNIST, CIFAR, TINY, ODD)),
    "lcnn-resnet18-plain": (4, (MNIST, CIFAR, ODD)),
    "lcnn-vgg11": (4, (MNIST, CIFAR, TINY, ODD)),
    "vit-tiny": (6, (DIGITS, MNIST, CIFAR, TINY, ODD)),
    "vit-tiny-patch8": (6, (DIGITS, CIFAR, ODD)),
    "convnext-atto": (4, (DIGITS, MNIST, CIFAR, TINY, ODD)),
    "convnext-tiny": (4, (DIGITS, CIFAR, ODD)),
    "aol-convnet": (2, (DIGITS, MNIST, CIFAR, ODD)),
}
# The number of nonlinearities of each architecture.
PLACES = {
    "mlp": 2,
    "small-convnet": 4,
    "yu2018-mnist": 3,
    "yu2018-cifar": 5,
    "resnet18": 17,
    "resnet20": 19,
    "wide-resnet28-10": 25,
    "lcnn-resnet18": 17,
    "lcnn-resnet18-plain": 17,
    "lcnn-vgg11": 10,
    "vit-tiny": 12,
    "vit-tiny-patch8": 12,
    "convnext-atto": 12,
    "convnext-tiny": 18,
    "aol-convnet": 4,
}
CASES = [(name, shape) for name, (_, shapes) in SHAPES.items() for shape in shapes]
every_architecture = pytest.mark.parametrize("name", ARCHITECTURES)


def spec(name: str, shape: tuple[int, ...], act: str = "relu", classes: int = 5) -> Network:
    channels = shape[0]
    return Network(name, shape, classes, (0.4,) * channels, (0.3,) * channels, act, SHAPES[name][0])


def images(shape: tuple[int, ...], count: int = 3) -> torch.Tensor:
    return randomness.uniform(torch.zeros(count, *shape), 0, 1, generator=stream(0, "images", shape))


def test_every_architecture_is_tested():
    assert list(SHAPES) == list(PLACES) == list(ARCHITECTURES)


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_one_row_of_logits_an_example(name, shape):
    model = spec(name, shape).build(seed=0)
    assert model.training
    logits = model.eval()(images(shape))
    assert logits.shape == (3, 5)
    assert float((logits[0] - logits[1]).detach().abs().max()) > 0
    assert_close(model(images(shape)[1:2]), logits[1:2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("act", ["relu", "softplus", "centered-softplus"])
def test_a_nonlinearity_behind_the_pooling_is_the_one_before_it(act):
    """For an increasing nonlinearity, the largest of four values is the same before and after it."""
    model = Network("yu2018-mnist", MNIST, 10, (0.1,), (0.3,), act).build(seed=0).eval()
    layers = list(model[1])
    assert [type(layer) for layer in layers[1:5:3]] == [nn.MaxPool2d] * 2
    for place in (1, 4):
        layers[place], layers[place + 1] = layers[place + 1], layers[place]
    other = nn.Sequential(model[0], *layers)
    found = []
    for network in (model, other):
        x = images(MNIST).requires_grad_()
        logits = network(x)
        found.append((logits.detach(), *torch.autograd.grad(logits[:, 3].sum(), x)))
    assert_close(found[0], found[1], rtol=1e-6, atol=1e-7)


def test_a_network_that_pools_has_its_channels_last_also_where_it_was_copied_or_read(tmp_path):
    source = spec("yu2018-mnist", MNIST)
    model, run = source.build(seed=0), Run(tmp_path)
    run.save_network("net", source, model)
    for network in (model, copy.deepcopy(model), run.load_network("net")):
        assert network[1][3].weight.is_contiguous(memory_format=torch.channels_last)
        assert not network[1][3].weight.is_contiguous()
        assert network.eval()(images(MNIST)).is_contiguous()


class Layers(Tracer):
    """A tracer that takes this package's layers as one call, like those of torch."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        own = type(m).__module__ in {f"lowcurve.models.{name}" for name in ("layers", "lipschitz", "almost_orthogonal")}
        return own or super().is_leaf_module(m, module_qualified_name)


@every_architecture
@pytest.mark.parametrize("act", NONLINEARITIES)
def test_every_nonlinearity_is_a_module_of_its_own(name, act):
    """Each place in a network can then be measured or replaced independently."""
    shape = SHAPES[name][1][-1]
    normalize, body = spec(name, shape, act).build(seed=0)
    assert isinstance(normalize, Normalize)
    kind = type(nonlinearity(act))
    graph = Layers().trace(body)
    sites = [n.target for n in graph.nodes if n.op == "call_module" and isinstance(body.get_submodule(n.target), kind)]
    assert len(sites) == len(set(sites)) == PLACES[name]
    assert len([m for m in body.modules() if isinstance(m, kind)]) == PLACES[name]
    functions = {n.target for n in graph.nodes if n.op == "call_function"}
    attention = {getattr, torch.cat, F.layer_norm, F.scaled_dot_product_attention}
    assert functions <= {operator.add, operator.mul, operator.getitem, F.pad} | attention
    methods = {n.target for n in graph.nodes if n.op == "call_method"}
    assert methods <= {"expand", "flatten", "permute", "transpose", "unflatten"}


@every_architecture
@pytest.mark.parametrize("act", NONLINEARITIES)
def test_curvature_regularization_reaches_the_parameters(name, act):
    """The penalty differentiates twice; for each architecture and nonlinearity its gradient is finite and not zero."""
    shape = SHAPES[name][1][0]
    model = spec(name, shape, act).build(seed=0).eval()
    jet = Jet(loss_field(model, torch.arange(3)), images(shape))
    number = CURE(h=1.0)(jet, generator=stream(0)).mean()
    number.backward()
    slopes = [p.grad for p in model.parameters() if p.grad is not None]
    assert float(number.detach()) > 0
    assert len(slopes) == len(list(model.parameters()))
    assert [bool(torch.isfinite(slope).all()) for slope in slopes] == [True] * len(slopes)
    matrices = [slope for slope in slopes if slope.ndim > 1]
    assert [float(slope.abs().max()) > 0 for slope in matrices] == [True] * len(matrices)


@pytest.mark.parametrize(
    ("name", "shape", "classes", "count"),
    [
        ("resnet18", CIFAR, 10, 11_173_962),
        ("resnet20", CIFAR, 10, 269_722),
        ("wide-resnet28-10", CIFAR, 10, 36_479_194),
        ("vit-tiny", PHOTO, 1000, 5_717_416),
        ("convnext-atto", PHOTO, 1000, 3_695_520),
        ("convnext-tiny", PHOTO, 1000, 28_589_128),
    ],
)
def test_parameters_at_full_width(name, shape, classes, count):
    """11.17 M, 0.27 M and 36.5 M for CIFAR-10, 5.7 M, 3.7 M and 28.6 M for ImageNet: the published numbers."""
    with torch.device("meta"):
        model = ARCHITECTURES[name](shape, classes, "relu")
    assert sum(p.numel() for p in model.parameters()) == count


def test_the_width_is_that_of_the_first_stage():
    assert spec("resnet18", CIFAR).build(seed=0)[1][0].out_channels == 4
    default = Network("small-convnet", DIGITS, 10, (0.5,), (0.3,)).build(seed=0)
    assert default[1][0].out_channels == 32


@every_architecture
def test_the_seed_alone_makes_the_weights(name):
    shape = SHAPES[name][1][0]
    state = torch.get_rng_state()
    first = spec(name, shape).build(seed=3).state_dict()
    assert_close(torch.get_rng_state(), state)
    torch.rand(3)  # changes the global random state
    assert_close(dict(spec(name, shape).build(seed=3).state_dict()), dict(first), rtol=0, atol=0)
    other = spec(name, shape).build(seed=4).state_dict()
    weights = [key for key, value in first.items() if value.ndim > 1]
    assert min(float((first[key] - other[key]).abs().max()) for key in weights) > 0


@pytest.mark.parametrize("shape", [(3, 4, 4), (3,)])
def test_standardize(shape):
    mean, std = (0.1, 0.2, 0.3), (0.5, 1.0, 2.0)
    layer, x = Normalize(mean, std), images(shape, 4)
    expected = torch.stack([(x[:, k] - mean[k]) / std[k] for k in range(3)], dim=1)
    assert_close(layer(x), expected)
    assert set(layer.state_dict()) == {"mean", "std"}
    assert list(layer.parameters()) == []
    model = Network("mlp", shape, 2, mean, std).build(seed=0)
    assert_close(model(x), model[1](expected))


def test_the_nonlinearities_are_what_they_are_called():
    x = torch.linspace(-3, 3, 13, dtype=torch.float64)
    expected = {"relu": x.clamp(min=0), "softplus": (10 * x).exp().log1p() / 10, "silu": x * x.sigmoid()}
    expected["softplus-1000"] = x.relu() + (x == 0) * math.log(2) / 1000
    expected["centered-softplus"] = ((1 + (5 * x).exp()) / 2).log() / 5
    expected["gelu"] = x * torch.special.ndtr(x)
    expected["abs"] = x.abs()
    for name in NONLINEARITIES:
        assert_close(nonlinearity(name)(x).detach(), expected[name], rtol=1e-6, atol=1e-9)
        assert nonlinearity(name) is not nonlinearity(name)


def test_a_padded_shortcut_keeps_every_second_pixel_and_adds_channels_of_zeros():
    block = spec("resnet20", CIFAR).build(seed=0)[1][6].shortcut
    x = images((4, 8, 8))
    y = block(x)
    assert_close(y[:, 2:6], x[:, :, ::2, ::2], rtol=0, atol=0)
    assert_close(y[:, [0, 1, 6, 7]], torch.zeros(3, 4, 4, 4), rtol=0, atol=0)


def test_a_factory_builds_by_name_and_seed():
    state = torch.get_rng_state()
    first, same, other = (Factory(f"{__name__}:linear").build(seed) for seed in (0, 0, 1))
    assert_close(torch.get_rng_state(), state)
    assert_close(first.weight, same.weight, rtol=0, atol=0)
    assert float((first.weight - other.weight).detach().abs().max()) > 0


def linear() -> nn.Module:
    return nn.Linear(2, 2)


def number() -> int:
    return 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: spec_of("resnet"), "a network among mlp, small-convnet, .*, got 'resnet'. Did you mean resnet"),
        (lambda: spec_of("resnet18", shape=(2,)), r"images for resnet18, got inputs of shape \(2,\)\. Write mlp"),
        (
            lambda: spec_of("mlp", act="tanh").build(0),
            "a nonlinearity among relu, softplus, softplus-1000, centered-softplus, gelu, silu, abs, got 'tanh'. Write",
        ),
        (
            lambda: spec_of("mlp", act="softpluss").build(0),
            "a nonlinearity among .*, got 'softpluss'. Did you mean softplus",
        ),
        (lambda: Normalize((0.5,), (0.5, 0.5)), "as many positive standard deviations as means"),
        (lambda: Normalize((), ()), "as many positive standard deviations as means"),
        (
            lambda: Network("mlp", (3, 8, 8), 2, (0.5,), (0.5,)),
            "a mean and a standard deviation for each of 3 channels",
        ),
        (lambda: Normalize((0.5,), (0.0,)), "as many positive standard deviations as means"),
        (lambda: Normalize((0.5, 0.5), (0.5, math.nan)), "as many positive standard deviations as means"),
        (
            lambda: lc.wrap(nn.Flatten(), mean=[123.7] * 3, std=[58.4] * 3),
            "divide mean and std by 255|Divide mean and std",
        ),
        (lambda: Factory("torch.nn").build(0), "a model written package.module:factory, got 'torch.nn'"),
        (lambda: Factory(":linear").build(0), "a model written package.module:factory"),
        (lambda: Factory("no.such.module:f").build(0), "a factory f in no.such.module, got No module named 'no'"),
        (lambda: Factory("torch.nn:Linea").build(0), "a factory Linea in torch.nn, got .*Linea"),
        (lambda: Factory(f"{__name__}:number").build(0), "a torch.nn.Module from .*:number, got int"),
    ],
)
def test_errors_name_the_hint(make, message):
    with pytest.raises(InputError, match=message):
        make()


def spec_of(name: str, shape: tuple[int, ...] = CIFAR, act: str = "relu") -> Network:
    return Network(name, shape, 10, (0.5,) * shape[0], (0.3,) * shape[0], act)
