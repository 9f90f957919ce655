"""Fill loops of four images of one class by a mesh within the region of the class."""

import torch
from torch import Tensor, nn

from lowcurve import evaluation
from lowcurve.data import Examples
from lowcurve.figures.paths import ADVERSARIAL, NATURAL, PROJECTIONS, in_region, project_into_classes
from lowcurve.geometry import LoopFilling, Meshes, PathSearch
from lowcurve.network_calls import input_like
from lowcurve.randomness import integers, stream
from lowcurve.results import Cell, Column, Result, Table, proportion
from lowcurve.types import Progress

PATHS = 1e-3
"""The spacing of the paths' samples over the longest side."""
MESH = 1e-2
"""The spacing of a triangle's samples over the longest side: an area takes many."""


def loop_results(
    model: nn.Module, test: Examples, loops: int, *, seed: int, progress: Progress[int]
) -> dict[str, Result]:
    """Fill loops of natural images, and of images moved just into another class, and count how many can be filled.

    Args:
        model: The network.
        test: Test images. The corners of a loop are images of one class in their order.
        loops: Number of loops of each kind.
        seed: Seed of all random choices.
        progress: Display of the progress.

    Returns:
        "numbers", a table with one row per kind.

    Reference: Swaminathan and Akgün 2026 (arXiv 2605.06380): every loop of theirs could be filled.
    """
    rows: list[tuple[Cell, ...]] = []
    corners = _make_corners(model, test, loops, seed)
    names = list(corners)
    for number in progress(range(len(names)), "loops"):
        name = names[number]
        found, y = corners[name]
        longest = float((found - found.roll(-1, 1)).flatten(2).norm(dim=2).max())
        search = PathSearch(PROJECTIONS["beyond"], spacing=PATHS * longest)
        filling = LoopFilling(search, spacing=MESH * longest)
        mesh = filling(model, found, y, generator=stream(seed, "loops"))
        rows.append((name, *_row(mesh)))
    columns = (
        Column("corners"),
        Column("loops", "", "d"),
        Column("closed", "Share whose four sides were found.", ".1%"),
        Column("filled", "Share with a mesh without a sample outside.", ".1%"),
        Column("clear", "Share of the triangles that are clear, mean over loops."),
        Column(
            "deviation", "Largest distance from the Coons patch over the loop's length, mean over filled loops.", ".2g"
        ),
        Column("squares", "Along a side of the mesh.", "d"),
        Column("images", "Forward images per loop, on average.", ".3g"),
    )
    conditions = {
        "sides": f"paths by projection 'beyond', no violation at {PATHS:g} of the longest side",
        "mesh": f"no violation at {MESH:g} of the longest side",
        "not filled": "the doublings were used up; no proof that there is a hole",
        "BatchNorm": "eval mode",
    }
    return {"numbers": Table("Loops within a region, filled", columns, tuple(rows), "With 95 % intervals.", conditions)}


def _row(mesh: Meshes) -> tuple[Cell, ...]:
    closed = mesh.sides.found.view(-1, 4).all(1)
    filled = mesh.filled
    shares = (proportion(int(part.sum()), len(part)) for part in (closed, filled))
    clear = float(mesh.triangles_clear[closed].mean()) if bool(closed.any()) else None
    deviation = float(mesh.deviation[filled].mean()) if bool(filled.any()) else None
    intervals = ((share.value, share.low, share.high) for share in shares)
    return (
        len(filled),
        *intervals,
        clear,
        deviation,
        mesh.vertices.shape[1] - 1,
        float(mesh.forward_passes.double().mean()),
    )


def _make_corners(model: nn.Module, test: Examples, loops: int, seed: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Return corners (loops, 4, ...) and classes: of natural images, and of images moved into random other classes."""
    rows = torch.from_numpy(evaluation.correct(model, test)).nonzero()[:, 0]
    like = input_like(model)
    x, y = test.take(rows).pixels(slice(None)).to(like), test.y[rows].to(like.device)
    safe = in_region(model, x, y)
    x, y = x[safe], y[safe]
    natural = _group_in_fours(x, y, loops)
    first = slice(8 * loops + 40)
    classes = len(test.classes)
    shift = integers(y[first].shape, 0, classes - 1, generator=stream(seed, "corners")).to(y)
    others = (y[first] + 1 + shift) % classes
    moved = project_into_classes(model, x[first], others, seed)
    reached = in_region(model, moved, others)
    families = {NATURAL: natural, ADVERSARIAL: _group_in_fours(moved[reached], others[reached], loops)}
    return {name: found for name, found in families.items() if len(found[1])}


def _group_in_fours(x: Tensor, y: Tensor, loops: int) -> tuple[Tensor, Tensor]:
    """Group images of one class in fours, class by class in turn."""
    fours: list[tuple[int, Tensor]] = []
    for label in torch.unique(y).tolist():
        rows = torch.nonzero(y == label).flatten()
        fours += [(turn, rows[4 * turn : 4 * turn + 4]) for turn in range(len(rows) // 4)]
    chosen = [rows for _, rows in sorted(fours, key=lambda four: four[0])][:loops]
    if not chosen:
        return x[:0].unsqueeze(1).expand(0, 4, *x.shape[1:]), y[:0]
    corners = torch.stack(chosen)
    return x[corners], y[corners[:, 0]]
