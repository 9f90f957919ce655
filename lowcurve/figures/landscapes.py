"""Compute margin and loss over planes of input space, and the distance to the boundary along attack directions."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from lowcurve.analysis.norms import L2, LINF, pixels
from lowcurve.attacks import PGD
from lowcurve.figures.cross_sections import ASIDE, IMAGE, crossing_windows, find_crossings, share_in_box
from lowcurve.figures.regions import evaluate_planes, grid_conditions, wide_sections
from lowcurve.figures.same_images import SameImages
from lowcurve.geometry import (
    Plane,
    crossing_distance,
    gradient_direction,
    random_directions,
    span,
)
from lowcurve.losses import cross_entropy, least_likely, log_odds, loss_field, margin, margin_loss
from lowcurve.models.modes import frozen
from lowcurve.network_calls import call
from lowcurve.randomness import stream
from lowcurve.results import Cell, Column, Panel, Points, Result, Surface, Table
from lowcurve.results.cells import NETWORK
from lowcurve.types import Inputs, Labels, PerExample

STEPS = 10
"""Steps of the attack whose path is shown."""
DIRECTIONS = ("cross-entropy", "least likely", "margin")
"""The three objectives of yu2018, Eq. (3)."""


def surfaces(shared: SameImages) -> dict[str, Result]:
    """Compute the surfaces that `lowcurve draw surface` shows.

    These are margin and cross-entropy over the plane of DeepFool's direction r and a random v; the margin along the
    three directions of yu2018, Eq. (3), each against v, with the distance to 0 along each; and classes over a wide
    plane of two random directions. Every plane is one pass of the network. v and the wide planes are the same for
    every network, apart from what is removed to make directions orthogonal. A panel is left out where its direction
    is 0.

    Args:
        shared: Networks and images.

    Returns:
        Tables and surfaces by name.

    Reference: yu2018interpreting, Eq. (3), Figs. 3, 4, 6, 7; bardusco_report, Figs. 3 and 4.
    """
    return {
        **_distance_table(shared),
        **deepfool_surfaces(shared),
        **_direction_surfaces(shared),
        **wide_sections(shared),
    }


def nonlinear_share(values: np.ndarray) -> float:
    """Compute the share of the variance over a grid that no linear function explains.

    Args:
        values: Values on a grid with equal steps, shape (n, m).

    Returns:
        0 for a linear function, at most 1.

    Example:
        >>> row, column = np.mgrid[-1:1:5j, -1:1:5j]
        >>> round(nonlinear_share(3 * row - column), 6), round(nonlinear_share(row**2), 6)
        (0.0, 1.0)
    """
    rows, columns = (np.linspace(-1, 1, count) for count in values.shape)
    centered = values - values.mean()
    vertical = (centered * rows[:, None]).sum() / (rows**2).sum() / len(columns) * rows[:, None]
    horizontal = (centered * columns).sum() / (columns**2).sum() / len(rows) * columns
    whole = float((centered**2).sum())
    return float(((centered - vertical - horizontal) ** 2).sum()) / whole if whole > 0 else 0.0


def _rows_with_direction(direction: Inputs) -> Tensor:
    """Return the rows whose direction has a finite length above 0."""
    length = L2.length(direction)
    return torch.nonzero((length > 0) & torch.isfinite(length)).flatten()


def deepfool_surfaces(shared: SameImages) -> dict[str, Result]:
    """Compute margin and cross-entropy over the plane of DeepFool's direction r and a random v.

    Args:
        shared: Networks and images.

    Returns:
        For each image "margin 1" and "loss 1", with one panel per network.
    """
    crossings = find_crossings(shared)
    windows = crossing_windows(crossings, 2.0, shared)
    panels: dict[str, list[dict[str, Panel]]] = {kind: [{} for _ in shared.numbers] for kind in ("margin", "loss")}
    for name, found in crossings.items():
        x = shared.inputs(shared.models[name])
        rows = _rows_with_direction(found.adversarial - x)
        if not len(rows):
            continue
        plane = _against_random(shared, x[rows], (found.adversarial - x)[rows])
        window = windows[rows.cpu()].to(x)
        grid = evaluate_planes(shared, name, plane, window, window, rows)
        inside = share_in_box(plane, window, window)
        for kind, loss in (("margin", margin), ("loss", cross_entropy)):
            values = grid.values(loss).cpu().numpy()
            for k, i in enumerate(rows.tolist()):
                distance = float(found.distance[i])
                marks = {"image": (0.0, 0.0), **({"crossing": (0.0, distance)} if found.boundary.crossed[i] else {})}
                panels[kind][i][name] = Panel(values[k], marks=marks, note=f"{float(inside[k]):.1%} in the pixel box")
    results: dict[str, Result] = {}
    for i in range(len(shared.numbers)):
        axis = tuple(windows[i].tolist())
        for kind, title, label, level in (
            ("margin", "Margin", "margin z_y − max z_k", 0.0),
            ("loss", "Loss", "cross-entropy", None),
        ):
            results[f"{kind} {i + 1}"] = Surface(
                f"{title} along r and v, {shared.image_name(i)}",
                ASIDE,
                "along r (l_2, pixel units)",
                axis,
                axis,
                panels[kind][i],
                label,
                level=level,
                caption="The window reaches twice as far as the farthest of the networks' boundaries.",
                conditions=grid_conditions(shared, ("r", "towards where DeepFool (l_2) crosses the boundary")),
            )
    return {key: result for key, result in results.items() if isinstance(result, Surface) and result.panels}


def _against_random(shared: SameImages, x: Inputs, direction: Inputs) -> Plane:
    """Return the planes of a direction and of each image's random v."""
    return span(x, direction, random_directions(x, 1, seed=shared.seed, orthogonal_to=[direction])[0])


def attack_directions(model: nn.Module, x: Inputs, y: Labels) -> dict[str, Inputs]:
    """Return the three directions of yu2018, Eq. (3), all towards the other side of the boundary.

    Args:
        model: The network.
        x: Images.
        y: Labels.

    Returns:
        Unit directions by the names in `DIRECTIONS`.
    """
    with frozen(model):
        with torch.no_grad():
            target = least_likely(call(model, x))
        return {
            "cross-entropy": gradient_direction(loss_field(model, y, log_odds), x),
            "least likely": -gradient_direction(loss_field(model, target, log_odds), x),
            "margin": gradient_direction(loss_field(model, y, margin_loss), x),
        }


def _direction_surfaces(shared: SameImages) -> dict[str, Result]:
    step = shared.reach / pixels(1) / float(torch.tensor(shared.examples.shape).prod()) ** 0.5
    levels = torch.linspace(-1, 1, shared.points) * step
    aside = torch.linspace(-1, 1, shared.points) * shared.reach
    results: dict[str, Result] = {}
    for direction in DIRECTIONS:
        panels: list[dict[str, Panel]] = [{} for _ in shared.numbers]
        for name, model in shared.models.items():
            x = shared.inputs(model)
            vectors = attack_directions(model, x, shared.y.to(x.device))[direction]
            rows = _rows_with_direction(vectors)
            if not len(rows):
                continue
            plane = _against_random(shared, x[rows], vectors[rows])
            level = pixels(1) / LINF.length(plane.first)  # l_2 length of a step of one grey level
            vertical, horizontal = levels.to(x) * level[:, None], aside.to(x)
            grid = evaluate_planes(shared, name, plane, vertical, horizontal, rows)
            inside = share_in_box(plane, vertical, horizontal)
            values = grid.values(margin).cpu().numpy()
            path = _attack_path(shared, model, rows, plane, level) if direction == "cross-entropy" else None
            for k, i in enumerate(rows.tolist()):
                lines, ends = ({}, "") if path is None else path(k)
                note = f"{float(inside[k]):.1%} in the pixel box{ends}"
                panels[i][name] = Panel(values[k], lines, {"image": (0.0, 0.0)}, note)
        for i, shown in enumerate(panels):
            results |= (
                {f"along {direction} {i + 1}": _direction_surface(shared, i, direction, shown, levels, aside)}
                if shown
                else {}
            )
    return results


def _direction_surface(
    shared: SameImages, i: int, direction: str, panels: dict[str, Panel], levels: Tensor, aside: Tensor
) -> Surface:
    what = {
        "cross-entropy": "the sign of the gradient of cross-entropy",
        "least likely": "the sign of the gradient towards the least likely class",
        "margin": "the sign of the gradient of the margin loss",
    }[direction]
    ball = shared.attack_conditions
    path = (
        ("path", f"PGD from the image, {STEPS} steps of a quarter radius in the ball {ball}, projected on the plane"),
    )
    return Surface(
        f"Margin along {what}, {shared.image_name(i)}",
        ASIDE,
        "along the gradient's sign (grey levels a pixel)",
        tuple(aside.tolist()),
        tuple(levels.tolist()),
        panels,
        "margin z_y − max z_k",
        level=0.0,
        caption="Upwards: the attack's direction, to twice the study's radius.",
        conditions=grid_conditions(shared, *(path if direction == "cross-entropy" else ())),
    )


def _attack_path(
    shared: SameImages, model: nn.Module, rows: Tensor, plane: Plane, level: PerExample
) -> Callable[[int], tuple[Mapping[str, Points], str]]:
    """Return a function from an image's number to PGD's path on its plane and the distance of its end."""
    x, ball = plane.origin, shared.ball
    y = shared.y.to(x.device)[rows]
    points = [x]
    for steps in range(1, STEPS + 1):
        attack = PGD(ball, steps=steps, step_size=ball.radius / 4, start="center", answer="last")
        points.append(attack(model, x, y, generator=stream(0, "path")))
    seen = plane.project(torch.stack(points))
    vertical, horizontal = (seen.coordinates[..., 0] / level).cpu(), seen.coordinates[..., 1].cpu()

    def attack_path(k: int) -> tuple[Mapping[str, Points], str]:
        line = Points(tuple(horizontal[:, k].tolist()), tuple(vertical[:, k].tolist()))
        ends = f"; PGD ends {float(seen.distance[-1, k]):.2g} from the plane (l_2)"
        return {"PGD, projected": line}, ends

    return attack_path


def _distance_table(shared: SameImages) -> dict[str, Result]:
    """Tabulate the distance to the boundary along each direction, one row per network and image."""
    rows: list[tuple[Cell, ...]] = []
    most = 4.0  # in radii of the study
    for name, model in shared.models.items():
        x = shared.inputs(model)
        y = shared.y.to(x.device)
        directions = attack_directions(model, x, y) | {"random": random_directions(x, 1, seed=shared.seed)[0]}
        found = {key: torch.full((len(x),), torch.nan, dtype=x.dtype) for key in directions}
        for key, direction in directions.items():
            if len(some := _rows_with_direction(direction)):
                length = LINF.length(direction[some]) / L2.length(direction[some])
                field = loss_field(model, y[some], margin)
                reach = most * shared.reach / 2 * (10 if key == "random" else 1)
                with frozen(model):
                    distance = crossing_distance(field, x[some], direction[some], most=reach, samples=200)
                found[key][some.cpu()] = (distance * (1 if key == "random" else length / pixels(1))).cpu()
        rows += [
            (
                name,
                shared.short_name(i),
                *(v if abs(v := float(found[key][i])) < float("inf") else None for key in directions),
            )
            for i in range(len(x))
        ]
    columns = (
        NETWORK,
        IMAGE,
        *(
            Column(f"along {key}", f"Grey levels a pixel along the sign of the gradient ({said}).")
            for key, said in zip(
                DIRECTIONS, ("of the true label", "towards the least likely class", "of the margin loss"), strict=True
            )
        ),
        Column("along random", "l_2 length along a random direction, the same for every network."),
    )
    caption = (
        f"Distance to the first change of the margin's sign; a dash where there is none within {most:g} times the radius, "
        f"or {10 * most:g} times along the random direction."
    )
    said = ("spacing", "200 points up to there, then bisected: a thinner region is not seen")
    conditions = {**shared.conditions, said[0]: said[1], "pixel box": "points outside it are evaluated as they are"}
    return {
        "distances": Table(
            "Distance to the boundary along attacks' directions", columns, tuple(rows), caption, conditions
        )
    }
