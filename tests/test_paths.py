"""Paths within classification regions: half-spaces, a horseshoe, two discs, small networks; every path verified afresh."""

import itertools
import math
import sys
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from lowcurve import randomness
from lowcurve.attacks import DeepFool
from lowcurve.errors import InputError
from lowcurve.geometry import CertifiedRadius
from lowcurve.geometry.endpoints import (
    NOWHERE,
    Points,
    adversarial_adversarial,
    natural_adversarial,
    natural_natural,
    natural_noise,
    partners,
)
from lowcurve.geometry.meshes import LoopFilling, clear_triangles, coons
from lowcurve.geometry.path_measures import path_measures, principal_components, resampled, straight_line
from lowcurve.geometry.path_statistics import bootstrap_interval, paired_test
from lowcurve.geometry.paths import Paths, PathSearch
from lowcurve.geometry.persistence import fragmentation, persistence
from lowcurve.geometry.regions import IntoRegion, inner_margin
from lowcurve.geometry.segments import Segments, covered, sampled
from lowcurve.losses import cross_entropy, loss_field
from lowcurve.models.smoothness import smoothness
from lowcurve.randomness import stream

BOX = (-3.0, 3.0)
PLANE = IntoRegion(DeepFool(box=BOX), box=BOX)
SEARCH = PathSearch(PLANE, spacing=0.01)


def draw(*shape: int, name: str) -> torch.Tensor:
    return randomness.uniform(torch.zeros(shape, dtype=torch.float64), -1, 1, generator=stream(0, "paths", name))


def two_classes(depth):
    """Logits (0, depth): class 1 where depth is above 0."""
    return lambda x: torch.stack([torch.zeros(len(x)).to(x), depth(x)], 1)


def norm(x):
    return x.square().sum(1).sqrt()


# Signed so that |depth(x) - depth(x')| <= ||x - x'||: depth itself is a certified radius.
HORSESHOE = two_classes(lambda x: torch.minimum(0.3 - (norm(x) - 1).abs(), x[:, 1] + 0.3))
DISCS = two_classes(lambda x: 0.5 - torch.minimum(norm(x - torch.tensor([1.0, 0])), norm(x + torch.tensor([1.0, 0]))))
SLIT = two_classes(lambda x: x[:, 0].abs() - 0.0005)


class Wave(nn.Module):
    def forward(self, x):
        return torch.sin(6 * x)


def depth_itself(field, x):
    return {"certified radius": field.logits(x)[:, 1].detach()}


def ones(count: int) -> torch.Tensor:
    return torch.ones(count, dtype=torch.long)


def find(model, start, end, y, search=SEARCH, seed=0):
    return search(model, start, end, y, generator=stream(seed))


def outside(model, paths: Paths, points: int | None = 20_001) -> int:
    """How many of so many equally spaced points of each segment (None: as many as the spacing says) lie outside, by the argmax
    of the logits and nothing of the house."""
    bad = 0
    for row in torch.nonzero(paths.found).flatten().tolist():
        for a, b in itertools.pairwise(paths.anchors[row, : int(paths.counts[row])]):
            count = points or math.ceil(float((b - a).norm()) / float(paths.spacing[row])) + 1
            share = torch.linspace(0, 1, count, dtype=torch.float64)
            x = (a + share.view(-1, *[1] * a.ndim).to(a) * (b - a)).to(a)
            with torch.no_grad():
                bad += int((model(x).argmax(1) != paths.y[row]).sum())
    return bad


def horseshoe_ends(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Points in the two arms, above the middle of the hole."""
    at = draw(2, count, 2, name="arms").float() * 0.15
    return at[0] - torch.tensor([0.95, -0.2]), at[1] + torch.tensor([0.95, 0.2])


def network(classes: int = 3, width: int = 16) -> nn.Module:
    with randomness.isolated(3, "network"):
        return nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, classes)).eval()


def pairs_of(model, count: int, name: str):
    x = draw(4 * count, 4, name=name).float()
    with torch.no_grad():
        y = model(x).argmax(1)
    found = natural_natural(Points(x, y, torch.arange(len(x))), generator=stream(0))
    return found.start[:count], found.end[:count], found.y[:count]


def test_in_a_half_space_the_path_is_the_straight_segment():
    with randomness.isolated(0, "half-space"):
        model = nn.Linear(5, 2).double()
    x = draw(60, 5, name="half-space")
    with torch.no_grad():
        x = x[model(x).argmax(1) == 0]
    start, end = x[: len(x) // 2], x[len(x) // 2 : 2 * (len(x) // 2)]
    paths = find(model, start, end, torch.zeros(len(start), dtype=torch.long))
    assert len(paths) > 5
    assert bool(paths.found.all())
    assert_close(paths.anchors, torch.stack([start, end], 1))
    assert_close(paths.looks, torch.ceil((end - start).norm(dim=1) / 0.01).long() - 1)
    assert int(paths.projections.sum()) == 0
    columns = path_measures(paths)
    zero = torch.zeros(len(paths), dtype=torch.float64)
    for name in ("excess length", "maximal deviation", "mean deviation"):
        assert_close(columns[name], zero, rtol=0, atol=1e-12)
    assert_close(columns["segments"], zero + 1)
    assert_close(columns["distance"], (end - start).norm(dim=1))
    line = straight_line(model, paths)
    assert_close(line["share outside"], zero)
    with torch.no_grad():
        ends = torch.stack([model(start), model(end)])
    margins = (ends[..., 0] - ends[..., 1]).amin(0)
    assert_close(line["barrier"], -margins)
    assert bool((paths.clearance >= margins - 1e-9).all())
    assert set(paths.statements()) == {"no violation at spacing 0.01"}
    assert outside(model, paths, 1001) == 0


def test_a_horseshoe_needs_a_bent_path_and_gets_one():
    start, end = horseshoe_ends(12)
    paths = find(HORSESHOE, start, end, ones(12))
    assert bool(paths.found.all())
    assert int(paths.counts.min()) > 2
    assert outside(HORSESHOE, paths) == 0
    line, columns = straight_line(HORSESHOE, paths), path_measures(paths)
    assert bool((line["share outside"] > 0.5).all())
    assert bool((line["barrier"] > 0.3).all())
    # The way around the hole of radius 0.7 rises to that height above the line, at 0.4 at most.
    assert bool((columns["maximal deviation"] * columns["distance"] > 0.3).all())
    assert bool((columns["mean deviation"] < columns["maximal deviation"]).all())
    assert bool((columns["excess length"] > 0.05).all())
    assert_close(columns["anchors"], columns["segments"] + 1)
    assert bool((columns["clearance"] > 0).all())


def test_a_connected_region_may_be_no_path_found():
    """From the middle of the hole no way leads anywhere, since depth has no slope there: a limit of the method."""
    level = two_classes(lambda x: 0.3 - (x.square().sum(1) - 1).abs())
    paths = find(level, torch.tensor([[-1.0, 0.0]]), torch.tensor([[1.0, 0.0]]), ones(1))
    assert paths.why == ("projection",)
    assert find(level, torch.tensor([[-1.0, 0.1]]), torch.tensor([[1.0, 0.0]]), ones(1)).why == ("",)


def test_two_discs_are_no_path_found_and_never_a_path():
    start, end = torch.tensor([[-1.0, 0.1]] * 4), torch.tensor([[1.0, 0.2], [0.8, -0.1], [1.0, 0.0], [-0.9, -0.2]])
    for spacing in (0.3, 0.01):
        paths = find(DISCS, start, end, ones(4), PathSearch(PLANE, spacing=spacing))
        assert paths.found.tolist() == [False, False, False, True]
        assert paths.counts.tolist() == [0, 0, 0, 2]
        assert set(paths.why[:3]) <= {"depth", "projection"}
        assert paths.statements()[0] == f"no path found ({paths.why[0]})"
        assert_close(paths.anchors, torch.stack([start, end], 1))
        columns = path_measures(paths)
        assert_close(columns["length"][:3], torch.full((3,), math.nan), equal_nan=True)
        assert bool(torch.isfinite(columns["distance"]).all())
        assert bool(torch.isnan(paths.clearance[:3]).all())


def test_each_cap_is_named():
    start, end = horseshoe_ends(3)
    apart = torch.tensor([[-1.0, 0.1]]), torch.tensor([[1.1, 0.2]])
    for name in ("depth", "looks"):
        assert find(SLIT, *apart, ones(1), PathSearch(PLANE, spacing=1e-4, **{name: 5})).why == (name,)
    asked = {
        "anchors": PathSearch(PLANE, anchors=2),
        "projection": PathSearch(lambda model, x, y, *, generator: x),  # noqa: ARG005
    }
    for name, search in asked.items():
        paths = find(HORSESHOE, start, end, ones(3), search)
        assert paths.why == (name,) * 3
        assert not bool(paths.found.any())


def test_what_lies_between_samples_is_seen_by_certified_balls_alone():
    """A slit of width 0.001 between samples at -0.1 and 0.2."""
    start, end = torch.tensor([[-1.0, 0.0]]), torch.tensor([[1.1, 0.0]])
    blind = find(SLIT, start, end, ones(1), PathSearch(PLANE, spacing=0.3))
    assert bool(blind.found) and not bool(blind.certified)  # noqa: PT018
    seeing = find(SLIT, start, end, ones(1), PathSearch(PLANE, spacing=0.3, certificate=depth_itself))
    assert not bool(seeing.found)
    assert not bool(seeing.certified)


def test_certified_paths_of_a_lipschitz_field_hold_everywhere():
    start, end = horseshoe_ends(6)
    search = PathSearch(PLANE, spacing=0.3, certificate=depth_itself)
    paths = find(HORSESHOE, start, end, ones(6), search)
    assert bool(paths.found.all())
    assert int(paths.certified.sum()) >= 4
    assert (
        paths.statements()[int(paths.certified.int().argmax())] == "no violation at spacing 0.3, certified in between"
    )
    assert outside(HORSESHOE, paths.take(torch.nonzero(paths.certified).flatten())) == 0
    hasty = find(HORSESHOE, start, end, ones(6), PathSearch(PLANE, certificate=depth_itself, balls=1))
    assert not bool(hasty.certified.any())
    assert bool(hasty.found.any())


@pytest.mark.parametrize("kind", ["linear", "network"])
def test_bounds_of_a_network_certify_its_segments(kind):
    model = network()[:1] if kind == "linear" else network()
    start, end, y = pairs_of(model, 20, "certified")
    certificate = CertifiedRadius(smoothness(model, start[:1]))
    search = PathSearch(PLANE, spacing=0.5, certificate=certificate)
    paths = find(model, start, end, y, search)
    assert int(paths.certified.sum()) >= 15
    certified = paths.take(torch.nonzero(paths.certified).flatten())
    assert outside(model, certified, 2001) == 0


def test_balls_cover_or_they_do_not():
    """Of a half-space depth is the distance to the wall: the segment at depth t and of length l takes about l / (2 t) balls."""
    wall = two_classes(lambda x: x[:, 0])
    start = torch.tensor([[0.1, 0.0], [0.1, 0.0], [0.0, 0.0], [0.1, 0.0]], dtype=torch.float64)
    end = torch.tensor([[0.1, 1.6], [1e-9, 1.0], [1.0, 0.0], [-0.1, 0.0]], dtype=torch.float64)
    found = covered(wall, Segments(start, end, ones(4)), depth_itself, most=500)
    assert found.certified.tolist() == [
        True,
        True,
        False,
        False,
    ]  # the third begins on the wall, where no radius is above 0
    assert found.outside.tolist() == [False, False, False, True]
    assert 8 <= int(found.looks[0]) <= 16
    assert int(found.looks[2]) <= 500


def test_sampling_sees_what_a_full_grid_sees():
    """And spends no more: n - 1 looks where nothing is outside."""
    model = network()
    start, end, y = pairs_of(model, 60, "sampled")
    start = start + 0.3 * draw(60, 4, name="moved").float()
    ways = Segments(start, end, y)
    found = sampled(model, ways, torch.full((60,), 0.02), chunk=97)
    parts = torch.ceil((end - start).norm(dim=1).double() / 0.02).long()
    for row in range(60):
        share = torch.arange(1, int(parts[row])) / parts[row]
        x = start[row] + share[:, None] * (end[row] - start[row])
        margins = inner_margin(model, x, y[row].expand(len(x)))
        assert bool(found.clear[row]) == bool((margins > 0).all())
        if found.clear[row]:
            assert_close(found.clearance[row], margins.min(), rtol=1e-4, atol=1e-5)
            assert int(found.looks[row]) == len(x)
    assert 5 < int((~found.clear).sum()) < 55
    assert float((found.looks / (parts - 1))[~found.clear].mean()) < 0.3


def test_a_spacing_for_each_pair():
    start, end = torch.tensor([[0.0, 0.5]] * 2), torch.tensor([[0.0, 1.0]] * 2)
    half = two_classes(lambda x: x[:, 1])
    paths = find(half, start, end, ones(2), PathSearch(PLANE, spacing=torch.tensor([0.1, 1.0])))
    assert paths.looks.tolist() == [4, 0]
    assert paths.statements() == ("no violation at spacing 0.1", "no violation at spacing 1")


def test_a_pair_does_not_depend_on_its_company():
    start, end = horseshoe_ends(8)
    together = find(HORSESHOE, start, end, ones(8))
    rows = torch.tensor([5, 2])
    apart = find(HORSESHOE, start[rows], end[rows], ones(2))
    assert_close(apart.anchors, together.take(rows).anchors)
    for name in ("counts", "looks", "projections", "clearance"):
        assert_close(getattr(apart, name), getattr(together, name)[rows])


def test_the_same_stream_gives_the_same_path_and_the_global_state_is_left_alone():
    start, end = horseshoe_ends(3)
    before = torch.get_rng_state()
    first, second = find(HORSESHOE, start, end, ones(3)), find(HORSESHOE, start, end, ones(3))
    assert torch.equal(first.anchors, second.anchors)
    bootstrap_interval(first.clearance, generator=stream(0))
    paired_test(first.clearance, second.clearance, generator=stream(0))
    assert torch.equal(before, torch.get_rng_state())


def test_images_and_a_network_of_several_classes():
    """Waves on 6 x 6 images: regions that wind, so that paths bend. Found paths hold; the network is left as it was."""
    with randomness.isolated(0, "waves"):
        model = nn.Sequential(nn.Flatten(), nn.Linear(36, 24), Wave(), nn.Linear(24, 4)).train()
    x = (draw(400, 1, 6, 6, name="images").float() + 1) / 2
    with torch.no_grad():
        y = model(x).argmax(1)
    ends = natural_natural(Points(x, y, torch.arange(400)), generator=stream(0))
    into = IntoRegion(DeepFool())
    paths = PathSearch(into, spacing=0.02)(model, ends.start, ends.end, ends.y, generator=stream(1))
    assert model.training
    assert int(paths.found.sum()) > 100
    assert int((paths.counts > 2).sum()) > 20
    assert outside(model, paths, None) == 0
    assert 0 <= float(paths.anchors.min()) <= float(paths.anchors.max()) <= 1


def test_into_region_leads_into_the_region_asked_for():
    model = network(classes=5)
    x = draw(50, 4, name="into").float()
    y = torch.arange(50) % 5
    led = PLANE(model, x, y, generator=stream(0))
    with torch.no_grad():
        reached = model(led).argmax(1) == y
        there = model(x).argmax(1) == y
    assert float(reached.float().mean()) > 0.9
    assert_close(led[there], x[there])


def test_into_region_goes_beyond_the_boundary_where_it_may():
    """Of a half-space, (1 + beyond) times the way to its wall; less where the region or the box ends before."""
    wall = two_classes(lambda x: x[:, 0])
    x = torch.tensor([[-0.4, 0.2]])
    for beyond, reached in ((0.0, 0.0), (1.5, 0.6)):
        led = IntoRegion(DeepFool(box=BOX, bisections=20), beyond=beyond, box=BOX)(
            wall, x, ones(1), generator=stream(0)
        )
        assert_close(led, torch.tensor([[reached, 0.2]]), rtol=0, atol=1e-4)
    sheet = two_classes(lambda x: 0.15 - (x[:, 0] - 0.15).abs())  # from 0 to 0.3: a quarter of 1.5 times 0.4 is inside
    led = PLANE(sheet, x, ones(1), generator=stream(0))
    assert_close(led, torch.tensor([[0.15, 0.2]]), rtol=0, atol=1e-2)
    boxed = IntoRegion(DeepFool(box=(-0.5, 0.5)), beyond=2.0, box=(-0.5, 0.5))(wall, x, ones(1), generator=stream(0))
    assert_close(boxed, torch.tensor([[0.5, 0.2]]))
    with pytest.raises(InputError, match="a way beyond the boundary of at least 0"):
        IntoRegion(DeepFool(), beyond=-1.0)


def test_how_far_beyond_decides_how_many_anchors():
    """Around a disc: from one tangent point to the next, or in chords as short as the spacing."""
    start, end = horseshoe_ends(6)
    paths = find(HORSESHOE, start, end, ones(6))
    bare = PathSearch(IntoRegion(DeepFool(box=BOX, bisections=0), beyond=0.0, box=BOX), spacing=0.01)
    assert float(paths.counts.float().mean()) < 0.5 * float(
        find(HORSESHOE, start, end, ones(6), bare).counts.float().mean()
    )


def test_refusals():
    start, end, y = torch.tensor([[-0.95, 0.1]]), torch.tensor([[0.95, 0.1]]), ones(1)
    nowhere = torch.zeros(1, 2)
    for ends, words in {
        (nowhere, end, y): "starts that are classified as their labels, received 1 of 1 pairs",
        (start, nowhere, y): "two ends of one class",
        (start, start, y): "two different ends",
        (start, end[:, :1], y): "a start, an end and a label for each pair",
        (start[0], end[0], y): r"floating-point inputs of shape \(batch, ...\)",
    }.items():
        with pytest.raises(InputError, match=words):
            find(HORSESHOE, *ends)
    for spacing in (0.0, math.nan, torch.tensor([0.1, 0.1])):
        with pytest.raises(InputError, match="a finite spacing above 0, for all pairs or one a pair"):
            find(HORSESHOE, start, end, y, PathSearch(PLANE, spacing=spacing))
    with pytest.raises(InputError, match="a depth from 1 to 40, two anchors, a look and a ball"):
        PathSearch(PLANE, depth=0)
    paths = Paths.through(torch.stack([start, end], 1), y)
    assert paths.statements() == ("not looked at",)
    with pytest.raises(InputError, match="at least two points of a path"):
        resampled(paths, 1)
    with pytest.raises(InputError, match="1 to 101 components"):
        principal_components(paths, components=0)


def test_no_pairs_are_no_paths():
    empty = torch.zeros(0, 2)
    paths = find(HORSESHOE, empty, empty, ones(0))
    assert len(paths) == 0
    assert paths.statements() == ()
    assert {len(column) for column in path_measures(paths).values()} == {0}
    assert {len(column) for column in straight_line(HORSESHOE, paths).values()} == {0}
    assert len(principal_components(paths).explained) == 0


def test_the_measures_of_a_polygon_are_known():
    """A half circle of many chords: length pi / 2 of the diameter, deviation 1/2 at most and 1/pi in the mean."""
    angle = torch.linspace(0, math.pi, 401, dtype=torch.float64)
    arc = torch.stack([angle.cos(), angle.sin(), 0 * angle], 1)[None]
    columns = path_measures(Paths.through(arc, ones(1)), points=4001)
    expected = {"distance": 2, "length": math.pi, "excess length": math.pi / 2 - 1, "maximal deviation": 0.5}
    for name, value in (expected | {"mean deviation": 1 / math.pi}).items():
        assert_close(columns[name], torch.tensor([value], dtype=torch.float64), rtol=1e-5, atol=0)
    assert_close(columns["anchors"], torch.tensor([401.0], dtype=torch.float64))
    even = resampled(Paths.through(arc[:, torch.tensor([0, 10, 200, 210, 400])], ones(1)), 101)[0]
    steps = (even[1:] - even[:-1]).norm(dim=1)
    assert float(steps.max() / steps.median()) < 1 + 1e-9  # shorter only across corners


def test_loss_along_the_straight_line():
    """The barrier with cross-entropy is its largest value; at the middle of two discs no logit leads by more than 0.5."""
    ends = torch.tensor([[[-1.0, 0.0], [1.0, 0.0]]])
    found = straight_line(DISCS, Paths.through(ends, ones(1)), samples=201, loss=cross_entropy)
    assert_close(found["barrier"], torch.tensor([math.log(1 + math.exp(0.5))]))
    assert_close(found["share outside"], torch.tensor([101 / 201]))  # from -0.5 to 0.5, where the classes tie


def test_principal_components_are_those_of_the_covariance():
    anchors = draw(3, 7, 5, name="pca")
    found = principal_components(Paths.through(anchors, ones(3)), points=40, components=5)
    flat = resampled(Paths.through(anchors, ones(3)), 40)
    flat = flat - flat.mean(1, keepdim=True)
    singular = torch.linalg.svdvals(flat).square()
    assert_close(found.explained[:, :5], singular / singular.sum(1, keepdim=True))
    assert_close(found.coordinates.square().sum(1), singular)
    assert_close(torch.cdist(found.coordinates, found.coordinates), torch.cdist(flat, flat))
    assert bool((found.coordinates.amax(1) >= -found.coordinates.amin(1)).all())
    line = principal_components(Paths.through(anchors[:, :2], ones(3)))
    assert_close(line.explained[:, 0], torch.ones(3, dtype=torch.float64))


def labelled(count: int, name: str, source: torch.Tensor | None = None) -> Points:
    at = torch.arange(count)
    return Points(draw(count, 3, name=name), at % 3, at if source is None else source)


def test_families_pair_points_of_one_class_and_two_images():
    natural, adversarial = labelled(60, "natural"), labelled(50, "adversarial", torch.arange(50) + 3)
    first = natural_natural(natural, generator=stream(0))
    assert len(first) == 30
    used = torch.cat([first.start_index, first.end_index])
    assert len(torch.unique(used)) == 60
    second = natural_adversarial(natural, adversarial, generator=stream(1))
    for found, starts, ends in ((first, natural, natural), (second, natural, adversarial)):
        assert_close(found.start, starts.x[found.start_index])
        assert_close(found.end, ends.x[found.end_index])
        assert torch.equal(starts.y[found.start_index], ends.y[found.end_index])
        assert bool((starts.source[found.start_index] != ends.source[found.end_index]).all())
        assert_close(found.distance, (found.end - found.start).norm(dim=1))
    assert len(second) == len(torch.unique(second.end_index)) >= 48
    third = adversarial_adversarial(adversarial, (adversarial.y + 1) % 3, generator=stream(2))
    assert len(third) == 24  # of 17, 17 and 16
    noise = labelled(90, "noise", torch.full((90,), NOWHERE))
    assert len(natural_noise(natural, noise, generator=stream(3))) == 60
    again = natural_natural(natural, generator=stream(0))
    assert torch.equal(again.start_index, first.start_index)


def test_partners_match_distances():
    """Better than what is drawn, by far; and exactly, where each distance is there once."""
    starts, ends = labelled(30, "starts"), labelled(300, "ends", torch.arange(300) + 1000)
    wanted = (draw(30, name="wanted") + 2) / 2
    near = partners(starts, ends, generator=stream(0), distance=wanted)
    drawn = partners(starts, ends, generator=stream(0))
    assert len(near) == len(drawn) == 30
    error = (near.distance - wanted[near.start_index]).abs()
    assert float(error.mean()) < 0.1 * float((drawn.distance - wanted[drawn.start_index]).abs().mean())
    flat = Points(torch.zeros(4, 1), torch.zeros(4, dtype=torch.long), torch.arange(4))
    ladder = Points(torch.tensor([[3.0], [1.0], [4.0], [2.0]]), torch.zeros(4, dtype=torch.long), torch.arange(4) + 4)
    exact = partners(flat, ladder, generator=stream(0), distance=torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert exact.end_index.tolist() == [1, 3, 0, 2]


def test_families_refuse_what_does_not_fit():
    with pytest.raises(InputError, match="a label and a source for each point"):
        Points(torch.zeros(2, 3), ones(2), ones(1))
    points = labelled(9, "few")
    with pytest.raises(InputError, match="adversarial images of a class that they were not of"):
        adversarial_adversarial(points, points.y, generator=stream(0))
    assert len(natural_natural(points.take(torch.tensor([0, 1, 2])), generator=stream(0))) == 0


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
    stats = pytest.importorskip("scipy.stats")
    first = randomness.normal(torch.zeros(60, dtype=torch.float64), generator=stream(0, "first"))
    second = first + 0.3 * randomness.normal(first, generator=stream(0, "second")) + 0.06
    found = paired_test(first, second, generator=stream(1), draws=50_000)
    theirs = stats.wilcoxon(first.numpy(), second.numpy()).pvalue
    assert found.p_value == pytest.approx(float(theirs), abs=4 * math.sqrt(theirs / 50_000))
    assert 0.01 < theirs < 0.5
    assert found.mean_difference == pytest.approx(float((first - second).mean()))
    assert paired_test(second, first, generator=stream(1), draws=50_000).p_value == found.p_value
    few = paired_test(torch.arange(1.0, 5.0), torch.zeros(4), generator=stream(2))
    assert few.p_value == pytest.approx(2 / 16, abs=0.02)  # all four signs alike


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


RING = two_classes(lambda x: 0.3 - (norm(x) - 1).abs())  # in the plane an annulus, in space a shell
FILL = LoopFilling(PathSearch(PLANE, spacing=0.02), spacing=0.04, cells=3, doublings=2)


def loop(height: float, size: int = 3) -> torch.Tensor:
    """Four points around the origin, at that height above the plane of the first two coordinates."""
    corners = torch.zeros(1, 4, size)
    corners[0, :, :2] = torch.tensor([[1.0, 0.1], [0.1, 1.0], [-1.0, 0.1], [0.1, -1.0]])
    corners[0, :, 2:] = height
    return corners


def outside_mesh(model, mesh, y: int, points: int = 400) -> int:
    """How many of so many random points of each triangle lie outside."""
    bad = 0
    weights = randomness.uniform(torch.zeros(points, 2), 0, 1, generator=stream(0, "weights")).sort(1).values
    weights = torch.stack([weights[:, 0], weights[:, 1] - weights[:, 0], 1 - weights[:, 1]], 1)
    for i, j in itertools.product(range(mesh.shape[0] - 1), repeat=2):
        a, b, c, d = mesh[i, j], mesh[i, j + 1], mesh[i + 1, j + 1], mesh[i + 1, j]
        for corners in (torch.stack([a, b, c]), torch.stack([a, c, d])):
            bad += int((model(weights @ corners.flatten(1)).argmax(1) != y).sum())
    return bad


def test_a_mesh_stays_in_the_pixel_box_though_the_patch_of_its_sides_leaves_it():
    """Four sides that dip to the edge of the box: their Coons patch is at -0.55 in the middle."""
    corners = torch.tensor([[0.0, 0.5], [1.0, 0.5], [1.0, 0.6], [0.0, 0.6]])
    ends = corners.roll(-1, 0)
    dip = torch.stack([(corners + ends)[:, 0] / 2, torch.zeros(4)], 1)
    sides = Paths.through(torch.stack([corners, dip, ends], 1), torch.zeros(4, dtype=torch.long))
    assert coons(sides, 4)[..., 1].min() < -0.4

    @dataclass(frozen=True)
    class Given:
        chunk: int = 64
        projection: None = None

        def __call__(self, *_, **__) -> Paths:
            return replace(sides, found=torch.ones(4, dtype=torch.bool))

    def everything(x):
        return torch.stack([torch.ones(len(x)), torch.zeros(len(x))], dim=1)

    found = LoopFilling(Given())(everything, corners[None], torch.tensor([0]), generator=stream(0))
    assert found.filled.all()
    assert found.vertices.min() == 0
    assert found.vertices.max() == 1


def test_a_loop_in_a_half_space_is_filled_by_its_coons_patch():
    corners = (draw(3, 4, 5, name="loop").float() + 2) / 3
    found = LoopFilling(SEARCH, doublings=1)(two_classes(lambda x: x[:, 0]), corners, ones(3), generator=stream(0))
    assert bool(found.filled.all())
    assert found.statements() == ("filled: no violation at spacing 0.05",) * 3
    assert_close(found.deviation, torch.zeros(3))
    assert_close(found.vertices[:, 0, 0], corners[:, 0])
    assert_close(found.vertices[:, -1, -1], corners[:, 2])
    assert_close(found.vertices[:, 2, 2], corners.mean(1))  # of straight sides the patch is bilinear
    assert_close(found.vertices, coons(found.sides, 4))


def test_a_loop_around_a_hole_is_not_filled_in_the_plane_and_is_in_space():
    """An annulus is not simply connected, a shell is: the mesh goes over the hole, at a height that no path would need."""
    flat = FILL(RING, loop(0.0, 2), ones(1), generator=stream(0))
    assert bool(flat.sides.found.all())
    assert not bool(flat.filled)
    assert 0 < float(flat.triangles_clear) < 1
    assert flat.statements()[0].startswith("not filled (")
    dome = FILL(RING, loop(0.2), ones(1), generator=stream(0))
    assert bool(dome.filled)
    assert float(dome.vertices[..., 2].max()) > 0.65
    assert float(dome.deviation) > 0.05
    assert float(dome.vertices_inside) == float(dome.triangles_clear) == 1
    assert outside_mesh(RING, dome.vertices[0], 1) == 0


def test_a_filled_mesh_does_not_depend_on_its_company():
    """Loops that need no doubling keep their surface while others are doubled."""
    easy = loop(0.2) * 0.05 + torch.tensor([1.0, 0.0, 0.0])
    both = FILL(RING, torch.cat([easy, loop(0.2)]), ones(2), generator=stream(0))
    alone = FILL(RING, easy, ones(1), generator=stream(0))
    assert bool(both.filled.all()) and bool(alone.filled)  # noqa: PT018
    step = (both.vertices.shape[1] - 1) // (alone.vertices.shape[1] - 1)
    assert step > 1
    assert_close(both.vertices[:1, ::step, ::step], alone.vertices)
    assert outside_mesh(RING, both.vertices[0], 1) == 0
    assert_close([both.looks[:1], both.deviation[:1]], [alone.looks, alone.deviation])


def test_a_side_that_is_not_found_is_no_loop():
    corners = torch.tensor([[[-1.0, 0.1], [-0.9, 0.2], [1.0, 0.2], [0.9, -0.1]]])
    found = FILL(DISCS, corners, ones(1), generator=stream(0))
    assert found.statements() == ("no loop found",)
    assert not bool(found.filled)
    assert bool(torch.isnan(found.triangles_clear))


def test_triangles_are_sampled_on_their_lattice():
    """A unit square of two triangles, 10 parts of the diagonal's length each: 2 * 66 * points, and what they miss."""
    square = torch.tensor([[[[0.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [1.0, 1.0]]]])
    spacing = math.sqrt(2) / 10 * (1 + 1e-6)
    below = two_classes(lambda x: 0.55 - x[:, 1])
    for model, share in (
        (two_classes(lambda x: 2 - x[:, 0]), 1.0),
        (below, 0.0),
        (two_classes(lambda x: x[:, 0] - x[:, 1] + 0.01), 0.5),
    ):
        clear, looks = clear_triangles(model, square, ones(1), spacing)
        assert clear.tolist() == [share]
        assert looks.tolist() == [2 * 66]


def test_fillings_refuse():
    with pytest.raises(InputError, match="four anchors a loop"):
        FILL(RING, torch.zeros(1, 3, 2), ones(1), generator=stream(0))
    with pytest.raises(InputError, match="a cell, no fewer than 0 doublings, a spacing above 0"):
        LoopFilling(SEARCH, spacing=0)


def test_persistence_of_a_ridge_and_a_ring():
    pytest.importorskip("gudhi")
    ridge = torch.tensor([[[3.0, -1.0, 2.0, -2.0, 0.5]]], dtype=torch.float64)
    (found,) = persistence(ridge)
    assert (
        found.pieces.tolist() == [[3.0, -math.inf], [2.0, -1.0], [0.5, -2.0]]
        or found.pieces.tolist()[0][1] == -math.inf
    )
    columns = fragmentation(ridge)
    assert [column.tolist() for column in columns.values()] == [[3.0], [0.0], [2.0], [2.5]]
    at = torch.linspace(-2, 2, 81, dtype=torch.float64)
    ring = (0.3 - ((at[:, None].square() + at.square()).sqrt() - 1).abs())[None]
    columns = fragmentation(torch.cat([ring, -ring]))
    assert columns["pieces"].tolist() == [1.0, 2.0]  # the ring; its hole and what is around it
    assert columns["holes"].tolist() == [1.0, 1.0]
    assert_close(persistence(ring)[0].holes[0], torch.tensor([0.3, -0.7]).double(), rtol=0, atol=0.05)


def test_persistence_refuses(monkeypatch):
    with pytest.raises(InputError, match="finite values on grids"):
        persistence(torch.zeros(3, 3))
    monkeypatch.setitem(sys.modules, "gudhi", None)
    with pytest.raises(InputError, match="gudhi for persistence, received no such package"):
        fragmentation(torch.zeros(1, 3, 3))
