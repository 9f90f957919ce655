"""How boundaries bend near images: spheres have one curvature, seen with opposite signs from inside and outside."""

import pytest
import torch
from torch import nn

from lowcurve.data import DataSet, Examples
from lowcurve.figures.boundary_shape import detection, profile, sensitivity
from lowcurve.figures.loops import loop_results
from lowcurve.figures.same_images import SameImages
from lowcurve.randomness import stream, uniform
from lowcurve.results import Table
from lowcurve.study.report_figures import same_images
from lowcurve.study.settings import Study
from lowcurve.types import silent

SHAPE = (1, 2, 3)
RADIUS = 0.25


class Quadratic(nn.Module):
    """z = (F, 0) with F = c - <b, x'> - x' A x', x' = x - 1/2."""

    def __init__(self, c: float, b: torch.Tensor, a: torch.Tensor) -> None:
        super().__init__()
        self.c = nn.Parameter(torch.tensor(c))
        self.b, self.a = nn.Parameter(b), nn.Parameter(a)

    def forward(self, x):
        x = x.flatten(1) - 0.5
        value = self.c - x @ self.b - (x @ self.a * x).sum(1)
        return torch.stack([value, torch.zeros_like(value)], dim=1)


def shared(model: nn.Module, count: int, reach: float = 0.05) -> SameImages:
    x = 0.5 + uniform(torch.empty(count, *SHAPE), -reach, reach, generator=stream(0, "points"))
    sets = Examples(x, torch.zeros(count, dtype=torch.long), ("in", "out"))
    return same_images(
        Study(norm="l_2", radius="0.5"), DataSet("points", sets, sets, sets, ""), {"net": model.eval()}, count
    )


def row(table: object, number: int = 0) -> dict:
    assert isinstance(table, Table)
    return dict(zip((c.heading for c in table.columns), table.rows[number], strict=True))


def sphere() -> nn.Module:
    return Quadratic(RADIUS**2, torch.zeros(6), torch.eye(6))


def test_a_sphere_around_the_images_has_one_curvature_and_no_flat_direction():
    found = profile(shared(sphere(), 6))
    numbers = row(found["numbers"])
    assert (numbers["flat"], numbers["images"]) == (0.0, 6)
    assert numbers["mean κ"] == pytest.approx(-1 / RADIUS, rel=1e-3)  # it bends around the images
    line = found["profile"].lines["net"]
    assert len(line.y) == 5
    assert line.y == pytest.approx([-1 / RADIUS] * 5, rel=1e-2)


def test_a_parabolic_cylinder_bends_in_one_direction_alone():
    """F = 0.2 - x_1 - 3 x_0^2: of the five tangent directions one bends."""
    model = Quadratic(0.2, torch.tensor([0.0, 1, 0, 0, 0, 0]), torch.diag(torch.tensor([3.0, 0, 0, 0, 0, 0])))
    assert row(profile(shared(model, 6))["numbers"])["flat"] == pytest.approx(4 / 5)


def test_the_boundary_is_nearer_along_the_direction_in_which_it_bends():
    """F = 0.2 - x_1 / 10 - 40 x_0^2 is reached along x_0 at a length of about 0.07, along x_1 only at 2."""
    model = Quadratic(0.2, torch.tensor([0.0, 0.1, 0, 0, 0, 0]), torch.diag(torch.tensor([40.0, 0, 0, 0, 0, 0])))
    found = sensitivity(shared(model, 24, reach=0.02))["numbers"]
    curved, plain = row(found), row(found, 1)
    assert (curved["directions"], plain["directions"]) == ("curved", "random")
    assert curved["distance"] < plain["distance"]
    assert curved["reached"] == 1.0


def test_a_sphere_tells_who_is_inside_by_the_sign_of_its_curvature():
    numbers = row(detection(shared(sphere(), 12))["numbers"])
    assert numbers["area"] == 1.0
    inside, outside = numbers["κ, natural"], numbers["κ, perturbed"]
    assert inside[0] == pytest.approx(-1 / RADIUS, rel=1e-2)
    assert outside[0] == pytest.approx(1 / RADIUS, rel=1e-2)


def test_loops_in_half_spaces_are_filled_by_what_lies_between_their_corners():
    model = Quadratic(0.0, torch.ones(6), torch.zeros(6, 6)).eval()
    x = uniform(torch.empty(24, *SHAPE), 0, 1, generator=stream(0, "points"))
    sets = Examples(x, (x.flatten(1).sum(1) > 3).long(), ("below", "above"))
    found = row(loop_results(model, sets, 2, seed=0, progress=silent)["numbers"])
    assert (found["corners"], found["loops"], found["closed"][0], found["filled"][0]) == ("natural", 2, 1.0, 1.0)
    assert (found["clear"], found["squares"]) == (1.0, 4)
    assert found["deviation"] == pytest.approx(0, abs=1e-6)


def test_a_hyperplane_tells_nothing():
    numbers = row(detection(shared(Quadratic(0.2, torch.ones(6), torch.zeros(6, 6)), 12))["numbers"])
    assert abs(numbers["area"] - 0.5) <= 3 * numbers["of a coin"]
