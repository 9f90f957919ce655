"""Slices of input space: planes, values on them, classes, cross-sections of spheres in closed form, rays, parameter space."""

import math

import pytest
import torch
from closed_surfaces import RADIUS, SIZE, cylinder, hyperplane, quartic, sphere
from scipy import ndimage
from torch import nn
from torch.testing import assert_close

from lowcurve import randomness
from lowcurve.analysis.calculus import gradient
from lowcurve.analysis.norms import L2, LINF, dot, pixels
from lowcurve.errors import InputError
from lowcurve.geometry import (
    Plane,
    boundary_between,
    box_excess,
    class_pieces,
    class_shares,
    cross_section,
    crossing_distance,
    filter_normalized,
    gradient_direction,
    heights,
    normal_curvature,
    pairwise,
    parameter_surface,
    random_directions,
    span,
    surface,
)
from lowcurve.losses import cross_entropy, least_likely, log_odds, loss_field, margin, margin_loss
from lowcurve.randomness import stream


def normal(*shape: int, name: str) -> torch.Tensor:
    return randomness.normal(torch.zeros(shape, dtype=torch.float64), generator=stream(0, "slices", name))


X = normal(4, SIZE, name="x")
Y = torch.tensor([0, 1, 2, 0])
U, V = normal(4, SIZE, name="u"), normal(4, SIZE, name="v")
ON_SPHERE = RADIUS * L2.unit(X).view(4, 2, 3)
T = torch.linspace(-0.5, 0.5, 11, dtype=torch.float64)


def network() -> nn.Module:
    with randomness.isolated(0, "slices"):
        layers = (nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Tanh(), nn.Flatten(), nn.Linear(48, 5))
    return nn.Sequential(*layers).double().eval()


IMAGES, LABELS = normal(3, 2, 4, 4, name="images"), torch.tensor([0, 3, 4])
PLANES = span(IMAGES, normal(3, 2, 4, 4, name="first"), normal(3, 2, 4, 4, name="second"))
A, B = torch.linspace(-1, 1, 5, dtype=torch.float64), torch.linspace(0, 2, 3, dtype=torch.float64)


def assert_orthonormal(*vectors: torch.Tensor) -> None:
    for i, u in enumerate(vectors):
        for j, v in enumerate(vectors):
            assert_close(dot(u, v), torch.full((len(u),), float(i == j)).to(u), rtol=0, atol=1e-12)


def test_a_plane_keeps_its_first_direction_and_orthogonalizes_the_second():
    plane = span(X, 5 * U, V)
    assert_orthonormal(plane.first, plane.second)
    assert_close(plane.first, L2.unit(U))
    rest = V - dot(V, plane.first)[:, None] * plane.first - dot(V, plane.second)[:, None] * plane.second
    assert_close(rest, torch.zeros_like(rest), rtol=0, atol=1e-12)
    assert bool((dot(V, plane.second) > 0).all())
    nearly = span(X, U, U + 1e-6 * V)  # orthogonal in spite of cancellation
    assert_orthonormal(nearly.first, nearly.second)
    moved = plane.take(torch.tensor([2, 0]))
    assert_close(moved.points(T, T), plane.points(T, T)[[2, 0]])


def test_points_are_what_the_formula_says():
    points = PLANES.points(A, B)
    i, j = 4, 1
    assert points.shape == (3, 5, 3, 2, 4, 4)
    assert_close(points[:, i, j], IMAGES + A[i] * PLANES.first + B[j] * PLANES.second)


def test_random_directions_are_orthonormal_uniform_and_an_examples_own():
    given = [U, V]
    found = random_directions(X, 3, orthogonal_to=given)
    assert found.shape == (3, *X.shape)
    assert_orthonormal(*found)
    for v in found:
        for w in given:
            assert_close(dot(v, w), torch.zeros(4).double(), rtol=0, atol=1e-12)
    alone = random_directions(X[[2]], 3, orthogonal_to=[U[[2]], V[[2]]])
    assert_close(alone, found[:, [2]], rtol=0, atol=1e-14)
    assert float((random_directions(X, seed=1) - random_directions(X)).abs().max()) > 0.1
    many = normal(4000, 3, name="many")
    v = random_directions(many, 1)[0]
    assert_close(v.mT @ v / 4000, torch.eye(3).double() / 3, rtol=0, atol=0.03)
    last = random_directions(X[:, :2], 1, orthogonal_to=[U[:, :2]])[0]  # of two dimensions the other one
    assert_close(dot(last, U[:, :2]), torch.zeros(4).double(), rtol=0, atol=1e-12)


def test_nothing_moves_the_global_random_state():
    before = torch.get_rng_state()
    random_directions(X)
    filter_normalized(network())
    cross_section(sphere, ON_SPHERE)
    assert torch.equal(before, torch.get_rng_state())


def test_the_three_adversarial_directions_rise_towards_the_other_side():
    model = network()
    away = gradient_direction(loss_field(model, LABELS, log_odds), IMAGES)
    assert_close(away, gradient(loss_field(model, LABELS), IMAGES).sign() / math.sqrt(32))
    least = least_likely(model(IMAGES))
    towards = -gradient_direction(loss_field(model, least, log_odds), IMAGES)
    carlini = gradient_direction(loss_field(model, LABELS, margin_loss), IMAGES)
    for direction, loss, sign, y in (
        (away, cross_entropy, 1, LABELS),
        (towards, cross_entropy, -1, least),
        (carlini, margin, -1, LABELS),
    ):
        field = loss_field(model, y, loss)
        assert bool((sign * (field(IMAGES + 1e-4 * direction) - field(IMAGES)) > 0).all())
    steepest = gradient_direction(loss_field(model, LABELS), IMAGES, L2)
    assert_close(steepest, L2.unit(gradient(loss_field(model, LABELS), IMAGES)))


def test_steps_of_grey_levels_along_a_sign_are_exact_in_every_pixel():
    plane = span(IMAGES, gradient_direction(loss_field(network(), LABELS), IMAGES), torch.ones_like(IMAGES))
    levels = torch.tensor([0.0, 1.0, 8.0], dtype=torch.float64)
    a = torch.stack([levels * pixels(1) / largest for largest in LINF.length(plane.first)])
    moved = plane.points(a, torch.zeros(1))[:, :, 0] - IMAGES[:, None]
    assert_close(moved.abs(), (levels * pixels(1)).view(1, 3, 1, 1, 1).expand_as(moved))


@pytest.mark.parametrize("chunk", [1, 4, 7, 1000])
def test_a_surface_is_its_points_one_by_one(chunk):
    """With labels, classes, a window for each plane, and whatever the chunk."""
    model = network()
    wide = A * torch.tensor([[1.0], [2.0], [0.5]], dtype=torch.float64)
    for function in (
        model,
        loss_field(model, LABELS),
        pairwise(model, LABELS, LABELS.roll(1)),
        lambda x: model(x).argmax(1),
    ):
        found = surface(function, PLANES, wide, B, chunk=chunk)
        for k in range(3):
            for i in range(5):
                for j in range(3):
                    x = IMAGES[[k]] + wide[k, i] * PLANES.first[[k]] + B[j] * PLANES.second[[k]]
                    one = function.take(torch.tensor([k])) if hasattr(function, "take") else function
                    assert_close(found[k, i, j], one(x)[0].detach())
        assert not found.requires_grad


def test_a_surface_asks_for_as_many_points_as_there_are_in_full_batches():
    asked: list[int] = []
    ticks: list[str] = []

    def progress(numbers, heading):
        for number in numbers:
            ticks.append(heading)
            yield number

    def field(x):
        asked.append(len(x))
        return x.flatten(1).sum(1)

    surface(field, PLANES, A, B, chunk=8, progress=progress)
    assert asked == [8, 8, 8, 8, 8, 5]
    assert ticks == ["slices"] * 45


def test_the_planes_keep_precision_and_layout():
    x = IMAGES.float().contiguous(memory_format=torch.channels_last)
    seen: list[torch.Tensor] = []
    surface(lambda x: seen.append(x) or x.flatten(1).sum(1), span(x, *random_directions(x)), A, B)
    assert all(x.dtype == torch.float32 and x.is_contiguous(memory_format=torch.channels_last) for x in seen)


def test_outside_the_box_is_told_and_not_clipped():
    x = torch.full((1, 2), 0.5).double()
    plane = span(x, torch.tensor([[1.0, 0.0]]).double(), torch.tensor([[0.0, 1.0]]).double())
    a, b = torch.tensor([-0.75, 0.0, 0.5]).double(), torch.tensor([0.0, 1.0]).double()
    expected = torch.tensor([[[0.25, 0.5], [0.0, 0.5], [0.0, 0.5]]]).double()
    assert_close(box_excess(plane, a, b), expected)
    assert_close(box_excess(plane, a, b, box=(-1.0, 2.0)), torch.zeros(1, 3, 2).double())
    assert_close(surface(lambda x: x[:, 0], plane, a, b)[0, :, 0], 0.5 + a)


def test_shares_of_a_linear_classifier_are_those_of_the_half_planes():
    """z = (x_1, x_2, -9) on [-1, 1]^2: the diagonal halves it."""
    model = lambda x: torch.cat([x, torch.full_like(x[:, :1], -9)], 1)  # noqa: E731
    x = torch.zeros(2, 2, dtype=torch.float64)
    plane = span(x, torch.tensor([[1.0, 0.0]]).double().expand(2, 2), torch.tensor([[0.0, 1.0]]).double().expand(2, 2))
    a = torch.linspace(-1, 1, 200, dtype=torch.float64)
    decisions = surface(lambda x: model(x).argmax(1), plane, a, a, chunk=5000)
    shares = class_shares(decisions, 3)
    assert_close(shares, torch.tensor([[0.5, 0.5, 0.0]]).expand(2, 3), rtol=0, atol=1 / 200)
    assert_close(shares.sum(1), torch.ones(2))
    assert class_pieces(decisions, 3).tolist() == [[1, 1, 0]] * 2


@pytest.mark.parametrize("classes", [1, 2, 5])
def test_pieces_are_those_of_flood_filling(classes):
    decisions = randomness.integers((6, 23, 31), 0, classes, generator=stream(0, "pieces", classes))
    found = class_pieces(decisions, classes)
    expected = [[ndimage.label((one == k).numpy())[1] for k in range(classes)] for one in decisions]
    assert found.tolist() == expected
    assert class_pieces(decisions[[3]], classes).tolist() == [expected[3]]


def test_a_spiral_is_one_piece():
    """The longest way from point to point."""
    spiral = torch.zeros(1, 41, 41, dtype=torch.long)
    row, column, down, right, length = 0, 0, 0, 1, 40
    for turn in range(40):
        for _ in range(length):
            spiral[0, row, column] = 1
            row, column = row + down, column + right
        down, right = right, -down
        length -= 2 if turn % 2 and turn > 1 else 0
        if length <= 2:
            break
    expected = [ndimage.label((spiral[0] == k).numpy())[1] for k in (0, 1)]
    assert class_pieces(spiral, 2).tolist() == [expected]
    assert expected[1] == 1


@pytest.mark.parametrize("turn", [1, -1])
def test_a_section_of_a_sphere_is_the_circle_and_its_parabola_lies_on_it(turn):
    """s = sqrt(R^2 - t^2) - R along the normal, the other sign against it; the parabola is t^4 / (8 R^3) off."""
    section = cross_section(sphere, ON_SPHERE, upright=turn * ON_SPHERE)
    assert_close(section.curvature, torch.full((4,), 1 / RADIUS).double())
    circle = (turn * ((RADIUS**2 - T**2).sqrt() - RADIUS)).expand(4, -1)
    found = heights(sphere, section.plane, torch.linspace(-1, 1, 21), T, tolerance=1e-12)
    assert_close(found, circle, rtol=0, atol=1e-11)
    assert_close(section.parabola(T), (-turn * T**2 / (2 * RADIUS)).expand(4, -1), rtol=0, atol=1e-12)
    off = (found - section.parabola(T)).abs()
    assert bool((off <= 1.1 * T**4 / (8 * RADIUS**3) + 1e-11).all())
    assert_close(section.slope, torch.zeros(4).double(), rtol=0, atol=1e-12)


def test_an_oblique_section_of_a_sphere_is_the_circle_too():
    """|z + t v + s r|^2 = R^2 is quadratic in s; the parabola agrees to third order, whatever r and v."""
    section = cross_section(sphere, ON_SPHERE, upright=ON_SPHERE + 0.8 * U.view(4, 2, 3), along=V.view(4, 2, 3))
    half = dot(ON_SPHERE, section.plane.first)[:, None]
    aside = dot(ON_SPHERE, section.plane.second)[:, None]

    def circle(t):
        root = (half.square() - t**2 - 2 * t * aside).sqrt() - half.abs()
        return half.sign() * root

    t = T / 10
    found = heights(sphere, section.plane, torch.linspace(-0.4, 0.4, 41), t, tolerance=1e-12)
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
        section = cross_section(cylinder, x, along=along)
        assert_close(section.curvature, torch.full((4,), curvature).double())
        expected = (RADIUS**2 - T**2 * (curvature > 0)).sqrt() - RADIUS
        found = heights(cylinder, section.plane, s, T, tolerance=1e-12)
        assert_close(found, expected.expand(4, -1), rtol=0, atol=1e-11)
    on = X - hyperplane(X)[:, None] * torch.arange(1.0, SIZE + 1).double() / 91
    section = cross_section(hyperplane, on)
    assert_close(section.parabola(T), torch.zeros(4, 11).double(), rtol=0, atol=1e-12)
    found = heights(hyperplane, section.plane, s, T, tolerance=1e-12)
    assert_close(found, torch.zeros(4, 11).double(), rtol=0, atol=1e-11)


def test_a_random_section_is_orthogonal_an_examples_own_and_bends_as_the_boundary_does():
    x = boundary_between(quartic, torch.zeros(4, SIZE).double(), 3 * L2.unit(X)).point
    section = cross_section(quartic, x, seed=3)
    assert_orthonormal(section.plane.first, section.plane.second)
    assert_close(section.plane.first, L2.unit(gradient(quartic, x)))
    assert_close(section.curvature, normal_curvature(quartic, x, section.plane.second))
    alone = cross_section(quartic, x[[1]], seed=3)
    assert_close(alone.plane.second, section.plane.second[[1]])
    assert_close(alone.bend, section.bend[[1]])
    found = heights(quartic, section.plane, torch.linspace(-0.01, 0.01, 21), T / 100, tolerance=1e-12)
    wide = (found - section.parabola(T / 100)).abs().amax(1)
    assert bool((wide < 0.05 * section.parabola(T / 100).abs().amax(1)).all())


def test_a_section_bends_at_a_scale_where_a_network_has_kinks():
    """x_2 = |x_1|: no Hessian, and kappa = -1 / h for central differences at h."""
    kink = lambda x: x[:, 1] - x[:, 0].abs()  # noqa: E731
    section = cross_section(kink, torch.zeros(1, 2), h=0.1)
    assert_close(section.curvature, torch.tensor([-10.0]))
    assert_close(section.parabola(torch.tensor([0.2])), torch.tensor([[0.2]]))
    found = heights(kink, section.plane, torch.linspace(-1, 1, 40), torch.tensor([-0.5, 0.25]))
    assert_close(found, torch.tensor([[0.5, 0.25]]), rtol=0, atol=1e-5)


def test_heights_are_nearest_to_zero_not_a_number_where_missing_and_take_known_values():
    field = lambda x: (x[:, 0] - 0.3) * (x[:, 0] + 0.2) * (x[:, 0] - 0.9) * (x[:, 1] - 5)  # noqa: E731
    plane = span(torch.zeros(1, 2).double(), torch.tensor([[1.0, 0.0]]).double(), torch.tensor([[0.0, 1.0]]).double())
    s, t = torch.linspace(-1, 1, 21).double() + 0.01, torch.tensor([0.0, 1.0]).double()
    assert_close(heights(field, plane, s, t, tolerance=1e-12), torch.full((1, 2), -0.2).double())
    assert_close(heights(field, plane, s[11:], t, tolerance=1e-12), torch.full((1, 2), 0.3).double())
    assert heights(field, plane, s[14:17], t).isnan().all()
    values = surface(field, plane, s, t)
    looks = []
    counted = lambda x: looks.append(len(x)) or field(x)  # noqa: E731
    assert_close(
        heights(counted, plane, s, t, values=values, tolerance=0.25),
        torch.full((1, 2), -0.2).double(),
        atol=0.02,
        rtol=0,
    )
    assert sum(looks) == 2 * (2 + 2)  # both ends and two halvings, of two columns
    windows = torch.stack([s, 2 * s])
    two = Plane(*(v.expand(2, 2) for v in (plane.origin, plane.first, plane.second)))
    assert_close(heights(field, two, windows, t, tolerance=1e-12), torch.full((2, 2), -0.2).double())
    exact = heights(
        lambda x: x[:, 0] * 1.0, plane, torch.linspace(-1, 1, 3), t
    )  # 0 at a grid point, to both sides of it
    assert_close(exact, torch.zeros(1, 2).double(), rtol=0, atol=0)


def test_labels_follow_their_examples_through_sections():
    model = network()
    decision = pairwise(model, model(IMAGES).argmax(1), (model(IMAGES).argmax(1) + 1) % 5)
    found = boundary_between(decision, IMAGES, IMAGES - 9 * gradient_direction(decision, IMAGES, L2))
    assert bool(found.crossed.all())
    section = cross_section(decision, found.point)
    s, t = torch.linspace(-0.2, 0.2, 9), torch.linspace(-0.1, 0.1, 5).double()
    together = heights(decision, section.plane, s, t, tolerance=1e-10, chunk=7)
    assert not together.isnan().any()
    for k in range(3):
        row = torch.tensor([k])
        alone = heights(decision.take(row), section.plane.take(row), s, t, tolerance=1e-10)
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
    for field in (loss_field(model, classes, margin), pairwise(model, classes, (classes + 1) % 5)):
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
    looks = []

    def field(x):
        looks.append(len(x))
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
    assert sum(looks) == 2 + 2 * 2 + 8 + (
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
    with randomness.isolated(0, "least squares"):
        model = nn.Linear(4, 3).double().eval()
    x, y = normal(7, 4, name="rows"), torch.arange(7)
    first, second = filter_normalized(model), filter_normalized(model, seed=1)
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
    first, second = filter_normalized(model), filter_normalized(model, seed=1)
    assert set(first) == {"0.weight", "4.weight"}  # no bias, nothing of BatchNorm
    for name, change in first.items():
        assert_close(change.flatten(1).norm(dim=1), model.get_parameter(name).detach().flatten(1).norm(dim=1))
        cosine = (change * second[name]).sum() / change.norm() / second[name].norm()
        assert abs(float(cosine)) < 0.5
    assert filter_normalized(model)["0.weight"].equal(first["0.weight"])
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
    assert not filter_normalized(layer)["weight"][0].any()


def test_bad_input_is_refused_in_a_sentence():
    zero = X.clone()
    zero[[1, 3]] = 0
    with pytest.raises(InputError, match="a first direction of finite length above 0, received none at examples 1, 3"):
        span(X, zero, V)
    with pytest.raises(InputError, match="a second direction of finite length above 0, received none at examples 1, 3"):
        span(X, V, zero)
    with pytest.raises(InputError, match="received none at examples 0, 1, 2, 3, 4 and 3 more"):
        span(torch.zeros(8, 2), torch.full((8, 2), torch.nan), torch.ones(8, 2))
    with pytest.raises(InputError, match="two directions that span a plane, received parallel ones at examples 0, 2"):
        span(X, U, torch.stack([3 * U[0], V[1], -U[2], V[3]]))
    with pytest.raises(InputError, match="two directions that span a plane"):
        span(X.float(), U.float(), U.float() / 3)
    with pytest.raises(InputError, match="a direction of finite length above 0, received none at examples 1, 3"):
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
            heights(sphere, plane, s, T)
    with pytest.raises(InputError, match=r"values of shape \(4, 11, 11\)"):
        heights(sphere, plane, T, T, values=torch.zeros(4, 3, 11))
    for most, samples in ((0.0, 5), (math.inf, 5), (1.0, 0)):
        with pytest.raises(InputError, match="a finite distance above 0 to look at"):
            crossing_distance(sphere, X, U, most=most, samples=samples)
    for decisions in (
        torch.zeros(2, 3, 3),
        torch.zeros(3, 3, dtype=torch.long),
        torch.zeros(0, 3, 3, dtype=torch.long),
    ):
        with pytest.raises(InputError, match=r"predicted classes \(batch, a, b\)"):
            class_shares(decisions, 3)
        with pytest.raises(InputError, match=r"predicted classes \(batch, a, b\)"):
            class_pieces(decisions, 3)
    with pytest.raises(InputError, match="predicted classes from 0 to 2"):
        class_shares(torch.full((1, 2, 2), 3), 3)
    model, first = network(), filter_normalized(network())
    with pytest.raises(InputError, match="weights of two axes or more"):
        filter_normalized(nn.BatchNorm1d(3))
    with pytest.raises(InputError, match="a model in eval mode"):
        parameter_surface(network().train(), IMAGES, LABELS, first, first, A, B)
    with pytest.raises(InputError, match="one of each at least"):
        parameter_surface(model, IMAGES, LABELS, first, first, A[None], B)
    for wrong in ({"no such": A}, {"4.weight": A}):
        with pytest.raises(InputError, match="changes of the model's own parameters"):
            parameter_surface(model, IMAGES, LABELS, first, wrong, A, B)
