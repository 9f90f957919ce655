"""The networks of the LCNN paper, the summary of their layers, and the terms of Theorem 1."""

import copy
import itertools
import math

import pytest
import torch
from bounded_layers import jacobian_norm, made
from torch import nn
from torch.testing import assert_close

from lowcurve.analysis.hessians import REPLAYED, hessian
from lowcurve.errors import InputError
from lowcurve.losses import loss_field
from lowcurve.models import (
    ARCHITECTURES,
    CenteredSoftplus,
    Network,
    prepare_norms,
    summary,
    update_norms,
)
from lowcurve.models.composition import curvature_summands
from lowcurve.models.lcnn import ScaledBlock
from lowcurve.models.lipschitz import (
    LipschitzBatchNorm2d,
    LipschitzConv2d,
    LipschitzLinear,
)
from lowcurve.randomness import normal, stream, temporary_seed


def network(name: str, act: str = "centered-softplus", shape: tuple[int, ...] = (3, 16, 16)) -> nn.Sequential:
    return Network(name, shape, 5, (0.5,) * shape[0], (0.25,) * shape[0], act, 4).build(seed=0)


@pytest.mark.parametrize(
    ("name", "act", "count", "betas", "gammas"),
    [
        ("lcnn-resnet18", "centered-softplus", 11_210_569, 17, 20),
        ("lcnn-resnet18", "softplus-1000", 11_210_552, 0, 20),
        ("lcnn-resnet18-plain", "softplus-1000", 11_210_532, 0, 0),  # the paper's network has 20 unused gammas
        ("lcnn-vgg11", "centered-softplus", 9_456_312, 10, 10),
    ],
)
def test_parameters_at_full_width(name, act, count, betas, gammas):
    with torch.device("meta"):
        model = ARCHITECTURES[name]((3, 32, 32), 100, act)
    names = [name for name, _ in model.named_parameters()]
    assert sum(p.numel() for p in model.parameters()) == count
    assert [sum(n.endswith(end) for n in names) for end in ("log_beta", "log_gamma")] == [betas, gammas]


@pytest.mark.parametrize("name", ["lcnn-resnet18", "lcnn-resnet18-plain", "lcnn-vgg11"])
def test_hessians_of_these_networks_are_replayed(name):
    model = network(name).double().eval()
    for module in model.modules():
        if hasattr(module, "log_gamma"):
            module.log_gamma.data.fill_(0.0)
    x, y = torch.rand(2, 3, 16, 16, generator=stream(0)).double(), torch.tensor([0, 3])
    field = loss_field(model, y)
    operator = hessian(field, x)
    assert operator.backend == REPLAYED
    v = normal(x, generator=stream(1))
    leaf = x.clone().requires_grad_()
    slope = torch.autograd.grad(field(leaf).sum(), leaf, create_graph=True)[0]
    assert_close(operator(v), torch.autograd.grad((slope * v).sum(), leaf)[0], rtol=1e-9, atol=1e-15)
    assert float(operator(v).abs().max()) > 0


def test_a_network_whose_gammas_are_high_is_one_without_them():
    clipped, without = network("lcnn-resnet18"), network("lcnn-resnet18-plain")
    missing = without.load_state_dict(clipped.state_dict(), strict=False)
    assert missing.missing_keys == []
    x = torch.rand(4, 3, 16, 16, generator=stream(0))
    for training in (True, False):
        assert_close(clipped.train(training)(x), without.train(training)(x), rtol=1e-4, atol=1e-5)


def test_the_mean_of_two_arms_does_not_lengthen():
    block = ScaledBlock(4, 4, 1, "centered-softplus", clipped=True)
    for layer in (block.norm1, block.norm2):
        layer.log_gamma.data.fill_(0.0)
        layer.running_var.fill_(1e-4)
    x = torch.rand(2, 4, 5, 5, generator=stream(0))
    prepare_norms(block, x, steps=300)
    assert 0.1 < jacobian_norm(block.eval(), x) <= 1 + 1e-4


def test_a_summary_has_a_row_for_every_beta_and_gamma():
    model = network("lcnn-resnet18")
    rows = summary(model)
    assert [sum(row.beta is not None for row in rows), sum(row.gamma is not None for row in rows)] == [17, 21]
    assert {row.beta for row in rows} == {None, 5.0}
    assert [row.name for row in rows if row.clipped] == ["1.13"]  # the head, whose norm is always normalized to one
    own = {name: module for name, module in model.named_modules() if hasattr(module, "sigma")}
    for row in rows:
        if row.norm is not None:
            assert row.norm.lower * 0.9 < float(own[row.name].sigma) <= row.norm.upper
    published, _ = made("bn2d, published")
    (row,) = summary(published)
    assert row.clipped
    assert row.norm.lower <= float(published[1].sigma) * 1.001 <= row.norm.upper * 1.002


def two_units(beta: float, second: float = -1.0) -> nn.Sequential:
    """Return s0(x) + s0(second * x)."""
    model = nn.Sequential(nn.Linear(1, 2), CenteredSoftplus(beta, floor=0), nn.Linear(2, 1)).double()
    for layer, weight in ((model[0], [[1.0], [second]]), (model[2], [[1.0, 1.0]])):
        layer.weight.data.copy_(torch.tensor(weight))
        layer.bias.data.zero_()
    return model


def derivatives_at(model: nn.Sequential, x: torch.Tensor) -> tuple[float, float, list[bool]]:
    """Return ||g||, ||H||, and for each nonlinearity whether ||J_k|| max |df/dz_k| <= n_k ||g||, by plain autograd."""
    slope = torch.func.grad(lambda x: model(x)[0])(x).detach()
    bend = torch.autograd.functional.hessian(lambda x: model(x)[0], x)
    kept = []
    for place, layer in enumerate(model):
        if isinstance(layer, CenteredSoftplus | nn.Softplus):
            z = model[:place](x).detach().requires_grad_()
            (adjoint,) = torch.autograd.grad(model[place:](z)[0], z)
            steepest = torch.linalg.matrix_norm(torch.func.jacrev(model[:place])(x), 2)
            kept.append(bool(steepest * adjoint.abs().max() <= z.numel() * slope.norm() * (1 + 1e-9)))
    return float(slope.norm()), float(torch.linalg.matrix_norm(bend, 2)), kept


@pytest.mark.parametrize("beta", [0.5, 5.0, 100.0])
def test_theorem_1_is_false_where_gradients_cancel(beta):
    """For s0(x) + s0(-x), ||H|| / ||g|| = beta / sinh(beta x). The sum is 2 sqrt(2) beta."""
    model = two_units(beta)
    (term,) = curvature_summands(model, torch.zeros(1, 1))
    assert term.value == pytest.approx(2 * math.sqrt(2) * beta)
    for share in (0.01, 0.1, 0.3, 0.4, 1.0):  # of 1 / beta; the ratio passes the sum at asinh(1 / sqrt(8)) = 0.347
        slope, bend, (kept,) = derivatives_at(model, torch.tensor([share / beta], dtype=torch.double))
        assert bend / slope == pytest.approx(beta / math.sinh(share), rel=1e-6)
        assert (bend / slope <= term.value) == (share > 0.35)
        assert bend / slope <= term.value or not kept


def test_theorem_1_is_false_for_a_gradient_that_is_nowhere_zero():
    """f(x, y) = s0(x) + s0(e y - x): df/dy > 0 everywhere, and ||H|| / ||g|| grows as beta / e at 0."""
    model, tilt = two_units(4.0), 1e-3
    model[0] = nn.Linear(2, 2, bias=False).double()
    model[0].weight.data.copy_(torch.tensor([[1.0, 0.0], [-1.0, tilt]]))
    total = sum(one.value for one in curvature_summands(model, torch.zeros(1, 2)))
    slope, bend, kept = derivatives_at(model, torch.zeros(2, dtype=torch.double))
    assert slope == pytest.approx(tilt / 2)
    assert bend / slope == pytest.approx(4.0 / tilt, rel=1e-3)
    assert bend / slope > 300 * total
    assert kept == [False]


def test_theorem_1_holds_under_its_condition_and_for_the_hessian_without_one():
    """Random chains: the sum bounds ||H|| / ||g|| where no gradient cancels, and ||H|| over the product of norms everywhere."""
    met = violated = 0
    for seed in range(6):
        with temporary_seed(seed, "weights"):
            model = nn.Sequential(
                nn.Linear(2, 3), CenteredSoftplus(8.0), LipschitzLinear(3, 3), nn.Softplus(3), nn.Linear(3, 1)
            )
        prepare_norms(model, torch.zeros(1, 2))
        model.double()
        terms = curvature_summands(model, torch.zeros(1, 2))
        norms = terms[-1].norm_product * float(torch.linalg.matrix_norm(model[-1].weight.detach(), 2))
        for x in 3 * normal(torch.zeros(12, 2).double(), generator=stream(seed)):
            slope, bend, kept = derivatives_at(model, x)
            holds = bend / slope <= sum(one.value for one in terms)
            assert bend <= norms * sum(one.curvature * one.norm_product for one in terms)
            assert holds or not all(kept)
            met += all(kept)
            violated += not holds
    assert (met > 40, violated) == (True, 0), (met, violated)


def test_theorem_1_holds_with_one_unit_a_layer():
    """Lemma 1 of the paper: in one dimension the gradient is the product of the slopes, and nothing cancels."""
    model = nn.Sequential(
        nn.Linear(3, 1), CenteredSoftplus(9.0), nn.Linear(1, 1), CenteredSoftplus(2.0), nn.Linear(1, 1)
    )
    for layer, weight in ((model[0], 2.0), (model[2], -3.0), (model[4], 0.5)):
        layer.weight.data.fill_(weight)
    model.double()
    total = sum(one.value for one in curvature_summands(model, torch.zeros(1, 3)))
    for x in normal(torch.zeros(20, 3).double(), generator=stream(0)):
        slope, bend, kept = derivatives_at(model, x)
        assert all(kept)
        assert bend <= slope * total


def test_every_call_of_a_chain_has_a_summand():
    found = curvature_summands(network("lcnn-resnet18"), torch.zeros(1, 3, 16, 16))
    assert len(found) == 17
    assert [one.width for one in found[:3]] == [4 * 256, 8 * 256, 4 * 256]
    assert all(one.curvature == pytest.approx(5) for one in found)
    assert all(0 < b.norm_product / a.norm_product < 3 for a, b in itertools.pairwise(found))
    kinks = curvature_summands(network("lcnn-vgg11", "relu"), torch.zeros(1, 3, 16, 16))
    assert {one.curvature for one in kinks} == {math.inf}


def test_a_layer_that_is_called_twice_counts_twice():
    """nn.Sequential.named_children() lists a module once, however often it is called."""
    linear, act = nn.Linear(2, 2), CenteredSoftplus(2.0)
    shared = curvature_summands(nn.Sequential(linear, act, linear, act), torch.zeros(1, 2))
    apart = nn.Sequential(linear, act, copy.deepcopy(linear), copy.deepcopy(act))
    assert [one.value for one in shared] == [one.value for one in curvature_summands(apart, torch.zeros(1, 2))]


class Doubled(nn.Sequential):
    """A chain with a forward method of its own."""

    def forward(self, x):
        return super().forward(2 * x)


@pytest.mark.parametrize(
    "pool",
    [
        nn.AvgPool2d(3, stride=1), nn.AvgPool2d(3, stride=2, padding=1), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(3),
        nn.AvgPool2d(2, divisor_override=1), nn.AvgPool2d(3, ceil_mode=True), nn.AdaptiveAvgPool2d(1),
    ],
)  # fmt: skip
def test_average_pooling_has_at_least_its_norm(pool):
    """Windows that overlap, leave pixels out or reach beyond the image."""
    x = torch.zeros(1, 1, 5, 5)
    act = nn.Sequential(pool, CenteredSoftplus(1.0, floor=0))
    (term,) = curvature_summands(act, x)
    true = float(torch.linalg.matrix_norm(torch.func.jacrev(pool)(x).reshape(-1, 25), 2))
    assert true * (1 - 1e-6) <= term.norm_product <= 1.6 * true


def test_the_maps_of_the_chain():
    folded = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1, eps=0.0), CenteredSoftplus(1.0))
    folded[0].weight.data.fill_(3.0)
    folded[1].running_var.fill_(4.0)
    folded[1].weight.data.fill_(5.0)
    alone = nn.Sequential(nn.AvgPool2d(2), copy.deepcopy(folded[1]), nn.Identity(), nn.Softplus(2))
    x = torch.zeros(1, 1, 4, 4)
    assert [(one.width, round(one.value, 3)) for one in curvature_summands(folded, x)] == [(16, 16 * 7.5)]
    assert [(one.width, round(one.value, 3)) for one in curvature_summands(alone, x)] == [(4, 4 * 2 * 2.5 / 2)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CenteredSoftplus(0.0), r"a beta above its floor, which is at least 0, got \(0.0, 0.001\)"),
        (lambda: CenteredSoftplus(math.nan), "a beta above its floor"),
        (
            lambda: LipschitzLinear(2, 2, gamma=0.5),
            "a gamma of at least 1, or above 0 with at_least_one=False, got 0.5",
        ),
        (lambda: LipschitzLinear(2, 2, gamma=0.0, at_least_one=False), "a gamma of at least 1, or above 0"),
        (
            lambda: update_norms(LipschitzConv2d(1, 1, 1)),
            "a layer prepared for the size of its input, got LipschitzConv2d",
        ),
        (
            lambda: LipschitzBatchNorm2d(nn.Conv2d(1, 1, 1), track_running_stats=False),
            "a BatchNorm with running statistics, got none. Write track_running_stats=True",
        ),
        (
            lambda: curvature_summands(
                nn.Sequential(nn.BatchNorm1d(2, track_running_stats=False)), torch.zeros(1, 2, 3)
            ),
            "a BatchNorm with running statistics",
        ),
        (
            lambda: curvature_summands(nn.Sequential(nn.Tanh()), torch.zeros(1, 2)),
            "a chain of linear layers, BatchNorm, pooling, softplus and scaled blocks, got Tanh",
        ),
        (
            lambda: curvature_summands(nn.Sequential(Doubled(nn.Linear(2, 2))), torch.zeros(1, 2)),
            "a chain of linear layers, BatchNorm, pooling, softplus and scaled blocks, got Doubled",
        ),
        (
            lambda: curvature_summands(
                nn.Sequential(act := CenteredSoftplus(1.0), nn.Flatten(), act), torch.zeros(1, 1, 2)
            ),
            r"layers with one shape of input, got CenteredSoftplus called with \(1, 1, 2\) and \(1, 2\). Give each",
        ),
    ],
)
def test_errors_name_the_hint(make, message):
    with pytest.raises(InputError, match=message):
        make()
