"""Decision and loss surfaces along a random direction and along the three adversarial ones of yu2018, and what they come to."""

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
"""What the upward axis follows; aside is a random direction, orthogonal to it."""
LOSSES = {"decision": (margin, "margin z_y − max z_k", 0.0), "loss": (cross_entropy, "cross-entropy", None)}
CHANGE = "(change of a pixel, in the pixel range [0, 1])"


def projections(
    shared: SameImages, reach: float, ways: Sequence[str] = PROJECTIONS, kinds: Sequence[str] = ("loss", "decision")
) -> dict[str, Result]:
    """Loss and decision surfaces of each image, upwards along each way, a panel a network: one pass a network and way.

    reach: how far both axes go to each side: along a sign gradient the change of every pixel, along a random direction the
    root mean square change. Aside is random, the same for every network but for what makes it orthogonal. Results by name:
    "decision along margin 1" of the first image. A way in which nothing changes leaves its panel out.

    Reference: yu2018interpreting, Figs. 3, 4, 6, 7, 9, 11 to 14.
    """
    axis = torch.linspace(-1, 1, shared.points) * reach
    panels: dict[tuple[str, str, int], dict[str, Panel]] = {}
    for name in shared.models:
        for way in ways:
            look, rows = evaluate_along_direction(shared, name, way, axis)
            for kind in kinds if look else ():
                assert look is not None
                values = look.values(LOSSES[kind][0]).cpu().numpy()
                inside = share_in_box(look.plane, *_axes(look.plane, axis, way))
                for k, i in enumerate(rows.tolist()):
                    shown = Panel(
                        values[k], marks={"image": (0.0, 0.0)}, note=f"{float(inside[k]):.1%} in the pixel box"
                    )
                    panels.setdefault((kind, way, i), {})[name] = shown
    at = tuple(axis.tolist())
    return {
        f"{kind} along {way} {i + 1}": Surface(
            f"{kind.capitalize()} surface {_said(way)}, {shared.image(i)}",
            f"along v, random and orthogonal {CHANGE}", f"{_said(way)} {CHANGE}", at, at, shown,
            LOSSES[kind][1], level=LOSSES[kind][2],
            conditions=grid_conditions(shared, ("random directions", "their unit is the root mean square change")),
        )
        for (kind, way, i), shown in sorted(panels.items(), key=lambda one: (one[0][2], ways.index(one[0][1]), one[0][0]))
    }  # fmt: skip


def evaluate_along_direction(shared: SameImages, name: str, way: str, axis: Tensor) -> tuple[LogitGrid | None, Tensor]:
    """A network's logits over every image's plane of a way and a random direction, and whose planes these are."""
    model = shared.models[name]
    x = shared.x(model)
    upwards = unit_directions(model, x, shared.y.to(x.device), shared.seed)[way]
    rows = torch.nonzero(L2.length(upwards) > 0).flatten()
    if not len(rows):
        return None, rows
    here, upwards = x[rows], upwards[rows]
    aside = random_directions(here, 1, seed=shared.seed + 1, orthogonal_to=[upwards])[0]
    plane = span(here, upwards, aside)
    return evaluate_planes(shared, name, plane, *_axes(plane, axis, way), rows), rows


def unit_directions(model: nn.Module, x: Inputs, y: Labels, seed: int) -> dict[str, Inputs]:
    """Each image's unit directions: a random one, the same for every network, and the three of Eq. (3)."""
    return {RANDOM: random_directions(x, 1, seed=seed)[0], **attack_directions(model, x, y)}


def unit_length(direction: Inputs, way: str) -> PerExample:
    """The l_2 length at which a unit direction has changed pixels by 1: all of them, or in root mean square.

    Example:
        >>> unit_length(torch.tensor([[0.5, 0.5, 0.5, -0.5]]), "margin"), unit_length(torch.tensor([[0.6, 0.8]]), RANDOM)
        (tensor([2.]), tensor([1.4142]))
    """
    if way == RANDOM:
        return torch.full_like(L2.length(direction), direction[0].numel() ** 0.5)
    return 1 / LINF.length(direction)


def distances(shared: SameImages, most: float, samples: int = 100) -> dict[str, Table]:
    """How far the boundary L = 0 is along each way: over the images of the sitting, and the share that is within a grey level.

    most: how far is looked along the adversarial ways; along the random one ten times as far. Both as `projections` counts.

    Reference: yu2018interpreting, section 3.2 and Fig. 4 (the arrows).
    """
    rows: list[tuple[Cell, ...]] = []
    for name, model in shared.models.items():
        x = shared.x(model)
        y = shared.y.to(x.device)
        for way, direction in unit_directions(model, x, y, shared.seed).items():
            some = torch.nonzero(L2.length(direction) > 0).flatten()
            far = torch.full((len(x),), torch.inf)
            if len(some):
                unit, reach = unit_length(direction[some], way), most * (10 if way == RANDOM else 1)
                field = loss_field(model, y[some], margin)
                with frozen(model):
                    found = crossing_distance(field, x[some], direction[some], most=reach * unit, samples=samples)
                far[some.cpu()] = (found / unit).cpu()
            seen = summarize(far.numpy())
            near = float((far <= pixels(1)).double().mean())
            rows.append(
                (name, way, (seen.median, seen.low, seen.high), near, float(torch.isfinite(far).double().mean()))
            )
    columns = (
        NETWORK,
        Column("along", "The direction: random, or the sign of one of the three gradients."),
        Column("distance", f"To the boundary, median between the 10 and 90 % quantiles {CHANGE}."),
        Column("within a grey level", "Share of the images whose boundary is not farther than 1/255.", ".1%"),
        Column(
            "reached", f"Share of the images whose boundary was met within {most:g}, at random {10 * most:g}.", ".1%"
        ),
    )
    conditions = {**shared.conditions, "images": f"{len(shared.numbers)} that every network classifies rightly"}
    title = "Distance to the boundary along each direction"
    return {"distances": Table(title, columns, tuple(rows), conditions=conditions)}


def plateaus(shared: SameImages, radius: float, points: int = 11) -> Table:
    """How flat the decision surface is within the radius, along a random direction and along the margin's gradient.

    Columns for each: the share of the window's points with L > 0, and the mean of L over the window as a share of that at
    the image, both averaged over images.

    Reference: yu2018interpreting, Figs. 6, 7 and 9: "a flat and wide plateau".
    """
    axis, few = torch.linspace(-1, 1, points) * radius, replace(shared, points=points)
    rows: list[tuple[Cell, ...]] = []
    for name in shared.models:
        cells: list[Cell] = [name]
        for way in (RANDOM, "margin"):
            look, _ = evaluate_along_direction(few, name, way, axis)
            if look is None:
                cells += [None, None]
                continue
            values = look.values(margin).double().cpu().numpy()
            middle = values[:, points // 2, points // 2]
            cells += [float((values > 0).mean()), float(np.mean(values.mean((1, 2)) / middle))]
        rows.append(tuple(cells))
    said = {RANDOM: "random", "margin": "adversarial"}
    columns = [NETWORK]
    for way in said.values():
        columns.append(Column(f"{way}: L > 0", "Share of the window that is classified as the image.", ".1%"))
        columns.append(Column(f"{way}: L kept", "Mean of L over the window, of that at the image.", ".2f"))
    conditions = {
        **shared.conditions,
        "window": f"{points} x {points} points, {radius:g} to each side {CHANGE}",
        "images": f"{len(shared.numbers)} that every network classifies rightly",
    }
    return Table("How flat the decision surface is", tuple(columns), tuple(rows), conditions=conditions)


def _said(way: str) -> str:
    said: Mapping[str, str] = {
        RANDOM: "along u, random",
        "cross-entropy": "along the sign of the cross-entropy's gradient",
        "least likely": "towards the least likely class",
        "margin": "along the sign of the margin loss's gradient",
    }
    return said[way]


def _axes(plane: Plane, axis: Tensor, way: str) -> tuple[Tensor, Tensor]:
    """Both axes as l_2 lengths along the plane's unit vectors."""
    here = axis.to(plane.origin)
    return here * unit_length(plane.first, way)[:, None], here * unit_length(plane.second, RANDOM)[:, None]
