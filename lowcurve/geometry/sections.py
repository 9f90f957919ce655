"""Cross-sections of the decision boundary {F = 0}: its height over a line, its parabola, where a ray meets it.

All lengths are l_2, in pixel units. What lies between two samples is not seen: a region thinner than the spacing may be missed,
and every number here belongs with the spacing that it was had with.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lowcurve.analysis.chunks import in_chunks
from lowcurve.analysis.norms import L2, dot, per_example
from lowcurve.errors import InputError
from lowcurve.geometry.boundary import find_boundary_point, tangent_space
from lowcurve.geometry.slices import Plane, random_directions, require_direction, select_rows, span, surface
from lowcurve.types import Field, Inputs, PerExample, Progress, silent


@dataclass(frozen=True)
class CrossSection:
    """The boundary in the plane of r (first) and v (second) at a point of it, to second order.

    There it is the curve s = slope t + bend t^2 / 2 + O(t^3), s along r and t along v. curvature: the boundary's normal
    curvature kappa along that curve, with the sign of `normal_curvature`: above 0 where it bends towards F < 0. With r = n
    slope is 0 and bend -kappa; with r = -n, the way an attack goes, bend is kappa.
    """

    plane: Plane
    slope: PerExample
    second_derivative: PerExample
    curvature: PerExample

    def parabola(self, t: Tensor) -> Tensor:
        """slope t + bend t^2 / 2, shape (batch, n); t: (n,) or (batch, n)."""
        t = self.plane.grid(t)
        return self.slope[:, None] * t + self.second_derivative[:, None] * t.square() / 2


def cross_section(
    decision: Field,
    x: Inputs,
    *,
    first: Inputs | None = None,
    second: Inputs | None = None,
    seed: int = 0,
    h: float | None = None,
) -> CrossSection:
    """The plane of r and v through a boundary point x, and the parabola that osculates the boundary in it.

    x: from `find_boundary_point`, say. upright: r, by default the unit normal n = grad F / ||grad F|| (towards F > 0); or an
    attack's perturbation, which need not be normal. along: v, made orthogonal to r; by default random, each example's own, the
    same for every network (another seed, another v). With w = v + slope r, slope = -<n, v> / <n, r>, tangent to the boundary,
    bend = -kappa ||w||^2 / <n, r>. Not a number where r is tangent or grad F is 0. h: see `tangent_space`: a ReLU network has
    kappa 0 almost everywhere, and what is drawn bends in kinks that only a scale h can see: report it.
    Cost: one gradient, one product. Errors: InputError for a direction without length, also for a normal where grad F = 0.

    Example:
        >>> section = cross_section(lambda x: x.square().sum(1) - 4, torch.tensor([[0.0, 0.0, 2.0]]))  # a sphere, R = 2
        >>> section.curvature, section.parabola(torch.tensor([1.0]))
        (tensor([0.5000]), tensor([[-0.2500]]))

    Reference: bardusco_report, Fig. 2; moosavi2019cure, Fig. 1; Fawzi et al. 2018, curvature of the decision boundary.
    """
    here = tangent_space(decision, x, h)
    r = here.normal if first is None else first
    v = random_directions(x, 1, seed=seed, orthogonal_to=[r])[0] if second is None else second
    plane = span(x, r, v)
    rise = dot(here.normal, plane.first)
    slope = -dot(here.normal, plane.second) / rise
    curvature = here.curvature(plane.second + per_example(slope, x) * plane.first)
    return CrossSection(plane, slope, -curvature * (1 + slope.square()) / rise, curvature)


def boundary_heights(
    decision: Field,
    plane: Plane,
    s: Tensor,
    t: Tensor,
    *,
    values: Tensor | None = None,
    tolerance: float = 1e-4,
    chunk: int = 64,
    progress: Progress[int] = silent,
) -> Tensor:
    """s(t_j) with F(origin + s first + t_j second) = 0, the one nearest to 0, shape (batch, len(t)); NaN where there is none.

    s: rising, (n,) or (batch, n): the window, and the spacing at which F is asked for its sign. Of the intervals over which it
    changes the nearest to s = 0 is halved until it is `tolerance` of its width. values: F on this grid, as of `surface`, if it
    is known. Where the boundary folds over, s(t) jumps from one sheet to another. For the boundary beyond this curve draw the
    contour of `surface`. Cost: len(s) len(t) forward passes for `values`, log2(1 / tolerance) + 2 for each t.

    Example:
        >>> section = cross_section(lambda x: x.square().sum(1) - 1, torch.tensor([[0.0, 1.0]]))
        >>> s, t = torch.linspace(-1, 1, 11), torch.tensor([0.0, 0.6, 2.0])
        >>> boundary_heights(lambda x: x.square().sum(1) - 1, section.plane, s, t).round(decimals=3)  # a circle
        tensor([[ 0.0000, -0.2000,     nan]])

    Reference: bardusco_report, Fig. 2; moosavi2019cure, Fig. 1.
    """
    grid, columns = plane.grid(s), plane.grid(t)
    _require_rising(grid)
    if values is None:
        values = surface(decision, plane, s, t, chunk=chunk, progress=progress, heading="boundary")
    if values.shape != (len(plane), grid.shape[1], columns.shape[1]):
        expected = f"values of shape {(len(plane), grid.shape[1], columns.shape[1])}"
        raise InputError(expected, tuple(values.shape), "take them of surface(decision, plane, s, t)")
    low, high = grid[:, :-1, None], grid[:, 1:, None]
    away = torch.where(low > 0, low, torch.where(high < 0, -high, 0))
    nearest, which = torch.where(_changes(values), away, torch.inf).min(dim=1)
    rows, place = torch.nonzero(nearest.isfinite(), as_tuple=True)
    number = which[rows, place]
    start = plane.at(rows, torch.zeros_like(columns[rows, place]), columns[rows, place])
    found = torch.full_like(columns, torch.nan)
    ends = grid[rows, number], grid[rows, number + 1]
    found[rows, place] = _crossings(decision, rows, start, plane.first[rows], ends, tolerance, chunk)
    return found


def crossing_distance(
    field: Field,
    x: Inputs,
    direction: Inputs,
    *,
    most: float | PerExample,
    samples: int = 100,
    tolerance: float = 1e-4,
    chunk: int = 64,
) -> PerExample:
    """The smallest t > 0 at which l(x + t v) changes its sign, v = direction / ||direction||; inf where not up to `most`.

    From either side: with the margin, how far the boundary is, or for a misclassified x the region of its class. Sampled at the
    spacing most / samples and bisected to `tolerance` of that, so a change back within the spacing is missed: state it. 0 where
    l(x) = 0. As an l_inf length: times LINF.length(v). Points outside the pixel box count as any.
    Cost: a forward pass a sample up to the crossing, in batches of `chunk` over all examples, and log2(1 / tolerance) + 2.
    Errors: InputError for a direction without length.

    Example:
        >>> v = torch.tensor([[2.0, 0.0], [-1.0, 0.0]])
        >>> crossing_distance(lambda x: x[:, 0] - 0.3, torch.zeros(2, 2), v, most=1.0)
        tensor([0.3000,    inf])

    Reference: yu2018interpreting, section 3.2 and Fig. 4.
    """
    reach = torch.as_tensor(most).to(x).expand(len(x))
    if samples < 1 or not bool(((reach > 0) & torch.isfinite(reach)).all()):
        received = f"most={most}, samples={samples}"
        raise InputError("a finite distance above 0 to look at, and a sample", received, "write most=1.0, samples=100")
    require_direction(direction)
    v, spacing = L2.unit(direction), reach / samples
    nowhere = torch.zeros(1)
    before = surface(field, Plane(x, v, torch.zeros_like(x)), nowhere, nowhere, chunk=chunk).flatten()
    step = torch.full((len(x),), -1, device=x.device)  # the number of the interval with the crossing
    seen = 0
    while seen < samples and bool((step < 0).any()):
        rows = torch.nonzero(step < 0).flatten()
        more = min(max(1, chunk // len(rows)), samples - seen)
        ray = Plane(x[rows], v[rows], torch.zeros_like(x[rows]))
        ahead = spacing[rows, None] * torch.arange(seen + 1, seen + more + 1, device=x.device)
        values = surface(select_rows(field, rows), ray, ahead, nowhere, chunk=chunk)[:, :, 0]
        changed = _changes(torch.cat([before[rows, None], values], dim=1))
        step[rows] = torch.where(changed.any(1), seen + changed.int().argmax(1), -1)
        before[rows] = values[:, -1]
        seen += more
    rows = torch.nonzero(step >= 0).flatten()
    ends = step[rows] * spacing[rows], (step[rows] + 1) * spacing[rows]
    distance = torch.full((len(x),), torch.inf).to(x)
    distance[rows] = _crossings(field, rows, x[rows], v[rows], ends, tolerance, chunk)
    return distance


def _changes(values: Tensor) -> Tensor:
    """Whether the sign changes, or is 0, between neighbors along axis 1; NaN is no sign."""
    sign = values.sign()
    return sign[:, :-1] * sign[:, 1:] <= 0


def _crossings(
    field: Field,
    rows: Tensor,
    start: Inputs,
    direction: Inputs,
    ends: tuple[Tensor, Tensor],
    tolerance: float,
    chunk: int,
) -> Tensor:
    """The t between two ends at which F(start + t direction) = 0, one for each of the rows."""
    if not len(rows):
        return torch.zeros_like(ends[0])

    def part(some: slice) -> Tensor:
        low, high = (end[some] for end in ends)
        base, way = start[some], direction[some]
        here, there = base + per_example(low, base) * way, base + per_example(high, base) * way
        decision = select_rows(field, rows[some])
        found = find_boundary_point(decision, here, there, tolerance=tolerance)
        at = dot(found.point - base, way)
        if not bool(found.crossed.all()):  # the other sign was rounding: an end is where it is 0
            with torch.no_grad():
                at = torch.where(~found.crossed & (decision(here).abs() < decision(there).abs()), low, at)
        return at

    return torch.cat(in_chunks(part, len(rows), chunk))


def _require_rising(grid: Tensor) -> None:
    if grid.shape[1] < 2 or not bool((grid[:, 1:] > grid[:, :-1]).all()):
        raise InputError("rising coordinates s, two at least", "others", "write torch.linspace(-1, 1, 101)")
