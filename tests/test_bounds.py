"""Bounds from gradient and Hessian: Theorem 1 against exact solutions, Eq. (9) on quadratics, invariances."""

import math

import pytest
import torch
from torch.testing import assert_close

from lowcurve import randomness
from lowcurve.analysis.calculus import gradient
from lowcurve.analysis.norms import L1, L2, LINF
from lowcurve.errors import InputError
from lowcurve.geometry.bounds import (
    Bracket,
    DecisionChange,
    DistanceBounds,
    RobustnessIndicator,
    decision_change_bound,
    distance_bounds,
)
from lowcurve.losses import loss_field, margin, margin_loss
from lowcurve.models import Network
from lowcurve.randomness import stream
from lowcurve.results import describe

COUNT, SIZE = 1000, 6
WHOLE = DistanceBounds(steps=SIZE, tolerance=1e-12)


def normal(*shape: int, name: str) -> torch.Tensor:
    return randomness.normal(torch.zeros(shape, dtype=torch.float64), generator=stream(0, "bounds", name))


def uniform(*shape: int, low: float, high: float, name: str) -> torch.Tensor:
    zeros = torch.zeros(shape, dtype=torch.float64)
    return randomness.uniform(zeros, low, high, generator=stream(0, "bounds", name))


def numbers(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


G = normal(COUNT, SIZE, name="g") * 10 ** uniform(COUNT, 1, low=-2, high=1, name="size")
BASIS = torch.linalg.qr(normal(COUNT, SIZE, SIZE, name="basis")).Q
SHIFTS = torch.tensor([0.0, 2.0, -2.0, 6.0], dtype=torch.float64).repeat(COUNT // 4)
EIGENVALUES = (normal(COUNT, SIZE, name="eigenvalues") + SHIFTS[:, None]).sort(1).values
EIGENVALUES[::10] = EIGENVALUES[::10].abs() * (torch.arange(SIZE) == SIZE - 1)  # of rank one
G[1::10] -= (G[1::10] * BASIS[1::10, :, -1]).sum(1, keepdim=True) * BASIS[1::10, :, -1]  # the hard case
H = BASIS @ torch.diag_embed(EIGENVALUES) @ BASIS.mT
GAP = 10 ** uniform(COUNT, low=-3, high=1, name="gap")


def model(r: torch.Tensor) -> torch.Tensor:
    """<g, r> + <r, H r> / 2 of each of the quadratics, with l(0) = 0."""
    return (G * r).sum(1) + torch.einsum("bi,bij,bj->b", r, H, r) / 2


def nearest(g: torch.Tensor, values: torch.Tensor, gap: torch.Tensor) -> torch.Tensor:
    """min ||r|| with <g, r> + sum lambda_i r_i^2 / 2 >= gap > 0, g in the eigenbasis: bisection on the multiplier.

    r(mu) = g / (mu - lambda) for mu > max(lambda_max, 0); its value falls in mu. Where it does not reach the gap at the
    lower end, r goes on along the last eigenvector (the hard case), and is infinite where that does not rise.
    """
    lowest = torch.maximum(values[:, -1], torch.zeros(()))

    def at(above: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        r = g / (lowest[:, None] - values + above[:, None])
        return r, (g * r + values * r.square() / 2).sum(1)

    low, high = torch.full_like(gap, -80), torch.full_like(gap, 80)  # of log(mu - lowest)
    for _ in range(200):
        middle = (low + high) / 2
        enough = at(middle.exp())[1] >= gap
        low, high = torch.where(enough, middle, low), torch.where(enough, high, middle)
    inside = torch.linalg.vector_norm(at(high.exp())[0], dim=1)
    hard = low == -80
    rest = torch.where(values == lowest[:, None], 0, g / (lowest[:, None] - values))
    missing = gap - (g * rest + values * rest.square() / 2).sum(1)
    further = torch.where(values[:, -1] > 0, 2 * missing / values[:, -1], torch.inf)
    beyond = torch.where(missing <= 0, rest.square().sum(1), rest.square().sum(1) + further).sqrt()
    return torch.where(hard, beyond, inside)


EXACT = nearest((BASIS.mT @ G[:, :, None])[:, :, 0], EIGENVALUES, GAP)
ALONG = (G * BASIS[:, :, -1]).sum(1).abs()
ALONG[1::10] = 0


def exact_bracket() -> Bracket:
    return distance_bounds(GAP, G.norm(dim=1), EIGENVALUES[:, -1], ALONG)


def test_the_oracle_is_the_least_over_all_directions_of_the_plane():
    """min over unit v of the least t with t <g, v> + t^2 <v, Hv> / 2 >= c, on a fine grid of the half-circle."""
    g, values, gap = G[:200, :2].clone(), EIGENVALUES[:200, -2:], GAP[:200]
    g[1::10, 1] = 0  # the hard case
    angle = torch.linspace(0, math.pi, 20001, dtype=torch.float64)
    slope = (g[:, :1] * angle.cos() + g[:, 1:] * angle.sin()).abs()
    bend = values[:, :1] * angle.cos().square() + values[:, 1:] * angle.sin().square()
    root = slope.square() + 2 * bend * gap[:, None]
    lengths = torch.where(root >= 0, 2 * gap[:, None] / (slope + root.sqrt()), torch.inf)
    found, exact = lengths.amin(1), nearest(g, values, gap)
    assert 5 < int(torch.isinf(found).sum()) < 100
    assert_close(torch.isinf(exact), torch.isinf(found))
    finite = torch.isfinite(found)
    assert_close(exact[finite], found[finite], rtol=1e-4, atol=0)
    assert float((exact / found)[finite].max()) < 1 + 1e-9


def test_theorem_1_brackets_the_exact_distance_on_a_thousand_quadratics():
    bounds = exact_bracket()
    assert bool((bounds.lower <= EXACT * (1 + 1e-9)).all())
    assert bool((bounds.upper * (1 + 1e-9) >= EXACT).all())
    within = EIGENVALUES[:, -1] >= 0
    assert 600 < int(within.sum()) < 1000
    assert bool((bounds.printed_lower <= bounds.simple_lower)[within].all())
    assert bool((bounds.simple_lower <= bounds.lower * (1 + 1e-9)).all())
    assert bool((bounds.upper <= bounds.simple_upper * (1 + 1e-9)).all())
    assert bool(torch.isfinite(bounds.upper[within]).all())


def test_below_the_papers_premise_the_bounds_hold_too():
    """nu < 0: where the lower bound is inf the model never rises so far, and elsewhere both are bounds."""
    bounds, below = exact_bracket(), EIGENVALUES[:, -1] < 0
    never = torch.isinf(bounds.lower)
    assert int((never & below).sum()) > 10
    assert int((~never & below).sum()) > 10
    assert not bool((never & ~below).any())
    assert bool(torch.isinf(EXACT[never]).all())
    assert bool(torch.isinf(bounds.simple_upper[below]).all())


def test_a_ritz_pair_serves_the_upper_bound_and_a_larger_nu_the_lower():
    direction = L2.unit(normal(COUNT, SIZE, name="direction"))
    rayleigh = torch.einsum("bi,bij,bj->b", direction, H, direction)
    upper = distance_bounds(GAP, G.norm(dim=1), rayleigh, (G * direction).sum(1).abs()).upper
    assert bool((upper * (1 + 1e-9) >= EXACT).all())
    assert int(torch.isfinite(upper).sum()) > 100
    lower = distance_bounds(GAP, G.norm(dim=1), EIGENVALUES[:, -1] + 1, ALONG).lower
    assert bool((lower <= exact_bracket().lower).all())


def test_where_the_gradient_is_the_top_eigenvector_the_bounds_are_the_distance():
    g = 3 * BASIS[:, :, -1]
    along = torch.full((COUNT,), 3.0, dtype=torch.float64)
    bounds = distance_bounds(GAP, along, EIGENVALUES[:, -1], along)
    assert_close(bounds.lower, bounds.upper)
    exact = nearest((BASIS.mT @ g[:, :, None])[:, :, 0], EIGENVALUES, GAP)
    finite = torch.isfinite(exact) & (EIGENVALUES[:, -1] > 0)
    assert_close(exact[finite], bounds.lower[finite], rtol=1e-6, atol=0)


@pytest.mark.parametrize("nu", [1e-12, 0.5, 1.0, 4.0])
def test_the_setting_of_figure_4_in_the_papers_own_form(nu):
    bounds = distance_bounds(numbers(1), numbers(1), numbers(nu), numbers(0.5))
    if nu > 1e-3:
        assert_close(bounds.lower, numbers((math.sqrt(1 + 2 * nu) - 1) / nu))
        assert_close(bounds.upper, numbers(0.5 / nu * (math.sqrt(1 + 2 * nu / 0.25) - 1)))
    else:
        assert_close(bounds.lower, numbers(1), rtol=1e-11, atol=0)
        assert_close(bounds.upper, numbers(2), rtol=1e-11, atol=0)
    assert_close([bounds.simple_lower, bounds.printed_lower], [numbers(1 - nu / 2), numbers(1 - 2 * nu)])
    assert_close(bounds.simple_upper, numbers(2))
    if nu == 1:
        assert_close(bounds.lower, numbers(0.7321), rtol=0, atol=1e-4)
        assert_close(bounds.upper, numbers(1.0))


def test_bounds_fall_with_nu_as_in_figure_4():
    nu = torch.linspace(-0.1, 5, 50, dtype=torch.float64)
    one = torch.ones_like(nu)
    bounds = distance_bounds(one, one, nu, one / 2)
    assert float(bounds.lower.diff().max()) < 0
    assert float(bounds.upper.diff().max()) < 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_conventions_where_a_bound_has_no_formula(dtype):
    zero, one, inf = (torch.tensor([v], dtype=dtype) for v in (0.0, 1.0, math.inf))
    across = distance_bounds(-one, one, one, one)
    assert_close([*vars(across).values()], [zero] * 5, rtol=0, atol=0)
    assert_close(distance_bounds(zero, zero, zero, zero).upper, zero)
    crossways = distance_bounds(one, one, 2 * one, zero)
    assert_close(crossways.upper, one)  # sqrt(2 c / nu)
    assert_close(crossways.simple_upper, inf)
    flat = distance_bounds(one, zero, zero, zero)
    assert_close([flat.lower, flat.upper, flat.simple_lower], [inf] * 3)
    bottom = distance_bounds(one, zero, 2 * one, zero)
    assert_close([bottom.lower, bottom.upper, bottom.simple_lower, bottom.printed_lower], [one, one, -inf, -inf])
    straight = distance_bounds(one, 4 * one, zero, 2 * one)
    assert_close([straight.lower, straight.upper], [one / 4, one / 2])
    never = distance_bounds(one, one, -one, one)
    assert_close([never.lower, never.upper], [inf, inf])
    bent = distance_bounds(one, 2 * one, -one, 2 * one)  # 2 t - t^2 / 2 = 1
    assert_close(bent.lower, torch.tensor([2 - math.sqrt(2)], dtype=dtype))


@pytest.mark.parametrize("size", [1e-30, 1e-10, 1e10])
def test_confident_examples_keep_their_digits_in_single_precision(size):
    """g^2 underflows, the bound does not: scaling loss and threshold leaves the distance where it is."""
    gap, slope, nu, along = (torch.tensor([v * size]) for v in (1.0, 2.0, 3.0, 1.0))
    plain = distance_bounds(*(torch.tensor([v]) for v in (1.0, 2.0, 3.0, 1.0)))
    assert_close(vars(distance_bounds(gap, slope, nu, along)), vars(plain))


def test_the_measure_is_the_theorem_at_a_point():
    """Both where lambda_max is the eigenvalue of largest magnitude and where it is not."""
    columns = DistanceBounds(threshold=0.5, steps=SIZE, tolerance=1e-12)(model, torch.zeros(COUNT, SIZE).double())
    rows = torch.ones(COUNT, dtype=torch.bool)
    rows[::10] = rows[1::10] = False  # where the vector is not unique, or rounding is all there is along it
    along = (G * BASIS[:, :, -1]).sum(1).abs()
    gap, slope = torch.full_like(GAP, 0.5), G.norm(dim=1)
    bounds = distance_bounds(gap, slope, EIGENVALUES[:, -1], along)
    straight = columns.pop("distance, upper bound along the gradient")
    assert_close([columns[name][rows] for name in columns], [b[rows] for b in vars(bounds).values()], rtol=1e-5, atol=0)
    exact = nearest((BASIS.mT @ G[:, :, None])[:, :, 0], EIGENVALUES, gap)
    assert bool((straight * (1 + 1e-9) >= exact).all())
    assert_close(straight, distance_bounds(gap, slope, torch.einsum("bi,bij,bj->b", G, H, G) / slope**2, slope).upper)
    assert [name.removeprefix("distance, ") for name in columns] == [
        "lower bound", "upper bound", "simple lower bound", "printed lower bound", "simple upper bound",
    ]  # fmt: skip


def test_nu_is_waited_for_where_another_eigenvalue_is_larger_in_magnitude():
    """-50 is found in three steps, lambda_max = 1 beside 0.95 in a dozen."""
    values = torch.cat([numbers(-50), torch.linspace(-1, 1, 40, dtype=torch.float64)])
    field = lambda x: x.sum(1) + x.square() @ values / 2  # noqa: E731
    columns = DistanceBounds(threshold=100.0, steps=41)(field, torch.zeros(1, 41, dtype=torch.float64))
    one = numbers(1)
    expected = distance_bounds(100 * one, 41**0.5 * one, one, one)
    assert_close(columns["distance, lower bound"], expected.lower, rtol=1e-2, atol=0)


def test_scaling_loss_and_inputs():
    """k l with threshold k t: the same distance. l(s u): the distance in u is 1/s of it."""
    x = normal(COUNT, SIZE, name="x") / 10
    plain = DistanceBounds(2.0, SIZE, 1e-12)(model, x)["distance, lower bound"]
    scaled = DistanceBounds(2e-3, SIZE, 1e-12)(lambda x: 1e-3 * model(x), x)["distance, lower bound"]
    shrunk = DistanceBounds(2.0, SIZE, 1e-12)(lambda u: model(u * 4), x / 4)["distance, lower bound"]
    assert_close(scaled, plain, rtol=1e-6, atol=0)
    assert_close(4 * shrunk, plain, rtol=1e-6, atol=0)


def test_an_orthogonal_change_of_coordinates_changes_nothing():
    q, x = torch.linalg.qr(normal(SIZE, SIZE, name="q")).Q, normal(COUNT, SIZE, name="x") / 10
    delta = normal(COUNT, SIZE, name="delta")

    def turned(u: torch.Tensor) -> torch.Tensor:
        return model(u @ q)

    bounds = [WHOLE(f, p)["distance, lower bound"] for f, p in ((turned, x @ q.T), (model, x))]
    assert_close(bounds[0], bounds[1], rtol=1e-6, atol=0)
    ours, other = (DecisionChange(0.3, L2, SIZE, 1e-12)(f, p) for f, p in ((turned, x @ q.T), (model, x)))
    assert_close(ours, other)
    indicators = [RobustnessIndicator()(f, p) for f, p in ((turned, x @ q.T), (model, x))]
    for name in ("eigenvalues, mean", "eigenvalues, l_1 norm"):
        assert_close(indicators[0][name], indicators[1][name])
    slope = gradient(model, x)
    bending = decision_change_bound(model, x, delta) - (slope.abs() * delta.abs()).sum(1)
    also = decision_change_bound(turned, x @ q.T, delta @ q.T)
    assert_close(also - ((slope @ q.T).abs() * (delta @ q.T).abs()).sum(1), bending)


def test_the_bound_of_equation_9_holds_on_quadratics_and_is_its_formula():
    x, delta = normal(COUNT, SIZE, name="x"), normal(COUNT, SIZE, name="delta")
    change = (model(x + delta) - model(x)).abs()
    bound = decision_change_bound(model, x, delta)
    assert bool((change <= bound * (1 + 1e-12)).all())
    slope = G + torch.einsum("bij,bj->bi", H, x)
    turned = torch.einsum("bji,bj->bi", BASIS, delta)
    expected = (slope.abs() * delta.abs()).sum(1) + (EIGENVALUES.abs() * turned.square()).sum(1) / 2
    assert_close(bound, expected)
    assert_close(decision_change_bound(model, x, 0 * delta), torch.zeros_like(GAP))


@pytest.mark.parametrize("norm", [L1, L2, LINF])
def test_the_bound_over_a_ball_holds_for_every_point_in_it(norm):
    radius, x = 0.4, normal(COUNT, SIZE, name="x")
    bound = DecisionChange(radius, norm, SIZE, 1e-12)(model, x)
    for draw in range(20):
        delta = normal(COUNT, SIZE, name=f"{draw}")
        corner = radius * norm.steepest(gradient(model, x))
        for point in (radius * norm.unit(delta), radius * norm.unit(delta.sign()), corner, -corner):
            assert bool(((model(x + point) - model(x)).abs() <= bound * (1 + 1e-9)).all())


def test_the_bound_over_a_ball_is_attained():
    """l_2: J along the top eigenvector. l_inf: J = (1, 1), H = (1, 1)^T (1, 1), of norm 2, at the corner (1, 1)."""
    for norm, r, expected in ((L2, (0.5**0.5, 0.5**0.5), 2**0.5 + 1), (LINF, (1.0, 1.0), 4.0)):
        found = DecisionChange(1.0, norm)(lambda x: x.sum(1) + x.sum(1).square() / 2, torch.zeros(1, 2))
        assert_close(found, torch.tensor([expected]))
        assert_close(torch.tensor([sum(r) + sum(r) ** 2 / 2]), found)


def test_the_indicator_and_the_statistics_of_figure_8():
    field = lambda x: 3 * x[:, 0] + 0.009 * x[:, 1] + 2 * x[:, 0] * x[:, 1] + 5e-10 * x[:, 2].square()  # noqa: E731
    columns = RobustnessIndicator()(field, torch.zeros(1, 4, dtype=torch.float64))
    expected = {
        "Jacobian, mean": 3.009 / 4, "Jacobian, l_1 norm": 3.009, "Jacobian, zeros": 0.75,
        "eigenvalues, mean": 1 + 0.25e-9, "eigenvalues, l_1 norm": 4 + 1e-9, "eigenvalues, zeros": 0.25,
        "Hessian, l_1 norm": 4 + 1e-9,
    }  # fmt: skip
    assert {name: pytest.approx(column.item(), rel=1e-12) for name, column in columns.items()} == expected
    literal = RobustnessIndicator(1e-3, 1e-10)(field, torch.zeros(1, 4, dtype=torch.float64))
    assert literal["Jacobian, zeros"].item() == 0.5
    few = RobustnessIndicator(up_to=3)(field, torch.zeros(1, 4))
    assert list(few) == ["Jacobian, mean", "Jacobian, l_1 norm", "Jacobian, zeros"]


@pytest.mark.parametrize("act", ["relu", "softplus"])
def test_a_small_convnet_in_single_precision(act):
    spec = Network("small-convnet", (1, 4, 4), classes=5, mean=(0.5,), std=(0.3,), nonlinearity=act, width=4)
    network = spec.build(seed=0).eval()
    x = randomness.uniform(torch.zeros(6, 1, 4, 4), 0, 1, generator=stream(0, "images"))
    y = network(x).argmax(1)
    state = torch.get_rng_state()
    decision = loss_field(network, y, margin)
    bounds = DistanceBounds(threshold=0.0)(loss_field(network, y, margin_loss), x)
    assert bool((bounds["distance, lower bound"] <= bounds["distance, upper bound"]).all())
    assert float(bounds["distance, lower bound"].min()) > 0
    indicator = RobustnessIndicator()(decision, x)
    change = DecisionChange(0.1, LINF, steps=16)(decision, x)
    delta = 0.1 * LINF.steepest(gradient(decision, x))
    assert bool((decision_change_bound(decision, x, delta) <= change * (1 + 1e-5)).all())
    if act == "relu":  # the margin of a ReLU network has no second derivative
        assert_close(indicator["eigenvalues, zeros"], torch.ones(6))
        assert_close(bounds["distance, lower bound"], bounds["distance, simple lower bound"])
        assert_close(bounds["distance, upper bound along the gradient"], bounds["distance, lower bound"])
    for column in [*bounds.values(), *indicator.values(), change]:
        assert column.dtype == torch.float32
        assert column.shape == (6,)
        assert not column.requires_grad
        assert not bool(torch.isnan(column).any())
    assert_close(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("measure", "name"),
    [
        (DistanceBounds(0.0), "DistanceBounds(threshold=0.0, steps=12, tolerance=0.001)"),
        (RobustnessIndicator(), "RobustnessIndicator(jacobian_zero=0.01, eigenvalue_zero=1e-09, up_to=1024, h=None)"),
    ],
)
def test_a_measure_has_a_name_that_stays(measure, name):
    assert describe(measure) == name


@pytest.mark.parametrize("radius", [-0.1, math.inf, math.nan])
def test_errors_name_the_mend(radius):
    with pytest.raises(InputError, match="a finite radius of at least 0"):
        DecisionChange(radius)
