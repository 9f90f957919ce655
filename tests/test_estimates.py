"""Frobenius norms, traces and densities from random vectors: no bias, honest errors."""

import math

import pytest
import torch
from operators import OPERATOR, SPECTRA, H, Matrices, X, points, turned
from scipy.stats import binom
from torch.testing import assert_close

from lowcurve.analysis.estimates import frobenius_norm, moments, spectral_density
from lowcurve.analysis.spectra import lanczos, power_iteration
from lowcurve.errors import InputError
from lowcurve.randomness import stream


@pytest.mark.parametrize("deflated", [0, 3, 12])
def test_frobenius_norm_and_trace_lie_within_their_errors(deflated):
    found = moments(OPERATOR, X, draws=400, deflated=deflated, generator=stream(0, "moments"))
    norm, trace = torch.linalg.matrix_norm(H), H.diagonal(dim1=1, dim2=2).sum(1)
    for estimate, exact in ((found.frobenius_norm, norm), (found.trace, trace)):
        assert bool(((estimate.value - exact).abs() <= 4 * estimate.standard_error + 1e-12).all())
        assert bool((estimate.low <= estimate.value).all())
        assert bool((estimate.value <= estimate.high).all())
        assert float((estimate.standard_error / norm).max()) < (1e-12 if deflated == 12 else 0.15)
    again = frobenius_norm(
        OPERATOR.one_by_one, X, draws=400, deflated=deflated, generator=stream(0, "moments"), chunk=10
    )
    assert_close(again.value, found.frobenius_norm.value, rtol=1e-12, atol=0)


def test_the_squared_norm_and_the_trace_have_no_bias_even_without_symmetry():
    """One matrix, 2,000 examples of it with draws of their own."""
    matrix = H[:1] + torch.arange(12.0).double()
    found = moments(
        Matrices(matrix.expand(2000, -1, -1)), points(2000, 12), draws=2, deflated=2, generator=stream(0), chunk=4000
    )
    for estimate, power, exact in (
        (found.frobenius_norm, 2, matrix.square().sum()),
        (found.trace, 1, matrix[0].diagonal().sum()),
    ):
        samples = estimate.value**power
        assert abs(float(samples.mean() - exact)) < 4 * float(samples.std()) / math.sqrt(2000)


def test_deflation_is_worth_its_products():
    h = turned(SPECTRA["1/k^2"](32, 80))
    exact = torch.linalg.matrix_norm(h)
    plain, deflated = (
        frobenius_norm(Matrices(h), points(32, 80), draws=n, deflated=k, generator=stream(1))
        for n, k in ((30, 0), (20, 10))
    )
    spread = (plain.value / exact - 1).square().mean().sqrt(), (deflated.value / exact - 1).square().mean().sqrt()
    assert spread[1] < 0.01 * spread[0]
    good = frobenius_norm(Matrices(h), points(32, 80), draws=20, deflated=10, generator=stream(1), start=points(32, 80))
    assert_close(good.value, exact, rtol=1e-2, atol=0)


@pytest.mark.parametrize(("kind", "deflated"), [("1/k^2", 0), ("1/k^2", 4), ("normal", 0), ("normal", 4)])
def test_confidence_intervals_cover(kind, deflated):
    """2,000 cases of 20 draws: 95 % but for what skewness takes, which is 4 % at most where one eigenvalue is all."""
    h = turned(SPECTRA[kind](2000, 20))
    found = moments(Matrices(h), points(2000, 20), draws=20, deflated=deflated, generator=stream(2), chunk=40000)
    exact = torch.linalg.matrix_norm(h), h.diagonal(dim1=1, dim2=2).sum(1)
    for estimate, truth in zip((found.frobenius_norm, found.trace), exact, strict=True):
        covered = int(((estimate.low <= truth) & (truth <= estimate.high)).sum())
        assert binom.ppf(1e-3, 2000, 0.91) <= covered <= binom.ppf(1 - 1e-3, 2000, 0.96), covered / 2000


def test_draws_do_not_depend_on_the_batch():
    few = torch.tensor([2, 0])
    for estimate in (
        lambda rows: vars(
            moments(OPERATOR.take(rows), X[rows], draws=5, deflated=3, generator=stream(0)).frobenius_norm
        ),
        lambda rows: vars(spectral_density(OPERATOR.take(rows), X[rows], draws=3, steps=4, generator=stream(0))),
    ):
        together, alone = estimate(torch.arange(4)), estimate(few)
        for name in alone:
            assert_close(together[name][few], alone[name], rtol=1e-9, atol=1e-9)


def test_tiny_matrices_neither_vanish_nor_lose_digits():
    one = moments(Matrices(H.float()), X.float(), draws=9, deflated=2, generator=stream(0))
    tiny = moments(Matrices(1e-25 * H.float()), X.float(), draws=9, deflated=2, generator=stream(0))
    for found, expected in ((tiny.frobenius_norm, one.frobenius_norm), (tiny.trace, one.trace)):
        for name in vars(expected):
            assert_close(1e25 * getattr(found, name), getattr(expected, name), rtol=1e-4, atol=1e-4)
    zero = moments(torch.zeros_like, X, draws=9, deflated=2, generator=stream(0)).frobenius_norm
    for number in vars(zero).values():
        assert_close(number, torch.zeros(4, dtype=torch.float64))


@pytest.mark.parametrize("steps", [1, 3, 5])
def test_density_has_the_moments_of_a_diagonal_matrix_up_to_twice_the_steps(steps):
    values = torch.linspace(-1, 2, 9).double().expand(2, 9) ** torch.tensor([[1], [3]])
    density = spectral_density(
        Matrices(torch.diag_embed(values)), points(2, 9), draws=2, steps=steps, generator=stream(0)
    )
    assert density.nodes.shape == density.weights.shape == (2, 2 * steps)
    for power in range(2 * steps):
        found = (density.nodes**power * density.weights).sum(1)
        assert_close(found, (values**power).mean(1), rtol=1e-9, atol=1e-9)
        each = (density.nodes**power * density.weights).unflatten(1, (2, steps)).sum(2)
        assert_close(2 * each, (values**power).mean(1)[:, None].expand(-1, 2), rtol=1e-9, atol=1e-9)
    assert abs(float((density.nodes**10 * density.weights).sum(1)[0] - (values**10).mean(1)[0])) > 1e-6


@pytest.mark.parametrize("operator", [Matrices, lambda h: Matrices(h).one_by_one])
def test_density_against_the_histogram(operator):
    values = torch.cat([torch.linspace(-1, 1, 150), torch.full((50,), 3.0)]).expand(3, -1)
    h = turned(values)
    density = spectral_density(operator(h), points(3, 200), draws=20, steps=40, generator=stream(0))
    assert_close(density.weights.sum(1), torch.ones(3, dtype=torch.float64))
    levels = torch.linspace(-1.25, 3.25, 46).double()
    exact = (values[0][None] <= levels[:, None]).double().mean(1)
    assert (
        float((density.cumulative(levels) - exact).abs().max()) < 0.04
    )  # 0.025 / sqrt(20 draws) a level and example, and the blur of 40 nodes
    grid = torch.linspace(-2, 4, 601).double()
    blurred = (-((grid[:, None] - values[0]) / 0.1).square() / 2).exp().mean(1) / (0.1 * math.sqrt(2 * math.pi))
    found = density.on(grid, 0.1)
    assert_close(found.sum(1) * 0.01, torch.ones(3, dtype=torch.float64), rtol=1e-6, atol=0)
    assert float((found - blurred).abs().max()) < 0.1 * float(blurred.max())


def test_density_of_zero_and_of_a_small_space():
    flat = spectral_density(torch.zeros_like, torch.zeros(2, 6), draws=2, steps=4, generator=stream(0))
    assert_close(flat.cumulative(torch.tensor([-1e-6, 1e-6])), torch.tensor([[0.0, 1.0]]).expand(2, -1))
    small = spectral_density(
        lambda v: v * torch.tensor([1.0, 2.0]), torch.zeros(1, 2), draws=3, steps=9, generator=stream(0)
    )
    assert small.nodes.shape == (1, 6)
    assert_close(small.cumulative(torch.tensor([1.5])), torch.tensor([[0.5]]))


def test_settings_that_are_none():
    for call in (
        lambda: lanczos(OPERATOR, X, steps=0),
        lambda: power_iteration(OPERATOR, X, steps=0),
        lambda: spectral_density(OPERATOR, X, draws=1, steps=0, generator=stream(0)),
    ):
        with pytest.raises(InputError, match="at least one step, got 0"):
            call()
    with pytest.raises(InputError, match='the ends "norm", "largest" or "both", got \'top\''):
        lanczos(OPERATOR, X, ends="top")
    with pytest.raises(InputError, match="at least two draws, got 1"):
        frobenius_norm(OPERATOR, X, draws=1, generator=stream(0))
    with pytest.raises(InputError, match="a number of deflated vectors of at least 0, got -1"):
        frobenius_norm(OPERATOR, X, draws=9, deflated=-1, generator=stream(0))
    with pytest.raises(InputError, match="at least one draw, got 0"):
        spectral_density(OPERATOR, X, draws=0, steps=1, generator=stream(0))
    density = spectral_density(OPERATOR, X, draws=1, steps=1, generator=stream(0))
    for width in (0, -1.0, math.nan, math.inf):
        with pytest.raises(InputError, match="a width above 0, in units of the eigenvalues"):
            density.on(torch.zeros(1), width)
