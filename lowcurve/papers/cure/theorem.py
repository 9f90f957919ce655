"""Check Theorem 1 of moosavi2019cure: its bounds against curvature, and against exact distances of random quadratics."""

import numpy as np
import torch

from lowcurve.geometry import distance_bounds
from lowcurve.geometry.bounds import Bracket
from lowcurve.geometry.quadratics import quadratic_distance
from lowcurve.randomness import normal, stream, uniform
from lowcurve.results import Cell, Column, Curves, Line, Table

CURVATURES = tuple(float(v) for v in np.linspace(0.02, 10, 250))
"""Curvatures of Figure 4."""
FIGURE_5_CURVATURES = (0.0, 0.5, 1.0, 2.0, 4.0)


def compute_bracket(nu: float, gradient_norm: float = 1.0, gap: float = 1.0, along: float = 0.5) -> Bracket:
    """Compute the bounds of the distance for one image.

    Args:
        nu: Largest curvature.
        gradient_norm: ||g||.
        gap: c, the threshold minus the loss at the image.
        along: |g.u|, where u is the direction of largest curvature.

    Example:
        >>> found = compute_bracket(1.0)
        >>> round(float(found.lower), 4), round(float(found.upper), 4)
        (0.7321, 1.0)

    Reference: moosavi2019cure, Fig. 4.
    """
    return distance_bounds(*(torch.tensor([v], dtype=torch.float64) for v in (gap, gradient_norm, nu, along)))


def make_bound_curves() -> Curves:
    """Make curves of the lower and upper bounds over the curvature nu.

    Reference: moosavi2019cure, Fig. 4.
    """
    found = [compute_bracket(nu) for nu in CURVATURES]
    lines = {
        "upper bound (3)": Line(tuple(float(b.upper) for b in found)),
        "lower bound (2)": Line(tuple(float(b.lower) for b in found)),
        "simple lower bound, c/G − νc²/(2G³)": Line(tuple(max(float(b.simple_lower), 0.0) for b in found)),
    }
    conditions = {"setting": "‖g‖ = 1, c = 1, |g·u| = 0.5"}
    caption = "Both bounds fall as curvature grows. The simple lower bound is shown as 0 where it is negative."
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
    """Make curves of l(x) = x + nu x^2 / 2 for several nu, and compute where each reaches the threshold 1.

    Returns:
        The curves, and the x at the threshold by nu.

    Example:
        >>> round(make_one_dimensional_curves()[1][4.0], 4)  # x + 2 x^2 = 1
        0.5

    Reference: moosavi2019cure, Fig. 5.
    """
    x = np.linspace(0, 1.25, 126)
    lines = {f"ν = {nu:g}": Line(tuple(float(v) for v in x + nu * x**2 / 2)) for nu in FIGURE_5_CURVATURES}
    lines["threshold t"] = Line((1.0,) * len(x))
    across = {nu: float(compute_bracket(nu, along=1.0).upper) for nu in FIGURE_5_CURVATURES}
    said = ", ".join(f"{place:.3f} at ν = {nu:g}" for nu, place in across.items())
    caption = f"All have the same loss and derivative at 0, and reach the threshold at {said}."
    curves = Curves(
        "Losses with equal derivative and different curvature",
        "x − x₀",
        "loss",
        tuple(float(v) for v in x),
        lines,
        caption,
    )
    return curves, across


def check_random_quadratics(count: int, dimensions: int = 20, seed: int = 0) -> Table:
    """Compare the bounds of Theorem 1 with the exact distances of random quadratics.

    A quadratic is given in its eigenbasis by a normal gradient g and normal eigenvalues, the largest made positive. c is
    log-uniform between 0.01 and 10. A fourth of the quadratics have g along the top eigenvector u.

    Args:
        count: Number of quadratics.
        dimensions: Dimension of the input.
        seed: Seed of the quadratics.

    Reference: moosavi2019cure, Theorem 1.
    """
    like = torch.zeros(count, dimensions, dtype=torch.float64)
    gradient = normal(like, generator=stream(seed, "quadratics", "slope"))
    eigenvalues = normal(like, generator=stream(seed, "quadratics", "eigenvalues")).sort(1).values
    eigenvalues[:, -1] = eigenvalues[:, -1].abs()
    collinear = torch.arange(count) % 4 == 0
    last = torch.arange(dimensions) == dimensions - 1
    gradient = torch.where(collinear[:, None] & ~last, 0, gradient)
    gap = 10 ** uniform(like[:, 0], -2, 1, generator=stream(seed, "quadratics", "gap"))
    exact = quadratic_distance(gradient, eigenvalues, gap)
    bounds = distance_bounds(gap, gradient.norm(dim=1), eigenvalues[:, -1], gradient[:, -1].abs())
    tolerance = 1e-9 * exact
    within = (bounds.lower <= exact + tolerance) & (exact <= bounds.upper + tolerance)
    simply_within = (bounds.printed_lower <= exact + tolerance) & (exact <= bounds.simple_upper + tolerance)
    rows: list[tuple[Cell, ...]] = []
    for name, chosen in (("g anywhere", ~collinear), ("g along u", collinear)):
        few = exact[chosen]
        shares = (within[chosen], simply_within[chosen])
        tightness = ((bounds.lower[chosen] / few).median(), (bounds.upper[chosen] / few).median())
        rows.append((name, int(chosen.sum()), *(float(s.double().mean()) for s in shares), *map(float, tightness)))
    columns = (
        Column("quadratics", "Direction of the gradient."),
        Column("count", "Number of quadratics.", "d"),
        Column("within", "Share whose exact distance lies between the bounds (2) and (3).", ".1%"),
        Column("simply within", "Share whose exact distance lies between the simplified bounds as printed.", ".1%"),
        Column("lower / exact", "Median of the lower bound over the exact distance."),
        Column("upper / exact", "Median of the upper bound over the exact distance."),
    )
    conditions = {
        "exact": "by bisection of the Lagrange multiplier of the nearest point",
        "dimensions": str(dimensions),
    }
    return Table("Theorem 1 against exact distances", columns, tuple(rows), conditions=conditions)
