"""Theorem 1 of CURE in numbers: the bounds of the distance against curvature, and random quadratics solved exactly."""

import numpy as np
import torch
from torch import Tensor

from lowcurve.geometry import distance_bounds
from lowcurve.geometry.bounds import Bracket
from lowcurve.geometry.quadratics import quadratic_distance
from lowcurve.randomness import normal, stream, uniform
from lowcurve.results import Cell, Column, Curves, Line, Table

CURVATURES = tuple(float(v) for v in np.linspace(0.02, 10, 250))
BENT = (0.0, 0.5, 1.0, 2.0, 4.0)
"""Curvatures of the figure in one dimension."""


def _number(value: float) -> Tensor:
    return torch.tensor([value], dtype=torch.float64)


def compute_bracket(nu: float, slope: float = 1.0, gap: float = 1.0, along: float = 0.5) -> Bracket:
    """The bounds at one curvature; by default ||g|| = 1, c = 1, g.v = 1/2.

    Example:
        >>> found = compute_bracket(1.0)
        >>> round(float(found.lower), 4), round(float(found.upper), 4)
        (0.7321, 1.0)

    Reference: moosavi2019cure, Fig. 4.
    """
    return distance_bounds(*map(_number, (gap, slope, nu, along)))


def make_bound_curves() -> Curves:
    """Lower and upper bounds over nu."""
    found = [compute_bracket(nu) for nu in CURVATURES]
    lines = {
        "upper bound (3)": Line(tuple(float(b.upper) for b in found)),
        "lower bound (2)": Line(tuple(float(b.lower) for b in found)),
        "simple lower bound, c/G − νc²/(2G³)": Line(tuple(max(float(b.simple_lower), 0.0) for b in found)),
    }
    conditions = {"setting": "‖g‖ = 1, c = 1, |g·u| = 0.5"}
    caption = "Both fall as curvature grows. The simple lower bound is 0 where it says nothing."
    return Curves(
        "Bounds of the distance against curvature",
        "curvature ν",
        "bounds of ‖r*‖",
        CURVATURES,
        lines,
        caption,
        conditions,
    )


def make_one_dimensional_curves() -> tuple[Curves, dict[float, float]]:
    """l(x) = x + nu x^2 / 2 for several nu, and where each reaches the threshold 1.

    Example:
        >>> round(make_one_dimensional_curves()[1][4.0], 4)  # x + 2 x^2 = 1
        0.5
    """
    x = np.linspace(0, 1.25, 126)
    lines = {f"ν = {nu:g}": Line(tuple(float(v) for v in x + nu * x**2 / 2)) for nu in BENT}
    lines["threshold t"] = Line((1.0,) * len(x))
    across = {nu: float(compute_bracket(nu, along=1.0).upper) for nu in BENT}
    said = ", ".join(f"{place:.3f} at ν = {nu:g}" for nu, place in across.items())
    caption = f"All have the same loss and slope at 0, and cross the threshold at {said}."
    curves = Curves(
        "Losses of one slope and several curvatures", "x − x₀", "loss", tuple(float(v) for v in x), lines, caption
    )
    return curves, across


def check_random_quadratics(count: int, dimensions: int = 20, seed: int = 0) -> Table:
    """Random quadratics, of which a fourth have their gradient along the top eigenvector: how often the bounds hold of the
    exact distance, and how near they are.

    g and the eigenvalues are normal, in the eigenbasis without loss of generality, and shifted so that nu > 0; c goes
    from 0.01 to 10.
    """
    like = torch.zeros(count, dimensions, dtype=torch.float64)
    slope = normal(like, generator=stream(seed, "quadratics", "slope"))
    values = normal(like, generator=stream(seed, "quadratics", "eigenvalues")).sort(1).values
    values[:, -1] = values[:, -1].abs()
    collinear = torch.arange(count) % 4 == 0
    last = torch.arange(dimensions) == dimensions - 1
    slope = torch.where(collinear[:, None] & ~last, 0, slope)
    gap = 10 ** uniform(like[:, 0], -2, 1, generator=stream(seed, "quadratics", "gap"))
    exact = quadratic_distance(slope, values, gap)
    found = distance_bounds(gap, slope.norm(dim=1), values[:, -1], slope[:, -1].abs())
    near = 1e-9 * exact
    inside = (found.lower <= exact + near) & (exact <= found.upper + near)
    simply = (found.printed_lower <= exact + near) & (exact <= found.simple_upper + near)
    rows: list[tuple[Cell, ...]] = []
    for name, who in (("g anywhere", ~collinear), ("g along u", collinear)):
        few = exact[who]
        shares = (inside[who], simply[who])
        tight = ((found.lower[who] / few).median(), (found.upper[who] / few).median())
        rows.append((name, int(who.sum()), *(float(s.double().mean()) for s in shares), *map(float, tight)))
    columns = (
        Column("quadratics"),
        Column("count", "", "d"),
        Column("within", "Share whose exact distance is between the bounds (2) and (3).", ".1%"),
        Column("simply within", "The same of the simplified bounds as printed.", ".1%"),
        Column("lower / exact", "Median."),
        Column("upper / exact", "Median."),
    )
    conditions = {"exact": "by the multiplier of the nearest point, bisected", "dimensions": str(dimensions)}
    return Table("Theorem 1 against exact distances", columns, tuple(rows), conditions=conditions)
