"""Fill loops within the region of a class by triangle meshes in the region.

If every loop of a region can be filled, the region is simply connected. A mesh shows this for one loop at one
spacing.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lowcurve import randomness
from lowcurve.analysis.chunks import in_chunks
from lowcurve.analysis.norms import L2, per_example
from lowcurve.errors import InputError
from lowcurve.geometry.path_measures import resample
from lowcurve.geometry.paths import Paths, PathSearch
from lowcurve.geometry.regions import inner_margin, inner_margins
from lowcurve.models.modes import frozen
from lowcurve.types import Classifier, Inputs, Labels, PerExample


@dataclass(frozen=True)
class Meshes:
    """One mesh per loop, as far as the filling got.

    Attributes:
        vertices: Shape (loops, n + 1, n + 1, ...), with the four anchors in the corners. Every square is cut into two
            triangles.
        sides: The paths between anchors, four per loop.
        filled: True where no vertex and no sample of a triangle lies outside the region, at `spacing`. False means "not
            filled within these doublings", never that it is impossible.
        spacing: Spacing of the samples, l_2 in pixel units.
        vertices_inside: Share of the vertices inside the region. It is nan where a side was not found.
        triangles_clear: Share of the triangles without a sample outside. It is nan where a side was not found.
        deviation: Largest distance of a vertex from the Coons patch of its sides. It is divided by the length of the
            loop.
        forward_passes: Forward images spent on vertices and triangles.
    """

    vertices: Tensor
    sides: Paths
    filled: Tensor
    spacing: float
    vertices_inside: PerExample
    triangles_clear: PerExample
    deviation: PerExample
    forward_passes: Tensor

    def statements(self) -> tuple[str, ...]:
        """Describe the result of each loop in words."""
        sides = self.sides.found.view(-1, 4).all(1).tolist()
        known = []
        for filled, loop, share in zip(self.filled.tolist(), sides, self.triangles_clear.tolist(), strict=True):
            partly = f"not filled ({share:.0%} of the triangles clear)" if loop else "no loop found"
            known.append(f"filled: no violation at spacing {self.spacing:.3g}" if filled else partly)
        return tuple(known)


@dataclass(frozen=True)
class LoopFilling:
    """Fill the loop a - b - c - d - a within one region with a mesh within the region.

    The sides are paths found by `search`. The first mesh, of `cells` by `cells` squares, is the Coons patch of the
    sides. Vertices outside the region are moved into it by the search's projection. If a triangle has a sample
    outside, every square is cut into four, up to `doublings` times. New vertices are midpoints of old ones, or
    points of the sides on the edge, and are projected if outside. A clear mesh is not changed.

    The edge of the mesh is a polygon with its corners on the sides. The projection should go well inside the
    region, as `RegionProjection` does by default. Between vertices on a boundary that bends into the mesh, some
    triangle is outside at every size. Each entry of a vertex stays within the range of the loop, and so in the
    pixel box.

    Args:
        search: The search for the sides.
        spacing: Spacing of the samples of each triangle, l_2 in pixel units. It may be coarser than that of the
            paths, because areas need many samples. Between samples nothing is known.
        cells: Squares along a side of the first mesh.
        doublings: Maximum number of refinements.

    Cost: the paths, about twice the mesh's area over spacing^2 forward images per doubling, and the projections.

    Example:
        >>> from lowcurve.attacks import DeepFool
        >>> from lowcurve.geometry.regions import RegionProjection
        >>> fill = LoopFilling(PathSearch(RegionProjection(DeepFool())))
        >>> corners = torch.tensor([[[0.6, 0.1], [0.9, 0.1], [0.9, 0.4], [0.6, 0.4]]])  # where the first coordinate leads
        >>> fill(torch.nn.Identity(), corners, torch.tensor([0])).statements()
        ('filled: no violation at spacing 0.05',)

    Reference: Swaminathan and Akgün 2026 (arXiv 2605.06380), quad-mesh filling.
    """

    search: PathSearch
    spacing: float = 0.05
    cells: int = 4
    doublings: int = 3

    def __post_init__(self) -> None:
        if self.cells < 1 or self.doublings < 0 or not (math.isfinite(self.spacing) and self.spacing > 0):
            found = (self.cells, self.doublings, self.spacing)
            raise InputError(
                "at least one cell, 0 or more doublings and a spacing above 0", found, "write LoopFilling(search)"
            )

    def __call__(
        self, model: Classifier, corners: Inputs, y: Labels, *, generator: torch.Generator | None = None, seed: int = 0
    ) -> Meshes:
        """Fill one loop for each row of `corners`.

        Args:
            model: The network.
            corners: Four anchors per loop in the order of the loop, shape (loops, 4, ...).
            y: The class of each loop.
            generator: Source of the projection's random choices; by default one made from `seed`.
            seed: Seed of the random numbers, used without a generator.

        Returns:
            The meshes.

        Raises:
            InputError: If `corners` has another shape, or an anchor is not classified as y.
        """
        generator = generator or randomness.stream(seed, "meshes")
        if corners.ndim < 3 or corners.shape[1] != 4:
            found = f"shape {tuple(corners.shape)}"
            raise InputError("four anchors a loop, (loops, 4, ...)", found, "stack them along the second axis")
        seed = int(randomness.integers((), 0, 2**62, generator=generator))
        start, end = corners.flatten(0, 1), corners.roll(-1, 1).flatten(0, 1)
        sides = self.search(model, start, end, y.repeat_interleave(4), generator=randomness.stream(seed, "sides"))
        loops = sides.found.view(-1, 4).all(1)
        with frozen(model):
            mesh = self._start_mesh(sides, corners, loops)
            for doubling in range(self.doublings + 1):
                stream = randomness.stream(seed, "vertices", doubling)
                unfilled = torch.nonzero(loops & ~mesh.filled).flatten()
                if not len(unfilled):
                    break
                mesh = self._refine(model, mesh if not doubling else _double_cells(mesh), y, unfilled, stream)
        return mesh

    def _start_mesh(self, sides: Paths, corners: Inputs, loops: Tensor) -> Meshes:
        """Start from the Coons patches of the sides."""
        unknown = torch.full((len(corners),), torch.nan, dtype=corners.dtype, device=corners.device)
        none = torch.zeros_like(loops)
        patch = _clamp_to_loop(coons_patch(sides, self.cells), sides)
        return Meshes(patch, sides, none, self.spacing, unknown, unknown.clone(), unknown.clone(), none.long())

    def _refine(self, model: Classifier, mesh: Meshes, y: Labels, rows: Tensor, stream: torch.Generator) -> Meshes:
        """Move outside vertices of these loops inside, and test vertices and triangles."""
        vertices = mesh.vertices.clone()
        side = vertices.shape[1]
        flat = vertices[rows].flatten(0, 2)
        labels, chunk = y[rows].repeat_interleave(side * side), self.search.chunk
        margins = inner_margins(model, flat, labels, chunk)
        outside = torch.nonzero(~(margins > 0)).flatten()
        if len(outside):
            flat[outside] = self.search.projection(model, flat[outside], labels[outside], generator=stream).detach()
            margins[outside] = inner_margins(model, flat[outside], labels[outside], chunk)
        vertices[rows] = flat.view(len(rows), *vertices.shape[1:])
        clear, spent = sample_triangles(model, vertices[rows], y[rows], self.spacing, chunk=chunk)
        inside = (margins > 0).view(len(rows), -1).to(vertices).mean(1)
        spent = spent + side * side + torch.bincount(outside // (side * side), minlength=len(rows))
        deviation = self._relative_deviation(mesh.sides, side - 1, vertices)
        return replace(
            mesh,
            vertices=vertices,
            filled=mesh.filled.index_put((rows,), (clear == 1) & (inside == 1)),
            vertices_inside=mesh.vertices_inside.index_put((rows,), inside),
            triangles_clear=mesh.triangles_clear.index_put((rows,), clear),
            deviation=mesh.deviation.index_put((rows,), deviation[rows]),
            forward_passes=mesh.forward_passes.index_add(0, rows, spent),
        )

    def _relative_deviation(self, sides: Paths, cells: int, vertices: Tensor) -> PerExample:
        """Compute the largest distance of a vertex from the Coons patch, over the length of the loop."""
        distances = L2.length((vertices - coons_patch(sides, cells)).flatten(0, 2)).view(len(vertices), -1).amax(1)
        steps = sides.anchors[:, 1:] - sides.anchors[:, :-1]
        return distances / L2.length(steps.flatten(0, 1)).view(len(vertices), -1).sum(1)


def coons_patch(sides: Paths, cells: int) -> Tensor:
    """Compute the bilinearly blended patch of four sides; its edge lies on them, at equal steps of arc length.

    Let u run along a - b and d - c, and v along a - d and b - c. The patch is (1 - v) ab(u) + v dc(u) + (1 - u) ad(v) +
    u bc(v), minus the bilinear interpolation of the corners. The sum counts them twice.

    Args:
        sides: Four paths for each loop.
        cells: Squares along a side.

    Returns:
        Vertices of shape (loops, cells + 1, cells + 1, ...).

    Example:
        >>> square = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
        >>> sides = Paths.through(torch.stack([square, square.roll(-1, 0)], 1), torch.zeros(4, dtype=torch.long))
        >>> coons_patch(sides, 2)[0, 1, 1]
        tensor([0.5000, 0.5000])

    Reference: Coons 1967.
    """
    points = resample(sides, cells + 1)
    ab, bc, cd, da = points.view(-1, 4, *points.shape[1:]).unbind(1)
    dc, ad = cd.flip(1), da.flip(1)
    share = torch.linspace(0, 1, cells + 1, dtype=points.dtype, device=points.device)
    u = share.view(1, 1, -1, *[1] * (ab.ndim - 2))
    v = share.view(1, -1, 1, *[1] * (ab.ndim - 2))
    blended = (1 - v) * ab[:, None] + v * dc[:, None] + (1 - u) * ad[:, :, None] + u * bc[:, :, None]
    a, b, c, d = (corner[:, None, None] for corner in (ab[:, 0], ab[:, -1], dc[:, -1], dc[:, 0]))
    bilinear = (1 - v) * ((1 - u) * a + u * b) + v * ((1 - u) * d + u * c)
    return (blended - bilinear).to(sides.anchors)


def _clamp_to_loop(patch: Tensor, sides: Paths) -> Tensor:
    """Clamp each entry to the range of its loop.

    Patches of bent sides may leave the pixel box, in which the loop lies; any patch may by rounding.
    """
    points = sides.anchors.reshape(len(patch), -1, *sides.anchors.shape[2:])
    low, high = points.amin(1)[:, None, None], points.amax(1)[:, None, None]
    return torch.minimum(torch.maximum(patch, low), high)


def _double_cells(mesh: Meshes) -> Meshes:
    """Cut every square into four, which keeps the surface, and put the edges of unfilled loops on their sides."""
    old = mesh.vertices
    fine = _insert_midpoints(_insert_midpoints(old, 1), 2)
    fine[:, 1::2, 1::2] = (old[:, :-1, :-1] + old[:, 1:, 1:]) / 2  # on the cut between the two triangles
    patch = _clamp_to_loop(coons_patch(mesh.sides, fine.shape[1] - 1), mesh.sides)
    patch[:, 1:-1, 1:-1] = fine[:, 1:-1, 1:-1]
    return replace(mesh, vertices=torch.where(per_example(mesh.filled, fine), fine, patch))


def _insert_midpoints(points: Tensor, axis: int) -> Tensor:
    """Insert the midpoint between each two neighbors along an axis."""
    count = points.shape[axis]
    before, after = points.narrow(axis, 0, count - 1), points.narrow(axis, 1, count - 1)
    interleaved = torch.stack([before, (before + after) / 2], axis + 1).flatten(axis, axis + 1)
    return torch.cat([interleaved, points.narrow(axis, count - 1, 1)], axis)


def sample_triangles(
    model: Classifier, vertices: Tensor, y: Labels, spacing: float, *, chunk: int = 256
) -> tuple[PerExample, Tensor]:
    """Test which triangles of the meshes have no sample outside the region.

    A triangle whose longest edge is l is sampled on its lattice of ceil(l / spacing) parts per edge, corners
    included.

    Args:
        model: The network.
        vertices: Shape (loops, n + 1, n + 1, ...).
        y: The class of each loop.
        spacing: Spacing of the samples, l_2 in pixel units.
        chunk: Batch size.

    Returns:
        The share of clear triangles of each mesh, and the forward images spent.
    """
    a, b, c, d = vertices[:, :-1, :-1], vertices[:, :-1, 1:], vertices[:, 1:, 1:], vertices[:, 1:, :-1]
    corners = [torch.stack(pair, 1).flatten(0, 3) for pair in ((a, a), (b, c), (c, d))]
    triangles = len(corners[0]) // max(1, len(vertices))
    edges = [L2.length(corners[k] - corners[k - 1]) for k in range(3)]
    parts = torch.ceil(torch.stack(edges).amax(0).double() / spacing).long()
    parts = torch.where(parts == 0, 1, parts)
    counts = (parts + 1) * (parts + 2) // 2
    ends = counts.cumsum(0)
    smallest = torch.full_like(edges[0], torch.inf)
    labels = y.repeat_interleave(triangles)

    def test_samples(part: slice) -> None:
        number = torch.arange(part.start, part.stop, device=ends.device)
        rows = torch.searchsorted(ends, number, right=True)
        place = number - (ends - counts)[rows]
        across = ((8 * place.double() + 1).sqrt() / 2 - 0.5).floor().long()
        along = place - across * (across + 1) // 2
        weights = [(parts[rows] - across) / parts[rows], (across - along) / parts[rows], along / parts[rows]]
        x = torch.stack(
            [per_example(w.to(corner), corner) * corner[rows] for w, corner in zip(weights, corners, strict=True)]
        )
        margins = inner_margin(model, x.sum(0), labels[rows])
        smallest.scatter_reduce_(0, rows, margins.nan_to_num(-torch.inf).to(smallest), "amin")

    in_chunks(test_samples, int(counts.sum()), chunk)
    return (smallest > 0).view(len(vertices), -1).to(vertices).mean(1), counts.view(len(vertices), -1).sum(1)
