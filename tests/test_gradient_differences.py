"""Honest fields are never refused for their differences of gradients: kinks, zeros, single precision, steep functions."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from replayed_networks import Called
from second_derivatives import FEATURES, FromNumpy, OnContext, Sine
from torch import Tensor, nn

from lowcurve.analysis.autograd_hessian import AutogradHessian
from lowcurve.analysis.gradient_differences import contradicts_differences
from lowcurve.analysis.verification import require_second_derivatives
from lowcurve.errors import InputError
from lowcurve.losses import loss_field
from lowcurve.randomness import normal, stream

SINGLE, DOUBLE = torch.float32, torch.float64


class HonestReLU(torch.autograd.Function):
    """A custom function, so that every product through it is checked."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.relu()

    @staticmethod
    def backward(ctx, g):
        return g * (ctx.saved_tensors[0] > 0)


class SingleSine(Sine):
    """A sine that computes in single precision whatever it is given."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.float().sin().to(x.dtype)

    @staticmethod
    def backward(ctx, g):
        return (g.float() * ctx.saved_tensors[0].float().cos()).to(g.dtype)


HIDDEN = {"numpy": FromNumpy.apply, "on ctx": OnContext.apply}
HONEST = {
    "kink at the point": lambda x: x.relu().sum(1),
    "kinks at all distances": lambda x: sum(
        (x - 10.0**-k).relu().sum(1) + (-x - 10.0**-k).relu().sum(1) for k in range(2, 9)
    ),
    "linear": lambda x: 3 * x.sum(1),
    "constant gradient of zero": lambda x: 0 * x.sum(1),
    "fourth power": lambda x: x.pow(4).sum(1),
    "third power of the absolute value": lambda x: x.abs().pow(3).sum(1),
    "large third derivative": lambda x: (x + 1e6 * x.pow(3)).sum(1),
    "beside a large slope": lambda x: (1e8 * x + x.pow(4)).sum(1),
    "steep": lambda x: (1e6 * x).sigmoid().sum(1),
    "too steep for every step": lambda x: (1e9 * (x - 1e-9)).sigmoid().sum(1),
    "flat beside a steep place": lambda x: (1e4 * (x - 1e-2)).sigmoid().sum(1),
    "fast": lambda x: (1e4 * x).cos().sum(1),
    "hardswish at its kink": lambda x: F.hardswish(x + 3).sum(1),
    "underflow": lambda x: 1e-30 * (x - 20).exp().square().sum(1),
}


@pytest.mark.parametrize("name", HONEST)
@pytest.mark.parametrize("dtype", [SINGLE, DOUBLE], ids=str)
def test_an_honest_field_is_not_contradicted(name, dtype):
    for at in (0.0, 1e-9, 1e-7, 1e-5, 1e-3, 0.3):
        x = torch.full((2, 3), at, dtype=dtype)
        v = F.normalize(normal(x, generator=stream(0, "v")), dim=1)
        product = AutogradHessian(HONEST[name], x, "")(v)
        assert not contradicts_differences(HONEST[name], x, v, product)


@pytest.mark.parametrize("name", HIDDEN)
@pytest.mark.parametrize("scale", [1e-2, 1.0, 30.0])
@pytest.mark.parametrize("dtype", [SINGLE, DOUBLE], ids=str)
def test_a_hidden_curvature_is_contradicted(name, scale, dtype):
    def field(x: Tensor) -> Tensor:
        return HIDDEN[name](x / scale).sum(1)

    x = torch.tensor([[0.4, 1.2, -0.7]], dtype=dtype) * scale
    v = F.normalize(torch.ones_like(x), dim=1)
    assert contradicts_differences(field, x, v, 0 * x)


def test_a_function_in_single_precision_is_told_from_a_hidden_one():
    x = torch.tensor([[0.4, 1.2, -0.7]], dtype=DOUBLE)
    v = F.normalize(torch.ones_like(x), dim=1)
    right = -x.sin() * v
    for product, contradicted in ((right, False), (0 * x, True), (1.1 * right, True)):
        assert contradicts_differences(lambda x: SingleSine.apply(x).sum(1), x, v, product) is contradicted


ACTIVATIONS = [
    torch.relu,
    F.leaky_relu,
    F.hardtanh,
    F.hardswish,
    F.relu6,
    torch.abs,
    F.hardshrink,
    lambda h: F.elu(50 * h),
    HonestReLU.apply,
    lambda h: Sine.apply(5 * h),
    lambda h: HonestReLU.apply(h).square(),
]


def random_net(seed: int) -> nn.Module:
    """A chain of 1 to 4 layers, with weights of many scales, so that losses underflow and kinks lie near the inputs."""
    draws = stream(seed, "net")
    depth = 1 + seed % 4
    width, gain = (4, 16, 256)[seed % 3], (0.1, 1.0, 10.0)[seed // 3 % 3]
    sizes = [FEATURES, *[width] * (depth - 1), 3]
    weights = [
        gain * normal(torch.zeros(m, n, dtype=DOUBLE), generator=draws) / m**0.5 for m, n in itertools.pairwise(sizes)
    ]
    act = ACTIVATIONS[seed % len(ACTIVATIONS)]

    def forward(x: Tensor) -> Tensor:
        for weight in weights:
            x = act(x @ weight.to(x.dtype))
        return x

    return Called(forward).eval()


@pytest.mark.parametrize("dtype", [SINGLE, DOUBLE], ids=str)
def test_no_honest_random_network_is_refused(dtype):
    refused = []
    for seed in range(400):
        x = (1e-4, 1e-2, 1.0)[seed % 7 % 3] * normal(torch.zeros(2, FEATURES, dtype=dtype), generator=stream(seed, "x"))
        try:
            require_second_derivatives(loss_field(random_net(seed), torch.tensor([0, 1])), x)
        except InputError as error:
            refused.append((seed, str(error)))
    assert not refused
