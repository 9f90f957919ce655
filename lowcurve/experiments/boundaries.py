"""The decision boundary near test examples: how far it is, what the quadratic model promises of that, how it bends."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from lowcurve import evaluation
from lowcurve.analysis.norms import L2, pixels
from lowcurve.analysis.spectra import lanczos
from lowcurve.attacks import DeepFool
from lowcurve.data import Examples
from lowcurve.experiments.pictures import NETWORK
from lowcurve.experiments.settings import Study
from lowcurve.experiments.subject import processes, spread
from lowcurve.geometry import (
    DistanceBounds,
    NormalCurvatures,
    boundary_between,
    boundary_distances,
    mean_hessian,
    pairwise,
)
from lowcurve.losses import margin_loss
from lowcurve.models.modes import frozen
from lowcurve.randomness import normal, stream
from lowcurve.results import Cell, Column, Table
from lowcurve.types import Progress

BOUNDS = (
    "lower bound",
    "upper bound along the gradient",
    "simple lower bound",
    "printed lower bound",
    "simple upper bound",
)


def boundary_table(study: Study, name: str, model: nn.Module, examples: Examples, progress: Progress[int]) -> Table:
    """One row: distances to the boundary, promised and found, and its normal curvatures where it was crossed."""
    h = float(np.sqrt(np.prod(examples.shape))) * pixels(1)
    steps = study.evaluation.lanczos_steps
    kept = examples.take(torch.from_numpy(evaluation.correct(model, examples)).nonzero()[:, 0])
    headings = (
        NETWORK,
        Column("promised, at least", "Theorem 1's lower bound for the quadratic model of the margin."),
        Column("promised, at most", "Its upper bound, along the gradient."),
        Column("simple, at least", "Theorem 1's simple lower bound c/‖g‖ − νc²/2‖g‖³, without the root."),
        Column("printed, at least", "The same as it is printed, c/‖g‖ − 2νc²/‖g‖³: true, and looser."),
        Column("simple, at most", "Its simple upper bound c/|⟨g, u⟩| with the eigenvector u of ν."),
        Column(
            "found by DeepFool", "l_2 distance to a point just across the boundary: an upper bound of the true one."
        ),
        Column("osculating circle", "Distance to the circle that touches the boundary there with its curvature."),
        Column(
            "κ largest",
            "Largest normal curvature of the boundary there, 1 / length; above 0 it bends away from the image.",
        ),
        Column("κ smallest", "The smallest."),
        Column("κ mean", "Mean over directions within the boundary."),
        Column(
            "mean Hessian, λ max",
            "Another quantity, published as principal curvature: of the sample's mean Hessian of z_y − z_j, at 0.8 of the way "
            "and at a scale of five grey levels a pixel, not divided by the gradient.",
        ),
        Column("mean Hessian, λ min", "Its smallest eigenvalue."),
        Column("crossed", "Share of the images for which DeepFool found the other side.", ".1%"),
    )
    conditions = {
        "examples": f"{len(kept)} classified rightly, of the first {len(examples)} of the test set",
        "lengths": "l_2, pixel units",
        "Hessian": "exact, of the margin, for what is promised; central differences of the two classes' logits at the "
        f"scale h = {h:.3g}, one grey level a pixel, for κ",
        "BatchNorm": "eval mode",
    }
    if not len(kept):
        return Table("The decision boundary", headings, ((name, *[None] * (len(headings) - 1)),), conditions=conditions)
    measures = {"distance": DistanceBounds(threshold=0.0, steps=steps)}
    heading = f"boundary of {name}"
    shared = {"progress": progress, "heading": heading, "fabric": processes(study.hardware)}
    promised = evaluation.measure(model, kept, measures, loss=margin_loss, **shared)
    found, ends = _found(model, kept, h, steps)
    crossed = np.isfinite(found["distance along the way"])
    reached = (
        "distance along the way",
        "distance to the osculating circle",
        "largest principal curvature",
        "smallest principal curvature",
        "mean curvature",
    )
    values = [promised[f"distance, {bound}"] for bound in BOUNDS]
    values += [found[key][crossed] for key in reached]
    cells: list[Cell] = [spread(column) if len(column) else None for column in values]
    caption = "Each cell: median and, in brackets, the 10 and 90 % quantiles over examples."
    row = (name, *cells, *ends, float(crossed.mean()))
    return Table("The decision boundary", headings, (row,), caption, conditions)


def _found(
    model: nn.Module, kept: Examples, h: float, steps: int
) -> tuple[Mapping[str, np.ndarray], tuple[float, float]]:
    """The boundary between the true class and the one that DeepFool reached, where it was crossed; and the older lineage's
    ends of the mean Hessian."""
    like = next(model.parameters(), kept.pixels(slice(0, 1)))
    x, y = kept.pixels(slice(None)).to(like), kept.y.to(like.device)
    with frozen(model):
        across = DeepFool(L2)(model, x, y, generator=stream(0, "boundary"))
        with torch.no_grad():
            others = model(across).scatter(1, y[:, None], -torch.inf).argmax(1)
        decision = pairwise(model, y, others)
        boundary = boundary_between(decision, x, across)
        columns = boundary_distances(decision, x, boundary, h=h)
        columns |= NormalCurvatures(steps=steps, h=h)(decision, boundary.point)
        start = normal(x[:1], generator=stream(0, "mean Hessian"))
        ends = lanczos(mean_hessian(decision, x, across), start, steps=steps, ends="both")
    return {key: values.cpu().numpy() for key, values in columns.items()}, (float(ends.largest), float(ends.smallest))
