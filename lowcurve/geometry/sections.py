"""Compute cross-sections of the decision boundary {F = 0}: heights over a line, parabolas and distances along rays.

Lengths are l_2 in pixel units. Regions thinner than the sampling distance may be missed, so report the spacing with
each number.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lowcurve.analysis.chunks import in_chunks
from lowcurve.analysis.norms import L2, dot, per_example
from lowcurve.errors import InputError
from lowcurve.geometry.boundary import find_boundary_point
from lowcurve.geometry.level_sets import tangent_space
from lowcurve.geometry.planes import Plane, require_direction, span
from lowcurve.geometry.slices import random_directions, select_rows, surface
from lowcurve.types import Field, Inputs, PerExample, Progress, silent


@dataclass(frozen=True)
class CrossSection:
    """The boundary in the plane of r (first) and v (second) at one of its points, to second order.

    There the boundary is the curve s = slope t + second_derivative t^2 / 2 + O(t^3), with s along r and t along v.
    With r = n the slope is 0 and the second derivative -kappa; with r = -n, the direction of an attack, it is
    kappa.

    Attributes:
        plane: The plane of each example.
        slope: ds/dt at the point.
        second_derivative: d^2 s/dt^2 at the point.
        curvature: Normal curvature kappa along the curve, with the sign of `normal_curvature`. It is above 0 where the
            boundary bends towards F < 0.
    """

    plane: Plane
    slope: PerExample
    second_derivative: PerExample
    curvature: PerExample

    def parabola(self, t: Tensor) -> Tensor:
        """Compute slope t + second_derivative t^2 / 2.

        Args:
            t: Coordinates along v, shape (n,) or (batch, n).

        Returns:
            Heights of shape (batch, n).
        """
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
    """Compute the plane of r and v through a boundary point x, and the parabola that osculates the boundary in it.

    With w = v + slope r tangent to the boundary, slope = -<n, v> / <n, r> and second_derivative = -kappa ||w||^2 /
    <n, r>. Both are nan where r is tangent to the boundary or grad F is 0.

    Args:
        decision: The decision function F.
        x: Boundary points, such as those of `find_boundary_point`.
        first: r, such as an attack's perturbation; by default the unit normal grad F / ||grad F||.
        second: v, which is made orthogonal to r; by default random, each example's own and the same for every
            network.
        seed: Seed of the random v.
        h: Scale; see `tangent_space`. None means the exact Hessian. A ReLU network has kappa 0 almost everywhere, and
            its visible bends are kinks that only a scale h can measure: report h.

    Returns:
        The plane and the curve.

    Raises:
        InputError: If a direction has no length; so also for the default normal where grad F = 0.

    Cost: one gradient and one Hessian product.

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
    normal_part = dot(here.normal, plane.first)
    slope = -dot(here.normal, plane.second) / normal_part
    curvature = here.curvature(plane.second + per_example(slope, x) * plane.first)
    return CrossSection(plane, slope, -curvature * (1 + slope.square()) / normal_part, curvature)


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
    """Compute s(t_j) with F(origin + s first + t_j second) = 0, the one nearest to 0.

    Where the boundary folds over, s(t) jumps from one sheet to another. To draw all sheets, use the contour of
    `surface`.

    Args:
        decision: The decision function F.
        plane: The planes.
        s: Ascending coordinates along `first`, shape (n,) or (batch, n). They give the window, and the spacing at which
            signs are compared.
        t: Coordinates along `second`, shape (m,) or (batch, m).
        values: F on the grid of s and t from `surface`. None evaluates F.
        tolerance: Final width of the interval with the nearest sign change. It is a share of the first width.
        chunk: Batch size.
        progress: Display of the progress.

    Returns:
        Heights of shape (batch, m); nan where F does not change its sign.

    Raises:
        InputError: If s does not ascend or `values` has another shape.

    Cost: len(s) len(t) forward passes for `values` and log2(1 / tolerance) + 2 for each t.

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
        raise InputError(expected, tuple(values.shape), "take them from surface(decision, plane, s, t)")
    low, high = grid[:, :-1, None], grid[:, 1:, None]
    distance = torch.where(low > 0, low, torch.where(high < 0, -high, 0))
    nearest, which = torch.where(_sign_changes(values), distance, torch.inf).min(dim=1)
    rows, place = torch.nonzero(nearest.isfinite(), as_tuple=True)
    number = which[rows, place]
    start = plane.at(rows, torch.zeros_like(columns[rows, place]), columns[rows, place])
    found = torch.full_like(columns, torch.nan)
    ends = grid[rows, number], grid[rows, number + 1]
    found[rows, place] = _bisect_crossings(decision, rows, start, plane.first[rows], ends, tolerance, chunk)
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
    """Compute the smallest t > 0 at which l(x + t v) changes its sign, with v = direction / ||direction||.

    For the margin this is the distance to the boundary; for a misclassified x, the distance to the region of its
    class. A change and change back within one sampling interval is missed, so report the spacing, most / samples.
    Points outside the pixel box are evaluated as they are. Multiply by LINF.length(v) for an l_inf length.

    Args:
        field: Per-example margin or loss as a function of the input.
        x: Inputs, shape (batch, ...).
        direction: Directions of x's shape.
        most: Largest distance. One number, or one per example.
        samples: Number of samples up to `most`.
        tolerance: The interval with the sign change is bisected to this share of its width.
        chunk: Batch size.

    Returns:
        One l_2 distance per example; infinite if there is no sign change up to `most`, 0 where l(x) = 0, and NaN where the
        field is NaN at a sample before the first change.

    Raises:
        InputError: If a direction has no length, or `most` or `samples` is out of range.

    Cost: one forward pass per sample up to the crossing, and log2(1 / tolerance) + 2.

    Example:
        >>> v = torch.tensor([[2.0, 0.0], [-1.0, 0.0]])
        >>> crossing_distance(lambda x: x[:, 0] - 0.3, torch.zeros(2, 2), v, most=1.0)
        tensor([0.3000,    inf])

    Reference: yu2018interpreting, section 3.2 and Fig. 4.
    """
    reach = torch.as_tensor(most).to(x).expand(len(x))
    if samples < 1 or not bool(((reach > 0) & torch.isfinite(reach)).all()):
        received = f"most={most}, samples={samples}"
        raise InputError("a finite distance above 0 and at least one sample", received, "write most=1.0, samples=100")
    require_direction(direction)
    v, spacing = L2.unit(direction), reach / samples
    origin = torch.zeros(1)
    before = surface(field, Plane(x, v, torch.zeros_like(x)), origin, origin, chunk=chunk).flatten()
    distance = torch.full((len(x),), torch.inf).to(x)
    step = torch.full((len(x),), -1, device=x.device)  # index of the interval with the crossing
    seen = 0
    while seen < samples and bool((step < 0).any()):
        rows = torch.nonzero(step < 0).flatten()
        more = min(max(1, chunk // len(rows)), samples - seen)
        ray = Plane(x[rows], v[rows], torch.zeros_like(x[rows]))
        ahead = spacing[rows, None] * torch.arange(seen + 1, seen + more + 1, device=x.device)
        values = surface(select_rows(field, rows), ray, ahead, origin, chunk=chunk)[:, :, 0]
        values = torch.cat([before[rows, None], values], dim=1)
        # A sample that is NaN hides what lies before it, so the search ends there.
        undefined = values[:, :-1].isnan() | values[:, 1:].isnan()
        changed = _sign_changes(values) | undefined
        first = changed.int().argmax(1)
        step[rows] = torch.where(changed.any(1), seen + first, -1)
        distance[rows[undefined.gather(1, first[:, None])[:, 0]]] = torch.nan
        before[rows] = values[:, -1]
        seen += more
    rows = torch.nonzero((step >= 0) & ~distance.isnan()).flatten()
    ends = step[rows] * spacing[rows], (step[rows] + 1) * spacing[rows]
    distance[rows] = _bisect_crossings(field, rows, x[rows], v[rows], ends, tolerance, chunk)
    return distance


def _sign_changes(values: Tensor) -> Tensor:
    """Return True where the sign changes, or is 0, between neighbors along axis 1; nan has no sign."""
    sign, known = values.sign(), ~values.isnan()  # the sign of NaN is 0
    return (sign[:, :-1] * sign[:, 1:] <= 0) & known[:, :-1] & known[:, 1:]


def _bisect_crossings(
    field: Field,
    rows: Tensor,
    start: Inputs,
    direction: Inputs,
    ends: tuple[Tensor, Tensor],
    tolerance: float,
    chunk: int,
) -> Tensor:
    """Find for each row the t between two ends at which F(start + t direction) = 0."""
    if not len(rows):
        return torch.zeros_like(ends[0])

    def part(some: slice) -> Tensor:
        low, high = (end[some] for end in ends)
        base, along = start[some], direction[some]
        here, there = base + per_example(low, base) * along, base + per_example(high, base) * along
        decision = select_rows(field, rows[some])
        found = find_boundary_point(decision, here, there, tolerance=tolerance)
        at = dot(found.point - base, along)
        if not bool(found.crossed.all()):  # A sign change within rounding: take the end with the smaller value.
            with torch.no_grad():
                at = torch.where(~found.crossed & (decision(here).abs() < decision(there).abs()), low, at)
        return at

    return torch.cat(in_chunks(part, len(rows), chunk))


def _require_rising(grid: Tensor) -> None:
    if grid.shape[1] < 2 or not bool((grid[:, 1:] > grid[:, :-1]).all()):
        raise InputError(
            "rising coordinates s, two at least", "coordinates that do not rise", "write torch.linspace(-1, 1, 101)"
        )
