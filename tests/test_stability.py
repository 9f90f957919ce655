"""How far gradient and value move: the propositions on fields that attain them, measures in closed form, invariances."""

import math

import pytest
import torch
from torch.testing import assert_close

from lowcurve import randomness
from lowcurve.analysis.calculus import gradient
from lowcurve.analysis.norms import L2, LINF
from lowcurve.errors import InputError
from lowcurve.geometry.curvature import Curvature
from lowcurve.geometry.stability import (
    Discrepancy,
    GradientStability,
    LinearityError,
    discrepancy,
    gradient_change_bounds,
    linearity_error,
    linearity_error_bounds,
    value_change_bounds,
)
from lowcurve.losses import loss_field
from lowcurve.models import Network
from lowcurve.randomness import stream
from lowcurve.results import describe, summarize

SIZE = 12


def normal(*shape: int, name: str) -> torch.Tensor:
    return randomness.normal(torch.zeros(shape, dtype=torch.float64), generator=stream(0, "stability", name))


W, X = normal(SIZE, name="w"), normal(5, 2, 3, 2, name="x") / 3
HALF = normal(SIZE, SIZE, name="H")
H, B = HALF + HALF.T, normal(SIZE, name="b")


def exponential(x: torch.Tensor) -> torch.Tensor:
    """exp(<w, x>): normalized curvature ||w|| everywhere."""
    return (x.flatten(1) @ W).exp()


def quadratic(x: torch.Tensor) -> torch.Tensor:
    flat = x.flatten(1)
    return flat @ B + torch.einsum("bi,ij,bj->b", flat, H, flat) / 2


def numbers(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("length", [1e-9, 1e-4, 0.1, 0.5, 2.0])
def test_the_sharp_bounds_are_attained_by_the_exponential_and_the_printed_ones_lie_above(length):
    steepest = length * L2.unit(gradient(exponential, X))
    curvature = torch.full((5,), float(W.norm()), dtype=torch.float64)
    slope = L2.length(gradient(exponential, X))
    gradients = gradient_change_bounds(length, curvature)
    values = value_change_bounds(length, curvature, slope)
    errors = linearity_error_bounds(length, curvature)
    moved = L2.length(gradient(exponential, X + steepest) - gradient(exponential, X)) / slope
    changed = exponential(X + steepest) - exponential(X)
    tolerance = {"rtol": 1e-6 + 1e-14 / length, "atol": 0}
    assert_close(gradients.sharp, moved, **tolerance)
    assert_close(values.sharp, changed, **tolerance)
    if length > 1e-6:  # below, the differences of values are rounding
        error = linearity_error(exponential, X, steepest)["linearity error"]
        assert_close(errors.sharp, error, rtol=1e-6 + 1e-14 / length**2, atol=0)
    for bounds in (gradients, values):
        assert bool((bounds.sharp <= bounds.printed).all())
    for bounds in (gradients, values, errors):
        assert bool((bounds.quadratic <= bounds.sharp * (1 + 1e-12)).all())


def test_along_other_directions_the_bounds_hold():
    """Also for softplus(<w, x>), of which C = ||w|| (1 - sigmoid) is largest at the foot of the segment."""

    def softplus(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.softplus(x.flatten(1) @ W)

    for name in ("a", "b", "c"):
        e = normal(5, 2, 3, 2, name=name) / 2
        length, slope = L2.length(e), L2.length(gradient(softplus, X))
        ends = torch.stack([(p.flatten(1) @ W).sigmoid() for p in (X, X + e)])
        curvature = W.norm() * (1 - ends).amax(0)
        moved = L2.length(gradient(softplus, X + e) - gradient(softplus, X)) / slope
        assert bool((moved <= gradient_change_bounds(length, curvature).sharp).all())
        change = (softplus(X + e) - softplus(X)).abs()
        assert bool((change <= value_change_bounds(length, curvature, slope).sharp).all())
        error = linearity_error(softplus, X, e)["linearity error"]
        assert bool((error <= linearity_error_bounds(length, curvature).sharp).all())


def test_with_the_curvature_at_x_the_exponential_form_is_no_bound():
    """x + x^3 has C = 0 at 0, and its gradient moves nonetheless."""
    x = torch.zeros(1, 1, dtype=torch.float64)
    field = lambda x: x[:, 0] + x[:, 0].pow(3)  # noqa: E731
    here = Curvature()(field, x)["normalized curvature"]
    moved = (gradient(field, x + 0.5) - gradient(field, x)).abs()[:, 0]
    assert float(gradient_change_bounds(0.5, here).printed) == 0 < float(moved)


def test_quadratic_forms_with_the_curvature_at_x_are_bounds_of_quadratics():
    columns = Curvature(steps=SIZE, tolerance=1e-12)(quadratic, X)
    curvature, slope = columns["normalized curvature"], columns["gradient norm"]
    for name in ("a", "b", "c"):
        e = normal(5, 2, 3, 2, name=name)
        length = L2.length(e)
        moved = L2.length(gradient(quadratic, X + e) - gradient(quadratic, X)) / slope
        assert bool((moved <= gradient_change_bounds(length, curvature).quadratic).all())
        change, bounds = (quadratic(X + e) - quadratic(X)).abs(), value_change_bounds(length, curvature, slope)
        assert bool((change <= bounds.quadratic).all())
        columns = linearity_error(quadratic, X, e)
        assert_close(columns["linearity error"], columns["linearity error, second order"])
        assert bool((columns["linearity error"] <= linearity_error_bounds(length, curvature).quadratic).all())
    one = numbers(1)
    attained = value_change_bounds(1.0, one, one).quadratic  # x + x^2 / 2 at 0: value, slope and curvature 1
    assert_close(attained, numbers(1.5))


def test_the_printed_linearity_bound_lacks_a_power_of_the_length():
    """x + x^2 / 2 at 0 moves by 2^2 / 2 = 2 beyond its tangent at e = 2, and C ||e|| / 2 = 1."""
    columns = linearity_error(lambda x: x[:, 0] + x[:, 0].square() / 2, torch.zeros(1, 1), torch.full((1, 1), 2.0))
    bounds = linearity_error_bounds(2.0, torch.ones(1))
    assert float(bounds.printed) == 1 < columns["linearity error"].item() == 2 == float(bounds.quadratic)


def test_conventions_of_the_bounds():
    c, slope = numbers(0, math.inf, math.inf, 1e6), numbers(1, 1, 0, 0)
    for bounds in (gradient_change_bounds(0.0, c), value_change_bounds(0.0, c, slope), linearity_error_bounds(0.0, c)):
        assert_close([*vars(bounds).values()], [numbers(0, 0, 0, 0)] * 3)
    assert_close(gradient_change_bounds(1.0, c).sharp, numbers(0, math.inf, math.inf, math.inf))
    assert_close(value_change_bounds(1.0, c, slope).printed, numbers(1, math.inf, math.inf, 0))
    assert_close(value_change_bounds(1.0, c, slope).sharp, numbers(1, math.inf, math.inf, 0))
    assert_close(linearity_error_bounds(1.0, c).sharp, numbers(0, math.inf, math.inf, math.inf))
    assert linearity_error_bounds(torch.ones(2), torch.ones(2)).sharp.dtype == torch.float32
    small = linearity_error_bounds(1.0, torch.tensor([1e-20, 1e-7, 2.9e-3, 3.1e-3], dtype=torch.float64))
    assert_close(small.sharp, small.quadratic * (1 + small.quadratic * 2 / 3), rtol=1e-6, atol=0)


def test_gradient_stability_of_a_quadratic_in_closed_form():
    """||H e|| / ||g||, linear in the length, at most length * C; and C itself where H is a multiple of the identity."""
    lengths = (0.001, 0.1)
    columns = GradientStability(lengths, steps=SIZE, tolerance=1e-12)(quadratic, X)
    near, far = (columns[f"gradient change, noise {length:g}"] for length in lengths)
    assert_close(100 * near, far, rtol=1e-9, atol=0)
    curvature = Curvature(SIZE, 1e-12)(quadratic, X)
    estimate = columns["gradient change, estimate 0.1"]
    assert_close(estimate, 0.1 * curvature["normalized curvature"])
    assert bool((far <= estimate).all())
    typical = 0.1 * torch.linalg.matrix_norm(H) / math.sqrt(SIZE) / curvature["gradient norm"]
    many = GradientStability((0.1,), draws=200)(quadratic, X)["gradient change, noise 0.1"]
    assert_close(many, typical, rtol=0.1, atol=0)
    bowl = GradientStability((0.3,))(lambda x: x.flatten(1).square().sum(1), X)
    assert_close(bowl["gradient change, noise 0.3"], bowl["gradient change, estimate 0.3"])
    assert len(GradientStability()(quadratic, X)) == 14


def test_gradient_stability_where_the_gradient_is_zero():
    x = torch.zeros(1, 3)
    bottom = GradientStability((0.1,))(lambda x: x.square().sum(1), x)
    assert_close([*bottom.values()], [torch.tensor([math.inf])] * 2)
    flat = GradientStability((0.1,))(lambda x: 0 * x.sum(1), x)
    assert_close([*flat.values()], [torch.zeros(1)] * 2)
    columns = linearity_error(lambda x: x.square().sum(1), x, torch.ones(1, 3))
    assert_close([*columns.values()], [torch.tensor([math.inf])] * 2)
    assert_close(linearity_error(lambda x: 0 * x.sum(1), x, x)["linearity error"], torch.zeros(1))


@pytest.mark.parametrize(
    "measure", [GradientStability((0.1,)), LinearityError(0.1), LinearityError(0.1, LINF, "steepest")]
)
def test_scaling_the_loss_changes_nothing_and_company_neither(measure):
    plain = measure(exponential, X)
    assert_close(measure(lambda x: 1e-3 * exponential(x), X), plain)
    alone = measure(exponential, X[[3]])
    for name, column in plain.items():
        assert_close(column[[3]], alone[name], rtol=1e-6, atol=0)


def test_an_orthogonal_change_of_coordinates_changes_nothing():
    q = torch.linalg.qr(normal(SIZE, SIZE, name="q")).Q
    e = normal(5, SIZE, name="e")
    turned = linearity_error(lambda u: exponential(u @ q), X.flatten(1) @ q.T, e @ q.T)
    assert_close(turned, linearity_error(exponential, X, e.view_as(X)))


def test_linearity_error_along_the_steepest_direction_and_at_random():
    steep = LinearityError(0.2, direction="steepest")(exponential, X)
    bounds = linearity_error_bounds(0.2, W.norm().expand(5))
    assert_close(steep["linearity error"], bounds.sharp)
    assert_close(steep["linearity error, second order"], bounds.quadratic)
    corner = linearity_error(exponential, X, 0.2 * W.sign().expand(5, -1).view_as(X))
    assert_close(LinearityError(0.2, LINF, "steepest")(exponential, X), corner)
    bowl = lambda x: x.flatten(1).square().sum(1)  # noqa: E731
    random = LinearityError(0.2)(bowl, X)["linearity error"]
    assert_close(random, 0.04 / L2.length(2 * X))
    cubes = LinearityError(0.2, LINF)(bowl, X)["linearity error"] * L2.length(2 * X)
    assert bool((cubes < 0.04 * SIZE).all())
    assert bool((cubes > 0.04).all())


def test_discrepancy_divides_by_the_training_set():
    """Table 3's 11.75 is a test mean of 12.75 times the train's; divided by the test's it could not exceed 1."""
    train, test = summarize([1.0, 1.0]), summarize([12.75, 12.75])
    assert discrepancy(train, test) == Discrepancy(11.75, 0.0)
    assert discrepancy(train, train) == Discrepancy(0.0, 0.0)
    assert discrepancy(test, train).value == pytest.approx(1 / 12.75 - 1)


def test_the_standard_error_of_a_discrepancy_is_the_spread_of_many():
    tests = 2 + 0.5 * normal(400, 100, name="test")
    trains = 1 + 0.3 * normal(400, 100, name="train")
    found = [discrepancy(summarize(a.numpy()), summarize(b.numpy())) for a, b in zip(trains, tests, strict=True)]
    spread = torch.tensor([f.value for f in found]).std().item()
    assert torch.tensor([f.standard_error for f in found]).mean().item() == pytest.approx(spread, rel=0.1)


def test_a_small_convnet_in_single_precision():
    spec = Network("small-convnet", (1, 4, 4), classes=5, mean=(0.5,), std=(0.3,), nonlinearity="softplus", width=4)
    network = spec.build(seed=0).eval()
    x = randomness.uniform(torch.zeros(6, 1, 4, 4), 0, 1, generator=stream(0, "images"))
    field, state = loss_field(network, torch.arange(6) % 5), torch.get_rng_state()
    for measure in (GradientStability(), LinearityError(0.1), LinearityError(0.03, LINF, "steepest")):
        columns = measure(field, x)
        assert_close(measure(field, x), columns, rtol=0, atol=0)
        for column in columns.values():
            assert column.dtype == torch.float32
            assert column.shape == (6,)
            assert not column.requires_grad
            assert bool(torch.isfinite(column).all())
    assert_close(torch.get_rng_state(), state)
    changes = [GradientStability()(field, x)[f"gradient change, noise {length}"] for length in (0.001, 0.01, 0.1)]
    assert_close([10 * changes[0], 10 * changes[1]], changes[1:], rtol=0.3, atol=0)
    assert [p for p in network.parameters() if p.grad is not None] == []


def test_a_measure_has_a_name_that_stays():
    name = "GradientStability(lengths=(0.1, 0.2), draws=4, seed=0, steps=12, tolerance=0.001)"
    assert describe(GradientStability((0.1, 0.2))) == name
    assert describe(LinearityError(0.1)).startswith("LinearityError(radius=0.1, norm=")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: GradientStability(lengths=()), "finite lengths above 0, one at least"),
        (lambda: GradientStability(lengths=(0.1, 0.0)), "finite lengths above 0, one at least"),
        (lambda: GradientStability(draws=0), "at least one draw, got 0"),
        (lambda: LinearityError(0.0), "a finite radius above 0"),
        (lambda: LinearityError(0.1, draws=0), "at least one draw, got 0"),
        (lambda: LinearityError(0.1, direction="sideways"), 'a direction "random" or "steepest"'),
        (lambda: discrepancy(summarize([0.0]), summarize([1.0])), "finite means, not 0 on the training set"),
        (lambda: discrepancy(summarize([1.0]), summarize([math.inf])), "finite means, not 0 on the training set"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_errors_name_the_mend(wrong, message):
    with pytest.raises(InputError, match=message):
        wrong()
