"""Cross-sections of spheres in closed form, rays, trajectories, parameter space."""

import math

import pytest
import torch
from closed_surfaces import RADIUS, SIZE, cylinder, hyperplane, quartic, sphere
from spheres import IMAGES, LABELS, ON_SPHERE, PLANES, A, B, T, U, V, X, assert_orthonormal, network, normal
from torch import nn
from torch.testing import assert_close

from lowcurve import randomness
from lowcurve.analysis.calculus import gradient
from lowcurve.analysis.norms import L2, dot
from lowcurve.errors import InputError
from lowcurve.figures.cross_sections import _where_it_holds
from lowcurve.geometry import (
    Plane,
    boundary_heights,
    class_components,
    class_shares,
    cross_section,
    crossing_distance,
    filter_normalized_direction,
    find_boundary_point,
    gradient_direction,
    logit_difference,
    normal_curvature,
    parameter_surface,
    random_directions,
    span,
    surface,
)
from lowcurve.losses import cross_entropy, loss_field, margin


@pytest.mark.parametrize("turn", [1, -1])
def test_a_section_of_a_sphere_is_the_circle_and_its_parabola_lies_on_it(turn):
    """s = sqrt(R^2 - t^2) - R along the normal, the other sign against it; the parabola is t^4 / (8 R^3) off."""
    section = cross_section(sphere, ON_SPHERE, first=turn * ON_SPHERE)
    assert_close(section.curvature, torch.full((4,), 1 / RADIUS).double())
    circle = (turn * ((RADIUS**2 - T**2).sqrt() - RADIUS)).expand(4, -1)
    found = boundary_heights(sphere, section.plane, torch.linspace(-1, 1, 21), T, tolerance=1e-12)
    assert_close(found, circle, rtol=0, atol=1e-11)
    assert_close(section.parabola(T), (-turn * T**2 / (2 * RADIUS)).expand(4, -1), rtol=0, atol=1e-12)
    off = (found - section.parabola(T)).abs()
    assert bool((off <= 1.1 * T**4 / (8 * RADIUS**3) + 1e-11).all())
    assert_close(section.slope, torch.zeros(4).double(), rtol=0, atol=1e-12)


def test_an_oblique_section_of_a_sphere_is_the_circle_too():
    """|z + t v + s r|^2 = R^2 is quadratic in s; the parabola agrees to third order, whatever r and v."""
    section = cross_section(sphere, ON_SPHERE, first=ON_SPHERE + 0.8 * U.view(4, 2, 3), second=V.view(4, 2, 3))
    half = dot(ON_SPHERE, section.plane.first)[:, None]
    aside = dot(ON_SPHERE, section.plane.second)[:, None]

    def circle(t):
        root = (half.square() - t**2 - 2 * t * aside).sqrt() - half.abs()
        return half.sign() * root

    t = T / 10
    found = boundary_heights(sphere, section.plane, torch.linspace(-0.4, 0.4, 41), t, tolerance=1e-12)
    assert_close(found, circle(t), rtol=0, atol=1e-11)
    assert_close(
        section.curvature, torch.full((4,), 1 / RADIUS).double()
    )  # of the sphere in every direction, not of the circle
    assert float(section.slope.abs().min()) > 1e-3
    wide, narrow = ((circle(t) - section.parabola(t)).abs().amax(1) for t in (T / 10, T / 20))
    assert bool((wide / narrow > 6).all())  # 8 but for the fourth order


def test_sections_of_a_cylinder_and_a_hyperplane():
    x = torch.cat([RADIUS * L2.unit(X[:, :2]), X[:, 2:]], dim=1)
    across = torch.stack([-x[:, 1], x[:, 0], *torch.zeros(4, 4).double()], dim=1)
    upwards = torch.zeros_like(x)
    upwards[:, 4] = 1
    s = torch.linspace(-1, 1, 20)
    for along, curvature in ((across, 1 / RADIUS), (upwards, 0.0)):
        section = cross_section(cylinder, x, second=along)
        assert_close(section.curvature, torch.full((4,), curvature).double())
        expected = (RADIUS**2 - T**2 * (curvature > 0)).sqrt() - RADIUS
        found = boundary_heights(cylinder, section.plane, s, T, tolerance=1e-12)
        assert_close(found, expected.expand(4, -1), rtol=0, atol=1e-11)
    on = X - hyperplane(X)[:, None] * torch.arange(1.0, SIZE + 1).double() / 91
    section = cross_section(hyperplane, on)
    assert_close(section.parabola(T), torch.zeros(4, 11).double(), rtol=0, atol=1e-12)
    found = boundary_heights(hyperplane, section.plane, s, T, tolerance=1e-12)
    assert_close(found, torch.zeros(4, 11).double(), rtol=0, atol=1e-11)


def test_a_random_section_is_orthogonal_an_examples_own_and_bends_as_the_boundary_does():
    x = find_boundary_point(quartic, torch.zeros(4, SIZE).double(), 3 * L2.unit(X)).point
    section = cross_section(quartic, x, seed=3)
    assert_orthonormal(section.plane.first, section.plane.second)
    assert_close(section.plane.first, L2.unit(gradient(quartic, x)))
    assert_close(section.curvature, normal_curvature(quartic, x, section.plane.second))
    alone = cross_section(quartic, x[[1]], seed=3)
    assert_close(alone.plane.second, section.plane.second[[1]])
    assert_close(alone.second_derivative, section.second_derivative[[1]])
    found = boundary_heights(quartic, section.plane, torch.linspace(-0.01, 0.01, 21), T / 100, tolerance=1e-12)
    wide = (found - section.parabola(T / 100)).abs().amax(1)
    assert bool((wide < 0.05 * section.parabola(T / 100).abs().amax(1)).all())


def test_a_section_bends_at_a_scale_where_a_network_has_kinks():
    """x_2 = |x_1|: no Hessian, and kappa = -1 / h for central differences at h."""
    kink = lambda x: x[:, 1] - x[:, 0].abs()  # noqa: E731
    section = cross_section(kink, torch.zeros(1, 2), h=0.1)
    assert_close(section.curvature, torch.tensor([-10.0]))
    assert_close(section.parabola(torch.tensor([0.2])), torch.tensor([[0.2]]))
    found = boundary_heights(kink, section.plane, torch.linspace(-1, 1, 40), torch.tensor([-0.5, 0.25]))
    assert_close(found, torch.tensor([[0.5, 0.25]]), rtol=0, atol=1e-5)


def test_heights_are_nearest_to_zero_not_a_number_where_missing_and_take_known_values():
    field = lambda x: (x[:, 0] - 0.3) * (x[:, 0] + 0.2) * (x[:, 0] - 0.9) * (x[:, 1] - 5)  # noqa: E731
    plane = span(torch.zeros(1, 2).double(), torch.tensor([[1.0, 0.0]]).double(), torch.tensor([[0.0, 1.0]]).double())
    s, t = torch.linspace(-1, 1, 21).double() + 0.01, torch.tensor([0.0, 1.0]).double()
    assert_close(boundary_heights(field, plane, s, t, tolerance=1e-12), torch.full((1, 2), -0.2).double())
    assert_close(boundary_heights(field, plane, s[11:], t, tolerance=1e-12), torch.full((1, 2), 0.3).double())
    assert boundary_heights(field, plane, s[14:17], t).isnan().all()
    values = surface(field, plane, s, t)
    forward_passes = []
    counted = lambda x: forward_passes.append(len(x)) or field(x)  # noqa: E731
    assert_close(
        boundary_heights(counted, plane, s, t, values=values, tolerance=0.25),
        torch.full((1, 2), -0.2).double(),
        atol=0.02,
        rtol=0,
    )
    assert sum(forward_passes) == 2 * (2 + 2)  # both ends and two halvings, of two columns
    windows = torch.stack([s, 2 * s])
    two = Plane(*(v.expand(2, 2) for v in (plane.origin, plane.first, plane.second)))
    assert_close(boundary_heights(field, two, windows, t, tolerance=1e-12), torch.full((2, 2), -0.2).double())
    exact = boundary_heights(
        lambda x: x[:, 0] * 1.0, plane, torch.linspace(-1, 1, 3), t
    )  # 0 at a grid point, to both sides of it
    assert_close(exact, torch.zeros(1, 2).double(), rtol=0, atol=0)


def test_labels_follow_their_examples_through_sections():
    model = network()
    decision = logit_difference(model, model(IMAGES).argmax(1), (model(IMAGES).argmax(1) + 1) % 5)
    found = find_boundary_point(decision, IMAGES, IMAGES - 9 * gradient_direction(decision, IMAGES, L2))
    assert bool(found.crossed.all())
    section = cross_section(decision, found.point)
    s, t = torch.linspace(-0.2, 0.2, 9), torch.linspace(-0.1, 0.1, 5).double()
    together = boundary_heights(decision, section.plane, s, t, tolerance=1e-10, chunk=7)
    assert not together.isnan().any()
    for k in range(3):
        row = torch.tensor([k])
        alone = boundary_heights(decision.take(row), section.plane.take(row), s, t, tolerance=1e-10)
        assert_close(alone[0], together[k], rtol=0, atol=1e-9)
        points = section.plane.at(row.expand(5), together[k], t)
        assert_close(decision.take(row.expand(5))(points).detach(), torch.zeros(5).double(), rtol=0, atol=1e-8)


def test_the_distance_along_a_ray_is_exact_for_hyperplanes_and_spheres():
    w = torch.arange(1.0, SIZE + 1).double()
    expected = -hyperplane(X) / (L2.unit(U) @ w)
    expected = torch.where((expected > 0) & (expected <= 5), expected, torch.inf)
    assert 0 < int(expected.isfinite().sum()) < 4
    for chunk in (1, 3, 1000):
        found = crossing_distance(hyperplane, X, 7 * U, most=5.0, samples=40, tolerance=1e-12, chunk=chunk)
        assert_close(found, expected, rtol=1e-9, atol=1e-12)
    inside = 0.5 * L2.unit(X)
    along = dot(inside, L2.unit(U))
    expected = -along + (along.square() - 0.25 + RADIUS**2).sqrt()
    assert_close(crossing_distance(sphere, inside, U, most=3.0, tolerance=1e-12), expected)
    assert_close(
        crossing_distance(sphere, ON_SPHERE * 1.5, -ON_SPHERE, most=2.0, tolerance=1e-12), torch.ones(4).double()
    )  # from outside
    each = torch.tensor([3.0, 1e-3, 3.0, 1e-3]).double()  # how far, one an example
    found = crossing_distance(sphere, inside, U, most=each, tolerance=1e-12)
    assert_close(found, torch.where(each > 1, expected, torch.inf))


def test_a_ray_finds_the_first_of_several_and_what_a_label_says():
    waves = lambda x: (x[:, 0] * math.pi).cos()  # noqa: E731
    x, v = torch.tensor([[0.0], [0.6], [0.5]]).double(), torch.ones(3, 1).double()
    found = crossing_distance(waves, x[:2], v[:2], most=10.0, samples=50, tolerance=1e-12)
    assert_close(found, torch.tensor([0.5, 0.9]).double())
    assert_close(crossing_distance(lambda x: x[:, 0] - 0.5, x[2:], v[2:], most=1.0), torch.zeros(1).double())
    model = network()
    classes = model(IMAGES).argmax(1)
    for field in (loss_field(model, classes, margin), logit_difference(model, classes, (classes + 1) % 5)):
        direction = -gradient_direction(field, IMAGES, L2)
        together = crossing_distance(field, IMAGES, direction, most=9.0, samples=30, chunk=5, tolerance=1e-10)
        for k in range(3):
            row = torch.tensor([k])
            alone = crossing_distance(
                field.take(row), IMAGES[row], direction[row], most=9.0, samples=30, tolerance=1e-10
            )
            assert_close(alone, together[row])
        assert bool((together > 0).all())
        assert together.isfinite().any()


def test_a_ray_that_has_crossed_is_followed_no_further():
    forward_passes = []

    def field(x):
        forward_passes.append(len(x))
        return x[:, 0] - 0.15

    found = crossing_distance(
        field,
        torch.zeros(2, 1).double(),
        torch.tensor([[1.0], [-1.0]]).double(),
        most=1.0,
        samples=10,
        tolerance=0.5,
        chunk=2,
    )
    assert found.isfinite().tolist() == [True, False]
    assert sum(forward_passes) == 2 + 2 * 2 + 8 + (
        2 + 1
    )  # at x, two steps of both, eight of the second, ends and a halving of the first


@pytest.mark.parametrize("above", [lambda call: call == 6, lambda call: call > 7])
def test_a_sign_that_only_rounding_changed_is_a_zero(above):
    """A zero at the fifth of ten samples, its sign up to rounding: the sample, not the other end of the interval.

    Calls: x, the samples one by one up to the crossing, 0.5 (the sixth call) or 0.6 (the seventh), then the two ends again.
    """
    calls: list[int] = []

    def field(x):
        calls.append(len(x))
        return x[:, 0] - 0.5 + (1e-12 if above(len(calls)) else -1e-12)

    found = crossing_distance(
        field, torch.zeros(1, 1).double(), torch.ones(1, 1).double(), most=1.0, samples=10, chunk=1
    )
    assert_close(found, torch.tensor([0.5]).double())


def test_a_trajectory_has_its_coordinates_and_its_distance():
    a, b = normal(5, 3, name="a"), normal(5, 3, name="b")
    outside = random_directions(IMAGES, 1, orthogonal_to=[PLANES.first, PLANES.second])[0]
    far = torch.arange(5.0).double()
    steps = torch.stack([PLANES.at(torch.arange(3), a[k], b[k]) + far[k] * outside for k in range(5)])
    shadow = PLANES.project(steps)
    assert_close(shadow.coordinates, torch.stack([a, b], -1))
    assert_close(shadow.distance, far[:, None].expand(5, 3), rtol=0, atol=1e-12)


def squares(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (z - y[:, None].to(z)).square().sum(1)


def test_the_parameter_surface_of_least_squares_is_its_quadratic():
    """mean |(W + a P + b Q) x - t|^2, by its six coefficients."""
    with randomness.temporary_seed(0, "least squares"):
        model = nn.Linear(4, 3).double().eval()
    x, y = normal(7, 4, name="rows"), torch.arange(7)
    first, second = filter_normalized_direction(model), filter_normalized_direction(model, seed=1)
    a, b = torch.linspace(-2, 1, 4).double(), torch.linspace(0, 3, 3).double()
    error = (model(x) - y[:, None]).detach()
    p, q = x @ first["weight"].mT, x @ second["weight"].mT
    mean = lambda u, v: (u * v).sum(1).mean()  # noqa: E731
    s, t = a[:, None], b[None]
    expected = mean(error, error) + 2 * s * mean(error, p) + 2 * t * mean(error, q)
    expected = expected + s**2 * mean(p, p) + t**2 * mean(q, q) + 2 * s * t * mean(p, q)
    for chunk in (2, 100):
        assert_close(parameter_surface(model, x, y, first, second, a, b, loss=squares, chunk=chunk), expected)


def test_filters_keep_their_length_and_the_network_is_left_as_it_was():
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    held = list(model.parameters())
    first, second = filter_normalized_direction(model), filter_normalized_direction(model, seed=1)
    assert set(first) == {"0.weight", "4.weight"}  # no bias, nothing of BatchNorm
    for name, change in first.items():
        assert_close(change.flatten(1).norm(dim=1), model.get_parameter(name).detach().flatten(1).norm(dim=1))
        cosine = (change * second[name]).sum() / change.norm() / second[name].norm()
        assert abs(float(cosine)) < 0.5
    assert filter_normalized_direction(model)["0.weight"].equal(first["0.weight"])
    found = parameter_surface(model, IMAGES, LABELS, first, second, A, B)
    assert_close(found[2, 0], cross_entropy(model(IMAGES), LABELS).mean().detach())  # at (0, 0)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(a is b for a, b in zip(model.parameters(), held, strict=True))
    assert all(p.requires_grad and p.grad is None for p in held)
    moved = network()
    with torch.no_grad():
        for name in first:
            moved.get_parameter(name).add_(A[4] * first[name] + B[1] * second[name])
    assert_close(found[4, 1], cross_entropy(moved(IMAGES), LABELS).mean().detach())


def test_a_filter_of_zeros_stays():
    layer = nn.Linear(3, 2)
    with torch.no_grad():
        layer.weight[0] = 0
    assert not filter_normalized_direction(layer)["weight"][0].any()


def test_bad_input_is_refused_in_a_sentence():
    zero = X.clone()
    zero[[1, 3]] = 0
    with pytest.raises(InputError, match="a first direction of finite length above 0, got none at examples 1, 3"):
        span(X, zero, V)
    with pytest.raises(InputError, match="a second direction of finite length above 0, got none at examples 1, 3"):
        span(X, V, zero)
    with pytest.raises(InputError, match="got none at examples 0, 1, 2, 3, 4 and 3 more"):
        span(torch.zeros(8, 2), torch.full((8, 2), torch.nan), torch.ones(8, 2))
    with pytest.raises(InputError, match="two directions that span a plane, got parallel ones at examples 0, 2"):
        span(X, U, torch.stack([3 * U[0], V[1], -U[2], V[3]]))
    with pytest.raises(InputError, match="two directions that span a plane"):
        span(X.float(), U.float(), U.float() / 3)
    with pytest.raises(InputError, match="a direction of finite length above 0, got none at examples 1, 3"):
        crossing_distance(sphere, X, zero, most=1.0)
    with pytest.raises(InputError, match="a first direction of finite length"):
        cross_section(lambda x: x.square().sum(1), torch.zeros(1, 3))  # no normal
    with pytest.raises(InputError, match="an origin and two directions of one shape"):
        Plane(X, U[:1], V)
    with pytest.raises(InputError, match="floating-point inputs"):
        random_directions(torch.zeros(3))
    for count, others in ((0, []), (5, [U, V]), (7, [])):
        with pytest.raises(InputError, match="no more orthogonal directions than dimensions"):
            random_directions(X, count, orthogonal_to=others)
    plane = span(X, U, V)
    with pytest.raises(InputError, match=r"coordinates of shape \(n,\) or \(4, n\)"):
        surface(sphere, plane, torch.zeros(3, 2), T)
    with pytest.raises(InputError, match="a plane and coordinates along both directions"):
        surface(sphere, plane, torch.zeros(0), T)
    with pytest.raises(InputError, match="44 values, one a point"):
        surface(lambda x: x.mean(), plane, T[:1], T)
    with pytest.raises(InputError, match="a model in eval mode"):
        surface(network().train(), PLANES, A, B)
    with pytest.raises(InputError, match=r"points of shape \(steps, 4, 6\)"):
        plane.project(X)
    for s in (T.flip(0), T[:1]):
        with pytest.raises(InputError, match="rising coordinates s"):
            boundary_heights(sphere, plane, s, T)
    with pytest.raises(InputError, match=r"values of shape \(4, 11, 11\)"):
        boundary_heights(sphere, plane, T, T, values=torch.zeros(4, 3, 11))
    for most, samples in ((0.0, 5), (math.inf, 5), (1.0, 0)):
        with pytest.raises(InputError, match="a finite distance above 0 and at least one sample"):
            crossing_distance(sphere, X, U, most=most, samples=samples)
    for decisions in (
        torch.zeros(2, 3, 3),
        torch.zeros(3, 3, dtype=torch.long),
        torch.zeros(0, 3, 3, dtype=torch.long),
    ):
        with pytest.raises(InputError, match=r"predicted classes \(batch, a, b\)"):
            class_shares(decisions, 3)
        with pytest.raises(InputError, match=r"predicted classes \(batch, a, b\)"):
            class_components(decisions, 3)
    with pytest.raises(InputError, match="predicted classes from 0 to 2"):
        class_shares(torch.full((1, 2, 2), 3), 3)
    model, first = network(), filter_normalized_direction(network())
    with pytest.raises(InputError, match="weights of two axes or more"):
        filter_normalized_direction(nn.BatchNorm1d(3))
    with pytest.raises(InputError, match="a model in eval mode"):
        parameter_surface(network().train(), IMAGES, LABELS, first, first, A, B)
    with pytest.raises(InputError, match="one of each at least"):
        parameter_surface(model, IMAGES, LABELS, first, first, A[None], B)
    for wrong in ({"no such": A}, {"4.weight": A}):
        with pytest.raises(InputError, match="changes of the model's own parameters"):
            parameter_surface(model, IMAGES, LABELS, first, wrong, A, B)


def test_the_parabola_is_drawn_only_as_far_as_it_follows_the_boundary():
    t = torch.linspace(-1, 1, 21)
    assert None not in _where_it_holds(t**2, t**2, 1.0)
    kept = _where_it_holds(t**2, torch.zeros(21), 1.0)  # within 0.05 up to |t| = 0.22
    assert [i for i, v in enumerate(kept) if v is not None] == [8, 9, 10, 11, 12]
    assert {*_where_it_holds(9 * t**2, torch.zeros(21), 1.0)} == {None}
    one_side = _where_it_holds(t**2, torch.where(t < -0.05, t**2, torch.nan), 1.0)
    assert {*one_side} == {None}  # the crossing itself has no boundary
    half = _where_it_holds(t**2, torch.where(t < 0.05, t**2, torch.nan), 1.0)
    assert [i for i, v in enumerate(half) if v is not None] == list(range(11))
