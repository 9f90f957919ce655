"""Loops that are filled within a region, and the persistence of its pieces."""

import itertools
import math
import sys
from dataclasses import dataclass, replace

import pytest
import torch
from planar_regions import DISCS, PLANE, SEARCH, draw, norm, ones, two_classes
from torch.testing import assert_close

from lowcurve import randomness
from lowcurve.errors import InputError
from lowcurve.geometry.meshes import LoopFilling, coons_patch, sample_triangles
from lowcurve.geometry.paths import Paths, PathSearch
from lowcurve.geometry.persistence import cubical_persistence, fragmentation
from lowcurve.randomness import stream

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
    assert coons_patch(sides, 4)[..., 1].min() < -0.4

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
    assert_close(found.vertices, coons_patch(found.sides, 4))


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
    assert_close([both.forward_passes[:1], both.deviation[:1]], [alone.forward_passes, alone.deviation])


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
        clear, forward_passes = sample_triangles(model, square, ones(1), spacing)
        assert clear.tolist() == [share]
        assert forward_passes.tolist() == [2 * 66]


def test_fillings_refuse():
    with pytest.raises(InputError, match="four anchors a loop"):
        FILL(RING, torch.zeros(1, 3, 2), ones(1), generator=stream(0))
    with pytest.raises(InputError, match="at least one cell, 0 or more doublings and a spacing above 0"):
        LoopFilling(SEARCH, spacing=0)


def test_persistence_of_a_ridge_and_a_ring():
    pytest.importorskip("gudhi")
    ridge = torch.tensor([[[3.0, -1.0, 2.0, -2.0, 0.5]]], dtype=torch.float64)
    (found,) = cubical_persistence(ridge)
    assert (
        found.components.tolist() == [[3.0, -math.inf], [2.0, -1.0], [0.5, -2.0]]
        or found.components.tolist()[0][1] == -math.inf
    )
    columns = fragmentation(ridge)
    assert [column.tolist() for column in columns.values()] == [[3.0], [0.0], [2.0], [2.5]]
    at = torch.linspace(-2, 2, 81, dtype=torch.float64)
    ring = (0.3 - ((at[:, None].square() + at.square()).sqrt() - 1).abs())[None]
    columns = fragmentation(torch.cat([ring, -ring]))
    assert columns["pieces"].tolist() == [1.0, 2.0]  # the ring; its hole and what is around it
    assert columns["holes"].tolist() == [1.0, 1.0]
    assert_close(cubical_persistence(ring)[0].holes[0], torch.tensor([0.3, -0.7]).double(), rtol=0, atol=0.05)


def test_persistence_refuses(monkeypatch):
    with pytest.raises(InputError, match="finite values on grids"):
        cubical_persistence(torch.zeros(3, 3))
    monkeypatch.setitem(sys.modules, "gudhi", None)
    with pytest.raises(InputError, match="the library gudhi for persistence, got an environment without it"):
        fragmentation(torch.zeros(1, 3, 3))
