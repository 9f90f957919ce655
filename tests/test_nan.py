"""NaN is never the best number: it stays NaN, is counted apart in every summary, and never is an adversarial image."""

import logging
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from lowcurve import evaluation
from lowcurve.analysis.norms import L2, LINF, Ball
from lowcurve.analysis.spectra import lanczos
from lowcurve.attacks import APGD, FGSM, PGD, SPSA, DeepFool, MinimalNorm, Noise, OneStep, Square, Suite, strong
from lowcurve.attacks.acceptance import Region, accept, region_of
from lowcurve.attacks.suites import Effort
from lowcurve.errors import InputError
from lowcurve.evaluation.audit.verdict import Check
from lowcurve.geometry import (
    Curvature,
    CurvatureProfile,
    DistanceBounds,
    LinearityError,
    RobustnessIndicator,
    contrast_alignment,
    crossing_distance,
    distance_bounds,
    find_boundary_point,
    gradient_change_bounds,
    linearity_error,
)
from lowcurve.geometry.quadratics import quadratic_distance
from lowcurve.randomness import stream, temporary_seed, uniform
from lowcurve.results import summarize
from lowcurve.results.cells import band, count_missing, spread
from lowcurve.training.validation import _correct

ROUND, FLAT = Ball(L2, 0.3), Ball(LINF, 0.1)
NAN = torch.tensor([math.nan], dtype=torch.float64)
ONE = torch.ones(1, dtype=torch.float64)


class RootOfPixels(nn.Module):
    """A smooth network after sqrt(x), whose derivative at a black pixel is infinite, and NaN behind torch.where."""

    def __init__(self) -> None:
        super().__init__()
        with temporary_seed(0, "root"):
            self.body = nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(torch.where(x > 0, x.sqrt(), torch.zeros_like(x)))


class Undefined(nn.Module):
    """Right on the clean images, with logits that are NaN or infinite where the first pixel has changed."""

    def __init__(self, value: float, *, everywhere: bool = True) -> None:
        super().__init__()
        self.value, self.everywhere = value, everywhere

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        score = x[:, :1] - 0.5
        logits = torch.cat([score, -score], dim=1)
        moved = (x[:, :1] - 0.8).abs() > 1e-6
        return torch.where(moved & (self.everywhere | (x[:, 1:2] > 0.4)), self.value, logits)


MODEL = RootOfPixels().eval()
X = uniform(torch.zeros(24, 12), -0.5, 1.0, generator=stream(0, "nan")).clamp(0, 1)  # a third of the pixels is black
Y = MODEL(X).argmax(1)
CALM = torch.full((6, 12), 0.8)


@pytest.mark.parametrize(
    "method",
    [
        PGD(ROUND, steps=5, start="center"),
        PGD(ROUND, steps=5),
        APGD(ROUND, steps=10),
        OneStep(ROUND),
        Square(ROUND, queries=40),
        SPSA(ROUND, steps=3, draws=4),
        Noise(ROUND, draws=16),
        DeepFool("l2", steps=5),
        MinimalNorm("l2", steps=5),
        PGD(FLAT, steps=5),
        strong(ROUND, effort=Effort(steps=5, targets=2, queries=20, relays=1, boundary=1)),
    ],
    ids=lambda method: type(method).__name__,
)
def test_a_gradient_that_is_nan_gives_finite_answers_that_fool_only_where_they_do(method):
    answers = method(MODEL, X, Y, generator=stream(0))
    assert bool(torch.isfinite(answers).all())
    assert bool(region_of(method).contains(X, answers).all())
    found = evaluation.attack(MODEL, X, Y, method, progress=False)
    inputs = found.inputs
    assert bool(torch.isfinite(inputs).all())
    assert bool(((inputs >= 0) & (inputs <= 1)).all())
    fooled = (MODEL(inputs).argmax(1) != Y).numpy()
    assert np.array_equal(~found.robust, fooled)
    if isinstance(method, PGD | APGD):
        assert float((answers - X).abs().amax(1).min()) > 0  # one black pixel does not end the attack


def test_what_is_said_of_a_gradient_that_is_nan(caplog):
    with caplog.at_level(logging.WARNING, logger="lowcurve"):
        PGD(ROUND, steps=3, start="center")(RootOfPixels().eval(), X, Y)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1
    assert "The gradient is NaN or infinite at" in said[0]
    assert "robust for want of a gradient" in said[0]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "method", [PGD(FLAT, steps=3), APGD(FLAT, steps=3), Square(FLAT, queries=8), Noise(FLAT, draws=9)]
)
def test_an_image_with_undefined_logits_is_neither_fooled_nor_robust(method, value):
    found = evaluation.attack(Undefined(value), CALM, torch.zeros(6, dtype=torch.long), method, progress=False)
    assert found.undefined.all()
    assert not found.robust.any()
    assert set(found.fooled_by) == {"not finite"}
    assert found.clean.all()
    assert "not finite       6 of 6 images: logits are NaN or infinite at a point that was tried" in repr(found)
    assert bool(torch.isfinite(found.inputs).all())
    with pytest.raises(InputError, match="finite logits, got NaN or infinity at 6 of 6 images"):
        method(Undefined(value), CALM, torch.zeros(6, dtype=torch.long))


def test_where_an_attack_succeeds_beside_undefined_points_the_image_is_fooled():
    model = Undefined(math.nan, everywhere=False)
    x = CALM.clone()
    x[:3, 1] = 0.2
    found = evaluation.attack(model, x, torch.zeros(6, dtype=torch.long), PGD("linf", 0.35, steps=5), progress=False)
    assert found.fooled_by.tolist()[3:] == ["not finite"] * 3
    assert set(found.fooled_by.tolist()[:3]) <= {"PGD", "not finite"}
    radii = evaluation.smallest_radius(model, x, torch.zeros(6, dtype=torch.long), PGD("linf", 0.35, steps=5), rounds=2)
    assert np.isnan(radii.radius[3:]).all()
    assert not radii.robust_at([0.01])[0, 3:].any()
    assert "not finite" in repr(radii)


@pytest.mark.parametrize(
    ("name", "answer"),
    [("NaN", math.nan), ("infinity", math.inf), ("outside the box", 1.5), ("outside the ball", 0.05)],
)
def test_an_answer_that_is_not_finite_or_outside_is_not_adversarial(caplog, name, answer):
    """Attacks of other libraries give such answers, and a network may well classify them otherwise."""

    class Foreign:
        norm = LINF
        region = Region(LINF, 0.1, (0.0, 1.0))

        def __call__(self, model, x, y, *, generator):  # noqa: ARG002 (an attack's signature)
            return torch.full_like(x, answer)

    model = nn.Sequential(nn.Linear(12, 2)).eval()
    y = model(CALM).argmax(1)
    fooling = nn.Module()
    fooling.forward = lambda x: torch.where((x == CALM).all(1)[:, None], model(x), model(x).flip(1))
    with caplog.at_level(logging.WARNING, logger="lowcurve"):
        found = evaluation.attack(fooling, CALM, y, Foreign(), progress=False)
    assert found.robust.all(), name
    assert_close(found.inputs, CALM)
    assert "Foreign: 6 of 6 answers do not count. They are not finite, or lie outside" in caplog.text
    assert evaluation.transfer({"a": fooling}, CALM, y, Foreign(), progress=False).all()
    both = Suite((("foreign", Foreign()),))
    assert_close(both(fooling, CALM, y), CALM)


def test_a_region_allows_for_rounding_and_no_more():
    x = torch.full((1, 3), 0.7)
    for dtype in (torch.float16, torch.float32, torch.float64):
        small = Region(LINF, 1e-3, (0.0, 1.0))
        here = x.to(dtype)
        assert bool(small.contains(here, here + 1e-3).all())
        assert not bool(small.contains(here, here + 4e-3).any())
    assert accept(FGSM("linf", 0.1), x, x + 0.1)[1].tolist() == [True]
    assert region_of(OneStep("linf", 0.1, reach=3.0)).radius == pytest.approx(0.3)


def test_an_image_with_nan_gets_a_sentence():
    broken = X.clone()
    broken[2, 3] = math.nan
    with pytest.raises(InputError, match="Expected finite pixels, got NaN"):
        evaluation.attack(MODEL, broken, Y, PGD(ROUND), progress=False)
    with pytest.raises(InputError, match=r"inputs inside the pixel box .*got NaN"):
        PGD(ROUND)(MODEL, broken, Y)


# --- measures


def kinked(t: torch.Tensor) -> torch.Tensor:
    """A finite gradient and an infinite second derivative at 0.5, which a product makes NaN."""
    return t.sum(1) + ((t - 0.5).abs() ** 1.5).sum(1)


@pytest.mark.parametrize(
    "measure", [Curvature(), DistanceBounds(threshold=9.0), LinearityError(0.1, direction="steepest")]
)
def test_a_measure_of_a_hessian_that_is_nan_is_nan(measure):
    points = torch.full((2, 3), 0.5)
    points[1] = 0.7
    for name, column in measure(kinked, points).items():
        if name not in ("gradient norm", "linearity error"):
            assert column.isnan().tolist() == [True, False], name


def test_formulas_keep_nan():
    bounds = [
        distance_bounds(*numbers) for numbers in ((NAN, ONE, ONE, ONE), (ONE, NAN, ONE, ONE), (ONE, ONE, NAN, ONE))
    ]
    for found in bounds:
        assert [bool(getattr(found, name).isnan()) for name in ("lower", "simple_lower", "printed_lower")] == [True] * 3
    assert bool(bounds[2].simple_upper.isnan())
    assert bool(distance_bounds(ONE, ONE, ONE, NAN).upper.isnan())
    assert bool(gradient_change_bounds(0.5, NAN).sharp.isnan())
    assert bool(quadratic_distance(ONE[None], ONE[None], gap=NAN).isnan())
    wrong = linearity_error(
        lambda t: t.sum(1) + (t - 0.5).sum(1).clamp(min=0).log() * 0, torch.full((1, 2), 0.6), -torch.ones(1, 2)
    )
    assert bool(wrong["linearity error"].isnan())
    pixels = torch.rand(1, 1, 4, 4)
    assert bool(contrast_alignment(lambda t: (t * math.nan).sum((1, 2, 3)), pixels).isnan())
    assert bool(lanczos(lambda v: v * math.nan, torch.ones(1, 3)).vector.isnan().all())


def test_an_image_whose_gradient_is_nan_spoils_no_other():
    """A square root at a black pixel: the gradient is NaN there, and a measure of a data set goes on."""
    columns = evaluation.measure(MODEL, X, Y, [Curvature(), CurvatureProfile(), RobustnessIndicator()], progress=False)
    gradients = torch.from_numpy(columns["gradient norm"])
    broken = gradients.isnan()
    assert broken.tolist() == (X == 0).any(1).tolist()
    for name, column in columns.items():
        assert np.array_equal(np.isnan(column).reshape(len(X), -1).any(1), broken.numpy()), name


def test_zeros_stay_zero():
    """0 / 0 by a zero gradient was 0 where nothing changes, and still is."""
    still = linearity_error(lambda t: 0 * t.sum(1), torch.ones(1, 2), torch.ones(1, 2))
    assert_close(still, {"linearity error": torch.zeros(1), "linearity error, second order": torch.zeros(1)})
    flat = distance_bounds(ONE, 0 * ONE, 0 * ONE, 0 * ONE)
    assert flat.lower.item() == flat.upper.item() == math.inf
    assert distance_bounds(-ONE, ONE, ONE, ONE).lower.item() == 0
    assert distance_bounds(ONE, 0.1 * ONE, -ONE, 0.1 * ONE).lower.item() == math.inf


def test_nan_is_no_crossing():
    """The sign of NaN is 0, so it was taken for a change of sign."""

    def hole(t: torch.Tensor) -> torch.Tensor:
        return torch.where(t[:, 0] > 0.5, math.nan, 1 - t[:, 0])

    origin, ahead = torch.zeros(1, 2), torch.tensor([[1.0, 0.0]])
    assert find_boundary_point(hole, origin, 2 * ahead).crossed.tolist() == [False]
    assert bool(crossing_distance(hole, origin, ahead, most=2.0).isnan())
    assert crossing_distance(hole, origin, ahead, most=0.4).tolist() == [math.inf]
    assert_close(
        crossing_distance(lambda t: 0.3 - t[:, 0], origin, ahead, most=2.0), torch.tensor([0.3]), atol=1e-3, rtol=0
    )


# --- summaries


def test_summaries_leave_nan_out_and_count_it():
    values = np.array([1.0, math.nan, 3.0, 2.0])
    found = summarize(values)
    assert (found.count, found.missing, found.median) == (3, 1, 2.0)
    assert repr(found).endswith("3 values, and 1 NaN left out")
    nothing = summarize(np.full(2, math.nan))
    assert (nothing.count, nothing.missing, math.isnan(nothing.median)) == (0, 2, True)
    assert spread(values) == "2 [1.2, 2.8], 1 of 4 NaN"
    assert spread(np.full(2, math.nan)) == "2 of 2 NaN"
    assert band([values]).y == (2.0,)
    assert count_missing({"C": values, "slope": np.ones(4)}) == {"NaN, left out": "1 of 4 for C"}


def test_a_measure_over_a_data_set_keeps_nan_and_says_how_many():
    broken = nn.Linear(12, 2).eval()
    columns = evaluation.measure(
        broken, X, Y % 2, {"slope": lambda _, x: torch.where(x[:, 0] == 0, math.nan, 1.0)}, progress=False
    )
    count = int((X[:, 0] == 0).sum())
    assert count > 0
    assert int(np.isnan(columns["slope"]).sum()) == count
    assert f"{count} NaN left out" in repr(columns)


def test_a_number_of_the_audit_that_is_nan_passes_no_test():
    check = Check(5, "zero gradient", "it is 0", "attacks do not move", "smooth the network")
    finding = check.judge(math.nan, "nothing", fail=0.1)
    assert (finding.outcome, finding.evidence) == ("not run", "its number is NaN: nothing")


def test_logits_that_are_nan_are_not_right_in_validation():
    assert _correct(Undefined(math.nan), torch.full((2, 12), 0.3), torch.zeros(2, dtype=torch.long)).tolist() == [
        False,
        False,
    ]
