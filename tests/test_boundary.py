"""The decision boundary: spheres, cylinders, planes and saddles in closed form, invariances, small networks."""

import math

import pytest
import torch
from closed_surfaces import RADIUS, SIZE, cylinder, hyperplane, quartic, sphere
from torch import nn
from torch.testing import assert_close

from lowcurve import randomness
from lowcurve.analysis.calculus import gradient
from lowcurve.analysis.norms import L2, dot
from lowcurve.analysis.spectra import dense, lanczos, spectrum
from lowcurve.attacks import DeepFool
from lowcurve.errors import InputError
from lowcurve.geometry import (
    BoundaryPoint,
    NormalCurvatures,
    PrincipalCurvatures,
    boundary_distances,
    find_boundary_point,
    logit_difference,
    mean_hessian,
    normal_curvature,
    tangent_space,
)
from lowcurve.losses import loss_field, margin
from lowcurve.models import Network
from lowcurve.randomness import stream
from lowcurve.results import describe

ENDS = NormalCurvatures(steps=SIZE, tolerance=1e-12)
LARGEST, SMALLEST, MEAN = "largest principal curvature", "smallest principal curvature", "mean curvature"


def normal(*shape: int, name: str) -> torch.Tensor:
    return randomness.normal(torch.zeros(shape, dtype=torch.float64), generator=stream(0, "boundary", name))


X = normal(4, SIZE, name="x")
ON_SPHERE = RADIUS * L2.unit(X).view(4, 2, 3)


def test_the_sphere_has_curvature_one_over_its_radius_everywhere():
    """Positive: it bends towards F < 0, away from its outward normal."""
    inverse = torch.full((4,), 1 / RADIUS, dtype=torch.float64)
    assert_close(PrincipalCurvatures()(sphere, ON_SPHERE), inverse[:, None].expand(4, SIZE - 1))
    columns = ENDS(sphere, ON_SPHERE)
    assert_close([columns[LARGEST], columns[SMALLEST], columns[MEAN]], [inverse] * 3)
    assert_close(columns["mean curvature, standard error"], torch.zeros_like(inverse), rtol=0, atol=1e-12)
    assert_close(normal_curvature(sphere, ON_SPHERE, normal(4, 2, 3, name="v")), inverse)
    assert_close(tangent_space(sphere, ON_SPHERE).normal, ON_SPHERE / RADIUS)


def test_the_cylinder_bends_one_way_and_the_plane_none():
    x = torch.cat([RADIUS * L2.unit(X[:, :2]), X[:, 2:]], dim=1)
    expected = torch.tensor([0.0] * (SIZE - 2) + [1 / RADIUS], dtype=torch.float64)
    assert_close(PrincipalCurvatures()(cylinder, x), expected.expand(4, -1))
    columns = ENDS(cylinder, x)
    assert_close(columns[LARGEST], expected[-1].expand(4))
    assert_close(columns[SMALLEST], torch.zeros(4, dtype=torch.float64), rtol=0, atol=1e-12)
    for column in [
        PrincipalCurvatures()(hyperplane, X),
        *ENDS(hyperplane, X).values(),
        normal_curvature(hyperplane, X, X),
    ]:
        assert_close(column, torch.zeros_like(column))


def test_a_saddle_bends_both_ways():
    """z = (3 x^2 - y^2) / 2 as F = z - ...: n upwards, the boundary rises along x (kappa -3) and falls along y (kappa 1)."""
    x = torch.zeros(1, 3)
    saddle = lambda x: x[:, 2] - (3 * x[:, 0].square() - x[:, 1].square()) / 2  # noqa: E731
    assert_close(PrincipalCurvatures()(saddle, x), torch.tensor([[-3.0, 1.0]]))
    columns = NormalCurvatures(draws=2000)(saddle, x)
    assert_close([columns[SMALLEST], columns[LARGEST]], [torch.tensor([-3.0]), torch.tensor([1.0])])
    assert abs(columns[MEAN].item() + 1) < 4 * columns["mean curvature, standard error"].item() < 0.2
    along = torch.tensor([[1.0, 1.0, 5.0]])
    assert_close(normal_curvature(saddle, x, along), torch.tensor([-1.0]))  # Euler: half of each


def test_the_boundary_near_a_point_is_what_its_curvature_says():
    """s = -kappa t^2 / 2 in the plane of a tangent direction and the normal, to third order."""
    x = find_boundary_point(quartic, torch.zeros(4, SIZE).double(), 3 * L2.unit(X)).point
    here = tangent_space(quartic, x)
    v = L2.unit(here.project(normal(4, SIZE, name="v")))
    t = 1e-3
    s = -normal_curvature(quartic, x, v) * t**2 / 2
    off = quartic(x + t * v + s[:, None] * here.normal) / here.gradient_norm
    assert float(off.abs().max()) < 1e-3 * t**2
    assert_close(dot(v, here.normal), torch.zeros(4, dtype=torch.float64))


def test_ends_and_mean_are_those_of_all():
    everything = PrincipalCurvatures()(quartic, X)
    columns = NormalCurvatures(steps=SIZE, tolerance=1e-12, draws=1000)(quartic, X)
    assert_close([columns[SMALLEST], columns[LARGEST]], [everything[:, 0], everything[:, -1]])
    error = columns["mean curvature, standard error"]
    assert float(((columns[MEAN] - everything.mean(1)) / error).abs().max()) < 4
    here = tangent_space(quartic, X)
    n, h = here.normal, dense(here.operator, X)
    trace = h.diagonal(dim1=1, dim2=2).sum(1) - torch.einsum("bi,bij,bj->b", n, h, n)
    assert_close(everything.mean(1), trace / here.gradient_norm / (SIZE - 1))


@pytest.mark.parametrize("measure", [PrincipalCurvatures(), lambda f, x: ENDS(f, x)[LARGEST]])
@pytest.mark.parametrize("factor", [1e-6, 7.0])
def test_scaling_the_decision_function_changes_nothing_and_its_sign_turns_theirs(measure, factor):
    plain = measure(quartic, X)
    assert_close(measure(lambda x: factor * quartic(x), X), plain)
    turned = PrincipalCurvatures()(lambda x: -factor * quartic(x), X)
    assert_close(turned.flip(1), -PrincipalCurvatures()(quartic, X))


def test_scaling_the_inputs_scales_curvature_and_turning_them_changes_nothing():
    q = torch.linalg.qr(normal(SIZE, SIZE, name="q")).Q
    v = normal(4, SIZE, name="v")
    assert_close(PrincipalCurvatures()(lambda u: quartic(3 * u), X / 3), 3 * PrincipalCurvatures()(quartic, X))
    assert_close(PrincipalCurvatures()(lambda u: quartic(u @ q), X @ q.T), PrincipalCurvatures()(quartic, X))
    turned = normal_curvature(lambda u: quartic(u @ q), X @ q.T, v @ q.T)
    assert_close(turned, normal_curvature(quartic, X, v))


def test_at_a_scale_curvature_is_that_of_the_central_difference():
    """Quadrics: the same at every scale. x_1 - |x_2| at 0: -1 / h. x_2^2 + x_2^3: the cube cancels."""
    for h in (1e-3, 1.0):
        assert_close(PrincipalCurvatures(h)(sphere, ON_SPHERE), torch.full((4, SIZE - 1), 1 / RADIUS).double())
    kink = lambda x: x[:, 0] - x[:, 1].abs()  # noqa: E731
    x = torch.zeros(1, 2)
    for h in (0.1, 0.5):
        assert_close(PrincipalCurvatures(h)(kink, x), torch.tensor([[-1 / h]]))
        assert_close(NormalCurvatures(h=h)(kink, x)[LARGEST], torch.tensor([-1 / h]))
        assert_close(normal_curvature(kink, x, torch.ones(1, 2), h=h), torch.tensor([-1 / h]))
    assert_close(PrincipalCurvatures()(kink, x), torch.zeros(1, 1))
    cubic = lambda x: x[:, 0] + x[:, 1].square() + x[:, 1].pow(3)  # noqa: E731
    assert_close(PrincipalCurvatures(0.5)(cubic, x), torch.tensor([[2.0]]))


def test_a_direction_near_the_normal_is_projected_to_rounding():
    n = L2.unit(X.float())
    v = n + 1e-4 * L2.unit(normal(4, SIZE, name="v").float())
    here = tangent_space(lambda x: (x * n).sum(1), X.float())
    assert float(dot(L2.unit(here.project(v)), n).abs().max()) < 1e-6


def test_where_there_is_no_normal_or_no_tangent_direction():
    x = torch.zeros(1, SIZE)
    assert_close(PrincipalCurvatures()(sphere, x), torch.full((1, SIZE - 1), math.inf))
    assert_close(ENDS(sphere, x)[SMALLEST], torch.tensor([math.inf]))
    assert_close(PrincipalCurvatures()(lambda x: 0 * x.sum(1), x), torch.zeros(1, SIZE - 1))
    assert_close(normal_curvature(sphere, ON_SPHERE, ON_SPHERE), torch.zeros(4, dtype=torch.float64))
    assert_close(normal_curvature(sphere, ON_SPHERE.float(), 3 * ON_SPHERE.float()), torch.zeros(4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bisection_finds_the_boundary_to_rounding(dtype):
    x, across = torch.zeros(4, SIZE, dtype=dtype), 5 * L2.unit(X).to(dtype)
    forward_passes = []

    def watched(x: torch.Tensor) -> torch.Tensor:
        forward_passes.append(1)
        return sphere(x)

    found = find_boundary_point(watched, x, across)
    few = 10 * torch.finfo(dtype).eps
    assert bool(found.crossed.all())
    assert_close(found.point, 2 / 5 * across, rtol=few, atol=few)
    assert float(sphere(found.point).abs().max()) < 4 * few
    assert len(forward_passes) < (32 if dtype == torch.float32 else 62)
    rough = find_boundary_point(sphere, x, across, tolerance=1e-2).point
    assert 1e-6 < float((rough - 2 / 5 * across).abs().max()) < 5e-2
    assert_close(find_boundary_point(sphere, across, x).point, found.point, rtol=few, atol=few)


def test_who_does_not_cross_stays_at_the_end_of_the_way():
    x = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 0.0], [3.0, 0.0]])
    across = torch.tensor([[1.0, 0.0], [5.0, 0.0], [2.0, 0.0], [4.0, 0.0]])
    found = find_boundary_point(sphere, x, across)
    assert found.crossed.tolist() == [False, True, True, False]
    assert_close(found.point, torch.tensor([[1.0, 0.0], [2.0, 0.0], [2.0, 0.0], [4.0, 0.0]]))
    columns = boundary_distances(sphere, x, found)
    assert columns["distance along the way"].tolist() == [math.inf, 0.0, 2.0, math.inf]
    assert columns["distance to the osculating circle"].tolist() == [math.inf, 0.0, 2.0, math.inf]
    assert columns["normal curvature"].tolist()[::3] == [0.0, 0.0]


def test_the_osculating_circle_gives_the_distance_to_spheres_and_planes_wherever_they_are_met():
    inside, outside = X / 10, 4 * L2.unit(normal(4, SIZE, name="elsewhere"))
    for x, across in ((inside, outside), (outside, inside)):
        columns = boundary_distances(sphere, x, find_boundary_point(sphere, x, across))
        assert_close(columns["distance to the osculating circle"], (L2.length(x) - RADIUS).abs())
        assert bool((columns["distance along the way"] > columns["distance to the osculating circle"] + 1e-3).all())
    weights = torch.arange(1.0, SIZE + 1, dtype=torch.float64)
    far = X + weights
    columns = boundary_distances(hyperplane, X - weights, find_boundary_point(hyperplane, X - weights, far))
    for name in ("distance to the tangent plane", "distance to the osculating circle"):
        assert_close(columns[name], hyperplane(X - weights).abs() / weights.norm())


def test_along_the_normal_the_three_lengths_agree():
    x = 3 * L2.unit(X)
    for sign in (1.0, -1.0):
        columns = boundary_distances(lambda x, s=sign: s * sphere(x), x, find_boundary_point(sphere, x, 0 * x))
        lengths = [column for name, column in columns.items() if name.startswith("distance")]
        assert_close(lengths, [torch.ones(4, dtype=torch.float64)] * 3)


def test_the_mean_hessian_of_the_older_lineage():
    """F = <x, D_i x> / 2 with D_i of its own: the mean of the D_i, whatever the gradients; x^4 shows scale and share."""
    matrices = normal(4, SIZE, SIZE, name="D")
    matrices = matrices + matrices.mT

    def quadratic(x: torch.Tensor) -> torch.Tensor:
        flat = x.flatten(1)
        return torch.einsum("bi,bij,bj->b", flat, matrices, flat) / 2

    x = X.view(4, 2, 3)
    operator = mean_hessian(quadratic, x, 2 * x)
    assert_close(dense(operator, x[:1])[0], matrices.mean(0))
    ends = lanczos(operator, x[:1], steps=SIZE)
    exact = torch.linalg.eigvalsh(matrices.mean(0))
    assert_close([ends.smallest, ends.largest], [exact[:1], exact[-1:]])
    assert_close(spectrum(dense(operator, x[:1]))[0], exact)
    across = torch.full((1, 1), 2.0, dtype=torch.float64)
    slope = mean_hessian(lambda x: x.pow(4).sum(1), across / 2, across, share=0.5)(torch.ones(1, 1).double())
    h = 10 / 512
    assert_close(slope, torch.full((1, 1), 12 * 1.5**2 + 4 * h**2, dtype=torch.float64))
    cubic = mean_hessian(lambda x: x.pow(3).sum(1), 0 * across, across)(torch.ones(1, 1).double())
    assert_close(cubic, torch.full((1, 1), 6 * 0.8 * 2, dtype=torch.float64))


def test_the_published_lineage_is_not_the_normal_curvature():
    """Three times F has the same boundary, and three times the mean Hessian."""
    plain, scaled = (mean_hessian(lambda x, k=k: k * sphere(x), X, X)(X[:1]) for k in (1, 3))
    assert_close(scaled, 3 * plain)
    assert_close(plain, 2 * X[:1])


def convnet(act: str) -> nn.Module:
    spec = Network("small-convnet", (1, 4, 4), classes=5, mean=(0.5,), std=(0.3,), nonlinearity=act, width=4)
    return spec.build(seed=0).eval()


@pytest.mark.parametrize("act", ["relu", "softplus"])
def test_a_small_convnet_in_single_precision_from_deepfool_to_the_curvature_of_its_boundary(act):
    network = convnet(act)
    x = randomness.uniform(torch.zeros(6, 1, 4, 4), 0, 1, generator=stream(0, "images"))
    network[-1][-1].bias.data -= network(x).mean(0).detach()  # untrained, it knows one class only
    y = network(x).argmax(1)
    across = DeepFool(box=(-50.0, 50.0))(network, x, y, generator=stream(0))
    decision = logit_difference(network, y, network(across).argmax(1))
    state = torch.get_rng_state()
    found = find_boundary_point(decision, x, across)
    assert bool(found.crossed.all())
    assert float(decision(found.point).detach().abs().max()) < 1e-5
    columns = boundary_distances(decision, x, found) | NormalCurvatures()(decision, found.point)
    everything = PrincipalCurvatures()(decision, found.point)
    at_a_scale = PrincipalCurvatures(0.5)(decision, found.point)
    lineage = spectrum(dense(mean_hessian(decision, x, across), x[:1]))
    for column in [*columns.values(), everything, at_a_scale, lineage]:
        assert column.dtype == torch.float32
        assert not column.requires_grad
        assert bool(torch.isfinite(column).all())
    assert everything.shape == (6, 15)
    assert bool((columns[LARGEST] <= everything[:, -1] + 1e-3 * everything.abs().amax(1)).all())
    if act == "relu":
        assert_close(everything, torch.zeros(6, 15))
        assert float(at_a_scale.abs().amax()) > 1e-3
    else:
        assert_close(columns[LARGEST], everything[:, -1], rtol=2e-2, atol=1e-4)
        also = PrincipalCurvatures()(lambda x: decision(x), found.point)  # without its halves
        assert_close(also, everything, rtol=1e-3, atol=1e-4)
    assert_close(torch.get_rng_state(), state)
    assert [p for p in network.parameters() if p.grad is not None] == []


def test_the_pairwise_decision_function():
    network = convnet("softplus")
    x = randomness.uniform(torch.zeros(6, 1, 4, 4), 0, 1, generator=stream(0, "images"))
    logits = network(x).detach()
    first, second = logits.topk(2, dim=1).indices.unbind(1)
    field = logit_difference(network, first, second)
    assert_close(field(x).detach(), margin(logits, first))
    assert_close(field.from_logits(field.logits(x)), field(x))
    assert_close(logit_difference(network, second, first)(x), -field(x))
    assert_close(gradient(field, x), gradient(loss_field(network, first, margin), x))
    rows = torch.tensor([4, 1, 1])
    assert_close(field.take(rows)(x[rows]), field(x)[rows])


def test_examples_are_independent():
    together, alone = ENDS(quartic, X), ENDS(quartic, X[[2]])
    for name, column in together.items():
        assert_close(column[[2]], alone[name], rtol=1e-6, atol=1e-12)
    assert_close(PrincipalCurvatures()(quartic, X)[[2]], PrincipalCurvatures()(quartic, X[[2]]))
    points, point = (find_boundary_point(sphere, 0 * x, 3 * x).point for x in (X, X[[2]]))
    assert_close(points[[2]], point)


def test_a_measure_has_a_name_that_stays():
    assert describe(PrincipalCurvatures()) == "PrincipalCurvatures(h=None)"
    assert describe(ENDS) == "NormalCurvatures(steps=6, tolerance=1e-12, draws=10, seed=0, h=None)"


LABELS = torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: logit_difference(nn.Identity(), LABELS, LABELS), "two different classes for each example"),
        (lambda: logit_difference(nn.Identity(), LABELS, LABELS[:1]), "two different classes for each example"),
        (lambda: logit_difference(nn.BatchNorm1d(2), LABELS, 1 - LABELS), "a model in eval mode"),
        (
            lambda: logit_difference(nn.Identity(), LABELS, 1 - LABELS)(torch.ones(3, 2)),
            "3 pairs of classes, one an example",
        ),
        (lambda: find_boundary_point(sphere, X, X, steps=0), "a step and a tolerance from 0 to 1"),
        (lambda: find_boundary_point(sphere, X, X, tolerance=1.0), "a step and a tolerance from 0 to 1"),
        (lambda: PrincipalCurvatures()(sphere, torch.ones(1, 1)), "inputs of two numbers or more"),
        (lambda: NormalCurvatures(draws=1), "at least two draws, got 1"),
        (lambda: boundary_distances(sphere, X, BoundaryPoint(X, X[:, 0] > 9), h=0.0), "a scale h > 0 in pixel units"),
    ],
)
def test_errors_name_the_mend(wrong, message):
    with pytest.raises(InputError, match=message):
        wrong()
