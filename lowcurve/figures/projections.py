"""Compute decision and loss surfaces along a random direction and along the three adversarial directions of yu2018."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from lowcurve.analysis.norms import L2, LINF, pixels
from lowcurve.figures.cross_sections import share_in_box
from lowcurve.figures.landscapes import DIRECTIONS, attack_directions
from lowcurve.figures.regions import LogitGrid, evaluate_planes, grid_conditions
from lowcurve.figures.same_images import SameImages
from lowcurve.geometry import Plane, crossing_distance, random_directions, span
from lowcurve.losses import cross_entropy, loss_field, margin
from lowcurve.models.modes import frozen
from lowcurve.results import Cell, Column, Panel, Result, Surface, Table, summarize
from lowcurve.results.cells import NETWORK
from lowcurve.types import Inputs, Labels, PerExample

RANDOM = "random"
PROJECTIONS = (RANDOM, *DIRECTIONS)
"""Directions of the vertical axis; the horizontal axis is a random direction orthogonal to it."""
LOSSES = {"decision": (margin, "margin z_y − max z_k", 0.0), "loss": (cross_entropy, "cross-entropy", None)}
CHANGE = "(change of a pixel, in the pixel range [0, 1])"


def projections(
    shared: SameImages,
    reach: float,
    directions: Sequence[str] = PROJECTIONS,
    kinds: Sequence[str] = ("loss", "decision"),
) -> dict[str, Result]:
    """Compute loss and decision surfaces of each image along each direction, with one panel per network.

    The horizontal axis is a random direction, the same for every network apart from what is removed to make it
    orthogonal. A panel is left out where its direction is 0.

    Args:
        shared: Networks and images.
        reach: Half width of both axes. Along a sign gradient it is the change of every pixel. Along a random direction
            it is the root mean square change.
        directions: Names of the directions, from `PROJECTIONS`.
        kinds: "loss", "decision" or both.

    Returns:
        Surfaces by name, such as "decision along margin 1" for the first image.

    Cost: one pass per network and direction.

    Reference: yu2018interpreting, Figs. 3, 4, 6, 7, 9, 11 to 14.
    """
    axis = torch.linspace(-1, 1, shared.points) * reach
    panels: dict[tuple[str, str, int], dict[str, Panel]] = {}
    for name in shared.models:
        for direction in directions:
            grid, rows = evaluate_along_direction(shared, name, direction, axis)
            if grid is None:
                continue
            for kind in kinds:
                values = grid.values(LOSSES[kind][0]).cpu().numpy()
                inside = share_in_box(grid.plane, *_axes(grid.plane, axis, direction))
                for k, i in enumerate(rows.tolist()):
                    shown = Panel(
                        values[k], marks={"image": (0.0, 0.0)}, note=f"{float(inside[k]):.1%} in the pixel box"
                    )
                    panels.setdefault((kind, direction, i), {})[name] = shown
    at = tuple(axis.tolist())
    ordered = sorted(panels.items(), key=lambda item: (item[0][2], directions.index(item[0][1]), item[0][0]))
    return {
        f"{kind} along {direction} {i + 1}": Surface(
            f"{kind.capitalize()} surface {_describe(direction)}, {shared.image_name(i)}",
            f"along v, random and orthogonal {CHANGE}", f"{_describe(direction)} {CHANGE}", at, at, shown,
            LOSSES[kind][1], level=LOSSES[kind][2],
            conditions=grid_conditions(shared, ("random directions", "their unit is the root mean square change")),
        )
        for (kind, direction, i), shown in ordered
    }  # fmt: skip


def evaluate_along_direction(
    shared: SameImages, name: str, direction: str, axis: Tensor
) -> tuple[LogitGrid | None, Tensor]:
    """Evaluate a network's logits over every image's plane of a direction and a random direction.

    Args:
        shared: Networks and images.
        name: Name of the network.
        direction: Name of the direction, from `PROJECTIONS`.
        axis: Coordinates of both axes, as in `projections`.

    Returns:
        The logits, None where every direction is 0, and the numbers of the images with a plane.
    """
    model = shared.models[name]
    x = shared.inputs(model)
    vertical = unit_directions(model, x, shared.y.to(x.device), shared.seed)[direction]
    rows = torch.nonzero(L2.length(vertical) > 0).flatten()
    if not len(rows):
        return None, rows
    origin, vertical = x[rows], vertical[rows]
    horizontal = random_directions(origin, 1, seed=shared.seed + 1, orthogonal_to=[vertical])[0]
    plane = span(origin, vertical, horizontal)
    return evaluate_planes(shared, name, plane, *_axes(plane, axis, direction), rows), rows


def unit_directions(model: nn.Module, x: Inputs, y: Labels, seed: int) -> dict[str, Inputs]:
    """Return each image's unit directions: a random one, the same for every network, and the three of yu2018, Eq. (3).

    Args:
        model: The network.
        x: Images.
        y: Labels.
        seed: Seed of the random direction.

    Returns:
        Directions by the names in `PROJECTIONS`.
    """
    return {RANDOM: random_directions(x, 1, seed=seed)[0], **attack_directions(model, x, y)}


def unit_length(vectors: Inputs, direction: str) -> PerExample:
    """Return the l_2 length at which a unit direction has changed every pixel by 1, or by 1 in root mean square.

    Args:
        vectors: Unit vectors, shape (batch, ...).
        direction: Name of the direction; the root mean square is used for the random one.

    Returns:
        One length per vector.

    Example:
        >>> unit_length(torch.tensor([[0.5, 0.5, 0.5, -0.5]]), "margin"), unit_length(torch.tensor([[0.6, 0.8]]), RANDOM)
        (tensor([2.]), tensor([1.4142]))
    """
    if direction == RANDOM:
        return torch.full_like(L2.length(vectors), vectors[0].numel() ** 0.5)
    return 1 / LINF.length(vectors)


def distances(shared: SameImages, most: float, samples: int = 100) -> dict[str, Table]:
    """Tabulate the distance to the boundary L = 0 along each direction, and the share of images within a grey level.

    Args:
        shared: Networks and images.
        most: Largest distance along the adversarial directions, in the units of `projections`; ten times as far
            along the random one.
        samples: Samples along each direction.

    Returns:
        "distances", a table with one row per network and direction.

    Reference: yu2018interpreting, section 3.2 and Fig. 4 (the arrows).
    """
    rows: list[tuple[Cell, ...]] = []
    for name, model in shared.models.items():
        x = shared.inputs(model)
        y = shared.y.to(x.device)
        for direction, vectors in unit_directions(model, x, y, shared.seed).items():
            some = torch.nonzero(L2.length(vectors) > 0).flatten()
            distance = torch.full((len(x),), torch.inf)
            if len(some):
                unit, reach = unit_length(vectors[some], direction), most * (10 if direction == RANDOM else 1)
                field = loss_field(model, y[some], margin)
                with frozen(model):
                    found = crossing_distance(field, x[some], vectors[some], most=reach * unit, samples=samples)
                distance[some.cpu()] = (found / unit).cpu()
            summary = summarize(distance.numpy())
            near = float((distance <= pixels(1)).double().mean())
            rows.append(
                (
                    name,
                    direction,
                    (summary.median, summary.low, summary.high),
                    near,
                    float(torch.isfinite(distance).double().mean()),
                )
            )
    columns = (
        NETWORK,
        Column("along", "The direction: random, or the sign of one of the three gradients."),
        Column("distance", f"Distance to the boundary, median between the 10 and 90 % quantiles {CHANGE}."),
        Column("within a grey level", "Share of the images whose boundary is not farther than 1/255.", ".1%"),
        Column(
            "reached", f"Share of the images whose boundary was found within {most:g}, at random {10 * most:g}.", ".1%"
        ),
    )
    conditions = {**shared.conditions, "images": f"{len(shared.numbers)} that every network classifies correctly"}
    title = "Distance to the boundary along each direction"
    return {"distances": Table(title, columns, tuple(rows), conditions=conditions)}


def plateaus(shared: SameImages, radius: float, points: int = 11) -> Table:
    """Tabulate how flat the decision surface is, along a random direction and along the margin's gradient.

    Columns for each: the share of the window's points with L > 0, and the mean of L over the window as a share of L at
    the image. Both are averaged over images.

    Args:
        shared: Networks and images.
        radius: Half width of the window.
        points: Grid points along a side.

    Returns:
        A table with one row per network.

    Reference: yu2018interpreting, Figs. 6, 7 and 9: "a flat and wide plateau".
    """
    axis, coarse = torch.linspace(-1, 1, points) * radius, replace(shared, points=points)
    rows: list[tuple[Cell, ...]] = []
    for name in shared.models:
        cells: list[Cell] = [name]
        for direction in (RANDOM, "margin"):
            grid, _ = evaluate_along_direction(coarse, name, direction, axis)
            if grid is None:
                cells += [None, None]
                continue
            values = grid.values(margin).double().cpu().numpy()
            middle = values[:, points // 2, points // 2]
            cells += [float((values > 0).mean()), float(np.mean(values.mean((1, 2)) / middle))]
        rows.append(tuple(cells))
    columns = [NETWORK]
    for label in ("random", "adversarial"):
        columns.append(Column(f"{label}: L > 0", "Share of the window that is classified as the image is.", ".1%"))
        columns.append(Column(f"{label}: L kept", "Mean of L over the window as a share of L at the image.", ".2f"))
    conditions = {
        **shared.conditions,
        "window": f"{points} x {points} points, {radius:g} to each side {CHANGE}",
        "images": f"{len(shared.numbers)} that every network classifies correctly",
    }
    return Table("How flat the decision surface is", tuple(columns), tuple(rows), conditions=conditions)


def _describe(direction: str) -> str:
    descriptions: Mapping[str, str] = {
        RANDOM: "along u, random",
        "cross-entropy": "along the sign of the cross-entropy's gradient",
        "least likely": "towards the least likely class",
        "margin": "along the sign of the margin loss's gradient",
    }
    return descriptions[direction]


def _axes(plane: Plane, axis: Tensor, direction: str) -> tuple[Tensor, Tensor]:
    """Return both axes as l_2 lengths along the plane's unit vectors."""
    here = axis.to(plane.origin)
    return here * unit_length(plane.first, direction)[:, None], here * unit_length(plane.second, RANDOM)[:, None]
