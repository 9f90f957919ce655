"""Reproduce Figure 1 of Srinivas et al. 2022: decision regions on two moons, and softplus with its centered form."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from lowcurve import evaluation
from lowcurve.analysis.norms import L2
from lowcurve.attacks import DeepFool
from lowcurve.data import DataSet, Examples
from lowcurve.geometry import Curvature, NormalCurvatures, find_boundary_point, logit_difference
from lowcurve.models import CenteredSoftplus
from lowcurve.models.modes import frozen
from lowcurve.papers.common.context import Context
from lowcurve.randomness import stream
from lowcurve.results import Cell, Column, Curves, Gallery, Line, Result, Table, summarize
from lowcurve.results.cells import NETWORK
from lowcurve.study.method_options import LowCurvature
from lowcurve.study.presets import preset, shorten

SIDE = 200
"""Pixels along a side of a picture."""
SCALE = 0.02
"""Step h of the boundary's curvature, a twelfth of a moon's radius. The exact Hessian of a ReLU network's margin is 0."""
BLUE, ORANGE = (0.0, 0.447, 0.698), (0.902, 0.624, 0.0)
SHARPNESS = (1.0, 5.0, 20.0)
"""Values of β."""


def make_two_moons_results(context: Context) -> dict[str, Result]:
    """Draw the decision regions of four networks on two moons, and measure the curvature of their boundaries.

    The networks are standard, gradient norm, LCNN and both.

    Args:
        context: The context of the item.

    Reference: srinivas2022lcnn, Fig. 1.
    """
    study = preset("two-moons")
    study = shorten(study) if context.scale == "smoke" else study
    methods = ("standard", "gradient-norm", "LCNN", "LCNN+gradient-norm")
    weights = LowCurvature(weight_of_beta=1e-2, weight_of_gamma=1e-2)
    study = replace(study, methods=methods, low_curvature=weights)
    made, data, models = context.load_or_train("two-moons", study)
    key = ("two moons", made, SCALE, SIDE)
    return dict(context.load_or_compute("two-moons", key, lambda: _make_results(data, models)))


def make_softplus_curves() -> dict[str, Result]:
    """Make curves of softplus log(1 + exp(βx)) / β and centered softplus log((1 + exp(βx)) / 2) / β.

    Reference: srinivas2022lcnn, Fig. 1.
    """
    x = torch.linspace(-2, 2, 201, dtype=torch.float64)
    lines = {}
    for beta in SHARPNESS:
        lines[f"softplus, β = {beta:g}"] = nn.functional.softplus(x, beta=beta)
        lines[f"centered, β = {beta:g}"] = CenteredSoftplus(beta, learn=False).double()(x)
    curves = {name: Line(tuple(float(v) for v in y)) for name, y in lines.items()}
    caption = "At x = 0 softplus is log(2) / β and centered softplus is 0. As β falls to 0, one diverges and one becomes x / 2."
    return {
        "softplus": Curves("Softplus and centered softplus", "x", "s(x)", tuple(float(v) for v in x), curves, caption)
    }


def _make_results(data: DataSet, models: dict[str, nn.Module]) -> dict[str, Result]:
    pictures = np.stack([_draw_regions(model, data.test)[None] for model in models.values()])
    rows = tuple(_measure_boundary(name, model, data.test) for name, model in models.items())
    headings = (
        NETWORK,
        Column("clean", "Share of test points classified correctly.", ".1%"),
        Column(
            "|κ| mean",
            f"Mean |curvature| of the boundary at DeepFool's points, in 1 / length, with step h = {SCALE:g}.",
        ),
        Column("|κ|", "Median of |curvature| with the 10 and 90 % quantiles."),
        Column("C", "Median normalized curvature of the loss at test points, by the exact Hessian."),
        Column("crossed", "Share of points at which DeepFool found the boundary.", ".1%"),
    )
    conditions = {"examples": f"{len(data.test)} test points", "plane": "the unit square; a moon's radius is 0.25"}
    gallery = Gallery(
        "Decision regions on two moons", tuple(models), ("regions and test points",), pictures, (),
        "The unit square: first coordinate to the right, second upwards. Blue is the upper moon.",
    )  # fmt: skip
    return {"regions": gallery, "boundary": Table("The boundary", headings, rows, conditions=conditions)}


@torch.no_grad()
def _draw_regions(model: nn.Module, test: Examples) -> np.ndarray:
    """Draw each pixel in its class's color, lighter at low confidence, and the test points."""
    middles = (torch.arange(SIDE) + 0.5) / SIDE
    grid = torch.stack(torch.meshgrid(middles.flip(0), middles, indexing="ij"), -1).flip(-1).reshape(-1, 2)
    share = model(grid).softmax(1)[:, :1].view(SIDE, SIDE, 1).double()
    blue, orange = torch.tensor(BLUE, dtype=torch.float64), torch.tensor(ORANGE, dtype=torch.float64)
    strength = 0.25 + 0.35 * (2 * share - 1).abs()
    colors = torch.where(share >= 0.5, blue, orange) * strength + (1 - strength)
    x = test.x[:]
    columns = (x[:, 0] * (SIDE - 1)).round().long()
    lines = ((1 - x[:, 1]) * (SIDE - 1)).round().long()
    colors[lines, columns] = torch.where((test.y == 0)[:, None], 0.6 * blue, 0.75 * orange)
    found: np.ndarray = colors.permute(2, 0, 1).numpy()
    return found


def _measure_boundary(name: str, model: nn.Module, test: Examples) -> tuple[Cell, ...]:
    correct = evaluation.correct(model, test)
    right = test.take(torch.from_numpy(correct).nonzero()[:, 0])
    ratio = evaluation.measure(model, right, {"C": Curvature(2)})["normalized curvature"]
    curvatures = _compute_curvatures(model, right.pixels(slice(None)), right.y)
    curvatures = curvatures[np.isfinite(curvatures)]
    summary = summarize(curvatures) if len(curvatures) else None
    spread = None if summary is None else (summary.median, summary.low, summary.high)
    mean = None if summary is None else summary.mean
    crossed = len(curvatures) / max(1, len(right))
    return (name, float(correct.mean()), mean, spread, float(np.median(ratio)), crossed)


def _compute_curvatures(model: nn.Module, x: Tensor, y: Tensor) -> np.ndarray:
    """Compute |κ| of the boundary at DeepFool's points, NaN where the boundary was not found."""
    with frozen(model):
        across = DeepFool(L2)(model, x, y, generator=stream(0, "boundary"))
        decision = logit_difference(model, y, 1 - y)
        boundary = find_boundary_point(decision, x, across)
        columns = NormalCurvatures(steps=2, h=SCALE)(decision, boundary.point)
    found: np.ndarray = torch.where(boundary.crossed, columns["mean curvature"].abs(), torch.nan).cpu().numpy()
    return found
