"""A network's logits over planes, and which classes it predicts far around an image."""

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
"""How far a wide section reaches to each side, as the root mean square of the change of a pixel."""

GRADED = {
    "separation": "How far the own class's margin falls below 0 before its last piece has joined another.",
    "weight of lesser pieces": "Sum of how high its pieces but the first rise above 0: near 0 for specks.",
}
COLUMNS = (
    NETWORK,
    IMAGE,
    Column("classes", "How many are predicted somewhere in the window.", "d"),
    Column("pieces", "Connected pieces of all of them together: the fragmentation.", "d"),
    Column("own class", "Share of the window that has the image's class.", ".1%"),
    Column("largest class", "Share of the class that has most of the window.", ".1%"),
    Column("inside", "Share of the window whose points lie in the pixel box.", ".1%"),
    Column("outside by", "How far the furthest pixel of a point is outside it, the median over the window."),
    *(Column(name, f"{meaning} By persistence; none without gudhi.") for name, meaning in GRADED.items()),
)


@dataclass(frozen=True)
class LogitGrid:
    """One network's logits over a plane an image: rows, columns and classes last."""

    plane: Plane
    logits: Tensor
    y: Labels

    def values(self, loss: Loss) -> Tensor:
        """The loss, or the margin, at every point."""
        rows, across, along, classes = self.logits.shape
        labels = self.y.repeat_interleave(across * along)
        return loss(self.logits.view(-1, classes), labels).view(rows, across, along)


def grid_conditions(shared: SameImages, *said: tuple[str, str]) -> dict[str, str]:
    """What holds for every grid of the sitting, and what is said of one."""
    grid = f"{shared.points} x {shared.points} points"
    return {
        **shared.conditions,
        "grid": grid,
        "pixel box": "points outside it are evaluated as they are",
        **dict(said),
    }


def evaluate_planes(shared: SameImages, name: str, plane: Plane, a: Tensor, b: Tensor, rows: Tensor) -> LogitGrid:
    """The network's logits over these rows' planes, in one pass."""
    model = shared.models[name]
    with frozen(model):
        logits = surface(model, plane, a, b, progress=shared.progress, heading=f"surfaces of {name}")
    return LogitGrid(plane, logits, shared.y.to(logits.device)[rows])


def _graded(margins: Tensor) -> list[tuple[Cell, ...]]:
    """Each grid's numbers of how fragmented the own class is, whatever the spacing makes of specks."""
    if importlib.util.find_spec("gudhi") is None:
        return [(None,) * len(GRADED)] * len(margins)
    found = fragmentation(margins)
    return [tuple(float(found[name][i]) for name in GRADED) for i in range(len(margins))]


def wide_sections(shared: SameImages) -> dict[str, Result]:
    """Classes over a plane of two random directions, far around each image: a table of shares, pieces and how far apart they
    are, and the regions.

    The directions are each image's own, the same for every network.

    Reference: bardusco_report, Figs. 3 and 4.
    """
    count, classes = len(shared.numbers), shared.examples.classes
    reach = WIDE * float(torch.tensor(shared.examples.shape).prod()) ** 0.5
    axis = torch.linspace(-1, 1, shared.points) * reach
    panels: list[dict[str, Panel]] = [{} for _ in range(count)]
    rows: list[tuple[Cell, ...]] = []
    for name, model in shared.models.items():
        x = shared.x(model)
        plane = span(x, *random_directions(x, seed=shared.seed))
        look = evaluate_planes(shared, name, plane, axis.to(x), axis.to(x), torch.arange(count))
        decisions = look.logits.argmax(3)
        shares, components = (f(decisions, look.logits.shape[3]) for f in (class_shares, class_components))
        graded = _graded(look.values(margin))
        inside, excess = share_in_box(plane, axis.to(x), axis.to(x)), box_excess(plane, axis.to(x), axis.to(x))
        for i in range(count):
            own = int(shared.y[i])
            panels[i][name] = Panel(decisions[i].cpu().numpy(), marks={"image": (0.0, 0.0)})
            seen = (
                (shares[i] > 0).sum(),
                components[i].sum(),
                shares[i, own],
                shares[i].max(),
                inside[i],
                excess[i].median(),
            )
            rows.append((name, shared.short(i), *(v.item() for v in seen), *graded[i]))
    conditions = grid_conditions(shared, ("directions", "two random orthonormal ones, the same for every network"))
    table = Table("Classes over a wide plane", COLUMNS, tuple(rows), conditions=conditions)
    ends = tuple(axis.tolist())
    figures: dict[str, Result] = {
        f"classes {i + 1}": Surface(
            f"Classes over a wide plane, {shared.image(i)}",
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
