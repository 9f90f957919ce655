"""Color changes: closed forms by hand and by colorsys, published color differences, the laws of attacks."""

import colorsys
import copy
import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from lowcurve import randomness
from lowcurve.attacks import (
    ColorBox,
    ColorRanges,
    HueCircle,
    HueFloor,
    HueShift,
    PepperTest,
    Recoloring,
    color_change,
    color_difference,
    derivatives_along,
    hue_logits,
    hue_shift,
    lab,
)
from lowcurve.attacks.color.box import UNCHANGED
from lowcurve.attacks.color.changes import floor_between
from lowcurve.attacks.color.recoloring import displacements, roughness
from lowcurve.data import Examples
from lowcurve.errors import InputError
from lowcurve.evaluation import attack, measure
from lowcurve.losses import log_odds, loss_field, margin, margin_loss
from lowcurve.randomness import stream
from lowcurve.types import AttackFunction

DEGREES = torch.tensor([0.0, 17.0, -60.0, 133.0, 180.0, -179.0, 359.0], dtype=torch.float64)
NOTHING = ColorRanges((0, 0), (1, 1), (0, 0), (1, 1), (1, 1), (0, 0))


def pictures(count: int, side: int = 5) -> torch.Tensor:
    """Images in which greys, black, white and pixels of full saturation stand."""
    x = torch.rand(count, 3, side, side, generator=stream(0, "pictures", count, side), dtype=torch.float64)
    x[:, :, 0, 0], x[:, :, 0, 1], x[:, :, 0, 2] = 0, 1, 0.4
    x[:, 0, 1, 0], x[:, 2, 1, 1], x[:, :2, 1, 2] = 0, 1, 0.7
    return x


def plain(*colors: tuple[float, float, float], side: int = 2) -> torch.Tensor:
    """An image of each color."""
    return torch.tensor(colors, dtype=torch.float64)[:, :, None, None].repeat(1, 1, side, side)


def network(classes: int = 4) -> nn.Module:
    """A small smooth network of color images, with BatchNorm so that its mode matters."""
    with randomness.temporary_seed(0, "network of colors"):
        layers = (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Tanh(), nn.Conv2d(8, 8, 2), nn.Tanh(), nn.Flatten())
        return nn.Sequential(*layers, nn.Linear(32, classes)).double().eval()


def hues(x: torch.Tensor) -> torch.Tensor:
    """Logits: the mean red, green and blue."""
    return x.mean((2, 3))


MODEL, X = network(), pictures(7)
Y = MODEL(X).argmax(1)
FIELD = loss_field(MODEL, Y)


def by_hand(x: torch.Tensor, degrees: torch.Tensor, factor: float = 1.0) -> torch.Tensor:
    """colorsys, pixel by pixel."""
    result = x.clone()
    for image, angle in enumerate(degrees.tolist()):
        for place in range(x[0, 0].numel()):
            pixel = x[image].flatten(1)[:, place].tolist()
            h, s, v = colorsys.rgb_to_hsv(*pixel)
            changed = colorsys.hsv_to_rgb((h + angle / 360) % 1, min(s * factor, 1), v)
            result[image].flatten(1)[:, place] = torch.tensor(changed, dtype=x.dtype)
    return result


def test_hues_and_saturations_are_those_of_the_standard_library():
    assert_close(hue_shift(X, DEGREES), by_hand(X, DEGREES))
    parameters = torch.tensor([UNCHANGED], dtype=X.dtype).repeat(len(X), 1)
    for factor in (0.0, 0.6, 1.7):
        parameters[:, 0], parameters[:, 1] = DEGREES, factor
        assert_close(color_change(X, parameters), by_hand(X, DEGREES, factor))


def test_a_third_of_the_circle_exchanges_the_channels_and_no_shift_changes_nothing():
    third = torch.full((len(X),), 120.0)
    assert_close(hue_shift(X, third), X.roll(1, dims=1))
    single = X.float()
    assert torch.equal(hue_shift(single, torch.zeros(len(X))), single)
    assert_close(hue_shift(hue_shift(X, DEGREES), -DEGREES), X)


def test_a_shift_keeps_greys_and_the_box():
    grey = X.mean(1, keepdim=True).repeat(1, 3, 1, 1)
    assert torch.equal(hue_shift(grey, DEGREES), grey)
    turned = hue_shift(X.float(), DEGREES)
    assert float(turned.min()) >= 0
    assert float(turned.max()) <= 1
    assert_close(turned.amax(1), X.float().amax(1))
    assert_close(turned.amin(1), X.float().amin(1))


def test_brightness_contrast_and_gamma_by_their_formulas():
    parameters = torch.tensor([[0, 1, 0.1, 0.8, 1.2, 0]], dtype=X.dtype).repeat(len(X), 1)
    x = (X + 0.1).clamp(0, 1)
    grey = (
        (x * torch.tensor([0.299, 0.587, 0.114], dtype=x.dtype)[:, None, None]).sum(1).mean((1, 2))[:, None, None, None]
    )
    assert_close(color_change(X, parameters), (0.8 * (x - grey) + grey).clamp(0, 1) ** 1.2)


def test_a_rotation_by_right_angles_moves_pixels():
    parameters = torch.tensor([UNCHANGED], dtype=X.dtype).repeat(len(X), 1)
    for quarter in (1, 2, -1):
        parameters[:, 5] = 90.0 * quarter
        assert_close(color_change(X, parameters), X.rot90(quarter, (2, 3)))


def test_nothing_is_changed_by_parameters_that_change_nothing():
    single = X.float()
    assert torch.equal(color_change(single, torch.tensor([UNCHANGED]).repeat(len(X), 1)), single)


@pytest.mark.parametrize("parameter", range(6))
def test_the_gradient_of_every_parameter_agrees_with_central_differences(parameter):
    here = torch.tensor([23.0, 0.9, 0.03, 1.1, 1.2, 7.0], dtype=X.dtype).repeat(len(X), 1)

    def loss(value: torch.Tensor) -> torch.Tensor:
        moved = torch.cat([here[:, :parameter], value[:, None], here[:, parameter + 1 :]], dim=1)
        return log_odds(MODEL(color_change(X, moved)), Y)

    found = derivatives_along(lambda value: loss(value), lambda _, value: value, X, here[:, parameter])
    h = 1e-6
    ahead, behind = loss(here[:, parameter] + h), loss(here[:, parameter] - h)
    assert_close(found.derivative, (ahead - behind) / (2 * h), rtol=1e-5, atol=1e-7)
    assert float(found.derivative.abs().min()) > 1e-6


def test_the_second_derivative_along_a_hue_agrees_with_differences_of_the_slope():
    x, degrees = plain((0.9, 0.4, 0.3), (0.2, 0.5, 0.8), side=4), torch.tensor([11.0, -20.0], dtype=torch.float64)
    model = nn.Sequential(MODEL[0], nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    field = loss_field(model, torch.tensor([0, 1]))
    found = derivatives_along(field, hue_shift, x, degrees)
    h = 1e-3
    ahead, behind = (derivatives_along(field, hue_shift, x, degrees + step) for step in (h, -h))
    assert_close(found.derivative, (ahead.value - behind.value) / (2 * h), rtol=1e-6, atol=1e-12)
    assert_close(found.second_derivative, (ahead.derivative - behind.derivative) / (2 * h), rtol=1e-6, atol=1e-14)
    assert float(found.second_derivative.abs().min()) > 1e-8


def test_the_curvature_along_a_straight_change_is_that_of_the_hessian():
    direction = torch.tensor([[1.0, 2.0], [3.0, -1.0]], dtype=torch.float64)
    matrix = torch.tensor([[2.0, 1.0], [1.0, -3.0]], dtype=torch.float64)
    x = torch.zeros(2, 2, dtype=torch.float64)
    found = derivatives_along(
        lambda x: ((x @ matrix) * x).sum(1) / 2, lambda x, t: x + t[:, None] * direction, x, torch.ones(2)
    )
    assert_close(found.second_derivative, ((direction @ matrix) * direction).sum(1))


# Sharma, Wu and Dalal 2005, Table 1: pairs of L*, a*, b* and their color difference, to four digits.
BLUE = (50.0, 0.0, -82.7485)
PAIRS = [
    ((50.0, 2.6772, -79.7751), BLUE, 2.0425),
    ((50.0, 3.1571, -77.2803), BLUE, 2.8615),
    ((50.0, 2.8361, -74.0200), BLUE, 3.4412),
    ((50.0, -1.3802, -84.2814), BLUE, 1.0000),
    ((50.0, -0.9009, -85.5211), BLUE, 1.0000),
    ((50.0, 0.0, 0.0), (50.0, -1.0, 2.0), 2.3669),
    ((50.0, 2.4900, -0.0010), (50.0, -2.4900, 0.0009), 7.1792),
    ((50.0, 2.4900, -0.0010), (50.0, -2.4900, 0.0011), 7.2195),
    ((50.0, -0.0010, 2.4900), (50.0, 0.0009, -2.4900), 4.8045),
    ((50.0, -0.0010, 2.4900), (50.0, 0.0011, -2.4900), 4.7461),
    ((50.0, 2.5, 0.0), (50.0, 0.0, -2.5), 4.3065),
    ((50.0, 2.5, 0.0), (73.0, 25.0, -18.0), 27.1492),
    ((50.0, 2.5, 0.0), (61.0, -5.0, 29.0), 22.8977),
    ((50.0, 2.5, 0.0), (56.0, -27.0, -3.0), 31.9030),
    ((50.0, 2.5, 0.0), (58.0, 24.0, 15.0), 19.4535),
    ((50.0, 2.5, 0.0), (50.0, 3.1736, 0.5854), 1.0000),
    ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
    ((63.0109, -31.0961, -5.8663), (62.8187, -29.7946, -4.0864), 1.2630),
    ((61.2901, 3.7196, -5.3901), (61.4292, 2.2480, -4.9620), 1.8731),
    ((35.0831, -44.1164, 3.7933), (35.0232, -40.0716, 1.5901), 1.8645),
    ((22.7233, 20.0904, -46.6940), (23.0331, 14.9730, -42.5619), 2.0373),
    ((36.4612, 47.8580, 18.3852), (36.2715, 50.5065, 21.2231), 1.4146),
    ((90.8027, -2.0831, 1.4410), (91.1528, -1.6435, 0.0447), 1.4441),
    ((90.9257, -0.5406, -0.9208), (88.6381, -0.8985, -0.7239), 1.5381),
    ((6.7747, -0.2908, -2.4247), (5.8714, -0.0985, -2.2286), 0.6377),
    ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
]


def test_color_differences_are_the_published_ones():
    first, second = (torch.tensor([pair[k] for pair in PAIRS], dtype=torch.float64) for k in (0, 1))
    expected = torch.tensor([pair[2] for pair in PAIRS], dtype=torch.float64)
    assert_close(color_difference(first, second), expected, rtol=0, atol=6e-5)
    assert_close(color_difference(second, first), expected, rtol=0, atol=6e-5)
    assert torch.equal(color_difference(first, first), torch.zeros(len(PAIRS), dtype=torch.float64))


def test_lab_of_the_primary_colors():
    """Of sRGB with the white of D65 at two degrees, as Lindbloom's calculator gives them."""
    red, green, blue = (53.2408, 80.0925, 67.2032), (87.7347, -86.1827, 83.1793), (32.2970, 79.1875, -107.8602)
    found = lab(plain((1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0)))[:, :, 0, 0]
    expected = torch.tensor([red, green, blue, (0, 0, 0)], dtype=torch.float64)
    assert_close(found, expected, rtol=0, atol=2e-2)


def test_another_library_changes_colors_alike():
    """kornia adds 1e-8 to the value that saturation is divided by, and its matrix to XYZ has six digits."""
    enhance = pytest.importorskip("kornia.enhance")
    color, transform = pytest.importorskip("kornia.color"), pytest.importorskip("kornia.geometry.transform")
    factors = torch.tensor([0.3, 0.7, 0.9, 1.0, 1.2, 1.3, 2.0], dtype=X.dtype)
    turns = torch.deg2rad((DEGREES + 180) % 360 - 180)
    others = {
        0: (DEGREES, enhance.adjust_hue(X, turns)),
        1: (factors, enhance.adjust_saturation(X, factors)),
        2: (factors - 1, enhance.adjust_brightness(X, factors - 1)),
        3: (factors, enhance.adjust_contrast_with_mean_subtraction(X, factors)),
        4: (factors, enhance.adjust_gamma(X, factors)),
        5: (DEGREES, transform.rotate(X, DEGREES)),
    }
    for number, (values, expected) in others.items():
        parameters = torch.tensor([UNCHANGED], dtype=X.dtype).repeat(len(X), 1)
        parameters[:, number] = values
        assert_close(color_change(X, parameters), expected, rtol=0, atol=2e-8)
    assert_close(lab(X), color.rgb_to_lab(X), rtol=0, atol=2e-2)


@pytest.mark.parametrize("hue", [0.0, 25.0, 30.0, -41.0, 59.0])
def test_how_far_the_label_of_one_color_is_kept(hue):
    """Red leads from hue -60 to 60, so a color at `hue` may go up by 60 - hue and down by 60 + hue."""
    x = plain(colorsys.hsv_to_rgb(hue / 360 % 1, 0.8, 0.5))
    columns = HueCircle(refinements=20)(loss_field(hues, torch.tensor([0])), x)
    expected = {"hue kept above": 60 - hue, "hue kept below": 60 + hue, "hue range": 120.0, "worst hue margin": -0.4}
    for name, value in expected.items():
        assert_close(columns[name], torch.tensor([value], dtype=torch.float64), rtol=0, atol=1e-3)
    assert 120 <= abs((hue + columns["worst hue"].item() + 180) % 360 - 180) + 60 <= 240


def test_of_a_grid_within_the_label_all_is_kept():
    field = loss_field(hues, torch.tensor([0, 1, 0]))
    x = plain((0.8, 0.1, 0.1), (0.8, 0.1, 0.1), (0.3, 0.3, 0.3))
    x[2, 0] += 0.01
    inner = HueCircle(-50, 40, angles=9)(field, x)
    assert_close(inner["hue kept above"], torch.tensor([40.0, 0, 40], dtype=x.dtype))
    assert_close(inner["hue kept below"], torch.tensor([50.0, 0, 50], dtype=x.dtype))
    assert_close(inner["share of hues kept"], torch.tensor([1.0, 0, 1], dtype=x.dtype))
    grid = HueCircle(-50, 40, angles=7).grid()
    assert 0 in grid
    assert (float(grid[0]), float(grid[-1])) == (-50, 40)


def test_the_whole_circle_is_kept_where_no_color_counts():
    field = loss_field(lambda x: torch.stack([x.amax(1).mean((1, 2)), torch.zeros(len(x)).to(x)], dim=1), Y * 0)
    columns = HueCircle()(field, X)
    assert_close(columns["hue range"], torch.full((len(X),), 360.0, dtype=X.dtype))
    assert_close(columns["worst hue margin"], margin(field.logits(X), field.y))


def test_the_worst_hue_is_at_least_as_bad_as_a_grid_four_times_as_fine():
    columns = HueCircle()(FIELD, X)
    dense = hue_logits(MODEL, X, torch.arange(0, 360, 2.5))
    lowest = torch.stack([margin(logits, Y) for logits in dense.unbind(1)]).amin(0)
    assert bool((columns["worst hue margin"] <= lowest + 1e-3 * lowest.abs()).all())
    there = hue_shift(X, columns["worst hue"])
    assert_close(margin(MODEL(there), Y), columns["worst hue margin"])


def test_hues_do_not_depend_on_company():
    together, floors, logits = HueCircle()(FIELD, X), HueFloor()(FIELD, X), hue_logits(MODEL, X, DEGREES)
    assert_close(hue_logits(MODEL, X, DEGREES, batch_size=3), logits)
    rows = torch.tensor([4])
    for columns, method in ((together, HueCircle()), (floors, HueFloor(batch_size=5))):
        alone = method(FIELD.take(rows), X[rows])
        for name, values in columns.items():
            assert_close(alone[name], values[rows], rtol=1e-6, atol=1e-6)


def test_peppers_may_be_orange():
    """Red leads up to a shift of 60 degrees; a classifier that wants more red than that loses it before."""
    strict = loss_field(lambda x: torch.stack([x[:, 0], 1.4 * x[:, 1] + 0.4], dim=1).mean((2, 3)), torch.tensor([0]))
    red = plain((1.0, 0.0, 0.0))  # green is shift / 60 up to 60 degrees, so red leads below 60 * 0.6 / 1.4
    assert_close(PepperTest((-20, 20))(strict, red)["pepper test"], torch.ones(1, dtype=red.dtype))
    failed = PepperTest((0, 30), refinements=20)(strict, red)
    assert_close(failed["pepper test"], torch.zeros(1, dtype=red.dtype))
    assert_close(
        failed["hue allowance kept"], torch.full((1,), 60 * 0.6 / 1.4 / 30, dtype=red.dtype), rtol=1e-4, atol=0
    )


def test_the_floor_lies_below_what_a_dense_circle_finds_and_near_it():
    floor = HueFloor(angles=72)(FIELD, X)
    dense = hue_logits(MODEL, X, torch.arange(0, 360, 0.5))
    lowest = torch.stack([margin(logits, Y) for logits in dense.unbind(1)]).amin(0)
    estimate, grid = floor["estimated floor of the hue margin"], floor["worst hue margin on the grid"]
    assert bool((estimate <= lowest).all())
    assert bool((lowest <= grid).all())


def test_a_network_of_straight_pieces_bends_only_in_its_kinks():
    floor = HueFloor()(loss_field(lambda x: hues(x) * 3, torch.tensor([0])), plain((0.9, 0.2, 0.3)))
    assert_close(floor["largest hue curvature"], torch.zeros(1, dtype=torch.float64))
    assert floor["largest hue bend"].item() > 1e-3


@pytest.mark.parametrize("width", [0.5, 0.1])
def test_a_floor_between_grid_points_is_below_a_function_of_that_curvature_and_near_it(width):
    points = torch.arange(0, 7, width, dtype=torch.float64)
    floor = floor_between(points.sin(), points.cos(), width, torch.ones(1, dtype=torch.float64))
    inside = points[:-1, None] + width * torch.linspace(0, 1, 101, dtype=torch.float64)
    lowest = inside.sin().amin(1)
    assert bool((floor <= lowest + 1e-12).all())
    assert (
        float((lowest - floor).max()) <= width**2 / 4 + 1e-12
    )  # 2 / 2 (width / 2)^2: the parabola's and the sine's own bend


ATTACKS: dict[str, AttackFunction] = {
    "hue": HueShift(),
    "part of the hues": HueShift(low=-20, high=45, angles=5),
    "box": ColorBox(steps=5),
    "box on the log-odds": ColorBox(ColorRanges(hue=(-30, 30)), steps=5, restarts=0, loss=log_odds),
    "recoloring": Recoloring(steps=6),
}
each = pytest.mark.parametrize("method", ATTACKS.values(), ids=ATTACKS)


@each
def test_attacks_stay_in_the_box_and_are_never_weaker_than_nothing(method):
    x, y = X.float(), Y
    model = copy.deepcopy(MODEL).float()
    model.train()
    before, state = x.clone(), torch.get_rng_state()
    found = method(model, x, y, generator=stream(0))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(before, x)
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert not found.requires_grad
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    loss = getattr(method, "loss", margin_loss)
    after, clean = loss(model.eval()(found), y), loss(model(x), y)
    assert bool((after >= clean - 1e-5).all())
    assert bool((after > clean + 1e-3).any())


@each
def test_attacks_repeat_themselves_and_do_not_mind_company(method):
    found = method(MODEL, X, Y, generator=stream(3))
    assert torch.equal(found, method(MODEL, X, Y, generator=stream(3)))
    rows = torch.tensor([5, 2])
    assert_close(method(MODEL, X[rows], Y[rows], generator=stream(3)), found[rows], rtol=0, atol=1e-7)
    empty = method(MODEL, X[:0], Y[:0], generator=stream(3))
    assert empty.shape == X[:0].shape


@each
def test_attacks_are_evaluated_as_others_are(method):
    examples = Examples(X.float(), Y, ("a", "b", "c", "d"))
    left = attack(copy.deepcopy(MODEL).float(), examples, method)
    with torch.no_grad():
        assert left.robust.tolist() == (MODEL(left.inputs.double()).argmax(1) == Y).tolist()
    assert (left.distance > 0).all()


def test_a_box_of_no_width_changes_nothing():
    assert torch.equal(ColorBox(NOTHING)(MODEL, X, Y, generator=stream(0)), X)
    assert torch.equal(Recoloring(bound=0.0)(MODEL, X, Y, generator=stream(0)), X)


def test_a_box_reaches_its_corner_on_a_linear_model():
    """Darker and of less contrast: the mean of each channel moves to mean + c - 1 (mean - grey) - 0.1."""
    ranges = ColorRanges((0, 0), (1, 1), (-0.1, 0.05), (0.8, 1.1), (1, 1), (0, 0))
    model, y = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).double(), torch.tensor([0, 0])
    model[1].weight.data.copy_(
        torch.tensor([[1.0], [0.0]]) * torch.tensor([0.0] * 8 + [1.0] * 4)
    )  # z_0 is the sum of blue
    x = plain((0.3, 0.4, 0.6), (0.4, 0.4, 0.5))
    found = ColorBox(ranges)(model, x, y, generator=stream(0))
    grey = (
        (x * torch.tensor([0.299, 0.587, 0.114], dtype=x.dtype)[:, None, None]).sum(1).mean((1, 2))[:, None, None, None]
    )
    assert_close(found, 0.8 * (x - grey) + grey - 0.1)


def test_a_recoloring_keeps_its_bound_in_every_pixel():
    nearly_grey = 0.3 + (pictures(4, 5) - 0.3) / 20  # where the formula jumps
    x = torch.cat([X, nearly_grey]).float()
    y = MODEL(x.double()).argmax(1)
    model = copy.deepcopy(MODEL).float()
    for bound in (0.5, 4.0, 15.0):
        found = Recoloring(bound=bound, steps=6, reach=0.5)(model, x, y, generator=stream(0))
        apart = color_difference(lab(found.double()), lab(x.double()))
        assert float(apart.max()) <= bound
        assert float(apart.max()) > 0.9 * bound


def test_a_recoloring_is_a_smooth_function_of_the_color():
    x = pictures(2, 5)
    x[:, :, 3:] = x[:, :, 1:3].flip(3)  # the same colors elsewhere
    found = Recoloring(steps=6)(MODEL, x, Y[:2], generator=stream(0))
    assert_close(found[:, :, 3:], found[:, :, 1:3].flip(3), rtol=0, atol=1e-12)
    # Displacements that are linear in the color at the nodes are so everywhere.
    level = torch.linspace(0, 1, 8, dtype=x.dtype)
    grid = torch.stack(torch.meshgrid(level, level, level, indexing="ij")[::-1])[None].repeat(2, 1, 1, 1, 1)
    assert_close(displacements(x, -0.1 * grid), -0.1 * x)
    assert_close(roughness(torch.full_like(grid, 0.3)), torch.zeros(2, dtype=x.dtype))


GREY = torch.zeros(2, 1, 4, 4)
REFUSED = {
    "images without color": (lambda: hue_shift(GREY, torch.zeros(2)), r"color images .* greyscale images with PGD"),
    "vectors": (lambda: hue_shift(torch.zeros(2, 3), torch.zeros(2)), "color images .* along the second axis"),
    "grey circle": (lambda: HueCircle()(loss_field(hues, Y[:2]), GREY), "color images of shape"),
    "grey hues": (lambda: HueShift()(MODEL, GREY, Y[:2], generator=stream(0)), "color images of shape"),
    "grey box": (lambda: ColorBox()(MODEL, GREY, Y[:2], generator=stream(0)), "color images of shape"),
    "grey map": (lambda: Recoloring()(MODEL, GREY, Y[:2], generator=stream(0)), "color images of shape"),
    "outside the box": (lambda: HueShift()(MODEL, X * 2, Y, generator=stream(0)), "inputs inside the pixel box"),
    "shifts": (lambda: hue_logits(hues, X, torch.zeros(2, 3)), "shifts of shape"),
    "hue range": (lambda: HueCircle(low=10), "a hue range around 0 within -180 to 180"),
    "hue range of an attack": (lambda: HueShift(high=-1.0), "a hue range around 0"),
    "allowance": (lambda: PepperTest((-30, 300)), "a hue range around 0"),
    "angles": (lambda: HueCircle(angles=1), "at least two hue intervals"),
    "floor": (lambda: HueFloor(safety=0.5), "at least two angles and a safety"),
    "a range": (lambda: ColorRanges(contrast=(1.2, 0.8)), r"a range of contrast \(low, high\) with low <= 1 <= high"),
    "a factor": (lambda: ColorRanges(gamma=(0.0, 2.0)), "a positive factor of gamma"),
    "steps": (lambda: ColorBox(steps=0), "at least one step and no fewer than 0 restarts"),
    "start": (lambda: ColorBox(start="center"), 'a start "unchanged" or "uniform"'),
    "bound": (lambda: Recoloring(bound=-1.0), "a finite color difference"),
    "nodes": (lambda: Recoloring(nodes=1), "a step, two nodes"),
    "parameters": (lambda: derivatives_along(FIELD, hue_shift, X, torch.zeros(2, 2)), "one parameter an example"),
    "a bare field": (lambda: HueCircle()(lambda x: x.sum((1, 2, 3)), X), "a field that shows its model"),
}


@pytest.mark.parametrize("call", REFUSED)
def test_what_cannot_be_is_refused(call):
    function, message = REFUSED[call]
    with pytest.raises(InputError, match=message):
        function()


def test_a_data_set_has_columns_of_hues():
    examples = Examples(X.float(), Y, ("a", "b", "c", "d"))
    model = copy.deepcopy(MODEL).float()
    columns = measure(
        model, examples, {"circle": HueCircle(), "pepper": PepperTest(), "floor": HueFloor()}, batch_size=3
    )
    assert_close(torch.from_numpy(columns["hue range"]).double(), HueCircle()(FIELD, X)["hue range"], rtol=0, atol=0.1)
    passed = columns["hue allowance kept"] == 1
    assert (passed >= (columns["pepper test"] == 1)).all()
    assert (columns["estimated floor of the hue margin"] <= columns["worst hue margin"] + 1e-5).all()


def test_hues_of_no_images_are_no_hues():
    assert HueCircle()(FIELD.take(torch.arange(0)), X[:0])["hue range"].shape == (0,)
    assert math.isclose(sum(HueCircle(-180, 180).grid().diff().tolist()), 360)
