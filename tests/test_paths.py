"""Paths within classification regions: half-spaces, a horseshoe, two discs, small networks; every path verified afresh."""

import itertools
import math

import pytest
import torch
from planar_regions import BOX, DISCS, PLANE, SEARCH, draw, network, norm, ones, two_classes
from torch import nn
from torch.testing import assert_close

from lowcurve import randomness
from lowcurve.attacks import DeepFool
from lowcurve.errors import InputError
from lowcurve.geometry import CertifiedRadius
from lowcurve.geometry.endpoints import (
    LabeledPoints,
    natural_pairs,
)
from lowcurve.geometry.path_measures import path_measures, principal_components, resample, straight_line_measures
from lowcurve.geometry.path_statistics import bootstrap_interval, paired_test
from lowcurve.geometry.paths import Paths, PathSearch
from lowcurve.geometry.regions import RegionProjection, inner_margin
from lowcurve.geometry.segments import Segments, cover_segments, sample_segments
from lowcurve.models.smoothness import smoothness
from lowcurve.randomness import stream

# Signed so that |depth(x) - depth(x')| <= ||x - x'||: depth itself is a certified radius.
HORSESHOE = two_classes(lambda x: torch.minimum(0.3 - (norm(x) - 1).abs(), x[:, 1] + 0.3))


SLIT = two_classes(lambda x: x[:, 0].abs() - 0.0005)


class Wave(nn.Module):
    def forward(self, x):
        return torch.sin(6 * x)


def depth_itself(field, x):
    return {"certified radius": field.logits(x)[:, 1].detach()}


def find(model, start, end, y, search=SEARCH, seed=0):
    return search(model, start, end, y, generator=stream(seed))


def outside(model, paths: Paths, points: int | None = 20_001) -> int:
    """How many of so many equally spaced points of each segment (None: as many as the spacing says) lie outside, by the argmax
    of the logits and nothing of the package."""
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


def pairs_of(model, count: int, name: str):
    x = draw(4 * count, 4, name=name).float()
    with torch.no_grad():
        y = model(x).argmax(1)
    found = natural_pairs(LabeledPoints(x, y, torch.arange(len(x))), generator=stream(0))
    return found.start[:count], found.end[:count], found.y[:count]


def test_in_a_half_space_the_path_is_the_straight_segment():
    with randomness.temporary_seed(0, "half-space"):
        model = nn.Linear(5, 2).double()
    x = draw(60, 5, name="half-space")
    with torch.no_grad():
        x = x[model(x).argmax(1) == 0]
    start, end = x[: len(x) // 2], x[len(x) // 2 : 2 * (len(x) // 2)]
    paths = find(model, start, end, torch.zeros(len(start), dtype=torch.long))
    assert len(paths) > 5
    assert bool(paths.found.all())
    assert_close(paths.anchors, torch.stack([start, end], 1))
    assert_close(paths.forward_passes, torch.ceil((end - start).norm(dim=1) / 0.01).long() - 1)
    assert int(paths.projections.sum()) == 0
    columns = path_measures(paths)
    zero = torch.zeros(len(paths), dtype=torch.float64)
    for name in ("excess length", "maximal deviation", "mean deviation"):
        assert_close(columns[name], zero, rtol=0, atol=1e-12)
    assert_close(columns["segments"], zero + 1)
    assert_close(columns["distance"], (end - start).norm(dim=1))
    line = straight_line_measures(model, paths)
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
    line, columns = straight_line_measures(HORSESHOE, paths), path_measures(paths)
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
    assert paths.failure == ("projection",)
    assert find(level, torch.tensor([[-1.0, 0.1]]), torch.tensor([[1.0, 0.0]]), ones(1)).failure == ("",)


def test_two_discs_are_no_path_found_and_never_a_path():
    start, end = torch.tensor([[-1.0, 0.1]] * 4), torch.tensor([[1.0, 0.2], [0.8, -0.1], [1.0, 0.0], [-0.9, -0.2]])
    for spacing in (0.3, 0.01):
        paths = find(DISCS, start, end, ones(4), PathSearch(PLANE, spacing=spacing))
        assert paths.found.tolist() == [False, False, False, True]
        assert paths.counts.tolist() == [0, 0, 0, 2]
        assert set(paths.failure[:3]) <= {"depth", "projection"}
        assert paths.statements()[0] == f"no path found ({paths.failure[0]})"
        assert_close(paths.anchors, torch.stack([start, end], 1))
        columns = path_measures(paths)
        assert_close(columns["length"][:3], torch.full((3,), math.nan), equal_nan=True)
        assert bool(torch.isfinite(columns["distance"]).all())
        assert bool(torch.isnan(paths.clearance[:3]).all())


def test_each_cap_is_named():
    start, end = horseshoe_ends(3)
    apart = torch.tensor([[-1.0, 0.1]]), torch.tensor([[1.1, 0.2]])
    for name in ("depth", "forward_passes"):
        assert find(SLIT, *apart, ones(1), PathSearch(PLANE, spacing=1e-4, **{name: 5})).failure == (name,)
    asked = {
        "anchors": PathSearch(PLANE, anchors=2),
        "projection": PathSearch(lambda model, x, y, *, generator: x),  # noqa: ARG005
    }
    for name, search in asked.items():
        paths = find(HORSESHOE, start, end, ones(3), search)
        assert paths.failure == (name,) * 3
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
    found = cover_segments(wall, Segments(start, end, ones(4)), depth_itself, most=500)
    assert found.certified.tolist() == [
        True,
        True,
        False,
        False,
    ]  # the third begins on the wall, where no radius is above 0
    assert found.outside.tolist() == [False, False, False, True]
    assert 8 <= int(found.forward_passes[0]) <= 16
    assert int(found.forward_passes[2]) <= 500


def test_sampling_sees_what_a_full_grid_sees():
    """And spends no more: n - 1 looks where nothing is outside."""
    model = network()
    start, end, y = pairs_of(model, 60, "sampled")
    start = start + 0.3 * draw(60, 4, name="moved").float()
    ways = Segments(start, end, y)
    found = sample_segments(model, ways, torch.full((60,), 0.02), chunk=97)
    parts = torch.ceil((end - start).norm(dim=1).double() / 0.02).long()
    for row in range(60):
        share = torch.arange(1, int(parts[row])) / parts[row]
        x = start[row] + share[:, None] * (end[row] - start[row])
        margins = inner_margin(model, x, y[row].expand(len(x)))
        assert bool(found.clear[row]) == bool((margins > 0).all())
        if found.clear[row]:
            assert_close(found.clearance[row], margins.min(), rtol=1e-4, atol=1e-5)
            assert int(found.forward_passes[row]) == len(x)
    assert 5 < int((~found.clear).sum()) < 55
    assert float((found.forward_passes / (parts - 1))[~found.clear].mean()) < 0.3


def test_a_spacing_for_each_pair():
    start, end = torch.tensor([[0.0, 0.5]] * 2), torch.tensor([[0.0, 1.0]] * 2)
    half = two_classes(lambda x: x[:, 1])
    paths = find(half, start, end, ones(2), PathSearch(PLANE, spacing=torch.tensor([0.1, 1.0])))
    assert paths.forward_passes.tolist() == [4, 0]
    assert paths.statements() == ("no violation at spacing 0.1", "no violation at spacing 1")


def test_a_pair_does_not_depend_on_its_company():
    start, end = horseshoe_ends(8)
    together = find(HORSESHOE, start, end, ones(8))
    rows = torch.tensor([5, 2])
    apart = find(HORSESHOE, start[rows], end[rows], ones(2))
    assert_close(apart.anchors, together.take(rows).anchors)
    for name in ("counts", "forward_passes", "projections", "clearance"):
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
    with randomness.temporary_seed(0, "waves"):
        model = nn.Sequential(nn.Flatten(), nn.Linear(36, 24), Wave(), nn.Linear(24, 4)).train()
    x = (draw(400, 1, 6, 6, name="images").float() + 1) / 2
    with torch.no_grad():
        y = model(x).argmax(1)
    ends = natural_pairs(LabeledPoints(x, y, torch.arange(400)), generator=stream(0))
    into = RegionProjection(DeepFool())
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
    for overshoot, reached in ((0.0, 0.0), (1.5, 0.6)):
        led = RegionProjection(DeepFool(box=BOX, bisections=20), overshoot=overshoot, box=BOX)(
            wall, x, ones(1), generator=stream(0)
        )
        assert_close(led, torch.tensor([[reached, 0.2]]), rtol=0, atol=1e-4)
    sheet = two_classes(lambda x: 0.15 - (x[:, 0] - 0.15).abs())  # from 0 to 0.3: a quarter of 1.5 times 0.4 is inside
    led = PLANE(sheet, x, ones(1), generator=stream(0))
    assert_close(led, torch.tensor([[0.15, 0.2]]), rtol=0, atol=1e-2)
    boxed = RegionProjection(DeepFool(box=(-0.5, 0.5)), overshoot=2.0, box=(-0.5, 0.5))(
        wall, x, ones(1), generator=stream(0)
    )
    assert_close(boxed, torch.tensor([[0.5, 0.2]]))
    with pytest.raises(InputError, match="an overshoot of at least 0"):
        RegionProjection(DeepFool(), overshoot=-1.0)


def test_how_far_beyond_decides_how_many_anchors():
    """Around a disc: from one tangent point to the next, or in chords as short as the spacing."""
    start, end = horseshoe_ends(6)
    paths = find(HORSESHOE, start, end, ones(6))
    bare = PathSearch(RegionProjection(DeepFool(box=BOX, bisections=0), overshoot=0.0, box=BOX), spacing=0.01)
    assert float(paths.counts.float().mean()) < 0.5 * float(
        find(HORSESHOE, start, end, ones(6), bare).counts.float().mean()
    )


def test_refusals():
    start, end, y = torch.tensor([[-0.95, 0.1]]), torch.tensor([[0.95, 0.1]]), ones(1)
    nowhere = torch.zeros(1, 2)
    for ends, words in {
        (nowhere, end, y): "starts that are classified as their labels, got 1 of 1 pairs",
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
    with pytest.raises(InputError, match="a depth from 1 to 40, two anchors, a forward pass and a ball"):
        PathSearch(PLANE, depth=0)
    paths = Paths.through(torch.stack([start, end], 1), y)
    assert paths.statements() == ("not tested",)
    with pytest.raises(InputError, match="at least two points of a path"):
        resample(paths, 1)
    with pytest.raises(InputError, match="1 to 101 components"):
        principal_components(paths, components=0)


def test_no_pairs_are_no_paths():
    empty = torch.zeros(0, 2)
    paths = find(HORSESHOE, empty, empty, ones(0))
    assert len(paths) == 0
    assert paths.statements() == ()
    assert {len(column) for column in path_measures(paths).values()} == {0}
    assert {len(column) for column in straight_line_measures(HORSESHOE, paths).values()} == {0}
    assert len(principal_components(paths).explained) == 0
