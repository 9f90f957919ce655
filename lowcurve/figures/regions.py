"""Evaluate a network's logits over planes, and show the classes over a wide plane around each image."""

import importlib.util
from dataclasses import dataclass

import torch
from torch import Tensor

from lowcurve.figures.cross_sections import IMAGE, share_in_box
from lowcurve.figures.same_images import SameImages
from lowcurve.geometry import (
    Plane,
    box_excess,
    class_components,
    class_shares,
    fragmentation,
    random_directions,
    span,
    surface,
)
from lowcurve.losses import margin
from lowcurve.models.modes import frozen
from lowcurve.results import Cell, Column, Panel, Result, Surface, Table
from lowcurve.results.cells import NETWORK
from lowcurve.types import Labels, Loss

WIDE = 0.5
"""Half width of a wide section, as the root mean square change of a pixel."""

GRADED = {
    "separation": "Margin of the own class, below 0, at which its last component joins another.",
    "weight of lesser pieces": "Sum of the heights above 0 of its components but the first: near 0 for specks.",
}
COLUMNS = (
    NETWORK,
    IMAGE,
    Column("classes", "Number of classes predicted in the window.", "d"),
    Column("pieces", "Connected components of all classes together: the fragmentation.", "d"),
    Column("own class", "Share of the window that has the image's class.", ".1%"),
    Column("largest class", "Share of the class that has most of the window.", ".1%"),
    Column("inside", "Share of the window whose points lie in the pixel box.", ".1%"),
    Column("outside by", "Distance of a point's furthest pixel from the pixel box, median over the window."),
    *(Column(name, f"{meaning} By persistence; needs gudhi.") for name, meaning in GRADED.items()),
)


@dataclass(frozen=True)
class LogitGrid:
    """One network's logits over one plane per image.

    Attributes:
        plane: The planes.
        logits: Shape (images, rows, columns, classes).
        y: Labels of the images.
    """

    plane: Plane
    logits: Tensor
    y: Labels

    def values(self, loss: Loss) -> Tensor:
        """Compute a loss or margin at every point."""
        images, rows, columns, classes = self.logits.shape
        labels = self.y.repeat_interleave(rows * columns)
        return loss(self.logits.view(-1, classes), labels).view(images, rows, columns)


def grid_conditions(shared: SameImages, *further: tuple[str, str]) -> dict[str, str]:
    """Return the conditions of every grid, and further ones.

    Args:
        shared: Networks and images.
        *further: Names and texts of further conditions.

    Returns:
        The conditions.
    """
    grid = f"{shared.points} x {shared.points} points"
    return {
        **shared.conditions,
        "grid": grid,
        "pixel box": "points outside it are evaluated as they are",
        **dict(further),
    }


def evaluate_planes(shared: SameImages, name: str, plane: Plane, a: Tensor, b: Tensor, rows: Tensor) -> LogitGrid:
    """Evaluate a network's logits over planes, in one pass.

    Args:
        shared: Networks and images.
        name: Name of the network.
        plane: The planes.
        a: Coordinates along the first direction.
        b: Coordinates along the second.
        rows: Numbers of the planes' images.

    Returns:
        The logits.
    """
    model = shared.models[name]
    with frozen(model):
        logits = surface(model, plane, a, b, progress=shared.progress, heading=f"surfaces of {name}")
    return LogitGrid(plane, logits, shared.y.to(logits.device)[rows])


def _grade_fragmentation(margins: Tensor) -> list[tuple[Cell, ...]]:
    """Return the numbers of `fragmentation` for each grid, None without gudhi."""
    if importlib.util.find_spec("gudhi") is None:
        return [(None,) * len(GRADED)] * len(margins)
    found = fragmentation(margins)
    return [tuple(float(found[name][i]) for name in GRADED) for i in range(len(margins))]


def wide_sections(shared: SameImages) -> dict[str, Result]:
    """Compute the classes over a plane of two random directions, far around each image.

    The directions are each image's own, the same for every network.

    Args:
        shared: Networks and images.

    Returns:
        "wide", a table of shares, components and their separation, and "classes 1", ..., the regions.

    Reference: bardusco_report, Figs. 3 and 4.
    """
    count, classes = len(shared.numbers), shared.examples.classes
    reach = WIDE * float(torch.tensor(shared.examples.shape).prod()) ** 0.5
    axis = torch.linspace(-1, 1, shared.points) * reach
    panels: list[dict[str, Panel]] = [{} for _ in range(count)]
    rows: list[tuple[Cell, ...]] = []
    for name, model in shared.models.items():
        x = shared.inputs(model)
        plane = span(x, *random_directions(x, seed=shared.seed))
        grid = evaluate_planes(shared, name, plane, axis.to(x), axis.to(x), torch.arange(count))
        decisions = grid.logits.argmax(3)
        shares, components = (f(decisions, grid.logits.shape[3]) for f in (class_shares, class_components))
        graded = _grade_fragmentation(grid.values(margin))
        inside, excess = share_in_box(plane, axis.to(x), axis.to(x)), box_excess(plane, axis.to(x), axis.to(x))
        for i in range(count):
            own = int(shared.y[i])
            panels[i][name] = Panel(decisions[i].cpu().numpy(), marks={"image": (0.0, 0.0)})
            measures = (
                (shares[i] > 0).sum(),
                components[i].sum(),
                shares[i, own],
                shares[i].max(),
                inside[i],
                excess[i].median(),
            )
            rows.append((name, shared.short_name(i), *(v.item() for v in measures), *graded[i]))
    conditions = grid_conditions(shared, ("directions", "two random orthonormal ones, the same for every network"))
    table = Table("Classes over a wide plane", COLUMNS, tuple(rows), conditions=conditions)
    ends = tuple(axis.tolist())
    figures: dict[str, Result] = {
        f"classes {i + 1}": Surface(
            f"Classes over a wide plane, {shared.image_name(i)}",
            "along u, random (l_2, pixel units)",
            "along w, random (l_2, pixel units)",
            ends,
            ends,
            panels[i],
            classes=classes,
            caption=f"The window reaches {reach:.3g} to each side: a change of a pixel by {WIDE:g} (root mean square).",
            conditions=conditions,
        )
        for i in range(count)
    }
    return {"wide": table, **figures}
