"""What the items of yu2018interpreting stand on: units along directions, distances, plateaus, rises, alignment with edges."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from lowcurve.analysis.norms import L2, LINF, Ball, pixels
from lowcurve.data import Examples
from lowcurve.errors import InputError
from lowcurve.figures.landscapes import DIRECTIONS
from lowcurve.figures.parameter_landscapes import loss_rises, parameter_landscape
from lowcurve.figures.projections import RANDOM, distances, plateaus, projections, unit_length
from lowcurve.figures.same_images import SameImages
from lowcurve.geometry.alignment import contrast_alignment, local_contrast
from lowcurve.losses import loss_field, margin
from lowcurve.papers.common.context import Context
from lowcurve.papers.common.lookup import as_surface
from lowcurve.papers.items import ITEMS
from lowcurve.papers.yu2018.figures import claim_printed_losses
from lowcurve.papers.yu2018.indicators import EXACT, LOSS, SECANT, make_bound_table, make_statistics_table
from lowcurve.papers.yu2018.jacobians import make_slope_and_curvature_curves
from lowcurve.papers.yu2018.networks import FILES, get_recipes, make_attacks, make_studies
from lowcurve.randomness import stream, uniform
from lowcurve.results import Table

SIDE = 4
X = 0.4 + 0.2 * uniform(torch.zeros(3, 1, SIDE, SIDE), 0, 1, generator=stream(0, "yu2018"))
IMAGES = Examples(X, torch.zeros(3, dtype=torch.int64), ("a", "b"))
SIGNS = torch.where(torch.arange(SIDE * SIDE) % 3 == 0, -1.0, 1.0)


def linear(slope: float, offset: float = 0.0) -> nn.Module:
    """Logits (L, 0) with L = slope <signs, x> + what makes L = offset at the first image: its boundary is a hyperplane."""
    layer = nn.Linear(SIDE * SIDE, 2)
    with torch.no_grad():
        layer.weight.zero_()[0] = slope * SIGNS
        layer.bias.zero_()[0] = offset - slope * float(SIGNS @ X[0].flatten())
    return nn.Sequential(nn.Flatten(), layer).eval()


def shared(**models: nn.Module) -> SameImages:
    return SameImages(models, IMAGES.take(slice(1)), (0,), Ball(LINF, 0.1), points=5)


def cells(table: Table) -> dict[tuple[str, str], tuple]:
    return {(str(row[0]), str(row[1])): row for row in table.rows}


def test_every_figure_table_and_section_of_the_checklist_is_covered():
    where = " ".join(item.where for key, item in ITEMS.items() if key.startswith("yu2018interpreting/"))
    figures = {
        int(n)
        for part in where.split("Figure")[1:]
        for n in part.split("section")[0].strip("s ").replace(",", " ").split()
    }
    assert figures == set(range(1, 16))
    assert all(text in where for text in ("Table 1", "Table 2", "4.1 to 4.3", "8.1"))


def test_the_losses_of_section_8_1_are_those_of_the_closed_form():
    claims = claim_printed_losses()
    for k, claim in enumerate(claims[:10]):
        assert claim.ours == pytest.approx(math.log1p(9 * math.exp(1 - k)), rel=1e-12)
        assert (
            abs(float(claim.paper) - claim.ours) < 0.0101
        )  # printed with two decimals, cut off, and the last one wrong
    assert claims[10].shown.startswith("holds")


def test_the_distance_to_a_hyperplane_is_its_margin_over_the_slope():
    """L = 16 slope t along its sign gradient: at t = margin / (16 slope) the boundary, in units of a pixel's change."""
    found = cells(distances(shared(near=linear(1.0, 0.032), far=linear(0.5, 0.32)), most=0.1, samples=50)["distances"])
    for way in DIRECTIONS:
        assert found["near", way][2][0] == pytest.approx(0.002, rel=1e-3)
        assert found["far", way][2][0] == pytest.approx(0.04, rel=1e-3)
        assert [found[name, way][3] for name in ("near", "far")] == [1.0, 0.0]  # 0.002 is within a grey level
    for name in ("near", "far"):  # random: of the same length at least, in root mean square
        assert found[name, RANDOM][2][0] > found[name, "margin"][2][0]


def test_a_direction_of_signs_and_a_random_one_are_counted_alike():
    way = L2.unit(SIGNS[None])
    assert_close(unit_length(way, "margin"), unit_length(way, RANDOM))
    assert_close(unit_length(way, "margin"), torch.tensor([4.0]))


def test_the_surfaces_of_a_linear_margin_are_planes_with_their_values_at_the_axes():
    results = projections(shared(net=linear(1.0, 0.5)), 0.1)
    assert set(results) == {f"{kind} along {way} 1" for kind in ("loss", "decision") for way in (RANDOM, *DIRECTIONS)}
    for way in DIRECTIONS:
        shown = as_surface(results[f"decision along {way} 1"])
        values = shown.panels["net"].values
        assert_close(values[2, 2], np.float32(0.5))
        np.testing.assert_allclose(values[:, 2], 0.5 - 16 * np.array(shown.y), atol=1e-5)  # up: towards the boundary
        np.testing.assert_allclose(values, np.broadcast_to(values[:, 2:3], (5, 5)), atol=1e-5)  # aside: along it
        np.testing.assert_allclose(
            results[f"loss along {way} 1"].panels["net"].values, np.log1p(np.exp(-values)), atol=1e-5
        )


def test_where_nothing_changes_there_is_no_panel_and_no_distance():
    still = shared(still=linear(0.0, 1.0))
    assert set(projections(still, 0.1)) == {"loss along random 1", "decision along random 1"}
    found = cells(distances(still, most=0.1, samples=5)["distances"])
    assert all(found["still", way][2][0] == math.inf and found["still", way][4] == 0.0 for way in (RANDOM, *DIRECTIONS))
    assert plateaus(still, 0.1).rows[0][3:] == (None, None)


def test_half_a_window_around_the_boundary_is_on_the_plateau():
    """L = m (1 - t / t0) along its gradient: L > 0 at every t < t0, and its mean over the window is that at the image."""
    flat = plateaus(shared(net=linear(1.0, 0.16)), radius=0.0099, points=21)  # t0 = 0.01
    row = flat.rows[0]
    assert row[3] == 1.0
    assert row[4] == pytest.approx(1.0, abs=1e-4)  # the two sides cancel
    wide = plateaus(shared(net=linear(1.0, 0.24)), radius=0.1, points=21).rows[0]
    assert wide[3] == pytest.approx(12 / 21)  # t = -0.1, -0.09, ..., 0.01 are below t0 = 0.015


def test_the_gradient_that_is_the_contrast_is_aligned_with_it():
    contrast = local_contrast(X)
    assert_close(contrast_alignment(lambda x: (3 * x[:, 0] * contrast).sum((1, 2)), X), torch.ones(3))
    assert_close(contrast_alignment(lambda x: -x.sum((1, 2, 3)), X), torch.zeros(3))
    assert_close(contrast_alignment(lambda x: 0 * x.sum((1, 2, 3)), X), torch.zeros(3))
    blank = torch.full_like(X, 0.5)
    assert_close(
        contrast_alignment(loss_field(linear(1.0), torch.zeros(3, dtype=torch.int64), margin), blank), torch.zeros(3)
    )
    with pytest.raises(InputError, match="images of shape"):
        local_contrast(X.flatten(1))


def test_local_contrast_is_that_of_the_neighborhood():
    x = torch.zeros(1, 2, 5, 5)
    x[0, 0, 2, 2], x[0, 1, 2, 2] = 1.0, 0.5
    expected = torch.zeros(1, 5, 5)
    expected[0, 1:4, 1:4] = 1.5
    assert_close(local_contrast(x), expected)


def test_the_statistics_of_a_linear_margin_are_in_closed_form():
    """J = 2 signs: no zeros, a sum of 32. L has no Hessian; cross-entropy p (1 - p) J J^T: one eigenvalue of 16."""
    found = cells(make_statistics_table({"net": linear(2.0, 1.0)}, IMAGES.take(slice(1)), few=1, h=0.1))
    p = 1 / (1 + math.exp(-1.0))
    assert found["net", EXACT][2:] == pytest.approx((2.0, 32.0, 0.0, 0.0, 0.0, 1.0, 0.0), abs=1e-9)
    assert found["net", SECANT][8] == pytest.approx(0.0, abs=1e-6)
    bend = p * (1 - p)
    assert found["net", LOSS][2:] == pytest.approx(
        (2 * (1 - p), 32 * (1 - p), 0.0, 64 * bend / 16, 64 * bend, 15 / 16, 256 * 4 * bend), rel=1e-4
    )


def test_of_a_linear_margin_the_bound_promises_what_no_attack_fools():
    """L changes by 16 r at most: with a margin of 0.5 a radius of 0.03 is promised and one of 0.032 is not."""
    table = make_bound_table({"net": linear(1.0, 0.5)}, IMAGES.take(slice(1)), (0.03, 0.032))
    assert [row[1:] for row in table.rows] == [
        (0.03, pytest.approx(16.0), pytest.approx(32.0), 1.0, 1, 0),
        (0.032, pytest.approx(16.0), pytest.approx(32.0), 0.0, 0, 0),
    ]


def test_a_window_rises_by_the_mean_of_the_loss_less_its_middle():
    models = {"net": linear(1.0, 0.5)}
    around = parameter_landscape(models, IMAGES, points=3)
    values = around.panels["net"].values
    lifted = loss_rises(around, shared(**models), reach=0.1, points=5).rows[0]
    assert lifted[1:3] == pytest.approx((values[1, 1], values.mean() - values[1, 1]))
    t = np.linspace(-0.1, 0.1, 5)
    losses = np.log1p(np.exp(-(0.5 - 16 * t)))
    assert lifted[3:] == pytest.approx((losses[2], losses.mean() - losses[2]), rel=1e-4)


def test_the_attacks_are_those_of_the_recipes_numbers(tmp_path):
    context = Context("smoke", "digits", None, str(tmp_path))  # type: ignore[arg-type]  # nothing is kept
    for table in FILES:
        studies = make_studies(context, table)
        for row, recipe in get_recipes(table).items():
            attacks = make_attacks(studies[row], table)
            assert set(recipe.values) == {"natural", *attacks}
        assert set(studies) == set(FILES["table-2"])  # both tables have its six, two of them on MNIST without a recipe
    balls = [attack.ball for attack in make_attacks(studies["ours"], "table-2").values()]
    assert balls[:3] == [Ball(balls[0].norm, pixels(n)) for n in (3, 6, 9)]


def test_the_two_networks_that_the_paper_lacks_on_mnist_have_its_parts_and_a_radius_that_grows(tmp_path):
    found = make_studies(Context("paper", "mnist", None, str(tmp_path)), "table-1")  # type: ignore[arg-type]
    both, minmax, ours, theirs = (found[row] for row in ("ours + AdvTrain", "MinMax", "ours", "AdvTrain"))
    assert both.gradient == ours.gradient
    assert replace(both.training_attack, ramp=0.0) == theirs.training_attack
    assert (minmax.training_attack.steps, minmax.training_attack.step_size, minmax.training_attack.radius) == (
        40,
        0.01,
        "0.3",
    )
    assert both.training_attack.ramp == minmax.training_attack.ramp > 0
    assert make_studies(Context("laptop", "mnist", None, str(tmp_path)), "table-1")["MinMax"].training_attack.ramp == 0  # type: ignore[arg-type]


def test_one_slope_and_the_curvatures_of_their_names():
    drawn = make_slope_and_curvature_curves()
    step = drawn.x[1] - drawn.x[0]
    for name, line in drawn.lines.items():
        y = np.array(line.y)
        np.testing.assert_allclose(np.diff(y, 2) / step**2, float(name.removeprefix("κ = ")), atol=1e-6)
        assert (y[51] - y[49]) / (2 * step) == pytest.approx(1.0)
