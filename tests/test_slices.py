"""Slices of input space: planes, values on them, classes."""

import math

import pytest
import torch
from closed_surfaces import sphere
from spheres import IMAGES, LABELS, ON_SPHERE, PLANES, A, B, T, U, V, X, assert_orthonormal, network, normal
from torch.testing import assert_close

from lowcurve import randomness
from lowcurve.analysis.calculus import gradient
from lowcurve.analysis.norms import L2, LINF, dot, pixels
from lowcurve.geometry import (
    box_excess,
    class_components,
    class_shares,
    cross_section,
    filter_normalized_direction,
    gradient_direction,
    logit_difference,
    random_directions,
    span,
    surface,
)
from lowcurve.losses import cross_entropy, least_likely, log_odds, loss_field, margin, margin_loss
from lowcurve.randomness import stream


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
    filter_normalized_direction(network())
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
        logit_difference(model, LABELS, LABELS.roll(1)),
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
    assert class_components(decisions, 3).tolist() == [[1, 1, 0]] * 2


def flood_fill(grid: torch.Tensor, label: int) -> int:
    """The number of connected components of a label, by visiting neighbors one at a time."""
    left, components = {tuple(at) for at in torch.nonzero(grid == label).tolist()}, 0
    while left:
        components, open_ = components + 1, [left.pop()]
        while open_:
            i, j = open_.pop()
            near = {(i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)} & left
            left -= near
            open_ += near
    return components


@pytest.mark.parametrize("classes", [1, 2, 5])
def test_components_are_those_of_flood_filling(classes):
    decisions = randomness.integers((6, 23, 31), 0, classes, generator=stream(0, "pieces", classes))
    found = class_components(decisions, classes)
    expected = [[flood_fill(one, k) for k in range(classes)] for one in decisions]
    assert found.tolist() == expected
    assert class_components(decisions[[3]], classes).tolist() == [expected[3]]


def test_a_spiral_is_one_component():
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
    expected = [flood_fill(spiral[0], k) for k in (0, 1)]
    assert class_components(spiral, 2).tolist() == [expected]
    assert expected[1] == 1
