"""Norms and balls against their definitions, for vectors of every size."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.optimize import minimize
from torch.testing import assert_close

from lowcurve.analysis import l1
from lowcurve.analysis.norms import L1, L2, LINF, Ball, Norm, as_ball, as_norm, dot, parse_radius, pixels
from lowcurve.errors import InputError
from lowcurve.randomness import Streams, example_streams, normal, stream, uniform

NORMS = [L1, L2, LINF]
finite = st.floats(-1e3, 1e3, allow_subnormal=False, width=32)
vectors = hnp.arrays("float64", hnp.array_shapes(min_dims=2, max_dims=3, max_side=5), elements=finite).map(
    torch.from_numpy
)


@given(vectors, st.sampled_from(NORMS))
def test_steepest_reaches_the_dual_norm_and_is_no_longer_than_one(v, norm):
    step = norm.steepest(v)
    assert_close(dot(v, step), norm.dual.length(v))
    assert bool((norm.length(step) <= 1 + 1e-9).all())


@given(vectors, st.sampled_from(NORMS))
def test_unit_has_length_one_or_zero(v, norm):
    assert_close(norm.length(norm.unit(v)), (norm.length(v) > 0).double())


@given(vectors, st.sampled_from(NORMS), st.floats(0, 10))
def test_projection_is_inside_and_leaves_the_inside_alone(v, norm, radius):
    inside = norm.project(v, radius)
    assert bool((norm.length(inside) <= radius * (1 + 1e-9) + 1e-12).all())
    keep = norm.length(v) <= radius
    assert_close(inside[keep], v[keep])


@pytest.mark.parametrize("size", [1e-30, 1e-12, 1.0, 1e12])
def test_l2_is_exact_at_every_size_in_float32(size):
    v = torch.tensor([[3.0, 4.0], [0.0, 0.0]]) * size
    assert_close(L2.length(v), torch.tensor([5.0 * size, 0.0]), rtol=1e-6, atol=0)
    assert_close(L2.unit(v), torch.tensor([[0.6, 0.8], [0.0, 0.0]]))


@pytest.mark.parametrize("norm", NORMS)
def test_nan_is_never_a_length(norm):
    v = torch.tensor([[math.nan, 1.0], [3.0, 4.0]])
    assert torch.isnan(norm.length(v)).tolist() == [True, False]
    assert bool(torch.isnan(norm.unit(v)[0]).any())


def test_zero_gradients_stay_zero():
    zero = torch.zeros(2, 1, 3, 3)
    for norm in NORMS:
        assert_close(norm.steepest(zero), zero)
        assert_close(norm.unit(zero), zero)


def test_the_unsquared_norm_has_derivative_zero_at_zero():
    v = torch.zeros(1, 3, requires_grad=True)
    L2.length(v).sum().backward()
    assert_close(v.grad, torch.zeros(1, 3))


def streams(count: int) -> Streams:
    return example_streams(stream(0, "sample"), torch.zeros(count, 1), torch.arange(count))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", [(64, 2), (16, 3, 4, 4)])
def test_samples_lie_in_ball_and_box_and_fill_the_ball(norm, shape):
    ball = Ball(norm, 0.2)
    center = torch.full(shape, 0.5)
    points = ball.sample(center, streams(len(center)))
    distance = norm.length(points - center)
    assert bool((distance <= 0.2 + 1e-6).all())
    assert float(distance.max()) > 0.15
    edge = ball.sample(torch.zeros(shape), streams(len(center)))
    assert float(edge.min()) >= 0


def test_the_ball_of_both_constraints():
    ball = Ball(L2, 1.0)
    center = torch.tensor([[0.9, 0.5]])
    point = ball.project(torch.tensor([[3.0, 0.5]]), center)
    assert_close(point, torch.tensor([[1.0, 0.5]]))
    # Clipping after the ball would give (0.8, 1), and so use less than the radius.
    point = ball.project(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 0.5]]))
    assert_close(point, torch.tensor([[0.75**0.5, 1.0]]))


@pytest.mark.parametrize("ball", [Ball(L2, 0.7), Ball(L1, 0.7), Ball(L1, 3.0)], ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_the_projection_into_a_ball_and_a_box_is_the_nearest_point(dtype, ball):
    """Nearest by the variational inequality: <q - p, z - p> <= 0 for all z in both; p has the whole length where clipped."""
    draws = stream(0, "nearest")
    center = uniform(torch.zeros(64, 20), -0.5, 1.5, generator=draws).clamp(0, 1).to(dtype)
    point = center + normal(torch.zeros(64, 20), generator=draws).to(dtype)
    others = center + (uniform(torch.zeros(64, 20), -0.5, 1.5, generator=draws).clamp(0, 1).to(dtype) - center)
    found, others = ball.project(point, center), ball.project(others, center)
    slack = 8 * torch.finfo(dtype).eps
    assert float(ball.norm.length((found - center).double()).max()) <= ball.radius * (1 + slack)
    assert float(dot((point - found).double(), (others - found).double()).max()) <= 20 * slack
    alone = torch.stack([ball.project(p[None], c[None])[0] for p, c in zip(point, center, strict=True)])
    assert_close(alone, found, rtol=0, atol=slack)


@pytest.mark.parametrize("radius", [0.0, 0.3, 2.0, 12.0])
def test_the_projection_into_an_l1_ball_and_a_box_is_that_of_a_convex_solver(radius):
    """Also where entries, rooms and ties are 0, and where the box alone holds the point back."""
    draws = stream(0, "solver")
    center = uniform(torch.zeros(4, 12), -0.5, 1.5, generator=draws).clamp(0, 1).double()
    point = (center + normal(torch.zeros(4, 12), generator=draws)).double()
    point[:, :3], point[0, 3:6] = center[:, :3], center[0, 3:6] + 0.25
    found = Ball(L1, radius, (0.0, 1.0)).project(point, center)
    for start, wanted, answer in zip(center.numpy(), point.numpy(), found.numpy(), strict=True):
        # Rises and falls are variables of their own, so that the length is linear in them.
        solved = minimize(
            lambda v, start=start, wanted=wanted: ((start + v[:12] - v[12:] - wanted) ** 2).sum(),
            np.zeros(24),
            jac=lambda v, start=start, wanted=wanted: np.kron([2, -2], start + v[:12] - v[12:] - wanted),
            bounds=[*((0, 1 - pixel) for pixel in start), *((0, pixel) for pixel in start)],
            constraints={"type": "ineq", "fun": lambda v: radius - v.sum(), "jac": lambda _: -np.ones(24)},
            method="SLSQP",
            options={"maxiter": 500, "ftol": 1e-14},
        )
        assert abs(start + solved.x[:12] - solved.x[12:] - answer).max() < 1e-5


def test_l1_steps_along_a_gradient_are_optimal():
    """By the optimum of each linear program: as many pixels as fit, in the order of their slopes."""
    draws = stream(0, "l1 steps")
    g, point = normal(torch.zeros(64, 9), generator=draws), uniform(torch.zeros(64, 9), 0, 1, generator=draws)
    g[:, 0] = 0
    room = l1.room_along(point, g, (0.0, 1.0))
    size = torch.linspace(0, 6, 64)
    longest = l1.steepest(g, room, size)
    assert_close(L1.length(longest), torch.minimum(size, torch.where(g == 0, 0, room).sum(1)))
    shortest = l1.shortest_crossing(g, room, dot(longest, g))
    assert_close(shortest, longest, rtol=1e-4, atol=1e-5)
    assert bool((longest.abs() <= room + 1e-6).all())
    # No pixel of a larger slope has room left while another one moves.
    moves, left = longest.abs() > 1e-6, room - longest.abs() > 1e-6
    least = torch.where(moves, g.abs(), torch.inf).amin(1)
    assert bool((torch.where(left, g.abs(), 0).amax(1) <= least + 1e-6).all())


def test_pixels_and_radii_as_they_are_written():
    assert pixels(8) == 8 / 255
    assert parse_radius("8/255") == parse_radius("pixels:8") == 8 / 255
    assert parse_radius(0.1) == 0.1


@pytest.mark.parametrize("text", ["8 pixels", "", "8/0", "a/255"])
def test_a_radius_that_cannot_be_read(text):
    with pytest.raises(InputError, match="Write 8/255"):
        parse_radius(text)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Ball(LINF, 8), r"radius within the pixel range, at most 1, got 8\. Write pixels\(8\) or 8/255"),
        (lambda: Ball(L2, 8).project(torch.rand(1, 4), torch.rand(1, 4)), r"at most 2, got 8\. Write pixels\(8\)"),
        (lambda: Ball(LINF, -0.1), "finite radius of at least 0"),
        (lambda: Ball(LINF, math.nan), "finite radius of at least 0"),
        (lambda: Ball(LINF, 0.1, box=(1.0, 0.0)), "a pixel box"),
        (lambda: Ball(L1, 8).project(torch.rand(1, 4), torch.rand(1, 4)), r"at most 4, got 8"),
        (lambda: Norm("l3"), "one of the norms l_1, l_2, l_inf, got 'l3'"),
    ],
)
def test_errors_say_what_to_do(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_norms_have_the_spellings_of_other_libraries():
    for text in ("linf", "l_inf", "Linf", "L_inf", "inf", "l-inf"):
        assert as_norm(text) == Norm(text) == LINF
    for text in ("l2", "l_2", "L2", "2"):
        assert as_norm(text) == L2
    assert as_norm("L1") == as_norm(L1) == L1
    assert as_ball("linf", 0.1, (-1.0, 1.0)) == as_ball(Ball(LINF, 0.1, (-1.0, 1.0))) == Ball("linf", 0.1, (-1.0, 1.0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: as_norm("linfinite"), "one of the norms l_1, l_2, l_inf, got 'linfinite'"),
        (lambda: as_norm(None), "one of the norms l_1, l_2, l_inf, got None"),
        (lambda: as_ball("linf"), r"a radius, got none\. Write \(\"linf\", 8/255\)"),
        (lambda: as_ball("linf", "8/255"), "a finite radius of at least 0, got '8/255'"),
        (lambda: as_ball("linf", math.nan), "a finite radius of at least 0, got nan"),
        (lambda: as_ball(Ball(LINF, 0.1), 0.1), r"a ball without a radius beside it, got radius=0\.1"),
        (lambda: as_ball(Ball(LINF, 0.1), box=(0, 255)), "a ball without a box beside it"),
        (lambda: as_ball("linf", 0.1, (0, "1")), "a pixel box"),
    ],
)
def test_what_is_no_ball_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
