"""Measures of curvature: closed forms on quadratics, invariances, exact Hessians of small networks."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from lowcurve import randomness
from lowcurve.analysis.calculus import gradient, jacobian
from lowcurve.analysis.hessians import hessian
from lowcurve.analysis.spectra import dense
from lowcurve.errors import InputError
from lowcurve.geometry import (
    Curvature,
    CurvatureParts,
    CurvatureProfile,
    FrobeniusNorm,
    PowerIteration,
    SecantCurvature,
    SpectralDensity,
    gradient_norm,
)
from lowcurve.geometry.curvature import hessian_matrices
from lowcurve.losses import loss_field, margin
from lowcurve.models import Network
from lowcurve.randomness import stream
from lowcurve.results import describe

SHAPE, SIZE = (2, 3, 2), 12
WHOLE = Curvature(steps=SIZE, tolerance=1e-12)


def normal(*shape: int, name: str) -> torch.Tensor:
    return randomness.normal(torch.zeros(shape, dtype=torch.float64), generator=stream(0, "geometry", name))


HALF = normal(5, SIZE, SIZE, name="H")
H = (HALF + HALF.transpose(1, 2)) / 2
B = normal(5, SIZE, name="b")
X = normal(5, *SHAPE, name="x")
G = B + torch.einsum("bij,bj->bi", H, X.flatten(1))
EIGENVALUES = torch.linalg.eigvalsh(H)
LENGTH, NORM = torch.linalg.vector_norm(G, dim=1), EIGENVALUES.abs().amax(1)


def quadratic(x: torch.Tensor) -> torch.Tensor:
    """l_i(x) = <b_i, x> + x^T H_i x / 2."""
    flat = x.flatten(1)
    return (B * flat).sum(1) + torch.einsum("bi,bij,bj->b", flat, H, flat) / 2


def quartic(x: torch.Tensor) -> torch.Tensor:
    """A field whose curvature depends on the scale and on the place."""
    return quadratic(x) + x.flatten(1).pow(4).sum(1)


def convnet(act: str) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A small convnet in float64 with five classes, six 4 x 4 images and their labels."""
    spec = Network("small-convnet", (1, 4, 4), classes=5, mean=(0.5,), std=(0.3,), nonlinearity=act, width=4)
    x = randomness.uniform(torch.zeros(6, 1, 4, 4, dtype=torch.float64), 0, 1, generator=stream(0, "images"))
    return spec.build(seed=0).double().eval(), x, torch.arange(6) % 5


def exact_hessians(field_of, x: torch.Tensor) -> torch.Tensor:
    """Every example's Hessian by torch's own functional, one example at a time."""
    matrices = [
        torch.autograd.functional.hessian(lambda p, k=k: field_of(k)(p).sum(), x[k : k + 1]) for k in range(len(x))
    ]
    return torch.stack([m.reshape(x[0].numel(), x[0].numel()) for m in matrices])


def test_gradient_norm_of_a_quadratic():
    assert_close(gradient_norm(quadratic, X), LENGTH)


def test_curvature_of_a_quadratic():
    columns = WHOLE(quadratic, X)
    vectors = torch.linalg.eigh(H).eigenvectors
    top = vectors[torch.arange(5), :, EIGENVALUES.abs().argmax(1)]
    assert_close(columns["gradient norm"], LENGTH)
    assert_close(columns["Hessian norm"], NORM)
    assert_close(columns["largest eigenvalue"], EIGENVALUES[:, -1])
    assert_close(columns["normalized curvature"], NORM / LENGTH)
    assert_close(columns["alignment"], ((G * top).sum(1) / LENGTH).abs())
    assert_close(columns["residual"], torch.zeros(5, dtype=torch.float64), rtol=0, atol=1e-8)
    assert list(columns) == [
        "gradient norm", "Hessian norm", "largest eigenvalue", "normalized curvature", "alignment", "residual",
        "residual of the largest eigenvalue",
    ]  # fmt: skip


def test_nu_and_the_hessian_norm_are_two_things():
    """H = diag(1, -3): the algebraic largest eigenvalue is 1, the norm 3."""
    columns = Curvature()(lambda x: (x[:, 0].square() - 3 * x[:, 1].square()) / 2, torch.ones(1, 2))
    assert_close(columns["largest eigenvalue"], torch.tensor([1.0]))
    assert_close(columns["Hessian norm"], torch.tensor([3.0]))
    assert_close(columns["alignment"], torch.tensor([3.0 / math.sqrt(10.0)]))


def test_the_largest_eigenvalue_is_right_where_the_negative_end_dominates():
    """Each end stops on its own residual: on that of the norm alone, lambda_max was up to 17 % too small here."""
    for seed in range(3):
        with randomness.temporary_seed(seed, "negative end"):
            model = nn.Sequential(
                nn.Linear(20, 30), nn.Softplus(), nn.Linear(30, 30), nn.Tanh(), nn.Linear(30, 5)
            ).eval()
        x = randomness.uniform(torch.zeros(32, 20), 0, 1, generator=stream(seed, "negative end"))
        y = torch.arange(32) % 5
        columns = Curvature(steps=20)(loss_field(model, y, margin), x)
        exact = dense(hessian(loss_field(copy.deepcopy(model).double(), y, margin), x.double()), x.double())
        values = torch.linalg.eigvalsh((exact + exact.mT) / 2)
        assert bool((values[:, 0].abs() > values[:, -1].abs()).any())
        found, residual = columns["largest eigenvalue"].double(), columns["residual of the largest eigenvalue"].double()
        assert_close(found, values[:, -1], rtol=1e-3, atol=0)
        assert float(((found - values[:, -1]).abs() - residual).max()) <= 0
        assert float((residual - torch.maximum(1e-3 * found.abs(), 4e-5 * columns["Hessian norm"])).max()) <= 0


def test_nan_is_no_number_of_any_column():
    """|t|^1.5 has an infinite second derivative at 0, and infinity times 0 is NaN: C was 0, the best number."""
    here = torch.full((2, 3), 0.5)
    here[1] = 0.7
    columns = Curvature()(lambda t: t.sum(1) + ((t - 0.5).abs() ** 1.5).sum(1), here)
    for name, column in columns.items():
        assert column.isnan().tolist() == [name != "gradient norm", False], name


def test_few_steps_approach_the_norm_from_below_and_say_how_near_they_are():
    before = torch.zeros(5, dtype=torch.float64)
    for steps in (1, 2, 4, 8, 12):
        columns = Curvature(steps=steps, tolerance=0)(quadratic, X)
        norm = columns["Hessian norm"]
        assert float((norm - NORM).max()) <= 1e-9
        assert float((norm - before).min()) >= -1e-9
        nearest = (EIGENVALUES.abs() - norm[:, None]).abs().amin(1)
        assert float((nearest - columns["residual"]).max()) <= 1e-9
        before = norm
    assert_close(before, NORM)


def test_where_there_is_no_curvature():
    flat = Curvature()(lambda x: (B * x.flatten(1)).sum(1), X)
    zero = torch.zeros(5, dtype=torch.float64)
    for name in ("Hessian norm", "largest eigenvalue", "normalized curvature", "residual"):
        assert_close(flat[name], zero)
    constant = Curvature()(lambda x: 0 * x.flatten(1).sum(1), X)
    for name, column in constant.items():
        assert_close(column, zero, msg=name)


def test_at_a_stationary_point_normalized_curvature_is_infinite():
    bottom = Curvature()(lambda x: x.square().sum(1), torch.zeros(1, 2))
    assert_close(bottom["normalized curvature"], torch.tensor([math.inf]))
    assert_close(bottom["Hessian norm"], torch.tensor([2.0]))


@pytest.mark.parametrize("h", [1e-3, 0.1, 3.0])
def test_secant_curvature_of_a_quadratic_is_hz_at_every_scale(h):
    z = G.sign() / math.sqrt(SIZE)
    expected = torch.linalg.vector_norm(torch.einsum("bij,bj->bi", H, z), dim=1)
    assert_close(SecantCurvature(h)(quadratic, X), expected, rtol=1e-6, atol=1e-6)


def test_secant_curvature_sees_the_scale():
    """l = x^4 at 0: g(h) - g(0) = 4 h^3, so the secant is 4 h^2 while the second derivative is 0."""

    def field(x: torch.Tensor) -> torch.Tensor:
        return x.pow(4).sum(1) + 1e-30 * x.sum(1)  # the slope that gives z its sign

    x = torch.zeros(1, 1, dtype=torch.float64)
    for h in (0.1, 0.5):
        assert_close(SecantCurvature(h)(field, x), torch.tensor([4 * h**2], dtype=torch.float64))
    assert_close(Curvature()(field, x)["Hessian norm"], torch.zeros(1, dtype=torch.float64))


def test_frobenius_norm_within_its_standard_error_and_the_same_for_the_same_seed():
    columns = FrobeniusNorm(draws=400)(quadratic, X)
    value, error = columns["Frobenius norm"], columns["Frobenius norm, standard error"]
    exact = torch.linalg.matrix_norm(H)
    assert float(((value - exact).abs() / error).max()) < 4
    assert float((error / exact).max()) < 0.05
    assert_close(FrobeniusNorm(draws=400)(quadratic, X), columns, rtol=0, atol=0)
    assert float((FrobeniusNorm(draws=400, seed=1)(quadratic, X)["Frobenius norm"] - value).abs().min()) > 0


def test_power_iteration_nears_the_norm_from_below_and_lanczos_is_ahead_of_it():
    few, usual, many = (PowerIteration(steps)(quadratic, X) for steps in (1, 10, 2000))
    assert_close(many, NORM, rtol=1e-6, atol=0)
    assert bool((few < usual).all())
    assert bool((usual <= NORM * (1 + 1e-12)).all())
    assert bool((Curvature(10, 0)(quadratic, X)["Hessian norm"] >= usual).all())


def test_profile_of_a_quadratic_is_its_spectrum_exact_and_at_every_scale():
    assert_close(CurvatureProfile()(quadratic, X), EIGENVALUES)
    for h in (1e-2, 3.0):
        assert_close(CurvatureProfile(h)(quadratic, X), EIGENVALUES, rtol=1e-7, atol=1e-7)


def test_profile_at_scale_is_the_spectrum_of_the_symmetrized_secant_map():
    """l = x^4 + y^4 at 0: along each axis the secant is 4 h^2, the exact Hessian 0."""
    x = torch.zeros(2, 2, dtype=torch.float64)
    assert_close(CurvatureProfile()(lambda x: x.pow(4).sum(1), x), torch.zeros(2, 2, dtype=torch.float64))
    assert_close(CurvatureProfile(0.5)(lambda x: x.pow(4).sum(1), x), torch.ones(2, 2, dtype=torch.float64))

    def skew(x: torch.Tensor) -> torch.Tensor:
        return x[:, 0].square() * x[:, 1]  # g(h e_1) - g(0) = (0, h^2), g(h e_2) - g(0) = 0

    expected = torch.tensor([[-0.25, 0.25]] * 2, dtype=torch.float64)
    assert_close(CurvatureProfile(0.5)(skew, x), expected)


@pytest.mark.parametrize("field", [quadratic, quartic])
def test_an_orthogonal_change_of_coordinates_changes_nothing(field):
    q = torch.linalg.qr(normal(SIZE, SIZE, name="q")).Q

    def turned(u: torch.Tensor) -> torch.Tensor:
        return field((u @ q).reshape(-1, *SHAPE))

    u = X.flatten(1) @ q.T
    assert_close(gradient_norm(turned, u), gradient_norm(field, X))
    ours, other = WHOLE(turned, u), WHOLE(field, X)
    assert_close(ours, other, rtol=1e-7, atol=1e-7)
    assert_close(CurvatureProfile()(turned, u), CurvatureProfile()(field, X))


@pytest.mark.parametrize("factor", [1e-6, 0.5, 1e3])
def test_scaling_the_loss_scales_gradient_and_hessian_and_leaves_normalized_curvature(factor):
    def scaled(x: torch.Tensor) -> torch.Tensor:
        return factor * quartic(x)

    ours, plain = WHOLE(scaled, X), WHOLE(quartic, X)
    for name in ("gradient norm", "Hessian norm", "largest eigenvalue"):
        assert_close(ours[name], factor * plain[name], rtol=1e-9, atol=0)
    for name in ("normalized curvature", "alignment"):
        assert_close(ours[name], plain[name])
    assert_close(SecantCurvature(0.1)(scaled, X), factor * SecantCurvature(0.1)(quartic, X), rtol=1e-9, atol=0)
    assert_close(CurvatureProfile(0.1)(scaled, X), factor * CurvatureProfile(0.1)(quartic, X), rtol=1e-9, atol=1e-12)


def test_scaling_the_inputs_scales_normalized_curvature():
    """l(s u): the gradient is s g, the Hessian s^2 H, C becomes s C."""
    ours, plain = WHOLE(lambda u: quartic(3 * u), X / 3), WHOLE(quartic, X)
    assert_close(ours["Hessian norm"], 9 * plain["Hessian norm"])
    assert_close(ours["normalized curvature"], 3 * plain["normalized curvature"])


@pytest.mark.parametrize("act", ["softplus", "gelu", "relu"])
def test_a_small_convnet_against_torchs_own_hessian(act):
    model, x, y = convnet(act)
    matrices = exact_hessians(lambda k: loss_field(model, y[k : k + 1]), x)
    field = loss_field(model, y)
    assert_close(dense(hessian(field, x), x), matrices, rtol=1e-9, atol=1e-12)
    exact = torch.linalg.eigvalsh(matrices)
    columns = Curvature(steps=16, tolerance=1e-10)(field, x)
    assert_close(columns["Hessian norm"], exact.abs().amax(1), rtol=1e-7, atol=0)
    assert_close(columns["largest eigenvalue"], exact[:, -1], rtol=1e-7, atol=1e-10)
    assert_close(CurvatureProfile()(field, x), exact, rtol=1e-7, atol=1e-10)
    slope = torch.autograd.functional.jacobian(lambda p: field(p).sum(), x)
    assert_close(columns["gradient norm"], torch.linalg.vector_norm(slope.flatten(1), dim=1))


@pytest.mark.parametrize("act", ["relu", "softplus"])
def test_the_exact_hessian_of_a_relu_network_has_at_most_classes_minus_one_directions(act):
    model, x, y = convnet(act)
    sizes = CurvatureProfile()(loss_field(model, y), x).abs()
    ranks = (sizes > 1e-9 * sizes.amax(1, keepdim=True)).sum(1)
    if act == "relu":
        assert int(ranks.min()) >= 1
        assert int(ranks.max()) == 4
    else:
        assert int(ranks.min()) > 4


def test_the_secant_sees_the_kinks_that_the_exact_hessian_of_a_relu_network_does_not():
    model, x, y = convnet("relu")
    sizes = CurvatureProfile(0.5)(loss_field(model, y), x).abs()
    assert int((sizes > 1e-6 * sizes.amax(1, keepdim=True)).sum(1).min()) > 4


def test_examples_are_independent():
    model, x, y = convnet("softplus")
    field, few = loss_field(model, y), loss_field(model, y[:2])
    for measure in (gradient_norm, SecantCurvature(0.1), CurvatureProfile()):
        assert_close(measure(few, x[:2]), measure(field, x)[:2])
    together, alone = (Curvature(16, 1e-10)(f, p) for f, p in ((field, x), (few, x[:2])))
    assert_close(alone["Hessian norm"], together["Hessian norm"][:2], rtol=1e-7, atol=0)


def test_the_world_is_left_as_it_was():
    model, x, y = convnet("softplus")
    state, before = torch.get_rng_state(), x.clone()
    for measure in (
        gradient_norm,
        Curvature(4),
        SecantCurvature(0.1),
        FrobeniusNorm(draws=2),
        PowerIteration(),
        CurvatureProfile(0.1),
    ):
        result = measure(loss_field(model, y), x)
        for column in result.values() if isinstance(result, dict) else [result]:
            assert not column.requires_grad
            assert len(column) == 6
    assert_close(torch.get_rng_state(), state)
    assert_close(x, before, rtol=0, atol=0)
    assert [p for p in model.parameters() if p.grad is not None] == []


def test_measuring_under_no_grad_is_measuring():
    model, x, y = convnet("softplus")
    field = loss_field(model, y)
    for measure in (gradient_norm, Curvature(4), SecantCurvature(0.1), CurvatureProfile()):
        with torch.no_grad():
            within = measure(field, x)
        assert_close(within, measure(field, x), rtol=0, atol=0)
    with torch.no_grad():
        within = gradient(field, x), jacobian(model, x)
    assert_close(within, (gradient(field, x), jacobian(model, x).detach()))


@pytest.mark.parametrize(
    ("measure", "name"),
    [
        (gradient_norm, "lowcurve.geometry.curvature.gradient_norm"),
        (Curvature(), "Curvature(steps=12, tolerance=0.001)"),
        (SecantCurvature(0.1), "SecantCurvature(h=0.1)"),
        (FrobeniusNorm(draws=7), "FrobeniusNorm(draws=7, deflated=10, seed=0, h=None)"),
        (CurvatureProfile(), "CurvatureProfile(h=None)"),
    ],
)
def test_a_measure_has_a_name_that_stays(measure, name):
    assert describe(measure) == name


@pytest.mark.parametrize("h", [None, 0.1])
def test_a_profile_that_does_not_fit_is_refused_before_any_product(h):
    """150,528 eigenvalues of a 224 x 224 image: its matrix alone has 90 GB."""

    def field(x: torch.Tensor) -> torch.Tensor:
        return x.square().flatten(1).sum(1)

    with pytest.raises(InputError, match=r"Take spectral_density, or lanczos for the extreme values"):
        CurvatureProfile(h)(field, torch.zeros(1, 3, 224, 224))


class Waves(nn.Module):
    """The strengths of the waves of a row of pixels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.fft.rfft(x).abs()


def test_parts_of_the_hessian_and_what_cannot_be_split():
    model, x, y = convnet("relu")
    columns = CurvatureParts()(loss_field(model, y), x)
    assert_close(columns["network norm"], torch.zeros(6, dtype=torch.float64))
    assert_close(columns["Gauss-Newton norm"], Curvature()(loss_field(model, y), x)["Hessian norm"])
    layered = nn.Sequential(nn.Flatten(), nn.LayerNorm(16), nn.Linear(16, 5)).double().eval()
    columns = CurvatureParts(steps=16)(loss_field(layered, y), x)
    whole = exact_hessians(lambda k: loss_field(layered, y[k : k + 1]), x)
    for k in range(len(x)):
        slopes = torch.autograd.functional.jacobian(lambda v: layered(v[None])[0], x[k]).flatten(1)
        p = layered(x[k : k + 1])[0].softmax(0)
        parts = slopes.T @ (p.diag() - torch.outer(p, p)) @ slopes
        assert_close(columns["Gauss-Newton norm"][k], torch.linalg.matrix_norm(parts, 2), rtol=1e-5, atol=0)
        assert_close(columns["network norm"][k], torch.linalg.matrix_norm(whole[k] - parts, 2), rtol=1e-5, atol=0)
    waves = nn.Sequential(nn.Flatten(), Waves(), nn.Linear(9, 5)).double().eval()
    with pytest.raises(InputError, match=r"can be replayed, to split its Hessian, .*fft.* is not among"):
        CurvatureParts()(loss_field(waves, y), x)


@pytest.mark.parametrize("act", ["relu", "softplus"])
def test_the_matrices_and_the_density_of_a_small_convnet(act):
    model, x, y = convnet(act)
    field = loss_field(model, y)
    exact = exact_hessians(lambda k: loss_field(model, y[k : k + 1]), x)
    assert_close(hessian_matrices(field, x), exact, rtol=1e-9, atol=1e-12)
    columns = SpectralDensity(draws=8, steps=16)(field, x)
    assert_close(columns["masses"].sum(1), torch.ones(6, dtype=torch.float64))
    found, trace = (columns["masses"] * columns["eigenvalues"]).sum(1) * 16, exact.diagonal(dim1=1, dim2=2).sum(1)
    assert float(((found - trace).abs() / torch.linalg.matrix_norm(exact)).max()) < 4 * math.sqrt(2 / 8)
    assert_close(columns["eigenvalues"].abs().amax(1), torch.linalg.eigvalsh(exact).abs().amax(1), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        (Curvature(steps=0), "at least one step, got 0. Write steps=10"),
        (SecantCurvature(0.0), "a scale h > 0 in pixel units"),
        (FrobeniusNorm(draws=1), "at least two draws, got 1. Write draws=100"),
        (CurvatureProfile(h=-1.0), "a scale h > 0 in pixel units"),
    ],
)
def test_errors_name_the_mend(measure, message):
    with pytest.raises(InputError, match=message):
        measure(quadratic, X)
