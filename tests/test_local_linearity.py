"""Local linearity penalties in closed form, and what they ask of the field."""

import math
import statistics

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from lowcurve.analysis.calculus import Jet
from lowcurve.analysis.derivative_watch import watch_derivatives
from lowcurve.analysis.norms import L2, LINF, Ball, dot, pixels
from lowcurve.errors import InputError
from lowcurve.penalties import ELLE, LLR, AdaptiveWeight, GradAlign
from lowcurve.randomness import stream

WIDE = (-9.0, 9.0)
X = torch.rand(6, 2, 3, dtype=torch.float64, generator=stream(0, "points"))
B = torch.randn(6, 6, dtype=torch.float64, generator=stream(0, "b"))
H = torch.randn(6, 6, 6, dtype=torch.float64, generator=stream(0, "H"))
H = H + H.transpose(1, 2)


class Seen:
    """A field that keeps the points it is asked at."""

    def __init__(self, function) -> None:
        self.function, self.points = function, []

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.points.append(x.detach())
        return self.function(x)


def quadratic(matrix: torch.Tensor, b: torch.Tensor) -> Seen:
    """l_i(x) = <b_i, x> + x^T H_i x / 2."""
    return Seen(lambda x: dot(b, x.flatten(1)) + torch.einsum("bi,bij,bj->b", x.flatten(1), matrix, x.flatten(1)) / 2)


def asked(penalty, field, x=X, **path) -> torch.Tensor:
    return penalty(Jet(field, x), generator=stream(0, "draws", *path.values())).detach()


@pytest.mark.parametrize("radius", [pixels(8), 0.5])
def test_gradalign_on_a_quadratic(radius):
    """1 - cos(g, g + H r) with g = b + H x."""
    field = quadratic(H, B)
    found = asked(GradAlign(radius), field)
    r = (field.points[1] - X).flatten(1)
    g = B + torch.einsum("bij,bj->bi", H, X.flatten(1))
    assert_close(found, 1 - F.cosine_similarity(g, g + torch.einsum("bij,bj->bi", H, r)), rtol=1e-7, atol=1e-15)
    assert float(r.abs().max()) <= radius
    assert float(r.abs().max()) > 0.8 * radius
    assert len(r.unique()) == r.numel()


@pytest.mark.parametrize("angle", [1e-3, 1e-7, 3.0])
def test_gradalign_keeps_its_precision_at_small_angles(angle):
    """The gradient turns by `angle` where x is left; 1 - cos would be 0 for the smallest in any precision."""
    turned = torch.tensor([[math.cos(angle), math.sin(angle)]], dtype=torch.float64)
    straight = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    x = torch.zeros(1, 2, dtype=torch.float64)
    found = asked(GradAlign(), lambda at: dot(straight if bool((at == 0).all()) else turned, at), x)
    assert_close(found, torch.tensor([2 * math.sin(angle / 2) ** 2], dtype=torch.float64), rtol=1e-6, atol=0)


def test_elle_on_a_cubic_along_a_line():
    """c^3 - (1 - t) a^3 - t b^3 = -(a + b + c) (c - a) (b - c)."""
    line = Seen(lambda x: x[:, 0].pow(3))
    found = asked(ELLE(0.5), line, torch.linspace(-1, 1, 9, dtype=torch.float64)[:, None])
    c, a, b = (point[:, 0] for point in line.points)
    assert_close(found, ((a + b + c) * (c - a) * (b - c)).square())


def test_elle_on_a_quadratic():
    """(t (1 - t) / 2 (b - a)^T H (b - a))^2, from three passes and not one derivative."""
    field = quadratic(H, B)
    with watch_derivatives() as derivatives:
        found = asked(ELLE(0.3), field)
    assert derivatives == []
    c, a, b = (point.flatten(1) for point in field.points)
    t = ((c - a) / (b - a))[:, 0]
    assert_close(found, (t * (1 - t) / 2 * torch.einsum("bi,bij,bj->b", b - a, H, b - a)).square())
    for end in (a, b):
        assert 0.2 < float((end - X.flatten(1)).abs().max()) <= 0.3
    assert float(t.min()) > 0
    assert float(t.max()) < 1
    assert len(t.unique()) == 6


@pytest.mark.parametrize("radius", [0.05, 0.4])
def test_llr_on_a_convex_quadratic_of_independent_pixels(radius):
    """radius^2 / 2 sum_k h_k, in the corners of the ball; there, |<d, g>| = |sum_k +-radius g_k|."""
    h = torch.rand(6, 6, dtype=torch.float64, generator=stream(0, "h")) + 0.1
    field = quadratic(torch.diag_embed(h), B)
    found = asked(LLR(Ball(LINF, radius, WIDE)), field)
    d = (field.points[-1] - X).flatten(1)
    assert_close(d.abs(), torch.full_like(d, radius))
    assert_close(found, 4 * radius**2 / 2 * h.sum(1) + 3 * dot(d, B + h * X.flatten(1)).abs())


def test_llr_finds_the_direction_of_largest_curvature_in_l_2():
    """radius^2 / 2 max |eigenvalue|, whatever its sign."""
    field = quadratic(H, B)
    found = asked(LLR(Ball(L2, 0.3, WIDE), steps=60, linearity=1.0, tilt=0.0), field)
    expected = 0.3**2 / 2 * torch.linalg.eigvalsh(H).abs().amax(1)
    assert float((found / expected).max()) < 1 + 1e-9
    assert float((found / expected).median()) > 0.9


def test_llr_adds_up_its_two_terms_and_stays_in_ball_and_box():
    field = Seen(lambda x: (3 * x).sin().flatten(1).sum(1))
    whole, gap, tilt = (asked(LLR(Ball(LINF, 0.2), linearity=a, tilt=b), field) for a, b in ((2, 5), (1, 0), (0, 1)))
    assert_close(whole, 2 * gap + 5 * tilt)
    for point in field.points:
        assert float((point - X).abs().max()) <= 0.2 + 1e-12
        assert 0 <= float(point.min()) <= float(point.max()) <= 1


def test_more_steps_find_no_nearer_point():
    gaps = [asked(LLR(Ball(LINF, 0.5, WIDE), steps, tilt=0.0), quadratic(H, B)).mean() for steps in (1, 3, 20)]
    assert gaps[0] < gaps[1] < gaps[2]


@pytest.mark.parametrize("steps", [1, 4])
def test_how_often_llr_asks(steps):
    """The shared pass, one for each step of the ascent, one at its end."""
    field = quadratic(H, B)
    asked(LLR(Ball(LINF, 0.2), steps), field)
    assert len(field.points) == steps + 2


@pytest.mark.parametrize("penalty", [LLR(Ball(LINF, 0.3)), GradAlign(0.3), ELLE(0.3)])
def test_an_examples_draws_are_its_own(penalty):
    """Not those of its place or its neighbors; another stream draws others, and one stream draws one after the other."""
    field = quadratic(H, B)
    swapped = [5, 4, 3, 2, 1, 0]
    assert_close(asked(penalty, field), asked(penalty, quadratic(H[swapped], B[swapped]), X[swapped])[swapped])
    assert bool((asked(penalty, field) != asked(penalty, field, seed=1)).any())
    generator = stream(0)
    once, again = (penalty(Jet(field, X), generator=generator).detach() for _ in range(2))
    assert bool((once != again).any())


def test_elle_a_switches_on_where_an_error_stands_out_and_fades():
    """Against the rule as it is written: mean and standard deviation of all errors before."""
    errors = torch.rand(200, generator=stream(0, "errors")).square().tolist()
    surge, weight, rises = AdaptiveWeight(weight=50.0, deviations=1.5), 0.0, 0
    for k, error in enumerate(errors):
        stands_out = k > 2 and error > statistics.fmean(errors[:k]) + 1.5 * statistics.pstdev(errors[:k])
        weight, rises = (50.0, rises + 1) if stands_out else (0.99 * weight, rises)
        surge = surge.update(error)
        assert math.isclose(surge.current, weight, rel_tol=1e-12)
    assert 5 < rises < 100


def test_the_defaults_are_the_released_ones():
    assert GradAlign() == GradAlign(radius=8 / 255, differentiation="exact")
    assert ELLE() == ELLE(radius=8 / 255)
    assert AdaptiveWeight() == AdaptiveWeight(weight=4000.0, deviations=2.0, decay=0.99, patience=3, current=0.0)
    assert LLR() == LLR(Ball(LINF, 8 / 255), steps=10, linearity=4.0, tilt=3.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LLR(steps=0), "at least one step towards the farthest point, got 0"),
        (lambda: LLR(linearity=-1.0), r"weights of linearity and tilt of 0 or more, got \(-1.0, 3.0\)"),
        (lambda: LLR(tilt=math.nan), r"weights of linearity and tilt of 0 or more, got \(4.0, nan\)"),
        (lambda: GradAlign(0.0), r"a radius > 0 to draw points in, in pixel units, got 0.0\. Write pixels\(8\)"),
        (lambda: ELLE(math.inf), "a radius > 0 to draw points in, in pixel units, got inf"),
    ],
)
def test_errors_name_the_mend(make, message):
    with pytest.raises(InputError, match=message):
        make()
