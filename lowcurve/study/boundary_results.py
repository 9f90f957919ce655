"""The decision boundary near test examples: its distance, bounds on that distance, and its curvature."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from lowcurve import evaluation
from lowcurve.analysis.norms import L2, pixels
from lowcurve.analysis.spectra import lanczos
from lowcurve.attacks import DeepFool
from lowcurve.data import Examples
from lowcurve.geometry import (
    DistanceBounds,
    NormalCurvatures,
    boundary_distances,
    find_boundary_point,
    logit_difference,
    mean_hessian,
)
from lowcurve.losses import margin_loss
from lowcurve.models.modes import frozen
from lowcurve.network_calls import call, input_like
from lowcurve.randomness import normal, stream
from lowcurve.results import Cell, Column, Points, Result, Scatter, Table
from lowcurve.results.cells import NETWORK, spread
from lowcurve.study.certified_results import STEPS, WORK
from lowcurve.study.measured_network import launch_fabric
from lowcurve.study.optional import OptionalSteps, reason_of
from lowcurve.study.settings import Study
from lowcurve.types import Progress

BOUNDS = (
    "lower bound",
    "upper bound along the gradient",
    "simple lower bound",
    "printed lower bound",
    "simple upper bound",
)

HEADINGS = (
    NETWORK,
    Column(
        "certified, at least",
        "No point within this l_2 length is classified differently: proved from bounds of the network.",
    ),
    Column("bound, at least", "Theorem 1's lower bound for the quadratic model of the margin."),
    Column("bound, at most", "Its upper bound, along the gradient."),
    Column("simple, at least", "Theorem 1's simple lower bound c/‖g‖ − νc²/2‖g‖³, without the root."),
    Column("printed, at least", "The same as printed, c/‖g‖ − 2νc²/‖g‖³: also valid, but looser."),
    Column("simple, at most", "Its simple upper bound c/|⟨g, u⟩| with the eigenvector u of ν."),
    Column("found by DeepFool", "l_2 distance to a point just across the boundary: an upper bound of the true one."),
    Column("osculating circle", "Distance to the circle that touches the boundary there with its curvature."),
    Column(
        "κ largest",
        "Largest normal curvature of the boundary there, 1 / length; positive if it curves away from the image.",
    ),
    Column("κ smallest", "Smallest normal curvature there."),
    Column("κ mean", "Mean over directions within the boundary."),
    Column(
        "mean Hessian, λ max",
        "Another quantity, published as principal curvature: largest eigenvalue of the sample's mean Hessian of z_y − z_j, "
        "at 0.8 of the way and at a scale of five grey levels a pixel, not divided by the gradient.",
    ),
    Column("mean Hessian, λ min", "Its smallest eigenvalue."),
    Column("crossed", "Share of the images for which DeepFool found the other side.", ".1%"),
)


def boundary_results(
    study: Study,
    name: str,
    model: nn.Module,
    examples: Examples,
    progress: Progress[int],
    optional: OptionalSteps | None = None,
) -> dict[str, Result]:
    """Measure the distance to the decision boundary and the boundary's curvature at correctly classified test images.

    Args:
        study: Settings.
        name: Name of the network.
        model: The network.
        examples: Test examples.
        progress: Progress display.
        optional: Collects what cannot be computed. By default an error is raised.

    Returns:
        "boundary": a row of certified, bounded and found distances and of normal curvatures. If the network can be
        certified also "certified": a scatter of the certified radius and the found distance of each image.
    """
    h = float(np.sqrt(np.prod(examples.shape))) * pixels(1)
    steps = study.evaluation.lanczos_steps
    kept = examples.take(torch.from_numpy(evaluation.correct(model, examples)).nonzero()[:, 0])
    conditions = {
        "examples": f"{len(kept)} classified correctly, of {examples.describe('test')}",
        "lengths": "l_2, pixel units",
        "Hessian": "exact, of the margin, for the bounds; central differences of the two classes' logits at the "
        f"scale h = {h:.3g}, one grey level a pixel, for κ",
        "BatchNorm": "eval mode",
    }
    if not len(kept):
        empty: tuple[Cell, ...] = (name, *[None] * (len(HEADINGS) - 1))
        return {"boundary": Table("The decision boundary", HEADINGS, (empty,), conditions=conditions)}
    shared: dict[str, Any] = {
        "progress": progress,
        "heading": f"boundary of {name}",
        "fabric": launch_fabric(study.hardware),
    }
    optional = optional or OptionalSteps(name, strict=True)
    measures = {"distance": DistanceBounds(threshold=0.0, steps=steps)}
    nothing: tuple[Mapping[str, np.ndarray], tuple[float | None, float | None]] = ({}, (None, None))
    bounds: Mapping[str, np.ndarray] = (
        optional.run(
            "bounds of the boundary's distance",
            lambda: evaluation.measure(model, kept, measures, loss=margin_loss, **shared),
        )
        or {}
    )
    found, ends = optional.run("point across the boundary", lambda: _measure_boundary(model, kept, h, steps)) or nothing
    radii, proof = _certified_radii(model, kept, optional, **shared)
    way = found.get("distance along the way", np.empty(0))
    crossed = np.isfinite(way)
    reached = (
        "distance along the way",
        "distance to the osculating circle",
        "largest principal curvature",
        "smallest principal curvature",
        "mean curvature",
    )
    values = [bounds.get(f"distance, {bound}") for bound in BOUNDS]
    values += [found[key][crossed] if crossed.any() else None for key in reached]
    cells = [spread(column) for column in values]
    caption = "Each cell: median and, in brackets, the 10 and 90 % quantiles over examples."
    conditions |= {"certificate": proof}
    row: tuple[Cell, ...] = (name, spread(radii), *cells, *ends, float(crossed.mean()) if found else None)
    results: dict[str, Result] = {"boundary": Table("The decision boundary", HEADINGS, (row,), caption, conditions)}
    if radii is not None and crossed[: len(radii)].any():
        some = slice(len(radii))
        results["certified"] = _scatter(name, radii, way[some], crossed[some], conditions)
    return results


def _certified_radii(
    model: nn.Module, kept: Examples, optional: OptionalSteps, **words: Any
) -> tuple[np.ndarray | None, str]:
    """Return the certified l_2 radius of the first images, and how it was proved or why it is missing."""
    try:
        certified = evaluation.certify(model, kept, L2, steps=STEPS, work=WORK, **words)
    except Exception as error:  # a network of the user's own may raise anything
        reason = optional.missing["certified, at least"] = reason_of(error)
        return None, f"none: {reason}"
    return certified.radius, certified.proof


def _scatter(
    name: str, radii: np.ndarray, distances: np.ndarray, crossed: np.ndarray, conditions: Mapping[str, str]
) -> Scatter:
    """Make a scatter of certified radius and found distance, one point per image."""
    x, y = (tuple(float(v) for v in values[crossed]) for values in (radii, distances))
    return Scatter(
        "Certified radius and distance found, for each image",
        "certified radius (l_2, pixel units)",
        "distance to the point found across the boundary",
        {name: Points(x, y)},
        caption="The true distance lies between: no point within the certified radius is classified differently, but one at "
        "the found distance is.",
        conditions={key: conditions[key] for key in ("examples", "lengths", "certificate")},
        x_logarithmic=True,
        y_logarithmic=True,
    )


def _measure_boundary(
    model: nn.Module, kept: Examples, h: float, steps: int
) -> tuple[Mapping[str, np.ndarray], tuple[float, float]]:
    """Measure the boundary between the true class and the class that DeepFool reached.

    Returns:
        Columns with NaN for images without a boundary point; and the extreme eigenvalues of the mean Hessian of Fawzi et al.
    """
    like = input_like(model)
    x, y = kept.pixels(slice(None)).to(like), kept.y.to(like.device)
    with frozen(model):
        across = DeepFool(L2)(model, x, y, generator=stream(0, "boundary"))
        with torch.no_grad():
            others = call(model, across).scatter(1, y[:, None], -torch.inf).argmax(1)
        decision = logit_difference(model, y, others)
        boundary = find_boundary_point(decision, x, across)
        columns = boundary_distances(decision, x, boundary, h=h)
        columns |= NormalCurvatures(steps=steps, h=h)(decision, boundary.point)
        start = normal(x[:1], generator=stream(0, "mean Hessian"))
        ends = lanczos(mean_hessian(decision, x, across), start, steps=steps, ends="both")
    return {key: values.cpu().numpy() for key, values in columns.items()}, (float(ends.largest), float(ends.smallest))
