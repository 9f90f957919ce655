"""What is measured on paths, which points are paired, and what the numbers of many pairs say."""

import math

import pytest
import torch
from planar_regions import DISCS, draw, network, ones
from scipy import stats
from torch.testing import assert_close

from lowcurve import randomness
from lowcurve.errors import InputError
from lowcurve.figures.paths import in_region
from lowcurve.geometry import CertifiedRadius
from lowcurve.geometry.endpoints import (
    NO_SOURCE,
    LabeledPoints,
    adversarial_pairs,
    match_endpoints,
    natural_adversarial_pairs,
    natural_noise_pairs,
    natural_pairs,
)
from lowcurve.geometry.path_measures import path_measures, principal_components, resample, straight_line_measures
from lowcurve.geometry.path_statistics import bootstrap_interval, paired_test
from lowcurve.geometry.paths import Paths
from lowcurve.geometry.regions import inner_margin
from lowcurve.losses import cross_entropy, loss_field
from lowcurve.models.smoothness import smoothness
from lowcurve.randomness import stream


def test_the_measures_of_a_polygon_are_known():
    """A half circle of many chords: length pi / 2 of the diameter, deviation 1/2 at most and 1/pi in the mean."""
    angle = torch.linspace(0, math.pi, 401, dtype=torch.float64)
    arc = torch.stack([angle.cos(), angle.sin(), 0 * angle], 1)[None]
    columns = path_measures(Paths.through(arc, ones(1)), points=4001)
    expected = {"distance": 2, "length": math.pi, "excess length": math.pi / 2 - 1, "maximal deviation": 0.5}
    for name, value in (expected | {"mean deviation": 1 / math.pi}).items():
        assert_close(columns[name], torch.tensor([value], dtype=torch.float64), rtol=1e-5, atol=0)
    assert_close(columns["anchors"], torch.tensor([401.0], dtype=torch.float64))
    even = resample(Paths.through(arc[:, torch.tensor([0, 10, 200, 210, 400])], ones(1)), 101)[0]
    steps = (even[1:] - even[:-1]).norm(dim=1)
    assert float(steps.max() / steps.median()) < 1 + 1e-9  # shorter only across corners


def test_loss_along_the_straight_line():
    """The barrier with cross-entropy is its largest value; at the middle of two discs no logit leads by more than 0.5."""
    ends = torch.tensor([[[-1.0, 0.0], [1.0, 0.0]]])
    found = straight_line_measures(DISCS, Paths.through(ends, ones(1)), samples=201, loss=cross_entropy)
    assert_close(found["barrier"], torch.tensor([math.log(1 + math.exp(0.5))]))
    assert_close(found["share outside"], torch.tensor([101 / 201]))  # from -0.5 to 0.5, where the classes tie


def test_principal_components_are_those_of_the_covariance():
    anchors = draw(3, 7, 5, name="pca")
    found = principal_components(Paths.through(anchors, ones(3)), points=40, components=5)
    flat = resample(Paths.through(anchors, ones(3)), 40)
    flat = flat - flat.mean(1, keepdim=True)
    singular = torch.linalg.svdvals(flat).square()
    assert_close(found.explained[:, :5], singular / singular.sum(1, keepdim=True))
    assert_close(found.coordinates.square().sum(1), singular)
    assert_close(torch.cdist(found.coordinates, found.coordinates), torch.cdist(flat, flat))
    assert bool((found.coordinates.amax(1) >= -found.coordinates.amin(1)).all())
    line = principal_components(Paths.through(anchors[:, :2], ones(3)))
    assert_close(line.explained[:, 0], torch.ones(3, dtype=torch.float64))


def labelled(count: int, name: str, source: torch.Tensor | None = None) -> LabeledPoints:
    at = torch.arange(count)
    return LabeledPoints(draw(count, 3, name=name), at % 3, at if source is None else source)


def test_families_pair_points_of_one_class_and_two_images():
    natural, adversarial = labelled(60, "natural"), labelled(50, "adversarial", torch.arange(50) + 3)
    first = natural_pairs(natural, generator=stream(0))
    assert len(first) == 30
    used = torch.cat([first.start_index, first.end_index])
    assert len(torch.unique(used)) == 60
    second = natural_adversarial_pairs(natural, adversarial, generator=stream(1))
    for found, starts, ends in ((first, natural, natural), (second, natural, adversarial)):
        assert_close(found.start, starts.x[found.start_index])
        assert_close(found.end, ends.x[found.end_index])
        assert torch.equal(starts.y[found.start_index], ends.y[found.end_index])
        assert bool((starts.source[found.start_index] != ends.source[found.end_index]).all())
        assert_close(found.distance, (found.end - found.start).norm(dim=1))
    assert len(second) == len(torch.unique(second.end_index)) >= 48
    third = adversarial_pairs(adversarial, (adversarial.y + 1) % 3, generator=stream(2))
    assert len(third) == 24  # of 17, 17 and 16
    noise = labelled(90, "noise", torch.full((90,), NO_SOURCE))
    assert len(natural_noise_pairs(natural, noise, generator=stream(3))) == 60
    again = natural_pairs(natural, generator=stream(0))
    assert torch.equal(again.start_index, first.start_index)


def test_partners_match_distances():
    """Better than what is drawn, by far; and exactly, where each distance is there once."""
    starts, ends = labelled(30, "starts"), labelled(300, "ends", torch.arange(300) + 1000)
    wanted = (draw(30, name="wanted") + 2) / 2
    near = match_endpoints(starts, ends, generator=stream(0), distance=wanted)
    drawn = match_endpoints(starts, ends, generator=stream(0))
    assert len(near) == len(drawn) == 30
    error = (near.distance - wanted[near.start_index]).abs()
    assert float(error.mean()) < 0.1 * float((drawn.distance - wanted[drawn.start_index]).abs().mean())
    flat = LabeledPoints(torch.zeros(4, 1), torch.zeros(4, dtype=torch.long), torch.arange(4))
    ladder = LabeledPoints(
        torch.tensor([[3.0], [1.0], [4.0], [2.0]]), torch.zeros(4, dtype=torch.long), torch.arange(4) + 4
    )
    exact = match_endpoints(flat, ladder, generator=stream(0), distance=torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert exact.end_index.tolist() == [1, 3, 0, 2]


def test_families_refuse_what_does_not_fit():
    with pytest.raises(InputError, match="a label and a source for each point"):
        LabeledPoints(torch.zeros(2, 3), ones(2), ones(1))
    points = labelled(9, "few")
    with pytest.raises(InputError, match="adversarial images of a class that they were not of"):
        adversarial_pairs(points, points.y, generator=stream(0))
    assert len(natural_pairs(points.take(torch.tensor([0, 1, 2])), generator=stream(0))) == 0


def test_the_bootstrap_interval_is_that_of_the_normal_law_for_many_numbers():
    values = randomness.normal(torch.zeros(400, dtype=torch.float64), generator=stream(0, "bootstrap"))
    found = bootstrap_interval(values, generator=stream(1), draws=20_000)
    half = 1.96 * float(values.std(correction=0)) / 20
    assert found.value == pytest.approx(float(values.mean()))
    assert found.low == pytest.approx(found.value - half, abs=0.05 * half)
    assert found.high == pytest.approx(found.value + half, abs=0.05 * half)
    median = bootstrap_interval(torch.tensor([1.0, 2.0, 3.0, 1e9]), generator=stream(1), statistic="median")
    assert median.value == 2.5
    assert median.low >= 1
    assert bootstrap_interval(values, generator=stream(1)) == bootstrap_interval(values, generator=stream(1))


def test_the_paired_test_is_wilcoxons():
    first = randomness.normal(torch.zeros(60, dtype=torch.float64), generator=stream(0, "first"))
    second = first + 0.3 * randomness.normal(first, generator=stream(0, "second")) + 0.06
    found = paired_test(first, second, generator=stream(1), draws=50_000)
    theirs = stats.wilcoxon(first.numpy(), second.numpy()).pvalue
    assert found.p_value == pytest.approx(float(theirs), abs=4 * math.sqrt(theirs / 50_000))
    assert 0.01 < theirs < 0.5
    assert found.mean_difference == pytest.approx(float((first - second).mean()))
    assert paired_test(second, first, generator=stream(1), draws=50_000).p_value == found.p_value
    few = paired_test(torch.arange(1.0, 5.0), torch.zeros(4), generator=stream(2))
    assert few.p_value == pytest.approx(2 / 16)  # all four signs alike
    assert paired_test(torch.ones(1), torch.zeros(1), generator=stream(2)).p_value == 1


def test_a_single_number_has_an_interval_of_length_zero():
    found = bootstrap_interval(torch.ones(1), generator=stream(0))
    assert (found.low, found.value, found.high) == (1.0, 1.0, 1.0)


def test_statistics_refuse():
    good = torch.arange(5.0)
    with pytest.raises(InputError, match="a row of finite numbers, at least one"):
        bootstrap_interval(torch.tensor([1.0, math.nan]), generator=stream(0))
    with pytest.raises(InputError, match="a mean or median, at least one draw and a level from 0 to 1"):
        bootstrap_interval(good, generator=stream(0), level=95)
    with pytest.raises(InputError, match="as many numbers in both families"):
        paired_test(good, good[:3], generator=stream(0))
    with pytest.raises(InputError, match="at least one draw of the signs"):
        paired_test(good, good, generator=stream(0), draws=0)


def test_loss_field_and_certificate_speak_of_the_same_region():
    """A certified radius above 0 is had exactly where the inner margin is above 0."""
    model = network()
    x = draw(200, 4, name="same").float()
    y = torch.arange(200) % 3
    radius = CertifiedRadius(smoothness(model, x[:1]))(loss_field(model, y), x)["certified radius"]
    assert torch.equal(radius > 0, inner_margin(model, x, y) > 0)


def test_ends_are_chosen_by_more_than_what_a_search_allows_for_rounding():
    """Between once and twice the allowance a batch of another size may find the point outside: there no path begins."""
    eps = torch.finfo(torch.float32).eps
    x = torch.tensor([[1.0, 1.0 + share * eps] for share in (0, 8, 20, 40)])
    y = torch.ones(4, dtype=torch.long)
    model = torch.nn.Sequential(torch.nn.Identity())
    assert (model(x).argmax(1) == y).tolist() == [False, True, True, True]
    assert (inner_margin(model, x, y) > 0).tolist() == [False, False, True, True]
    assert in_region(model, x, y).tolist() == [False, False, False, True]
