"""Compute cross-sections of several networks' decision boundaries at the same images."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lowcurve.analysis.norms import L2, pixels
from lowcurve.attacks import DeepFool
from lowcurve.figures.same_images import SameImages
from lowcurve.geometry import (
    BoundaryPoint,
    Plane,
    boundary_heights,
    box_excess,
    cross_section,
    find_boundary_point,
    logit_difference,
    random_directions,
    surface,
)
from lowcurve.models.modes import frozen
from lowcurve.network_calls import call
from lowcurve.randomness import stream
from lowcurve.results import Cell, Column, Curves, Line, Panel, Points, Result, Surface, Table
from lowcurve.results.cells import NETWORK
from lowcurve.types import Field, Inputs, Labels, PerExample

ASIDE = "along v, random and orthogonal (l_2, pixel units)"
CLOSE, SHORTEST = 0.05, 0.2
"""The parabola is drawn while it is within this share of the window's half width from the boundary, and not at all if that
is a smaller share of the window."""
IMAGE = Column("image", "Its class and its number in the test set, from 0.")


@dataclass(frozen=True)
class Crossing:
    """DeepFool's result at each image and the boundary point on the way to it.

    Attributes:
        adversarial: DeepFool's images.
        decision: F = z_y - z_j. DeepFool reached class j.
        others: The classes j.
        boundary: Points of {F = 0} on the segments from images to `adversarial`.
        distance: l_2 distance of each image to its boundary point.
    """

    adversarial: Inputs
    decision: Field
    others: Labels
    boundary: BoundaryPoint
    distance: PerExample


def find_crossings(shared: SameImages) -> dict[str, Crossing]:
    """Find the boundary point of every network near every image, by DeepFool and bisection.

    Args:
        shared: Networks and images.

    Returns:
        One `Crossing` per network, by name.
    """
    found = {}
    for name, model in shared.models.items():
        x = shared.inputs(model)
        y = shared.y.to(x.device)
        adversarial = DeepFool(L2)(model, x, y, generator=stream(0, "cross-section"))
        with frozen(model), torch.no_grad():
            others = call(model, adversarial).scatter(1, y[:, None], -torch.inf).argmax(1)
            decision = logit_difference(model, y, others)
            boundary = find_boundary_point(decision, x, adversarial)
        found[name] = Crossing(adversarial, decision, others, boundary, L2.length(boundary.point - x))
    return found


def crossing_windows(crossings: Mapping[str, Crossing], share: float, shared: SameImages) -> Tensor:
    """Return each image's grid coordinates, the same for all networks.

    Args:
        crossings: The crossings of every network.
        share: Half width of the window as a multiple of the largest distance among the networks.
        shared: Networks and images.

    Returns:
        Coordinates of shape (images, points).
    """
    lengths = torch.stack([torch.where(c.boundary.crossed, c.distance, 0).cpu() for c in crossings.values()])
    reach = share * lengths.amax(0)
    return torch.where(reach > 0, reach, shared.reach)[:, None] * torch.linspace(-1, 1, shared.points)


def cross_sections(shared: SameImages) -> dict[str, Result]:
    """Compute the boundary in the plane of DeepFool's direction r and a random v, with its osculating parabola.

    v is the same for every network, apart from the part that is removed to make it orthogonal to r.

    Args:
        shared: Networks and images.

    Returns:
        "cross-sections", a table of the curvatures; for each image "section 1", F = z_y - z_j over the plane with
        one panel per network, and "heights 1", the boundary over v.

    Reference: moosavi2019cure, Fig. 1; bardusco_report, Fig. 2.
    """
    h = float(np.sqrt(np.prod(shared.examples.shape))) * pixels(1)
    crossings = find_crossings(shared)
    windows = crossing_windows(crossings, 1.25, shared)
    conditions = {
        **shared.conditions,
        "r": "from the image to where DeepFool (l_2) crosses the boundary",
        "curvature": f"central differences at the scale h = {h:.3g}, one grey level a pixel",
        "grid": f"{shared.points} x {shared.points} points",
        "pixel box": "points outside it are evaluated as they are",
    }
    panels: list[dict[str, Panel]] = [{} for _ in shared.numbers]
    lines: list[dict[str, Line]] = [{} for _ in shared.numbers]
    rows: list[tuple[Cell, ...]] = []
    for name, found in crossings.items():
        crossed = torch.nonzero(found.boundary.crossed & (found.distance > 0)).flatten()
        missing = sorted(set(range(len(shared.numbers))) - set(crossed.tolist()))
        rows += [(name, shared.short_name(i), *[None] * 5) for i in missing]
        if not len(crossed):
            continue
        x, point = shared.inputs(shared.models[name])[crossed], found.boundary.point[crossed]
        decision = logit_difference(shared.models[name], shared.y.to(x.device)[crossed], found.others[crossed])
        second = random_directions(x, 1, seed=shared.seed)[0]
        section = cross_section(decision, point, first=point - x, second=second, h=h)
        window = windows[crossed.cpu()].to(x)
        values = surface(
            decision, section.plane, window, window, progress=shared.progress, heading=f"sections of {name}"
        )
        curve = boundary_heights(decision, section.plane, window, window, values=values)
        parabola, inside = section.parabola(window), share_in_box(section.plane, window, window)
        for k, i in enumerate(crossed.tolist()):
            t = window[k].tolist()
            distance, kappa = float(found.distance[i]), float(section.curvature[k])
            fitted = _where_it_holds(parabola[k], curve[k], t[-1])
            panels[i][name] = Panel(
                values[k].cpu().numpy(),
                {"parabola": Points(tuple(t), fitted)},
                {"image": (0.0, -distance), "crossing": (0.0, 0.0)},
                f"κ = {kappa:.3g}, distance {distance:.3g}",
            )
            lines[i][name] = Line(_inside_window(curve[k], t[-1]))
            lines[i][f"{name}, parabola"] = Line(fitted)
            reached = shared.examples.classes[int(found.others[i])]
            rows.append(
                (name, shared.short_name(i), reached, distance, float(section.slope[k]), kappa, float(inside[k]))
            )
    return {"cross-sections": _sections_table(rows, conditions)} | _section_figures(
        shared, windows, panels, lines, conditions
    )


def _inside_window(values: Tensor, most: float) -> tuple[float | None, ...]:
    """Replace numbers outside the window by None."""
    return tuple(v if abs(v) <= most else None for v in values.tolist())


def _where_it_holds(parabola: Tensor, curve: Tensor, most: float) -> tuple[float | None, ...]:
    """Return the parabola as far as it follows the boundary from the crossing on; nothing if that is hardly anywhere.

    Farther away it only shows that the curvature at the crossing, on the scale h, is not that of the window.
    """
    middle = len(curve) // 2
    apart = ~((parabola - curve).abs() <= CLOSE * most)
    left, right = apart[: middle + 1].flip(0), apart[middle:]
    reach = [int(side.int().argmax()) if bool(side.any()) else len(side) for side in (left, right)]
    if sum(reach) - 1 < SHORTEST * len(curve):
        return (None,) * len(curve)
    kept = range(middle - reach[0] + 1, middle + reach[1])
    return tuple(v if i in kept and abs(v) <= most else None for i, v in enumerate(parabola.tolist()))


def share_in_box(plane: Plane, a: Tensor, b: Tensor) -> Tensor:
    """Return the share of each window's points inside the pixel box.

    Args:
        plane: The planes.
        a: Coordinates along the first direction, shape (n,) or (batch, n).
        b: Coordinates along the second direction.

    Returns:
        One share per plane.
    """
    return (box_excess(plane, a, b) == 0).double().mean((1, 2))


def _sections_table(rows: list[tuple[Cell, ...]], conditions: Mapping[str, str]) -> Table:
    columns = (
        NETWORK,
        IMAGE,
        Column("towards", "The class that DeepFool reached."),
        Column("distance", "From the image to the boundary along r (l_2); an upper bound of the distance."),
        Column("slope", "Slope of the boundary over v where r crosses it; 0 where r is normal to it."),
        Column(
            "κ", "Normal curvature along the curve there, 1 / length; above 0 the boundary bends away from the image."
        ),
        Column("inside", "Share of the window whose points lie in the pixel box.", ".1%"),
    )
    caption = "A network has dashes where DeepFool did not cross its boundary."
    return Table("Normal cross-sections of the boundary", columns, tuple(rows), caption, dict(conditions))


def _section_figures(
    shared: SameImages,
    windows: Tensor,
    panels: list[dict[str, Panel]],
    lines: list[dict[str, Line]],
    conditions: Mapping[str, str],
) -> dict[str, Result]:
    results: dict[str, Result] = {}
    for i in range(len(shared.numbers)):
        axis = tuple(windows[i].tolist())
        if not panels[i]:
            continue
        results[f"section {i + 1}"] = Surface(
            f"Cross-section of the boundary, {shared.image_name(i)}",
            ASIDE,
            "along r (l_2, pixel units)",
            axis,
            axis,
            panels[i],
            "F = z_y − z_j",
            level=0.0,
            caption="Blue is the image's side. The parabola has the boundary's slope and normal curvature at the crossing, "
            f"at the scale h. It is drawn as far as it stays within {CLOSE:.0%} of the window from the boundary, and not at "
            "all where it leaves it at once: there the curvature at that scale says nothing about the window.",
            conditions=dict(conditions),
        )
        results[f"heights {i + 1}"] = Curves(
            f"The boundary over v, {shared.image_name(i)}",
            ASIDE,
            "height along r (l_2, pixel units)",
            axis,
            lines[i],
            caption="The sheet of the boundary nearest to 0; at 0 r crosses it. Dotted: the parabola, where it holds.",
            conditions=dict(conditions),
        )
    return results
