"""Centered softplus: value and derivatives in every precision, its laws, its beta."""

import math

import mpmath
import pytest
import torch
from torch.testing import assert_close

from lowcurve.analysis import fused
from lowcurve.analysis.double_backward import TwiceDifferentiable
from lowcurve.models import CenteredSoftplus
from lowcurve.models.layers import centered_softplus
from lowcurve.randomness import normal, stream

BETAS = (1e-3, 0.1, 1.0, 10.0, 1e4)


def points(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Return numbers of all sizes and both signs, and zero."""
    sizes = torch.logspace(-8, 2, 41, dtype=torch.float64)
    return torch.cat([sizes, -sizes, torch.zeros(1, dtype=torch.float64)]).to(dtype)


def derivatives(x: torch.Tensor, beta: float) -> list[torch.Tensor]:
    """Return s0, s0' and s0'' by automatic differentiation."""
    leaf = x.clone().requires_grad_()
    value = centered_softplus(leaf, torch.tensor(beta, dtype=torch.float64))
    slope = torch.autograd.grad(value.sum(), leaf, create_graph=True)[0]
    return [value.detach(), slope.detach(), torch.autograd.grad(slope.sum(), leaf)[0]]


def expected(x: torch.Tensor, beta: float) -> list[torch.Tensor]:
    """Return the same in closed form, with the series of log cosh where s0 would cancel."""
    x = x.double()
    half = beta * x / 2
    series = half.square() / 2 - half**4 / 12
    log_cosh = torch.where(half.abs() < 1e-3, series, half.abs() + (-2 * half.abs()).exp().log1p() - math.log(2))
    s = torch.sigmoid(beta * x)
    return [x / 2 + log_cosh / beta, s, beta * s * torch.sigmoid(-beta * x)]


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize(
    ("dtype", "digits"), [(torch.float64, 1e-12), (torch.float32, 3e-7), (torch.float16, 1e-3), (torch.bfloat16, 1e-2)]
)
def test_centered_softplus_and_both_derivatives_in_every_precision(beta, dtype, digits):
    x = points(dtype)
    for found, true, size in zip(derivatives(x, beta), expected(x, beta), (x.double().abs(), 1, beta), strict=True):
        assert found.dtype == dtype
        tiny = torch.finfo(dtype).smallest_normal
        assert bool(((found.double() - true).abs() <= digits * size + tiny).all())


@pytest.mark.parametrize("beta", BETAS)
def test_the_laws_of_centered_softplus(beta):
    x = points()
    value, slope, bend = derivatives(x, beta)
    assert value[-1] == 0
    assert bool((slope >= 0).all())
    assert bool((slope <= 1).all())
    assert bool((bend >= 0).all())
    assert bool((bend <= beta / 4 * (1 + 1e-12)).all())
    assert bool((bend <= beta * slope * (1 + 1e-12)).all())
    assert bool((value >= x / 2).all())


def test_its_ends_are_half_the_identity_and_relu():
    x = points()
    assert_close(centered_softplus(x, torch.tensor(1e-12, dtype=torch.float64)), x / 2, rtol=1e-9, atol=0)
    assert_close(centered_softplus(x, torch.tensor(1e12, dtype=torch.float64)), x.relu(), rtol=0, atol=1e-12)


def test_beta_is_learned_by_its_true_derivative():
    act, x = CenteredSoftplus(3.0, floor=0.5).double(), points()[20:60]
    assert_close(act.beta.item(), 3.0, rtol=1e-6, atol=0)
    act(x).sum().backward()
    step = 1e-5
    with torch.no_grad():
        ends = [centered_softplus(x, (act.log_beta + s).exp() + 0.5).sum() for s in (step, -step)]
    assert_close(act.log_beta.grad, (ends[0] - ends[1]) / (2 * step), rtol=1e-7, atol=1e-9)
    assert [name for name, _ in CenteredSoftplus(learn=False).named_buffers()] == ["log_beta"]
    assert list(CenteredSoftplus(learn=False).parameters()) == []
    assert repr(CenteredSoftplus()) == "CenteredSoftplus(beta=5)"
    assert repr(CenteredSoftplus(learn=False)) == "CenteredSoftplus(beta=5, learn=False)"


def in_beta(x: torch.Tensor, beta: float, way: str) -> torch.Tensor:
    """Return the gradient of s0(x).sum() in beta."""
    leaf = torch.tensor(beta, dtype=x.dtype, requires_grad=True)
    with TwiceDifferentiable() if way == "twice" else torch.enable_grad():
        value = centered_softplus(x.clone().requires_grad_(), leaf)
    return torch.autograd.grad(value.sum(), leaf)[0]


def true_in_beta(x: float, beta: float) -> mpmath.mpf:
    """Return (u sigmoid(u) - softplus(u) + log 2) / beta^2 for u = beta x, with 120 digits."""
    with mpmath.workdps(120):
        x, beta = mpmath.mpf(x), mpmath.mpf(beta)
        t = mpmath.exp(-abs(beta * x))
        return (mpmath.log(2 / (1 + t)) - abs(beta * x) * t / (1 + t)) / beta**2


WAYS = ("fused", "torch", "twice")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("dtype", "digits"), [(torch.float32, 6e-7), (torch.float64, 2e-15)])
def test_the_gradient_in_beta_has_no_cancellation(way, dtype, digits, monkeypatch):
    """(x s0' - s0) / beta, a difference of nearly equal numbers, loses 8 / |beta x| units below 1 and |beta x| above."""
    monkeypatch.setattr(fused, "COMPILED", fused.COMPILED and way == "fused")
    for beta in (1e-3, 0.1, 5.0, 1e3, 1e5):
        far = [10.0**k for k in (-14, -9, -4, 3, 9, 20)]
        near = [v / beta for v in (1e-3, 0.1, 0.7, 1.0, 1.5, 2.0, 3.0, 8.0, 16.0, 17.5, 30.0, 90.0, 200.0)]
        for size in (*far, *near, 0.0, torch.finfo(dtype).smallest_normal / 16):
            x = torch.tensor([-size], dtype=dtype)
            true = true_in_beta(float(x), float(torch.tensor(beta, dtype=dtype)))
            unresolved = torch.finfo(dtype).smallest_normal * (1 + 1 / beta**2)
            assert abs(float(in_beta(x, beta, way)) - true) <= digits * true + unresolved, (beta, size)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("spread", [1e-5, 1e-3, 1.0, 1e3, 1e5])
def test_the_gradient_in_beta_of_a_batch_is_right_for_every_spread(way, spread, monkeypatch):
    """The old form was wrong by 2e-3 for inputs of 1e3 / beta and by 0.2 for 1e5 / beta."""
    monkeypatch.setattr(fused, "COMPILED", fused.COMPILED and way == "fused")
    x = spread * normal(torch.zeros(20_000), generator=stream(0, "spread"))
    expected = in_beta(x.double(), 1.0, "torch")
    assert_close(in_beta(x, 1.0, way).double(), expected, rtol=2e-6, atol=0)


@pytest.mark.parametrize("way", WAYS)
def test_the_gradient_in_beta_at_infinity_and_at_nan(way, monkeypatch):
    monkeypatch.setattr(fused, "COMPILED", fused.COMPILED and way == "fused")
    for x in (math.inf, -math.inf, 3e38):
        assert_close(in_beta(torch.tensor([x]), 2.0, way), torch.tensor(math.log(2) / 4))
    assert bool(in_beta(torch.tensor([1.0, math.nan]), 2.0, way).isnan())


def test_torch_differentiates_it_in_every_way():
    x, beta = points()[10:30], torch.tensor(2.0, dtype=torch.float64)
    mapped = torch.func.vmap(torch.func.grad(lambda x: centered_softplus(x, beta)))(x)
    twice = torch.func.jacrev(torch.func.jacrev(lambda x: centered_softplus(x, beta).sum()))(x).diagonal()
    assert_close([mapped, twice], [torch.sigmoid(2 * x), 2 * torch.sigmoid(2 * x) * torch.sigmoid(-2 * x)])
    leaves = (x.clone().requires_grad_(), beta.clone().requires_grad_())
    assert torch.autograd.gradgradcheck(centered_softplus, leaves)
    assert torch.autograd.gradgradcheck(
        lambda x, b: torch.autograd.grad(centered_softplus(x, b).sin().sum(), b, create_graph=True)[0], leaves
    )
