"""Describe the boundary near images: principal curvatures, directions shared by images, sign of the curvature."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from lowcurve.analysis.norms import pixels
from lowcurve.analysis.spectra import lanczos
from lowcurve.data import Examples
from lowcurve.figures.cross_sections import find_crossings
from lowcurve.figures.same_images import SameImages
from lowcurve.geometry import (
    LogitDifference,
    NormalCurvatures,
    PrincipalCurvatures,
    crossing_distance,
    random_directions,
    tangent_space,
)
from lowcurve.losses import loss_field, margin
from lowcurve.models.modes import frozen
from lowcurve.randomness import normal, stream
from lowcurve.results import Cell, Column, Curves, Points, Result, Scatter, Table
from lowcurve.results.cells import band, spread

FLAT = 0.05
"""A direction counts as flat where |κ| is at most this share of the image's largest."""
DIMENSIONS = 10
"""Dimension of the subspace of shared curved directions."""
DRAWS = 10
"""Random directions per image."""
TOGETHER = 4
"""Images whose matrices are in memory together."""


def profile(shared: SameImages) -> dict[str, Result]:
    """Compute the principal curvatures of the boundary near the images.

    They are taken at the boundary points found by DeepFool, sorted, with medians and quantiles over images.

    Args:
        shared: Networks and images.

    Returns:
        "numbers", a table with the share of flat directions and the mean curvature, and "profile", the sorted
        curvatures.

    Reference: fawzi2018topology, curvature of the decision boundary.
    """
    rows: list[tuple[Cell, ...]] = []
    lines = {}
    for name in shared.models:
        decision, point, _ = _boundary_points(shared, name)
        with frozen(shared.models[name]):
            parts = [
                PrincipalCurvatures(_scale(shared))(decision.take(some), point[some])
                for some in torch.split(torch.arange(len(point), device=point.device), TOGETHER)
            ]
        found = torch.cat(parts).double().cpu().numpy()
        largest = np.abs(found).max(1, keepdims=True)
        means = found.mean(1)
        error = float(means.std(ddof=1) / np.sqrt(len(means))) if len(means) > 1 else None
        flat = float((np.abs(found) <= FLAT * largest).mean())
        rows.append((name, flat, float(means.mean()), error, *(spread(found[:, end]) for end in (-1, 0)), len(found)))
        lines[name] = band(list(found.T))
    columns = (
        Column("network"),
        Column("flat", f"Share of directions whose |κ| is at most {FLAT:g} of the image's largest.", ".1%"),
        Column("mean κ", "Mean over directions and images."),
        Column("standard error", "Of that mean over images."),
        Column("κ largest", "Median and 10 to 90 % over images."),
        Column("κ smallest", "The same."),
        Column("images", "Images whose boundary DeepFool crossed.", "d"),
    )
    conditions = _conditions(shared)
    table = Table("Principal curvatures of the boundary", columns, tuple(rows), conditions=conditions)
    places = tuple(float(k) for k in range(len(next(iter(lines.values())).y)))
    curves = Curves(
        "Principal curvatures of the boundary, in rising order",
        "number of the direction",
        "normal curvature κ (1 / length)",
        places,
        lines,
        "Median and 10 to 90 % over images. Above 0 the boundary bends away from the image.",
        conditions,
    )
    return {"numbers": table, "profile": curves}


def sensitivity(shared: SameImages) -> dict[str, Result]:
    """Compare the distance to the boundary along curved directions, shared by images, and along random directions.

    The largest principal directions of the first half of the images span a subspace, by their first singular
    vectors. For each image of the second half, the smallest distance of a few random directions in the subspace is
    compared with that in the whole space.

    Args:
        shared: Networks and images; only the first network is used.

    Returns:
        "numbers", a table, and "distances", a figure with one point per image.

    Reference: fawzi2018topology, abstract (curved directions are those of the greatest vulnerability).
    """
    name, model = next(iter(shared.models.items()))
    decision, point, rows = _boundary_points(shared, name)
    half = len(rows) // 2
    with frozen(model):
        here = tangent_space(decision.take(torch.arange(half, device=point.device)), point[:half], _scale(shared))
        start = here.project(normal(point[:half], generator=stream(shared.seed, "curved")))
        ends = lanczos(lambda v: here.project(here.operator(here.project(v))), start, steps=12, ends="both")
        larger = (ends.largest.abs() >= ends.smallest.abs()).view(-1, *[1] * (point.ndim - 1))
        curved = torch.where(larger, ends.vector_largest, ends.vector_smallest).flatten(1).double()
    subspace = torch.linalg.svd(curved, full_matrices=False).Vh[:DIMENSIONS]
    x, y = shared.inputs(model)[rows[half:]], shared.y.to(point.device)[rows[half:]]
    field, reach = loss_field(model, y, margin), 4 * shared.reach
    nearest = {}
    for kind in ("curved", "random"):
        distances = []
        for draw in range(DRAWS):
            direction = random_directions(x, 1, seed=shared.seed + draw)[0]
            if kind == "curved":
                coefficients = normal(x.flatten(1)[:, : len(subspace)], generator=stream(shared.seed, "within", draw))
                direction = (coefficients.double() @ subspace).to(x).view_as(x)
            with frozen(model):
                both = [crossing_distance(field, x, sign * direction, most=reach) for sign in (1, -1)]
            distances.append(torch.minimum(*both))
        nearest[kind] = torch.stack(distances).amin(0).cpu().numpy()
    columns = (
        Column("directions"),
        Column("distance", "Median over images of the smallest distance of the draws, l_2 in pixel units."),
        Column("reached", "Share of images whose boundary was reached.", ".1%"),
    )
    lines = tuple(
        (kind, float(np.median(np.where(np.isinf(v), reach, v))), float(np.isfinite(v).mean()))
        for kind, v in nearest.items()
    )
    conditions = _conditions(shared) | {
        "subspace": f"{len(subspace)} dimensions, of {half} images; {len(x)} others are moved",
        "draws": f"{DRAWS} directions to either side, up to {reach:.3g}",
    }
    caption = "A boundary that was not reached counts as at the largest distance tried."
    table = Table("Curved and random directions", columns, lines, caption, conditions)
    points = {name: Points(_finite_or_none(nearest["random"]), _finite_or_none(nearest["curved"]))}
    figure = Scatter(
        "Distance to the boundary, image by image", "along random directions (l_2)", "along curved directions (l_2)",
        points, "Below the line: nearer along curved directions.", conditions, diagonal=True,
    )  # fmt: skip
    return {"numbers": table, "distances": figure}


def detection(shared: SameImages) -> dict[str, Result]:
    """Measure how well the sign of the boundary's mean curvature separates natural from perturbed images.

    A perturbed image is DeepFool's, with the class that it reached. The first half of the images decides which sign
    means perturbed; the second half is the test.

    Args:
        shared: Networks and images; only the first network is used.

    Returns:
        "numbers", a table with the area under the receiver operating characteristic.

    Reference: fawzi2018topology, abstract (detection by the asymmetry of the curvature).
    """
    name, model = next(iter(shared.models.items()))
    found = find_crossings(shared)[name]
    crossed = torch.nonzero(found.boundary.crossed).flatten()
    moved = Examples(found.adversarial[crossed].cpu(), found.others[crossed].cpu(), shared.examples.classes)
    numbers = tuple(shared.numbers[int(row)] for row in crossed)
    perturbed = replace(shared, models={name: model}, examples=moved, numbers=numbers)
    seen = [_mean_curvatures(one, name) for one in (shared, perturbed)]
    halves = [(values[: len(values) // 2], values[len(values) // 2 :]) for values in seen]
    rises = _area_under_curve(halves[0][0], halves[1][0]) >= 0.5
    plain, other = halves[0][1], halves[1][1]
    area = _area_under_curve(plain, other) if rises else _area_under_curve(other, plain)
    deviation = float(np.sqrt((len(plain) + len(other) + 1) / (12 * len(plain) * len(other))))
    columns = (
        Column("network"),
        Column("area", "Area under the receiver operating characteristic; chance gives 0.5.", ".3f"),
        Column("of a coin", "Standard deviation of the area under chance.", ".2g"),
        Column("κ, natural", "Mean curvature, median and 10 to 90 % over images."),
        Column("κ, perturbed", "The same, as the perturbed image sees it."),
    )
    row = (name, area, deviation, spread(seen[0]), spread(seen[1]))
    said = {"judged on": f"{len(plain)} natural and {len(other)} perturbed images"}
    return {"numbers": Table("Telling perturbed images by curvature", columns, (row,), "", _conditions(shared) | said)}


def _boundary_points(shared: SameImages, name: str) -> tuple[LogitDifference, Tensor, Tensor]:
    """Return the decision function, boundary point and number of each image whose boundary DeepFool crossed."""
    found = find_crossings(shared)[name]
    rows = torch.nonzero(found.boundary.crossed & (found.distance > 0)).flatten()
    assert isinstance(found.decision, LogitDifference)
    return found.decision.take(rows), found.boundary.point[rows], rows


def _mean_curvatures(shared: SameImages, name: str) -> np.ndarray:
    decision, point, _ = _boundary_points(shared, name)
    with frozen(shared.models[name]):
        columns = NormalCurvatures(h=_scale(shared))(decision, point)
    return columns["mean curvature"].double().cpu().numpy()


def _area_under_curve(low: np.ndarray, high: np.ndarray) -> float:
    """Return the share of pairs whose second member is larger; ties count half."""
    return float(((high[None] > low[:, None]) + 0.5 * (high[None] == low[:, None])).mean())


def _scale(shared: SameImages) -> float:
    """Return the l_2 length of one grey level in every pixel."""
    return float(np.sqrt(np.prod(shared.examples.shape))) * pixels(1)


def _conditions(shared: SameImages) -> dict[str, str]:
    return {
        **shared.conditions,
        "images": f"{len(shared.numbers)} of the test set that the network classifies correctly",
        "boundary": "of z_y − z_j at DeepFool's crossing (l_2)",
        "curvature": f"central differences at the scale h = {_scale(shared):.3g}, one grey level a pixel",
    }


def _finite_or_none(values: np.ndarray) -> tuple[float | None, ...]:
    return tuple(float(v) if np.isfinite(v) else None for v in values)
